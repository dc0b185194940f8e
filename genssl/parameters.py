"""Parameters and buffers of a method in a safetensors file, and back: no code is executed by reading one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from genssl.errors import CheckpointError, SettingsError

SHARED = "shared"
"""The header's entry {name: the name under which the same tensor is stored}, as JSON."""


def pack(state: Mapping[str, Any], header: Mapping[str, str]) -> bytes:
    """A state_dict as the bytes of a safetensors file; header: what it says of itself, texts by name.

    The format knows no two names of one tensor (tied weights): it is stored once, and the header's "shared" names the others.

    Raises SettingsError where the state holds something that is no tensor, or of a type that the format lacks.
    """
    stored: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    names: dict[tuple[Any, ...], str] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.dtype == torch.complex128:
            seen = f"a {value.layout} {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise SettingsError(
                f"export: {name} is {seen}, expected a dense tensor, which safetensors can hold; take pt2"
            )
        first = names.setdefault(_memory(value), name) if value.numel() else name
        if first != name:
            shared[name] = first
            continue
        # Its own memory, row-major: parts of one larger tensor, and transposed ones, are stored by their values.
        stored[name] = value.detach().cpu().contiguous().clone()
    told = {**header, SHARED: json.dumps(shared)} if shared else dict(header)
    return safetensors.torch.save(stored, {"format": "pt", **told})


def read(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state_dict in a file that `genssl.export` wrote, on the CPU: method.load_state_dict(read(path)).

    Raises CheckpointError where there is no such file, or it is damaged.
    """
    header, state = _open(path)
    try:
        return state | {name: state[first] for name, first in json.loads(header.get(SHARED, "{}")).items()}
    except (ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged (its header's {SHARED!r} is wrong); export it again") from error


def read_header(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a safetensors file says of itself: method, data, settings (JSON), seed, step, versions; errors as of `read`."""
    return _open(path)[0]


def _open(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file; write it with genssl export RUN --format safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged ({' '.join(str(error).split())}); export it again") from error


def _memory(value: Tensor) -> tuple[Any, ...]:
    """Equal for two tensors that are the same numbers at the same place."""
    return value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride()

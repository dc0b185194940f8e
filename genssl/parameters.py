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

SHARED, EXTRA = "shared", "extra"
"""Entries of the header, as JSON: {name: the name under which the same tensor is stored}, {name: what is no tensor}."""


def pack(state: Mapping[str, Any], header: Mapping[str, str]) -> bytes:
    """A state_dict as the bytes of a safetensors file; header: what it says of itself, texts by name.

    The format knows no two names of one tensor (tied weights): it is stored once, and the header's "shared" names the others. What a
    module keeps beside tensors (`get_extra_state`) goes to the header's "extra".

    Raises SettingsError where the state holds a tensor of a type that the format lacks, or something that JSON does not give back.
    """
    stored: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    extra: dict[str, Any] = {}
    names: dict[tuple[Any, ...], str] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor) and _is_json(value):
            extra[name] = value
            continue
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.dtype == torch.complex128:
            seen = f"a {value.layout} {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise SettingsError(
                f"export: {name} is {seen}, expected a dense tensor or plain values, which safetensors can hold; take pt2"
            )
        first = names.setdefault(_memory(value), name) if value.numel() else name
        if first != name:
            shared[name] = first
            continue
        # Its own memory, row-major: parts of one larger tensor, and transposed ones, are stored by their values.
        stored[name] = value.detach().cpu().contiguous().clone()
    told = {key: json.dumps(value) for key, value in {SHARED: shared, EXTRA: extra}.items() if value}
    return safetensors.torch.save(stored, {"format": "pt", **header, **told})


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state_dict in a file that `genssl.export` wrote, on the CPU: method.load_state_dict(read(path)).

    Raises CheckpointError where there is no such file, or it is damaged.
    """
    header, state = _open(path)
    try:
        shared, extra = (dict(json.loads(header.get(key, "{}"))) for key in (SHARED, EXTRA))
        return state | {name: state[first] for name, first in shared.items()} | extra
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged (its header is wrong: {error}); export it again") from error


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


def _is_json(value: Any) -> bool:
    """Whether JSON gives a value back as it is."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False

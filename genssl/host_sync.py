"""What makes a GPU's step wait for the host, found on any device before it happens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from genssl.errors import GensslError

aten = torch.ops.aten
INDEXING = {
    aten.index.Tensor: 1,
    aten.index_put.default: 1,
    aten.index_put_.default: 1,
    aten._index_put_impl_.default: 1,
}
"""Where the list of indices is among the arguments."""
COPIES = {aten._to_copy.default: 0, aten.copy_.default: 1}
"""Where the source is among the arguments."""
CHECKS = {aten._linalg_check_errors.default, aten.linalg_cholesky.default}


class HostSyncError(GensslError):
    """A step reads a value on the host, or has shapes that depend on values."""


class NoHostSync(TorchDispatchMode):
    """In this block an operation that would make the host wait for a GPU raises HostSyncError: reading a value (`.item()`, `if
    tensor`, a check of a factorisation), a shape that depends on values (`nonzero`, a mask as an index), a copy between host and GPU, a
    constant of the host (`torch.tensor(3.0, device="cuda")`; filling a tensor does not wait).

    It says so on any device, by the tags that PyTorch gives its operations. What a library does below them it does not see.
    """

    def __enter__(self) -> Any:
        _active.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        _active.remove(self)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        told = _reason(func, args)
        if told is not None:
            raise HostSyncError(f"{func} {told}")
        out = func(*args, **(kwargs or {}))
        if func in COPIES and args[COPIES[func]].device != out.device:
            raise HostSyncError(f"{func} copies from {args[COPIES[func]].device} to {out.device}")
        return out


_active: list[NoHostSync] = []


def readable(value: Tensor) -> bool:
    """Whether a check may look at this value: on the CPU, where it waits for nothing; NoHostSync takes the CPU for a GPU."""
    return value.device.type == "cpu" and not _active


def _reason(func: Any, args: Any) -> str | None:
    if func in INDEXING:
        masks = [
            index for index in args[INDEXING[func]] if index is not None and index.dtype in (torch.bool, torch.uint8)
        ]
        return "takes a mask as an index, so that the host must count" if masks else None
    if func is aten.lift_fresh.default:
        return "brings a constant of the host to the device" if args[0].numel() else None
    if torch.Tag.data_dependent_output in func.tags or func in CHECKS:
        return "reads a value on the host"
    return "has a shape that depends on values" if torch.Tag.dynamic_output_shape in func.tags else None

"""Gathering the batch of all processes, with gradients; and when to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from genssl.distributed.batch_norm import Synced
from genssl.distributed.processes import rank, world

_on = False


def is_together() -> bool:
    """Whether what couples groups is computed over all processes now."""
    return _on


@contextmanager
def together() -> Iterator[None]:
    """Every process is in this block: batches are gathered, BatchNorm sees all rows. Elsewhere each process is by itself, so that one of
    them can measure while the others wait."""
    global _on
    if world() == 1:
        yield
        return
    before, _on = _on, True
    try:
        with Synced(lambda rows: _gather(rows, 0)):
            yield
    finally:
        _on = before


def gather(x: Tensor, dim: int = 0) -> Tensor:
    """The parts of all processes along `dim`, by rank; x itself outside of `together`. All parts have one shape.

    The gradient of every process's loss by this process's part comes back, added up.
    """
    return _gather(x, dim) if _on else x


def own(x: Tensor, dim: int = 0) -> Tensor:
    """This process's part of what was gathered along `dim`; x itself outside of `together`."""
    if not _on:
        return x
    size = x.shape[dim] // world()
    return x.narrow(dim, rank() * size, size)


def over_all(function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """function(*rows) of all processes' rows, of which this process's come back: for what couples the rows of a batch."""
    return own(function(*map(gather, rows)))


def summed(x: Tensor) -> Tensor:
    """The sum over processes, without gradient; x itself outside of `together`."""
    if not _on:
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Replace tensors of one type by their mean over processes, in place, in one message for each type."""
    if world() == 1:
        return
    kinds: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for each in kinds.values():
        flat = torch.cat([tensor.flatten() for tensor in each])
        dist.all_reduce(flat)
        flat /= world()
        for tensor, part in zip(each, flat.split([tensor.numel() for tensor in each]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _gather(x: Tensor, dim: int) -> Tensor:
    if x.dtype == torch.bool:
        return _gather(x.byte(), dim).bool()
    return _Gather.apply(x.movedim(dim, 0)).movedim(0, dim)


class _Gather(torch.autograd.Function):
    """[n, *] of every process -> [world n, *]; backward adds up what all of them ask of this one's part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad.chunk(world())[rank()]

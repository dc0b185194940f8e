"""Draws of several processes: those of the whole batch, of which each takes its part, and a stream of its own for all else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from genssl.distributed.processes import rank, world

_shared: tuple[torch.Generator, Tensor] | None = None
_part = False


@contextmanager
def of_a_part() -> Iterator[None]:
    """In this block batches are this process's part of a larger one: `drawn_for_all` draws for that."""
    global _part
    before, _part = _part, world() > 1
    try:
        yield
    finally:
        _part = before


def drawn_for_all(draw: Callable[[int], Tensor], rows: int) -> Tensor:
    """draw(rows); where these are a part of all processes' rows, what they get of a draw for all. draw: rows -> [rows, *]."""
    if not _part:
        return draw(rows)
    return draw(rows * world()).narrow(0, rank() * rows, rows)


@contextmanager
def own_streams(device: torch.device) -> Iterator[None]:
    """In this block the device's default generator differs between processes (dropout, sites of other laws); `shared_stream` is the one
    that they came with, in the same state on all of them. Both go on from a seed that all share."""
    global _shared
    if world() == 1:
        yield
        return
    generator = _default(device)
    shared = generator.get_state()
    seed = int(torch.randint(2**62, (), generator=torch.default_generator))
    generator.manual_seed(seed + 1 + rank())
    before, _shared = _shared, (generator, shared)
    try:
        yield
    finally:
        _shared = before
        generator.manual_seed(seed)


@contextmanager
def shared_stream() -> Iterator[None]:
    """In this block all processes draw the same."""
    global _shared
    if _shared is None:
        yield
        return
    generator, state = _shared
    kept = generator.get_state()
    generator.set_state(state)
    try:
        yield
    finally:
        _shared = generator, generator.get_state()
        generator.set_state(kept)


def _default(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    return torch.default_generator

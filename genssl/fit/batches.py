"""The order of the data: which groups make up the batch of every step, and their views."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from genssl.distributed import of_a_part, part_of, world
from genssl.errors import SettingsError
from genssl.fit.randomness import generators_kept, seed_noise, stream_seed
from genssl.groups import Groups
from genssl.memory import memory_told
from genssl.views import make_groups


class Batches:
    """The batch of every step, as a function of (seed, step): epochs are permutations, the last incomplete batch is dropped.

    split: Items or Stream (views are made), or Groups (natural views, taken as they are). num_workers reading processes serve a
    Stream; they change no number.

    Of several processes, rank r gets slice r of every batch, with the views that one process would give it: views that are `by_row`
    (`genssl.views.compose.Transform`) are made of the slice alone, others of the whole batch on every process.
    """

    def __init__(
        self,
        split: Any,
        views: Any,
        num_views: int,
        batch_size: int,
        seed: int,
        device: torch.device,
        num_workers: int = 0,
    ) -> None:
        if batch_size > len(split):
            raise SettingsError(
                f"batch_size = {batch_size} groups, but there are {len(split)} to train on; give a smaller --batch-size"
            )
        if batch_size % world():
            raise SettingsError(
                f"batch_size = {batch_size} groups for {world()} processes, expected a multiple of {world()}: it counts the groups of all"
            )
        self.split, self.views, self.num_views, self.batch_size = split, views, num_views, batch_size
        self.seed, self.device, self.num_workers = seed, device, num_workers
        self.steps_per_epoch = len(split) // batch_size

    def order(self, epoch: int) -> tuple[Tensor, ...]:
        """The index batches of an epoch."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "order", epoch))
        rows = torch.randperm(len(self.split), generator=generator)
        return rows[: self.steps_per_epoch * self.batch_size].split(self.batch_size)

    def run(self, first: int, last: int) -> Iterator[tuple[int, Groups]]:
        """(step, groups) for the steps first..last-1."""
        for step, epoch, order in self._orders(first, last):
            yield from enumerate(self._epoch(order, epoch, step), step)

    def places(self, first: int, last: int) -> Iterator[tuple[int, Tensor]]:
        """(step, index [B] on the device) for the steps first..last-1, sent there an epoch at a time."""
        for step, _, order in self._orders(first, last):
            rows = torch.stack(order)
            if self.device.type == "cuda":
                rows = rows.pin_memory()  # a copy from pageable memory would wait
            yield from enumerate(rows.to(self.device, non_blocking=True), step)

    def made_of(self, index: Tensor, generator: torch.Generator) -> Groups:
        """The groups at `index`, with views drawn from the generator: the batch of a step, where its seed is that step's.

        Only for data in memory, and views that draw from the generator alone.
        """
        if isinstance(self.split, Groups):
            groups = self.split[index]
        else:
            x, label, index = self.split.at(index)
            groups = make_groups(x, index, label, self.views, self.num_views, generator)
        groups.total, groups.rows = len(self.split), index
        return groups

    def _orders(self, first: int, last: int) -> Iterator[tuple[int, int, tuple[Tensor, ...]]]:
        """(step, epoch, the index batches from there to the end of the epoch, or to `last`)."""
        step = first
        while step < last:
            epoch, start = divmod(step, self.steps_per_epoch)
            order = self.order(epoch)[start : start + last - step]
            yield step, epoch, order
            step += len(order)

    def memory_told(self) -> AbstractContextManager[None]:
        """Steps of these batches that do not fit into memory, told as such."""
        where = f"a step of {self.batch_size} groups of {self.num_views} views"
        return memory_told(where, "lower --batch-size or --views, or make the networks smaller")

    def at(self, step: int) -> Groups:
        """The batch of one step again."""
        return next(self.run(step, step + 1))[1]

    def _epoch(self, order: tuple[Tensor, ...], epoch: int, step: int) -> Iterator[Groups]:
        by_row = isinstance(self.split, Groups) or self.views is None or getattr(self.views, "by_row", False)
        if by_row:
            order = tuple(part_of(index) for index in order)
        if isinstance(self.split, Groups):
            for index in order:
                groups = self.split[index.to(self.split.device)].to(self.device)
                groups.total, groups.rows = len(self.split), index.to(self.device)
                yield groups
            return
        seed = stream_seed(self.seed, "items", epoch)
        for offset, (x, label, index) in enumerate(self.split.batches(order, self.num_workers, seed)):
            with of_a_part() if by_row else nullcontext():
                groups = _views(x, label, index, self.views, self.num_views, self.seed, step + offset, self.device)
            groups.total = len(self.split)
            if groups.num_groups == len(index):
                groups.rows = index
            yield groups if by_row else _part(groups)


def _part(groups: Groups) -> Groups:
    """This process's slice of groups, which keep their places."""
    if world() == 1:
        return groups
    if groups.num_groups % world():
        raise SettingsError(
            f"views gave {groups.num_groups} groups for {world()} processes, expected a multiple of {world()}"
        )
    part = groups[part_of(torch.arange(groups.num_groups, device=groups.device))]
    part.total = groups.total
    if groups.placed:
        part.rows = part_of(groups.rows)
    return part


def first_groups(split: Any, size: int, views: Any, num_views: int, seed: int, device: torch.device) -> Groups:
    """The first `size` groups of a split, with views that are a function of the seed."""
    if isinstance(split, Groups):
        return split[:size].to(device)
    x, label, index = next(iter(split.batches([torch.arange(size)], 0, seed)))
    with generators_kept():
        return _views(x, label, index, views, num_views, seed, 0, device)


def _views(
    x: Tensor,
    label: Tensor | None,
    index: Tensor,
    views: Any,
    num_views: int,
    seed: int,
    step: int,
    device: torch.device,
) -> Groups:
    seed_noise(seed, step, device, "views")  # for views of the user that draw from torch's default generator
    generator = torch.Generator(device).manual_seed(stream_seed(seed, "views", step))
    return make_groups(x, index, label, views, num_views, generator)

"""Reads items of a torch Dataset: each under random generators of its own, checked, and collated into batches."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from genssl.datasets.arrays import as_tensor, check_values, whole_numbers
from genssl.errors import DataError

# The generators of numpy and random are the old global ones on purpose: they are what transforms of users draw from.


class Reader(Dataset):
    """Batches of a dataset by lists of indices: (x [G, *event] as stored, label [G] or None), or the DataError met.

    What item i draws from the generators of torch (CPU), numpy and random is a function of (seed, i) alone; their
    states are left as they were. like: item 0, whose shape, type and having a label every other item must share.
    """

    def __init__(self, dataset: Any, seed: int, like: tuple[Tensor, Tensor | None]) -> None:
        self.dataset, self.seed, self.like = dataset, seed, like

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor | None] | DataError:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor | None] | DataError:
        try:
            with _generators_restored():
                items = [read_item(self.dataset, index, self.seed) for index in indices]
            return self._collate(indices, items)
        except DataError as error:  # a value rather than raised: a worker would wrap its one line in a traceback
            return error

    def _collate(self, indices: list[int], items: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
        first, first_label = self.like
        for index, (x, label) in zip(indices, items, strict=True):
            if x.shape != first.shape or x.dtype != first.dtype:
                seen, expected = f"{list(x.shape)} {x.dtype}", f"{list(first.shape)} {first.dtype}"
                raise DataError(
                    f"item {index}: {seen}, expected {expected} as item 0; bring all items to one shape and type"
                )
            if (label is None) != (first_label is None):
                seen, expected = ("no label", "one") if label is None else ("a label", "none")
                raise DataError(
                    f"item {index}: {seen}, expected {expected} as item 0; give labels to all items or to none"
                )
        x = torch.stack([x for x, _ in items])
        check_values(x, tuple(first.shape), "dataset", indices)
        return x, None if first_label is None else torch.stack([label for _, label in items if label is not None])


def reader_died(error: Exception) -> DataError:
    """The error for a reading process that is gone, and with it the batch it had."""
    seen = " ".join(str(error).split())
    return DataError(f"a reading process died ({seen}); if for want of memory, lower --num-workers")


def first_item(dataset: Any, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """Item 0 as (x, label or None), the generators left as they were; DataError if it cannot be read."""
    name = type(dataset).__name__
    try:
        with _generators_restored():
            x, label = read_item(dataset, 0, seed)
    except DataError:
        raise
    except Exception as error:  # whatever the user's code raises
        seen = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(
            f"{name}: reading item 0 failed with {seen}; give a torch Dataset of x or (x, label)"
        ) from error
    if x.numel() == 0:
        raise DataError(f"{name}: item 0 has shape {list(x.shape)}, expected at least one value; drop empty items")
    return x, label


def read_item(dataset: Any, index: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Item `index` as (x, label or None), read under generators seeded by (seed, index), which it leaves so."""
    high, low = (int(word) for word in np.random.SeedSequence([seed % 2**64, index]).generate_state(2))
    random.seed(high)
    np.random.seed(low)  # noqa: NPY002
    torch.default_generator.manual_seed(high << 32 | low)  # torch.manual_seed would seed the GPUs too
    item = dataset[index]
    parts = tuple(item) if isinstance(item, (tuple, list)) else (item,)
    if len(parts) not in (1, 2):
        seen = f"a {type(item).__name__} of {len(parts)}"
        raise DataError(f"item {index}: {seen}, expected x or (x, label); wrap the dataset in one that returns these")
    x = as_tensor(parts[0], f"item {index}")
    return x, None if len(parts) == 1 or parts[1] is None else _label(parts[1], f"item {index}")


def _label(value: Any, where: str) -> Tensor:
    label = torch.as_tensor(value) if isinstance(value, (int, float, np.number, np.ndarray, Tensor)) else None
    if label is None or label.numel() != 1:
        raise DataError(f"{where}: label {value!r:.60}, expected one integer; wrap the dataset in one that returns it")
    return whole_numbers(label.reshape(()), where)


@contextmanager
def _generators_restored() -> Iterator[None]:
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])

"""One split of a data set: held in memory and gathered by index (Items), or read through a DataLoader (Stream)."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from genssl.datasets.arrays import as_floats, as_labels, as_tensor, check_values, whole_numbers
from genssl.errors import DataError

Batch = tuple[Tensor, Tensor | None, Tensor]


class Items:
    """N items in memory.

    x            [N, *event]: uint8 (read as v / 255), floats, or int64 ids; kept as stored
    label        [N] int64, for evaluation and supervised methods only
    style        [N, S] known style factors, with S style_names and style_kinds (see Groups)
    """

    def __init__(
        self,
        x: Tensor,
        label: Tensor | None = None,
        style: Tensor | None = None,
        style_names: Sequence[str] | None = None,
        style_kinds: Sequence[str] | None = None,
    ) -> None:
        self.x = as_tensor(x, "x")
        if self.x.dim() < 2 or self.x[:1].numel() == 0:
            shape = list(self.x.shape)
            raise DataError(f"x: shape {shape}, expected [N, *event] with at least one item and value; single values: x[:, None]")
        self.label = None if label is None else as_labels(label, len(self.x), "label").to(self.x.device)
        if style is not None and (style.dim() != 2 or len(style) != len(self.x)):
            raise DataError(f"style: shape {list(style.shape)}, expected [{len(self.x)}, S], a row of factors for each item of x")
        self.style = style
        self.style_names = None if style_names is None else tuple(style_names)
        self.style_kinds = None if style_kinds is None else tuple(style_kinds)

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return f"Items({len(self)} of {list(self.event_shape)}, {self.x.dtype}, {self.x.device})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    @property
    def nbytes(self) -> int:
        return self.x.nbytes

    def to(self, device: torch.device | str) -> Items:
        """The same items on another device, as stored: uint8 stays uint8."""
        return self._map(lambda tensor: tensor.to(device))

    def subset(self, index: Tensor | slice) -> Items:
        """The items at `index` (a copy, or a view for a slice)."""
        return self._map(lambda tensor: tensor[index.to(tensor.device) if isinstance(index, Tensor) else index])

    def floats(self, index: Tensor | slice | None = None) -> Tensor:
        """[G, *event] in torch's default dtype (float32), uint8 scaled to [0, 1]; all items for None. Ids stay integers."""
        if index is None:
            return as_floats(self.x)
        return as_floats(self.x[index.to(self.x.device) if isinstance(index, Tensor) else index])

    def batches(self, order: Sequence[Tensor], num_workers: int = 0, seed: int | None = None) -> Iterator[Batch]:
        """(x [G, *event] floats, label [G] or None, index [G]) for each index tensor of `order`, on the device of x.

        The indices travel to the device once, before the first batch; no batch waits for the device. num_workers and seed
        have no meaning here and are taken so that Items and Stream can be used alike.
        """
        if len(order) == 0:
            return
        rows = torch.cat(list(order))
        if self.x.is_cuda and not rows.is_cuda:
            rows = rows.pin_memory()  # a copy from pageable memory would wait
        rows = rows.to(self.x.device, non_blocking=True)
        for index in rows.split([len(part) for part in order]):
            label = None if self.label is None else self.label.index_select(0, index)
            yield as_floats(self.x.index_select(0, index)), label, index

    def _map(self, move: Any) -> Items:
        out = copy.copy(self)  # checked once already
        for name in ("x", "label", "style"):
            value = getattr(self, name)
            setattr(out, name, None if value is None else move(value))
        return out


class Stream:
    """N items of a map-style torch Dataset, read as they are asked for: too large for memory, or with a transform of its own.

    An item is x or (x, label); x is a PIL image, an array or a tensor, always of one shape and type. Batches go to `device`
    as stored (uint8 is a quarter of the floats) and are scaled there.
    """

    def __init__(self, dataset: Dataset, device: torch.device | str = "cpu") -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise DataError(f"{type(dataset).__name__}: no map-style dataset; give one with __getitem__ and __len__")
        if len(dataset) == 0:
            raise DataError(f"{type(dataset).__name__}: no items, expected at least one")
        self.dataset, self.device, self._size = dataset, torch.device(device), len(dataset)
        try:
            first, label = _split_item(dataset[0], 0)
        except (DataError, NotImplementedError):
            raise
        except Exception as error:
            name = type(dataset).__name__
            raise DataError(f"{name}: reading item 0 failed with {type(error).__name__}: {error}; is it a torch Dataset?") from error
        if first.numel() == 0:
            raise DataError(f"{type(dataset).__name__}: item 0 has shape {list(first.shape)}, expected at least one value")
        self._first, self.has_labels = first, label is not None

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"Stream({len(self)} of {list(self.event_shape)}, {self.dtype}, {type(self.dataset).__name__})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self._first.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self._first.dtype

    @property
    def nbytes(self) -> int:
        """What the items would take in memory."""
        return len(self) * self._first.nbytes

    def to(self, device: torch.device | str) -> Stream:
        """The same stream with batches sent to `device`; no item is read."""
        out = copy.copy(self)
        out.device = torch.device(device)
        return out

    def subset(self, index: Tensor | slice) -> Stream:
        """The items at `index`; no item is read."""
        out = copy.copy(self)
        rows = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index]
        out.dataset, out._size = Subset(self.dataset, rows.tolist()), len(rows)
        return out

    def batches(self, order: Sequence[Tensor], num_workers: int = 0, seed: int | None = None) -> Iterator[Batch]:
        """(x [G, *event] floats, label [G] or None, index [G]) for each index tensor of `order`, on `device`.

        What an item draws from the generators of torch (CPU), numpy and random is a function of (seed, its index) alone, so
        batches are the same for any num_workers and from any point on; the generators themselves are left as they were.
        Give another seed in each epoch. None takes torch.initial_seed(), the seed last given to torch.manual_seed.
        """
        for (x, label), index in zip(self._read(order, num_workers, seed), order, strict=True):
            x, label = (None if part is None else part.to(self.device, non_blocking=True) for part in (x, label))
            yield as_floats(x), label, index.to(self.device, non_blocking=True)

    def materialise(self, limit: int | None = None, num_workers: int = 0) -> Items:
        """The first `limit` items (default: all) in memory as stored; a random transform is frozen at its first draw."""
        size = len(self) if limit is None else min(limit, len(self))
        x = self._first.new_empty(size, *self.event_shape)
        labels = torch.empty(size, dtype=torch.int64) if self.has_labels else None
        order = torch.arange(size).split(256)
        for (part, label), index in zip(self._read(order, num_workers, None), order, strict=True):
            x[index] = part
            if labels is not None:
                labels[index] = label
        return Items(x, labels)

    def _read(self, order: Sequence[Tensor], num_workers: int, seed: int | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        reader = _Reader(self, torch.initial_seed() if seed is None else seed)
        loader = DataLoader(
            reader,
            batch_sampler=[index.tolist() for index in order],
            num_workers=num_workers,
            collate_fn=_as_read,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own, so that making a loader draws nothing from torch's default one
        )
        for batch in loader:
            if isinstance(batch, DataError):  # carried out of the worker as a value, to keep its one line
                raise batch
            yield batch


class _Reader(Dataset):
    """Whole batches of a stream, each item read under generators seeded by (seed, index)."""

    def __init__(self, stream: Stream, seed: int) -> None:
        self.stream, self.seed = stream, seed % 2**64

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor | None] | DataError:
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  (users draw from it)
        try:
            return self._collate(indices, [self._item(index) for index in indices])
        except DataError as error:
            return error
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
            torch.set_rng_state(before[2])

    def _item(self, index: int) -> tuple[Tensor, Tensor | None]:
        high, low = (int(word) for word in np.random.SeedSequence([self.seed, index]).generate_state(2))
        random.seed(high)
        np.random.seed(low)  # noqa: NPY002
        torch.default_generator.manual_seed(high << 32 | low)  # torch.manual_seed would seed the GPUs too
        return _split_item(self.stream.dataset[index], index)

    def _collate(self, indices: list[int], items: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
        first = self.stream._first
        for index, (x, label) in zip(indices, items, strict=True):
            if x.shape != first.shape or x.dtype != first.dtype:
                seen, expected = f"{list(x.shape)} {x.dtype}", f"{list(first.shape)} {first.dtype}"
                raise DataError(f"item {index}: {seen}, expected {expected} as item 0; bring all items to one shape and type")
            if (label is not None) != self.stream.has_labels:
                raise DataError(f"item {index}: labels must be given by all items or by none; item 0 differs from it")
        x = torch.stack([x for x, _ in items])
        check_values(x, self.stream.event_shape, "dataset", indices)
        labels = [label for _, label in items if label is not None]
        return x, torch.stack(labels) if labels else None


def _split_item(item: Any, index: int) -> tuple[Tensor, Tensor | None]:
    parts = item if isinstance(item, (tuple, list)) else (item,)
    if len(parts) not in (1, 2) or isinstance(item, dict):
        kind = f"{type(item).__name__} of {len(item)}"
        raise DataError(f"item {index}: a {kind}, expected x or (x, label); wrap the dataset in one that returns these")
    x = as_tensor(parts[0], f"item {index}")
    if len(parts) == 1 or parts[1] is None:
        return x, None
    label = torch.as_tensor(parts[1]) if isinstance(parts[1], (int, float, np.generic, np.ndarray, Tensor)) else None
    if label is None or label.numel() != 1:
        raise DataError(f"item {index}: label {parts[1]!r:.60}, expected one integer; wrap the dataset in one that returns it")
    return x, whole_numbers(label.reshape(()), f"item {index}")


def _as_read(batch: Any) -> Any:
    return batch

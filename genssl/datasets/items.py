"""One split of a data set: held in memory and gathered by index (Items), or read through a DataLoader (Stream)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from genssl.datasets.arrays import as_floats, as_labels, as_tensor
from genssl.datasets.reading import Reader, first_item, reader_died
from genssl.errors import DataError

Batch = tuple[Tensor, Tensor | None, Tensor]


class Items:
    """N items in memory.

    x            [N, *event]: uint8 (read as v / 255), floats, or int64 ids; kept as stored
    label        [N] int64, for evaluation and supervised methods only; to evaluation a negative one is none
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
            raise DataError(
                f"x: shape {shape}, expected [N, *event] with at least one item and value; single values: x[:, None]"
            )
        self.label = None if label is None else as_labels(label, len(self.x), "label").to(self.x.device)
        self.style = _as_style(style, len(self.x))
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
        """[G, *event] in torch's default dtype (float32), uint8 scaled to [0, 1]; None: all. Ids stay integers."""
        if index is None:
            return as_floats(self.x)
        return as_floats(self.x[index.to(self.x.device) if isinstance(index, Tensor) else index])

    def batches(self, order: Sequence[Tensor], num_workers: int = 0, seed: int | None = None) -> Iterator[Batch]:
        """(x [G, *event] floats, label [G] or None, index [G]) for each index tensor of `order`, on the device of x.

        The indices travel to the device once, before the first batch; no batch waits for the device. num_workers and
        seed have no meaning here and are taken so that Items and Stream can be used alike.
        """
        if len(order) == 0:
            return
        rows = torch.cat(list(order))
        if self.x.is_cuda and not rows.is_cuda:
            rows = rows.pin_memory()  # a copy from pageable memory would wait
        rows = rows.to(self.x.device, non_blocking=True)
        yield from map(self.at, rows.split([len(part) for part in order]))

    def at(self, index: Tensor) -> Batch:
        """(x [G, *event] floats, label [G] or None, index [G]) for an index on the device of x."""
        label = None if self.label is None else self.label.index_select(0, index)
        return as_floats(self.x.index_select(0, index)), label, index

    def _map(self, move: Any) -> Items:
        out = copy.copy(self)  # checked once already
        for name in ("x", "label", "style"):
            value = getattr(self, name)
            setattr(out, name, None if value is None else move(value))
        return out


class Stream:
    """N items of a map-style torch Dataset, read when asked for: too large for memory, or with a transform of its own.

    An item is x or (x, label); x is a PIL image, an array or a tensor, always of one shape and type. Batches go to
    `device` as stored (uint8 is a quarter of the floats) and are scaled there. rows [N]: the place
    of each item in `dataset`. style: as in Items, in memory.

    Errors: DataError for a dataset without items or indices, and while reading for an item that differs from item 0 in
    shape, type or having a label, or whose values are not finite or, for images, outside [0, 1]; it names the item.
    """

    def __init__(
        self,
        dataset: Dataset,
        device: torch.device | str = "cpu",
        style: Tensor | None = None,
        style_names: Sequence[str] | None = None,
        style_kinds: Sequence[str] | None = None,
    ) -> None:
        name = type(dataset).__name__
        if isinstance(dataset, IterableDataset) or not (
            hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        ):
            raise DataError(
                f"{name}: items cannot be had by index, expected a map-style dataset; give __getitem__ and __len__"
            )
        self.dataset: Any = dataset
        self.device, self.rows = torch.device(device), torch.arange(len(self.dataset))
        if len(self) == 0:
            raise DataError(f"{name}: no items, expected at least one; check its path or filter")
        self._like = first_item(dataset)
        self._style = _as_style(style, len(self))
        self.style_names = None if style_names is None else tuple(style_names)
        self.style_kinds = None if style_kinds is None else tuple(style_kinds)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Stream({len(self)} of {list(self.event_shape)}, {self.dtype}, {type(self.dataset).__name__})"

    @property
    def style(self) -> Tensor | None:
        """[N, S] known style factors, or None."""
        return None if self._style is None else self._style[self.rows]

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self._like[0].shape)

    @property
    def dtype(self) -> torch.dtype:
        return self._like[0].dtype

    @property
    def nbytes(self) -> int:
        """What the items would take in memory."""
        return len(self) * self._like[0].nbytes

    def to(self, device: torch.device | str) -> Stream:
        """The same stream with batches sent to `device`; no item is read."""
        out = copy.copy(self)
        out.device = torch.device(device)
        return out

    def subset(self, index: Tensor | slice) -> Stream:
        """The items at `index`; no item is read."""
        out = copy.copy(self)
        out.rows = self.rows[index.cpu() if isinstance(index, Tensor) else index]
        return out

    def batches(self, order: Sequence[Tensor], num_workers: int = 0, seed: int | None = None) -> Iterator[Batch]:
        """(x [G, *event] floats, label [G] or None, index [G]) for each index tensor of `order`, on `device`.

        What an item draws from the generators of torch (CPU), numpy and random is a function of (seed, its index)
        alone, so batches are the same for any num_workers and from any point on; the generators are left as they were.
        Give another seed in each epoch. None takes torch.initial_seed(), the seed last given to torch.manual_seed.
        """
        for (x, label), index in zip(self._read(order, num_workers, seed), order, strict=True):
            moved = None if label is None else label.to(self.device, non_blocking=True)
            yield as_floats(x.to(self.device, non_blocking=True)), moved, index.to(self.device, non_blocking=True)

    def materialise(self, limit: int | None = None, num_workers: int = 0) -> Items:
        """The first `limit` items (default: all) in CPU memory, as stored; a random transform is frozen at one draw."""
        size = len(self) if limit is None else min(limit, len(self))
        first, first_label = self._like
        x = first.new_empty(size, *self.event_shape)
        labels = None if first_label is None else first_label.new_empty(size)
        order = torch.arange(size).split(256)
        for (part, label), index in zip(self.to("cpu")._read(order, num_workers, None), order, strict=True):
            x[index] = part
            if labels is not None and label is not None:
                labels[index] = label
        style = None if self.style is None else self.style[:size]
        return Items(x, labels, style, self.style_names, self.style_kinds)

    def _read(
        self, order: Sequence[Tensor], num_workers: int, seed: int | None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        loader = DataLoader(
            Reader(self.dataset, torch.initial_seed() if seed is None else seed, self._like),
            batch_sampler=[self.rows[index.cpu()].tolist() for index in order],
            num_workers=num_workers,
            collate_fn=_as_read,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own, so that making a loader draws nothing from torch's default one
        )
        try:
            for batch in loader:
                if isinstance(batch, DataError):
                    raise batch
                yield batch
        except (ConnectionError, EOFError) as error:
            raise reader_died(error) from error


def _as_style(style: Tensor | None, size: int) -> Tensor | None:
    if style is not None and (style.dim() != 2 or len(style) != size):
        raise DataError(f"style: shape {list(style.shape)}, expected [{size}, S], a row of factors for each item of x")
    return style


def _as_read(batch: Any) -> Any:
    return batch

"""A data set with its train, validation and test splits (Data), and how the user's own data become one (from_any)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from genssl.datasets.arrays import as_floats, check_values, whole_numbers
from genssl.datasets.digest import digest_of
from genssl.datasets.items import Items, Stream
from genssl.datasets.reading import first_item
from genssl.errors import DataError, SettingsError
from genssl.groups import Groups

Split = Items | Stream | Groups

MEMORY_LIMIT = 2 * 2**30  # bytes: a torch Dataset whose items take no more is read into memory once
SHARE = 0.1  # of the data for each of validation and test, where they are not given
ACCEPTED = "Data, Groups, a tensor or array [N, *event], a pair (x, label) or a map-style torch Dataset"


@dataclass
class Data:
    """A named data set.

    train, validation, test   Items, Stream or Groups of one event shape; None: there is no such split
    classes   names of the labels 0, 1, ...; views: the way of making views (None: genssl.views.images() for items [C, H, W],
              copies for any other; genssl.views.Identity() for copies of images)
    notes     what to know about the exactness of the copy; digest: of what `from_any` was given, before any split was drawn
    """

    name: str
    train: Split
    validation: Split | None = None
    test: Split | None = None
    classes: Sequence[str] | None = None
    views: Any = None
    notes: str = ""
    digest: Any = ""  # a str; said so, no split could be passed by **splits

    def __post_init__(self) -> None:
        for name, split in (dict(self.splits()) | {"train": self.train}).items():
            if not isinstance(split, Split):
                raise DataError(
                    f"{self.name}: {name} is {type(split).__name__}, expected Items, Stream or Groups; use from_any"
                )
            if isinstance(split, Groups) != isinstance(self.train, Groups) or split.event_shape != self.event_shape:
                raise DataError(
                    f"{self.name}: {name} is {split!r} but train is {self.train!r}; give all splits one event shape"
                )

        self._default_views()

    def _default_views(self) -> None:
        if self.views is None and not isinstance(self.train, Groups) and len(self.event_shape) == 3:
            from genssl.views import images  # views stand on the same floor: only where they are made

            self.views = images()

    def splits(self) -> Iterator[tuple[str, Split]]:
        """(name, split) of the splits that exist."""
        for name in ("train", "validation", "test"):
            if (split := getattr(self, name)) is not None:
                yield name, split

    @property
    def event_shape(self) -> tuple[Any, ...]:
        """Shape of one view; of each modality where the data are Groups of several."""
        return self.train.event_shape

    def example(self, num_views: int) -> Groups:
        """Two training items (one of them of the last class), each repeated num_views times, or two groups; for networks.

        `total` is that of the training set, so that a method can have something for each group.
        """
        rows = torch.arange(2).clamp(max=len(self.train) - 1)
        label = getattr(self.train, "label", None)
        if label is not None and label.dim() == 1:
            rows[-1] = int(label.argmax())
        if isinstance(self.train, Groups):
            example = self.train[rows.to(self.train.device)]
        else:
            x, label, _ = next(self.train.batches([rows]))
            example = Groups(x[:, None].expand(-1, num_views, *x.shape[1:]).contiguous(), label=label)
        example.total = len(self.train)
        return example

    def to(self, device: torch.device | str) -> Data:
        """Items and Groups on `device` while they fit: on a GPU, while a split takes at most half of the free memory.

        Splits that do not fit stay where they are, and their batches too. A Stream is told where its batches go.
        """
        return self._map(lambda split: split.to(device) if _fits(split, torch.device(device)) else split)

    def limit(self, n: int) -> Data:
        """At most n items of each split, in their order, drawn by a fixed seed: sorted data keep all their classes."""
        if n < 1:
            raise SettingsError(f"limit: {n}, expected at least 1; leave it out to use all items")
        short = self._map(
            lambda split: split if len(split) <= n else take(split, permutation(len(split), 0)[:n].sort().values)
        )
        if all(len(split) <= n for _, split in self.splits()):
            return short
        sizes = ", ".join(f"{name} {len(split)}" for name, split in self.splits())
        return dataclasses.replace(short, notes="; ".join(filter(None, [self.notes, f"limited to {n} of {sizes}"])))

    def describe(self) -> dict[str, Any]:
        """What config.json keeps: name, sizes, event shape, dtype, where it is held, classes, notes, digest."""
        groups = isinstance(self.train, Groups)
        dtype = _first_modality(self.train).dtype if isinstance(self.train, Groups) else self.train.dtype
        return {
            "name": self.name,
            "sizes": {name: len(split) for name, split in self.splits()},
            "event_shape": [list(shape) if isinstance(shape, tuple) else shape for shape in self.event_shape],
            "dtype": str(dtype).removeprefix("torch."),
            "held": "groups" if groups else "stream" if isinstance(self.train, Stream) else "memory",
            "classes": None if self.classes is None else list(self.classes),
            "notes": self.notes,
            "digest": self.digest,
        }

    def _map(self, change: Any) -> Data:
        return self._replace({name: change(split) for name, split in self.splits()})

    def _replace(self, splits: dict[str, Any]) -> Data:
        return dataclasses.replace(self, **splits)


def from_any(data: Any, *, seed: int, validation: Any = None, test: Any = None, name: str = "data") -> Data:
    """The user's data as Data, checked: finite values, images in [0, 1], a label for each item.

    data         Data, Groups, tensor or array [N, *event], (x, label), or a map-style torch Dataset, which is read into
                 memory if it has no transform and its items take at most MEMORY_LIMIT bytes, and is a Stream otherwise
    validation   a fraction of the data, or data of the same forms; default a tenth
    test         data of the same forms; default a tenth

    Splits that are not given are drawn without replacement by a permutation from `seed`; the rest is for training. Data
    keep the splits that they have; a fraction is then taken from their training split.

    Errors: DataError for bad values, shapes, labels, or too few items to split; SettingsError for a bad fraction.
    """
    fraction = validation if isinstance(validation, (int, float)) else None
    if fraction is not None and not 0 <= fraction < 1 - SHARE:
        raise SettingsError(
            f"validation: fraction {fraction}, expected at least 0 and below {1 - SHARE:g}; such as 0.1"
        )
    given: dict[str, Split] = {}
    if validation is not None and fraction is None:
        given["validation"] = as_split(validation, "validation")
    if test is not None:
        given["test"] = as_split(test, "test")
    if isinstance(data, Data):
        if data.validation is not None and fraction is not None:
            raise SettingsError(
                f"validation: fraction {fraction}, but {data.name} has a validation split; leave it out"
            )
        own = {part: check_split(split, f"{data.name}, {part}") for part, split in data.splits()}
        whole, shares = data._replace(own), {"validation": fraction or 0.0}
    else:
        whole = Data(name, as_split(data, "data"))
        shares = {"validation": SHARE if fraction is None else fraction, "test": SHARE}
    shares = {part: share for part, share in shares.items() if part not in given}
    whole.digest = digest_of((dict(whole.splits()) | given).items())  # not of drawn splits, which seeds change
    train, drawn = draw_splits(whole.train, shares, seed, whole.name)
    return whole._replace({"train": train} | given | drawn)


def draw_splits(split: Split, shares: dict[str, float], seed: int, where: str) -> tuple[Split, dict[str, Split]]:
    """What is left for training, and disjoint parts of the given shares (those above 0; at least one item each)."""
    size = len(split)
    counts = {name: max(1, round(share * size)) for name, share in shares.items() if share > 0}
    if not counts:
        return split, {}
    if sum(counts.values()) >= size:
        beside = " and ".join(f"{count} for {name}" for name, count in counts.items())
        remedy = "give more items, a smaller fraction, or splits of your own"
        raise DataError(f"{where}: {size} items leave none for training beside {beside}; {remedy}")
    order = permutation(size, seed)
    train, *rest = order.split([size - sum(counts.values()), *counts.values()])
    return take(split, train), {name: take(split, index) for name, index in zip(counts, rest, strict=True)}


def as_split(value: Any, where: str) -> Split:
    """One split from any of the accepted forms, checked."""
    if isinstance(value, TensorDataset):
        value = value.tensors if len(value.tensors) > 1 else value.tensors[0]
    if isinstance(value, (Tensor, np.ndarray)):
        value = (value, None)
    if isinstance(value, tuple) and len(value) == 2:
        try:
            value = Items(*value)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    elif not isinstance(value, Split):
        if isinstance(value, (dict, list, tuple, str)) or not hasattr(value, "__getitem__"):
            raise DataError(f"{where}: {type(value).__name__}, expected {ACCEPTED}")
        value = Stream(value)
        if value.nbytes <= MEMORY_LIMIT and not _has_transform(value.dataset) and not _varies(value.dataset):
            value = value.materialise()
    return check_split(value, where)


def check_split(split: Split, where: str) -> Split:
    """The same split, its values checked; Groups with float x and int64 labels. A Stream is checked as it is read."""
    if isinstance(split, Items):
        check_values(split.x, split.event_shape, where)
    elif isinstance(split, Groups):
        split = split[:]  # a copy of its fields only
        if split.label is not None:
            split.label = whole_numbers(split.label, where)
        several = isinstance(split.x, tuple)
        for x in split.x if several else (split.x,):
            check_values(x, x.shape[1 if several else 2 :], where)
        split.x = tuple(map(as_floats, split.x)) if several else as_floats(split.x)
    return split


def take(split: Any, index: Tensor) -> Any:
    """The items or groups at `index`."""
    return split[index.to(split.device)] if isinstance(split, Groups) else split.subset(index)


def permutation(size: int, seed: int) -> Tensor:
    """A permutation that is a function of (size, seed) alone."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def _has_transform(dataset: Any) -> bool:
    """Whether it, or a dataset that it wraps, has a transform: its draws are not to be frozen."""
    several = getattr(dataset, "datasets", None)
    inner = [getattr(dataset, "dataset", None), *(several if isinstance(several, (list, tuple)) else ())]
    own = [getattr(dataset, name, None) for name in ("transform", "transforms", "target_transform")]
    return any(each is not None for each in own) or any(_has_transform(each) for each in inner if each is not None)


def _varies(dataset: Any) -> bool:
    """Whether item 0 differs from draw to draw: a random transform that is not declared as one."""
    first, *others = (first_item(dataset, seed)[0] for seed in range(4))
    return not all(torch.equal(first, other) for other in others)


def _fits(split: Split, device: torch.device) -> bool:
    if device.type != "cuda" or isinstance(split, Stream):
        return True
    x = split.x if isinstance(split.x, tuple) else (split.x,)
    free, _ = torch.cuda.mem_get_info(device)
    return 2 * sum(part.nbytes for part in x) <= free


def _first_modality(groups: Groups) -> Tensor:
    return groups.x[0] if isinstance(groups.x, tuple) else groups.x

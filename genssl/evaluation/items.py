"""A split as plain items, whatever it is: Items, Stream, natural Groups (each view an item), or None (no items)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from genssl.datasets.data import permutation
from genssl.groups import Groups

BATCH = 1024


def count(split: Any) -> int:
    """The number of items."""
    if split is None:
        return 0
    return int(split.count.sum()) if isinstance(split, Groups) else len(split)


def spaced(total: int, limit: int | None = None) -> Tensor:
    """0..total-1, or `limit` of them in order, drawn as a function of the sizes alone: data may be sorted by class, or a grid of factors.

    Evenly spaced rows of a grid would leave values of its factors out.
    """
    if limit is None or limit >= total:
        return torch.arange(total)
    return permutation(total, 0)[:limit].sort().values


def batches(split: Any, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """(x [B, *event], label [B] or None) over all items in order, or over `limit` of them, see `spaced`."""
    rows = spaced(count(split), limit)
    order = rows.split(BATCH) if len(rows) else ()
    if isinstance(split, Groups):
        x, label = split.pack(split.x), split.view_labels
        label = None if label is None else split.pack(label)
        for rows in order:
            rows = rows.to(x.device)
            yield x[rows], None if label is None else label[rows]
    elif split is not None:
        for x, label, _ in split.batches(order):
            yield x, label


def labels_of(split: Any) -> Tensor | None:
    """[N] the label of every item, or None; a split that is read from disk is read once for them."""
    if split is None or not hasattr(split, "label"):
        found = [label for _, label in batches(split)]
        return (
            None
            if not found or any(label is None for label in found)
            else torch.cat([x for x in found if x is not None])
        )
    if isinstance(split, Groups):
        return None if split.view_labels is None else split.pack(split.view_labels)
    return split.label


def several_modalities(split: Any) -> bool:
    """Whether the views are of different kinds (a tuple of tensors), which one encoder cannot take as items."""
    return isinstance(split, Groups) and not isinstance(split.x, Tensor)

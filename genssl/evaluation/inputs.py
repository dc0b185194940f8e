"""What every probe takes: representations and labels of each split, checked, with classes counted from 0."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genssl.errors import DataError, NonFiniteError, ShapeError


class Labelled(NamedTuple):
    """Representations z [N, D] (float64) and their classes y [N]: 0..C-1, or -1 for one that training never showed."""

    z: Tensor
    y: Tensor


def labelled(where: str, *parts: Tensor) -> tuple[list[Labelled], int]:
    """(train_z, train_y, validation_z, validation_y, ...) -> ([train, validation, ...], number of classes C in train).

    where names the caller in the messages. z is copied out of any inference mode and of any graph.

    Raises ShapeError, DataError (an empty part), NonFiniteError.
    """
    names = ("train", "validation", "test")
    classes = torch.unique(parts[1])
    out = []
    for name, z, y in zip(names, parts[::2], parts[1::2], strict=False):
        if z.dim() != 2 or z.shape[1] != parts[0].shape[-1]:
            expected = f"[N, {parts[0].shape[-1]}]" if name != "train" else "[N, D]"
            raise ShapeError(f"{where}: {name}_z has shape {list(z.shape)}, expected {expected}; flatten it first")
        if tuple(y.shape) != (len(z),):
            raise ShapeError(
                f"{where}: {name}_y has shape {list(y.shape)}, expected [{len(z)}], one label for each row of {name}_z"
            )
        if len(z) == 0:
            raise DataError(f"{where}: {name}_z has no rows, expected at least one; split the data differently")
        if not bool(torch.isfinite(z).all()):
            bad = int((~torch.isfinite(z).all(1)).sum())
            raise NonFiniteError(
                f"{where}: {bad} of {len(z)} rows of {name}_z are not finite; the run has diverged, lower lr"
            )
        place = torch.searchsorted(classes, y.to(classes)).clamp(max=len(classes) - 1)
        known = classes[place] == y.to(classes)
        out.append(Labelled(z.detach().to(torch.float64, copy=True), torch.where(known, place, -1).to(z.device)))
    return out, len(classes)

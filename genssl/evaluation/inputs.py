"""What every probe takes: representations and labels of each split, checked, standardised, with classes counted from 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from genssl.errors import DataError, NonFiniteError, ShapeError

SPLITS = ("train", "validation", "test")


class Labelled(NamedTuple):
    """Representations z [N, D] (float64) and their classes y [N]: 0..C-1, or -1 for one that training never showed."""

    z: Tensor
    y: Tensor


def labelled(where: str, *parts: Tensor) -> tuple[list[Labelled], int]:
    """(train_z, train_y, validation_z, validation_y, ...) -> ([train, validation, ...], number of classes C in train).

    Rows of a negative label, which is none, are left out. where names the caller in the messages.

    Raises ShapeError, DataError (an empty part, no labelled row), NonFiniteError.
    """
    classes = torch.unique(parts[1][parts[1] >= 0])
    out = []
    for name, z, y in zip(SPLITS, parts[::2], parts[1::2], strict=False):
        points = checked(where, name, z, parts[0].shape[-1])
        if tuple(y.shape) != (len(z),):
            raise ShapeError(
                f"{where}: {name}_y has shape {list(y.shape)}, expected [{len(z)}], one label for each row of {name}_z"
            )
        kept = y >= 0
        if not bool(kept.any()):
            raise DataError(
                f"{where}: none of the {len(y)} rows of {name}_y has a label, expected at least one; a negative label is none, count from 0"
            )
        points, y = points[kept.to(points.device)], y[kept]
        place = torch.searchsorted(classes, y.to(classes)).clamp(max=len(classes) - 1)
        known = classes[place] == y.to(classes)
        out.append(Labelled(points, torch.where(known, place, -1).to(z.device)))
    return out, len(classes)


def checked(where: str, name: str, z: Tensor, dim: int) -> Tensor:
    """z [N, dim] of the split `name` in float64, a copy out of any inference mode and of any graph.

    Raises ShapeError, DataError (no rows), NonFiniteError.
    """
    if z.dim() != 2 or z.shape[1] != dim:
        expected = f"[N, {dim}]" if name != "train" else "[N, D]"
        raise ShapeError(f"{where}: {name}_z has shape {list(z.shape)}, expected {expected}; flatten it first")
    if len(z) == 0:
        raise DataError(f"{where}: {name}_z has no rows, expected at least one; split the data differently")
    if not bool(torch.isfinite(z).all()):
        bad = int((~torch.isfinite(z).all(1)).sum())
        raise NonFiniteError(
            f"{where}: {bad} of {len(z)} rows of {name}_z are not finite; the run has diverged, lower lr"
        )
    return z.detach().to(torch.float64, copy=True)


def standardised(parts: Sequence[Tensor]) -> list[Tensor]:
    """Every part by the training mean and standard deviation; a dimension that is constant in training becomes 0.

    Constant: as far as float64 can tell, at whatever scale; so it is of the largest value of the dimension that a part of 1e-12 counts.
    """
    unit = parts[0].abs().amax(0)
    unit = torch.where(unit > 0, unit, 1.0)  # squares of values beyond 1e154 would overflow
    mean, std = (parts[0] / unit).mean(0), (parts[0] / unit).std(0, correction=0)
    dead = std <= 1e-12 * mean.abs()
    scale = torch.where(dead, 0.0, 1 / torch.where(dead, 1.0, std))
    return [(z / unit - mean) * scale for z in parts]

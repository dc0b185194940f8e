"""What every measure of grouped representations takes: the views that exist, checked, in float64, with means and counts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genssl.errors import DataError, NonFiniteError, ShapeError
from genssl.estimators.rows import rows


class Grouped(NamedTuple):
    """Representations of G groups of up to J views.

    z         [G, J, D] float64, padded views 0
    valid     [G, J] bool, True where a view exists
    number    [G] float64, the number of views of each group, at least 1
    mean      [G, D] zbar, the mean of the views of each group
    rounding  the norm that rounding alone could give all deviations together
    """

    z: Tensor
    valid: Tensor
    number: Tensor
    mean: Tensor
    rounding: float

    def deviations(self) -> Tensor:
        """[G, J, D] z - zbar, 0 at padded views."""
        return (self.z - self.mean[:, None]) * self.valid[..., None]


def grouped(who: str, z: Tensor, valid: Tensor | None = None, least: int = 2) -> Grouped:
    """Check and prepare z [G, J, D], valid [G, J] (None: every view exists); `least` is the smallest G that will do.

    Raises ShapeError, DataError (types, a group without a view), NonFiniteError (padded views may hold anything).
    """
    rows(who, z, axes="[G, J, D]", least=least)
    if z.numel() == 0:
        raise ShapeError(f"{who}: z has shape {list(z.shape)}, expected at least one view and one dimension")
    if valid is None:
        valid = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
    if valid.dtype != torch.bool:
        raise DataError(f"{who}: valid holds {valid.dtype}, expected bool; compare it first")
    if valid.shape != z.shape[:2]:
        raise ShapeError(f"{who}: valid has shape {list(valid.shape)}, expected {list(z.shape[:2])}, one entry a view")
    if not bool(valid.any(1).all()):
        empty = int((~valid.any(1)).sum())
        raise DataError(f"{who}: {empty} of {len(z)} groups have no view, expected at least one in each; drop them")
    points = torch.where(valid[..., None], z.detach(), 0.0).double()
    if not bool(torch.isfinite(points).all()):
        bad = int((~torch.isfinite(points).all(-1)).sum())
        raise NonFiniteError(f"{who}: {bad} of {int(valid.sum())} views of z are not finite; lower lr and fit again")
    number = valid.sum(1).double()
    return Grouped(points, valid, number, points.sum(1) / number[:, None], rounding_level(z, points))


def rounding_level(given: Tensor, points: Tensor) -> float:
    """A bound on what rounding adds to singular values of z: of its own type, or of the decomposition in float64."""
    relative = max(torch.finfo(given.dtype).eps, max(given.shape) * torch.finfo(torch.float64).eps)
    return relative * float(points.norm())

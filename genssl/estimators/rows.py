"""What every estimator does first: rows in full precision, which of them exist, averages over them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from genssl.errors import DataError, ShapeError
from genssl.precision import at_least_float32


class Rows(NamedTuple):
    """Rows of an estimator.

    z: [N, *] in at least float32, padded rows 0 and without gradient.
    valid: [N] bool, True where a row exists.
    number: [] how many exist, in the type of z: a tensor, since counting on the host would wait for the device.
    """

    z: Tensor
    valid: Tensor
    number: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """The mean of values [N] over the rows that exist."""
        return values.where(self.valid, values.new_zeros(())).sum() / self.number

    def others(self) -> Tensor:
        """[N, N] bool: True at (i, j) where row j exists and is not row i."""
        n = len(self.valid)
        return self.valid & ~torch.eye(n, dtype=torch.bool, device=self.valid.device)


def rows(
    who: str, z: Tensor, valid: Tensor | None = None, *, name: str = "z", axes: str = "[N, D]", least: int = 1
) -> Rows:
    """Check and prepare z [N, *]; `least` is the smallest N for which the estimator is defined.

    float16 and bfloat16 become float32. Raises DataError for numbers that are not floating point or a mask that is not
    boolean, ShapeError for wrong axes or too few rows.
    """
    if not z.is_floating_point():
        raise DataError(f"{who}: {name} holds {z.dtype}, expected floating point numbers; convert it with .float()")
    if z.dim() != axes.count(",") + 1:
        raise ShapeError(f"{who}: {name} has shape {list(z.shape)}, expected {axes}")
    if len(z) < least:
        raise ShapeError(f"{who}: {name} has {len(z)} rows, expected at least {least}; give a larger batch")
    z = at_least_float32(z)
    if valid is None:
        everything = torch.ones(len(z), dtype=torch.bool, device=z.device)
        return Rows(z, everything, z.new_full((), len(z)))
    if valid.dtype != torch.bool:
        raise DataError(f"{who}: valid holds {valid.dtype}, expected bool; compare it first")
    if valid.shape != z.shape[:1]:
        raise ShapeError(f"{who}: valid has shape {list(valid.shape)}, expected [{len(z)}], one entry a row of {name}")
    exists = valid.reshape(-1, *[1] * (z.dim() - 1))
    return Rows(z.where(exists, z.new_zeros(())), valid, valid.sum().to(z.dtype))


def inner_products(a: Tensor, b: Tensor) -> Tensor:
    """a b^T for a [N, D], b [M, D] -> [N, M], in their own precision even where a caller left autocast on."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.T


def on_simplex(given: Rows, slack: float) -> bool | None:
    """Whether every row that exists is a probability vector; None while Pyro's validation is off, as looking waits for the device."""
    if not is_validation_enabled():
        return None
    fits = (given.z >= -slack).all(1) & ((given.z.sum(1) - 1).abs() < slack)
    return bool((fits | ~given.valid).all())


def refuse_simplex(who: str, given: Rows, remedy: str) -> None:
    """DataError where all rows lie on the simplex: a flat set without volume, whose entropy in D dimensions is -infinity."""
    if given.z.shape[1] > 1 and on_simplex(given, slack=1e-5):
        raise DataError(
            f"{who}: every row of z is a probability vector, on a simplex of D - 1 = {given.z.shape[1] - 1} dimensions, "
            f"where a density over D does not exist; {remedy}"
        )

"""Readings of generated items beside the Frechet distance: a kernel distance without bias, precision and recall."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genssl.errors import NonFiniteError, SettingsError, ShapeError
from genssl.estimators.rows import rows

BLOCK = 512
ROUNDING = 1e-12  # of ||a||^2 + ||b||^2, in their difference


class SubsetDistance(NamedTuple):
    """mean: over subsets, in units of the kernel; std: over them, divisor the number of subsets."""

    mean: float
    std: float


class PrecisionRecall(NamedTuple):
    """Fractions in [0, 1]: of generated items that lie where real ones do, and of real ones where generated ones do."""

    precision: float
    recall: float


@torch.no_grad()
def kernel_distance(a: Tensor, b: Tensor, degree: int = 3) -> float:
    r"""The unbiased squared maximum mean discrepancy of the rows of a [N, F], b [M, F].

        mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{ij} k(a_i, b_j),
        k(x, y) = (x . y / F + 1)^degree

    Of features of Inception-v3 and with degree 3 it is the KID (Binkowski et al. 2018, arXiv:1801.01401); of others it
    is not. Its mean does not depend on N, where a Frechet distance is biased upwards, so that it serves for few items;
    it can be negative, near 0. It compares moments up to `degree` of features of the order of 1 (of smaller ones little
    but the mean counts: take those of `classifier_features` times F^{1/2}). All pairs, in float64, in blocks.

    Raises SettingsError (degree), ShapeError (axes, fewer than 2 rows, different F), DataError, NonFiniteError.
    """
    a, b = _checked("kernel_distance", {"a": a, "b": b}, least=2)
    if degree < 1:
        raise SettingsError(f"kernel_distance: degree = {degree}, expected at least 1; 3 is usual")
    within = sum(
        (_kernel_sum(x, x, degree) - float(_kernel(x.square().sum(1), x, degree).sum())) / (len(x) * (len(x) - 1))
        for x in (a, b)
    )
    return within - 2 * _kernel_sum(a, b, degree) / (len(a) * len(b))


@torch.no_grad()
def kernel_distance_of_subsets(
    a: Tensor, b: Tensor, size: int = 1000, subsets: int = 100, degree: int = 3, seed: int = 0
) -> SubsetDistance:
    """`kernel_distance` of `size` rows of each of a [N, F], b [M, F], drawn anew `subsets` times without replacement.

    As KID is published, by default 100 times 1000 rows: the mean is unbiased for the same distance, but noisier than
    all pairs are; the deviation tells what one subset is off by and not the mean, whose subsets share rows. The seed is
    that of a generator of its own.

    Raises SettingsError (size above N or M or below 2, subsets, degree), and what kernel_distance does.
    """
    who = "kernel_distance_of_subsets"
    a, b = _checked(who, {"a": a, "b": b}, least=2)
    most = min(len(a), len(b))
    if not 2 <= size <= most:
        raise SettingsError(f"{who}: size = {size}, expected 2 to {most}, the rows of the smaller set; lower it")
    if subsets < 1:
        raise SettingsError(f"{who}: subsets = {subsets}, expected at least 1; 100 is usual")
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(subsets):
        some, others = (x[torch.randperm(len(x), generator=generator)[:size].to(x.device)] for x in (a, b))
        found.append(kernel_distance(some, others, degree))
    values = torch.tensor(found, dtype=torch.float64)
    return SubsetDistance(float(values.mean()), float(values.std(correction=0)))


@torch.no_grad()
def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> PrecisionRecall:
    r"""Which share of generated rows [M, F] lies in the estimated support of real rows [N, F], and the other way round.

    The support of a set is the union of balls around its points, each reaching to the k-th nearest other point
    (Kynkaanniemi et al. 2019, arXiv:1904.06991, Eq. 1 and 2; there k = 3 and 50000 items). Precision falls with bad
    samples, recall with what is never generated: a generator of one good image has precision 1 and recall about 0.

    Loose: one outlier has a large ball, which takes in anything within it; balls shrink with N, so compare figures of
    one N (and N = M); unlike densities, neither sees in which proportions things are generated. In float64, in blocks;
    distances below 1e-6 of the norms of two rows count as 0.

    Raises SettingsError (k), ShapeError (axes, fewer than k + 1 rows, different F), DataError, NonFiniteError.
    """
    if k < 1:
        raise SettingsError(f"precision_recall: k = {k}, expected at least 1; 3 is usual")
    real, generated = _checked("precision_recall", {"real": real, "generated": generated}, least=k + 1)
    centre = real.mean(0)  # around which products of matrices cancel least
    real, generated = real - centre, generated - centre
    return PrecisionRecall(_covered(generated, real, k), _covered(real, generated, k))


def _covered(points: Tensor, support: Tensor, k: int) -> float:
    """The share of points in some ball of the support."""
    # The nearest of all is the point itself, so that the k-th other one is the last of k + 1.
    balls = [_squares(part, support).topk(k + 1, 1, largest=False).values[:, -1] for part in support.split(BLOCK)]
    radius = torch.cat(balls)
    inside = [(_squares(part, support) <= radius).any(1) for part in points.split(BLOCK)]
    return float(torch.cat(inside).double().mean())


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """||a_i - b_j||^2 by a product of matrices; what may be its rounding is 0, as from a point to itself."""
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    squares = torch.addmm(norms, a, b.T, alpha=-2)
    return squares.where(squares > ROUNDING * norms, 0)


def _kernel(products: Tensor, like: Tensor, degree: int) -> Tensor:
    return (products / like.shape[1] + 1) ** degree


def _kernel_sum(a: Tensor, b: Tensor, degree: int) -> float:
    return sum(float(_kernel(part @ b.T, b, degree).sum()) for part in a.split(BLOCK))


def _checked(who: str, sets: dict[str, Tensor], least: int) -> list[Tensor]:
    found = [rows(who, x, name=name, axes="[N, F]", least=least).z.double() for name, x in sets.items()]
    (first, second), (a, b) = sets, found
    if a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"{who}: {second} has {b.shape[1]} features, expected {a.shape[1]} as {first} has; use one network"
        )
    for name, x in zip(sets, found, strict=True):
        if not bool(torch.isfinite(x).all()):
            bad = int((~torch.isfinite(x).all(1)).sum())
            raise NonFiniteError(
                f"{who}: {bad} of {len(x)} rows of {name} are not finite; the run that made these items has diverged"
            )
    return [a, b.to(a.device)]

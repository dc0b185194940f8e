"""What a z that tells items apart can do: separate random labels by a hyperplane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.evaluation.grouped import grouped

MULTIPLES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0)  # of D + 1; at 2 Cover's share is 1/2
STEEPEST = 1e6  # largest |w_k| where the spread is 1: margins below 1e-6 are not told from 0
_BLOCK = 4_000_000  # numbers in memory at once: 32 MB


def cover(number: int, dimension: int) -> float:
    r"""2^(1-N) sum_{k=0}^{D} C(N-1, k): the share of the 2^N labellings of N points in R^D that hyperplanes separate.

    (Cover 1965, Theorem 1, with D + 1 for his d, since these hyperplanes have an offset.) The same wherever the points
    lie, as long as they are in general position: no k + 2 of them on a flat of k < D dimensions. In [0, 1]: 1 up to
    N = D + 1, 1/2 at N = 2 (D + 1), soon 0 beyond. Exact, in integers.

    Raises SettingsError (number < 1, dimension < 0).
    """
    if number < 1 or dimension < 0:
        raise SettingsError(
            f"cover: number = {number}, dimension = {dimension}, expected at least 1 point and 0 dimensions"
        )
    return sum(math.comb(number - 1, k) for k in range(min(dimension + 1, number))) / 2 ** (number - 1)


def separable(points: np.ndarray, signs: np.ndarray, steepest: float | np.ndarray = STEEPEST) -> bool:
    r"""Whether signs_i (w . points_i + b) > 0 for all i with one w, b; points [N, D] of spread about 1, signs [N] +-1.

        minimise t    subject to    signs_i (w . points_i + b) >= 1 - t,    |w_k| <= steepest_k,    t >= 0

    A linear program, not a classifier that may stop early. Its optimum is 1 where the convex hulls of the two sides
    meet (a point that both sides share included), and 0 where some w leaves a margin of 1; only where a margin needs
    steeper w does it lie between, and counts as separable up to twice as steep. steepest, a number or [D], keeps
    apart what rounding could have parted.

    Milliseconds for D and N in the tens, a quarter of a second for 500 points in 128 dimensions, cubic from there.

    Raises ShapeError, NonFiniteError (values that are not finite; the solver without an answer).
    """
    if points.ndim != 2 or signs.shape != points.shape[:1]:
        raise ShapeError(
            f"separable: points {list(points.shape)}, signs {list(signs.shape)}, expected [N, D] and [N]; flatten them"
        )
    if not np.isfinite(points).all():
        raise NonFiniteError("separable: some points are not finite; drop them, or lower lr and fit again")
    signed = signs[:, None] * np.concatenate([points, np.ones((len(points), 1))], 1)
    slope = np.broadcast_to(steepest, points.shape[1:])
    limits = [*zip(-slope, slope, strict=True), (None, None), (0, None)]
    rows = -np.concatenate([signed, np.ones((len(points), 1))], 1)
    price = np.eye(rows.shape[1])[-1]
    found = linprog(price, A_ub=rows, b_ub=-np.ones(len(points)), bounds=limits, method="highs")
    if found.status != 0:
        raise NonFiniteError(f"separable: no answer for {len(points)} points, {found.message}; take fewer points")
    return bool(found.fun < 0.5)


@torch.no_grad()
def shattering(
    z: Tensor,
    valid: Tensor | None = None,
    numbers: Sequence[int] | None = None,
    labelings: int = 20,
    seed: int = 0,
    dimension: int | None = None,
) -> dict[str, Any]:
    r"""The share of random labellings of N items that a hyperplane in z separates, against N; z [N, D] or [G, J, D].

    For every N, `labelings` times: N random items get each a sign by a fair coin, all views of an item the same, and
    `separable` decides exactly whether one hyperplane, with offset, has all views of all of them on the right side.
    This is what any binary label of the items needs to be read off by a linear probe.

    - One view each: points in general position have Cover's share whatever they mean, noise and pixels too. Only points
      that coincide (collapse; a z that holds the class and nothing else) or lie on flats fall below it.
    - Several views: below Cover's share by as much as views of an item lie apart and those of others between them.
      At that share, half at 2 (D + 1) items, the views of an item are as good as one point.

    Returns dimension D (the rank of z; at most `dimension`, by leading principal directions), views (J), labelings, and
    lists numbers, separable (in [0, 1], binomial error sqrt(p (1 - p) / labelings)), cover (`cover` of N and D);
    capacity, the N at which the share falls through 1/2, linear between the numbers, None where it did not; and
    cover_capacity, 2 (D + 1), where that of points in general position does.

    numbers: default 1/4 to 3 times D + 1, as far as there are items. They end with a share of 0, after which the rest
    is about 0 too. Invertible linear maps of z leave the shares alone, so that dimensions of tiny variance count in
    full, down to the rounding of the type of z; hold D against the effective rank. The same seed gives the same
    labellings, and torch's default generators are not used. valid [G, J]: ragged groups.

    Raises SettingsError (numbers, labelings, dimension), ShapeError, DataError (fewer than 2 items), NonFiniteError.
    """
    if labelings < 1 or (dimension is not None and dimension < 1):
        raise SettingsError(
            f"shattering: labelings = {labelings}, dimension = {dimension}, expected at least 1 of each"
        )
    groups = grouped("shattering", z[:, None] if z.dim() == 2 else z, valid)
    flat, total = groups.z[groups.valid], len(groups.z)
    if total < 2:
        raise DataError(f"shattering: {total} items, expected at least 2; give more items")
    # Whitened: the answers are those of z, and the program is well scaled.
    _, size, directions = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    kept = size > groups.rounding
    size, directions = size[kept][:dimension], directions[kept][:dimension]
    white = ((groups.z - flat.mean(0)) @ directions.T / size * math.sqrt(len(flat))).cpu().numpy()
    # All of w together parts no two points that are a few roundings of z apart.
    rounding = max(8 * len(size) * groups.rounding, torch.finfo(size.dtype).tiny)
    steepest = (size / rounding).clamp(max=STEEPEST).cpu().numpy()
    exists = groups.valid.cpu().numpy()
    if numbers is None:
        steps = (max(1, round(multiple * (len(size) + 1))) for multiple in MULTIPLES)
        numbers = [number for number in dict.fromkeys(steps) if number <= total]
    elif not numbers or min(numbers) < 1 or max(numbers) > total:
        raise SettingsError(f"shattering: numbers = {list(numbers)}, expected some from 1 to the {total} items")
    numbers = sorted(set(numbers))
    generator = torch.Generator().manual_seed(seed)
    shares: list[float] = []
    for number in numbers:
        hits = 0
        for _ in range(labelings):
            chosen = torch.randperm(total, generator=generator)[:number].numpy()
            signs = 2 * torch.randint(2, (number,), generator=generator).numpy() - 1
            which = exists[chosen]
            hits += separable(white[chosen][which], np.broadcast_to(signs[:, None], which.shape)[which], steepest)
        shares.append(hits / labelings)
        if hits == 0:
            break
    numbers = numbers[: len(shares)]
    return {
        "dimension": len(size),
        "views": z.shape[1] if z.dim() == 3 else 1,
        "labelings": labelings,
        "numbers": numbers,
        "separable": shares,
        "cover": [cover(number, len(size)) for number in numbers],
        "capacity": _half(numbers, shares),
        "cover_capacity": 2 * (len(size) + 1),
    }


def _half(numbers: Sequence[int], shares: Sequence[float]) -> float | None:
    """Where the shares fall through 1/2, from 1 at one item; None where they do not."""
    before, above = 1.0, 1.0
    for number, share in zip(numbers, shares, strict=True):
        if share < 0.5:
            return before + (above - 0.5) / (above - share) * (number - before)
        before, above = float(number), share
    return None

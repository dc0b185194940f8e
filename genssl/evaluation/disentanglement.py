"""Whether single coordinates of z stand for single known factors: DCI, and the mutual information gap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.estimators.rows import rows
from genssl.evaluation.inputs import standardised
from genssl.evaluation.items import spaced
from genssl.evaluation.style import Part, Target, r_squared, target_of, unfit
from genssl.groups import STYLE_KINDS

POINTS = 5000  # training rows
TREES, TREE_POINTS, LEAF = 10, 2000, 10
BINS = 20


class DCI(NamedTuple):
    """disentanglement, completeness in [0, 1] and informativeness, at most 1: means over what follows.

    by_dim      [D] disentanglement of each coordinate; the mean weighs them by their importance
    by_factor   [S] completeness of each factor
    r2          [S] how well the forest predicts each factor of other rows
    importance  [D, S] of each coordinate for each factor; columns sum to 1, or to 0 where a forest never split
    """

    disentanglement: float
    completeness: float
    informativeness: float
    by_dim: Tensor
    by_factor: Tensor
    r2: Tensor
    importance: Tensor


class MutualInformationGap(NamedTuple):
    """gap: the mean of by_factor [S], in [0, 1]; information [D, S] and entropy [S] in nats."""

    gap: float
    by_factor: Tensor
    information: Tensor
    entropy: Tensor


@torch.no_grad()
def dci(train: Part, test: Part, kinds: Sequence[str], seed: int = 0, points: int = POINTS) -> DCI:
    r"""Disentanglement, completeness, informativeness (Eastwood and Williams 2018, openreview By-7dz-AZ, Section 2).

        D = sum_d rho_d (1 - H[P_d] / log S),    P_d = R_d. / sum_s R_ds,   rho_d = sum_s R_ds / sum R
        C = 1/S sum_s (1 - H[P'_s] / log D),     P'_s = R_.s / sum_d R_ds
        I = 1/S sum_s R2_s,                      on test

    of the importance R [D, S] of coordinate d for predicting factor s; z [N, D] and factors [N, S] of each part, S
    kinds (continuous | circular | categorical). D is 1 where no coordinate serves two factors, C where one coordinate
    carries all that is known of a factor. What is predicted is the value of a continuous factor, (cos, sin) of a
    circular one and the classes one-hot of a categorical one, and R2 is that of `style_scores`' regressions for all of
    them (of classes, the share of their squared error that is explained; 0 is as good as their frequencies).

    R_.s is the decrease of variance by each coordinate in a random forest: 10 trees of 2000 drawn rows, leaves of at
    least 10, every coordinate considered at every split. Of the paper's two regressors the lasso is faster (0.1 s), but
    on representations of sprites its penalty decided the figures (D of turned ones from 0.4 to 0.9), it is blind to what is not
    linear, and a factor that nothing predicts keeps one weight or none, which reads as complete; in a forest it counts
    for all coordinates alike. Gradient boosting, as in public code, took two to three times as long for the same.
    Time of one core, of 5000 rows: about 0.1 s a factor at D = 10, 0.4 s at 64.

    Loose: splits are greedy, so that of many mixed coordinates the best takes nearly all importance: 5 factors turned
    at random within 5 dimensions have D of 0.3 to 0.5, into 64 about 0.9 (1 unturned): compare figures of one D, and
    with a random encoder. Factors that depend on each other lower D. A law of z that no rotation changes, as
    SimVAE's prior, gives no reason for axes to mean anything. Not comparable with figures of another regressor.

    At most `points` training rows, drawn. The same figures for the same seed; torch's generators are left alone.

    Raises ShapeError (axes, fewer than two coordinates or factors), SettingsError (kinds, points), DataError (a factor
    that is constant or not finite), NonFiniteError.
    """
    who = "dci"
    if points < 2:
        raise SettingsError(f"{who}: points = {points}, expected at least 2; such as {POINTS}")
    z, factors = _checked(who, *train, kinds, "train ")
    test_z, test_factors = _checked(who, *test, kinds, "test ")
    if len(kinds) < 2:
        raise ShapeError(f"{who}: 1 factor, expected at least two, between which a coordinate can be divided")
    if test_z.shape[1] != z.shape[1]:
        raise ShapeError(f"{who}: test z has {test_z.shape[1]} dimensions, expected {z.shape[1]} as train z has")
    kept = spaced(len(z), points).to(z.device)
    z, test_z = standardised([z[kept], test_z])  # a forest compares in float32
    found = [
        _forest(z, test_z.clamp(-1e30, 1e30), target_of(str(s), kind, [factors[kept, s], test_factors[:, s]]), seed)
        for s, kind in enumerate(kinds)
    ]
    importance = torch.stack([weights for weights, _ in found], 1)
    r2 = torch.tensor([score for _, score in found], dtype=torch.float64)
    by_dim, by_factor = concentration(importance), concentration(importance.T)
    weight = importance.sum(1) / importance.sum().clamp(min=torch.finfo(importance.dtype).tiny)
    means = float(by_dim @ weight), float(by_factor.mean()), float(r2.mean())
    return DCI(*means, by_dim, by_factor, r2, importance)


def concentration(weights: Tensor) -> Tensor:
    """1 - H[row over its sum] / log B of weights [A, B] >= 0 -> [A]: 1 where one entry has all, 0 where all are alike or 0."""
    share = weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    kept = 1 - torch.special.entr(share).sum(1) / math.log(weights.shape[1])
    return kept.where(weights.sum(1) > 0, 0).clamp(0, 1)


@torch.no_grad()
def mutual_information_gap(z: Tensor, factors: Tensor, kinds: Sequence[str], bins: int = BINS) -> MutualInformationGap:
    r"""MIG = 1/S sum_s (I[z_d*; v_s] - max_{d != d*} I[z_d; v_s]) / H[v_s], d* the coordinate that knows most of v_s.

    (Chen et al. 2018, arXiv:1802.04942, Eq. 6.) z [N, D], factors [N, S] with their kinds. I and H are those of
    histograms, in nats: z_d and continuous factors in `bins` bins of equal width from their smallest value to their
    largest, circular factors in as many on the circle cut at its widest gap, categories as they are. 1 where one coordinate determines each
    factor and no other knows anything of it; about 0 where two know as much of it (a copy), where it is spread over
    rotated coordinates, or where nothing is known.

    Loose: histograms of N rows find about (bins - 1)^2 / 2N nats too much in every coordinate, which the difference
    takes away where both are small. Bins of equal width lose what is bent (z = exp v, v uniform on [0, 1]: 0.8), the more
    the longer a tail. A circular factor that is kept as (cos, sin)
    needs two coordinates and has a gap near 0 for that; so has every factor that two coordinates share by nature. As of
    `dci`, no figure of what z tells, but of its axes.

    Raises ShapeError (axes, fewer than two coordinates), SettingsError (kinds, bins), DataError (a factor that is
    constant or not finite), NonFiniteError.
    """
    who = "mutual_information_gap"
    if bins < 2:
        raise SettingsError(f"{who}: bins = {bins}, expected at least 2; {BINS} is usual")
    z, factors = _checked(who, z, factors, kinds)
    cells = _binned(z, bins)
    information, entropy = [], []
    for values, kind in zip(factors.T, kinds, strict=True):
        of_factor = _classes(values, kind, bins)
        size = int(of_factor.max()) + 1
        # One count for all coordinates: coordinate, bin of z, class of the factor.
        place = (cells + bins * torch.arange(z.shape[1], device=z.device)) * size + of_factor[:, None]
        counts = torch.bincount(place.flatten(), minlength=z.shape[1] * bins * size)
        joint = counts.reshape(z.shape[1], bins, size).double() / len(z)
        of_both = _entropy(joint.flatten(1))
        entropy.append(_entropy(joint[0].sum(0)))
        information.append((_entropy(joint.sum(2)) + entropy[-1] - of_both).clamp(min=0))
    table, nats = torch.stack(information, 1), torch.stack(entropy)
    first, second = table.topk(2, 0).values
    by_factor = (first - second) / nats.clamp(min=torch.finfo(nats.dtype).tiny)
    return MutualInformationGap(float(by_factor.mean()), by_factor, table, nats)


def _forest(z: Tensor, test_z: Tensor, target: Target, seed: int) -> tuple[Tensor, float]:
    """The importance [D] of each coordinate for predicting the target, and R2 on test."""
    from sklearn.ensemble import RandomForestRegressor

    truth, asked = (part.cpu() for part in target.parts)
    forest: Any = RandomForestRegressor(
        TREES,
        min_samples_leaf=LEAF,
        max_samples=min(TREE_POINTS, len(z)),
        random_state=seed,
        n_jobs=torch.get_num_threads(),
    )
    forest.fit(z.cpu().numpy(), truth.numpy() if truth.shape[1] > 1 else truth[:, 0].numpy())
    forest.n_jobs = None  # threads would add up the trees in the order in which they end
    predicted = torch.from_numpy(forest.predict(test_z.cpu().numpy())).reshape(asked.shape)
    return torch.from_numpy(forest.feature_importances_), r_squared(asked, predicted)


def _classes(values: Tensor, kind: str, bins: int) -> Tensor:
    """[N] the class or bin of each value of a factor, counted from 0."""
    if kind == "categorical":
        return torch.unique(values, return_inverse=True)[1]
    if kind == "circular":
        values = _cut(values)
    return _binned(values[:, None], bins)[:, 0]


def _cut(angles: Tensor) -> Tensor:
    """Angles [N] counted from the end of the widest gap between any two, in [0, 2 pi)."""
    turned = angles.remainder(2 * math.pi)
    ordered = turned.sort().values
    gaps = ordered - ordered.roll(1)  # the first is that across 0, less the whole circle
    gaps[0] += 2 * math.pi
    return (turned - ordered[gaps.argmax()]).remainder(2 * math.pi)


def _binned(values: Tensor, bins: int) -> Tensor:
    """[N, C] of values [N, C]: in which of the bins of equal width that span each column; 0 where it is constant."""
    low, high = values.aminmax(dim=0)
    width = (high - low).where(high > low, 1)
    return ((values - low) / width * bins).long().clamp(0, bins - 1)


def _entropy(p: Tensor) -> Tensor:
    """Of the last axis, nats."""
    return torch.special.entr(p).sum(-1)


def _checked(who: str, z: Tensor, factors: Tensor, kinds: Sequence[str], which: str = "") -> tuple[Tensor, Tensor]:
    """z [N, D] and factors [N, S] in float64 on one device."""
    points = rows(who, z, name=f"{which}z", least=2).z.double()
    if points.shape[1] < 2:
        raise ShapeError(f"{who}: {which}z has {points.shape[1]} dimension, expected at least two to tell apart")
    if not bool(torch.isfinite(points).all()):
        bad = int((~torch.isfinite(points).all(1)).sum())
        raise NonFiniteError(f"{who}: {bad} of {len(z)} rows of {which}z are not finite; lower lr and fit again")
    if not set(kinds) <= set(STYLE_KINDS):
        raise SettingsError(f"{who}: kinds {tuple(kinds)}, expected each one of {', '.join(STYLE_KINDS)}")
    if len(kinds) == 0 or tuple(factors.shape) != (len(z), len(kinds)):
        raise ShapeError(
            f"{who}: {which}factors have shape {list(factors.shape)}, expected [{len(z)}, S], a row for each row of z"
            f" and a column for each of the {len(kinds)} kinds"
        )
    values = factors.detach().to(points)
    for s in range(len(kinds)):
        if reason := unfit({which.strip() or "given": values[:, s]}):
            raise DataError(f"{who}: factor {s} is {reason}; leave it out")
    return points.detach(), values

"""How representations of groups split into content and style: variance components, and the prior term at its best scales."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.optimize import brentq
from torch import Tensor

from genssl.distributions import GroupNormal
from genssl.errors import DataError
from genssl.evaluation.grouped import Grouped, grouped


class VarianceComponents(NamedTuple):
    """Variances per dimension, in units of z^2: within groups (style) and between them (content)."""

    within: float
    between: float


class GroupScales(NamedTuple):
    """A GroupNormal around loc [D]: standard deviations view_scale and content_scale, and its log_prob [G] of every group, nats."""

    view_scale: float
    content_scale: float
    loc: Tensor
    log_prob: Tensor


@torch.no_grad()
def variance_components(z: Tensor, valid: Tensor | None = None) -> VarianceComponents:
    r"""The one-way random-effects components of z_gj = m + y_g + e_gj, z [G, J, D]: Var e and Var y, means over the D dimensions.

        within = MSW = SSW / (N - G)        between = (MSB - MSW) / n0,   MSB = SSB / (G - 1),   n0 = (N - sum_g n_g^2 / N) / (G - 1)

    n_g views in group g, N = sum n_g; SSW = sum_gj (z_gj - zbar_g)^2, SSB = sum_g n_g (zbar_g - zbar)^2, zbar over all views (analysis of
    variance: Searle, Casella, McCulloch 1992). Balanced groups: n0 = J. Both are unbiased, whatever the distributions, before
    `between` is clipped at 0, after the mean over dimensions: without content it is 0 about half of the time, and a little too
    large on average. between / (within + between) is the share of content. Collapse to a point: both 0; perfect invariance: within 0.
    In units of z^2: rotations and translations leave both alone.

    Raises ShapeError, DataError (no group of two views), NonFiniteError.
    """
    groups = grouped("variance_components", z, valid)
    total = float(groups.number.sum())
    freedom = total - len(z)
    if freedom == 0:
        raise DataError(
            "variance_components: every group has one view, so within and between cannot be told apart; give groups of two views"
        )
    within = float(groups.deviations().square().sum()) / freedom / z.shape[2]
    centre = groups.z.sum((0, 1)) / total
    between = float((groups.number[:, None] * (groups.mean - centre).square()).sum()) / (len(z) - 1) / z.shape[2]
    views = (total - float(groups.number.square().sum()) / total) / (len(z) - 1)
    return VarianceComponents(within, max(0.0, (between - within) / views))


@torch.no_grad()
def maximum_likelihood_scales(z: Tensor, valid: Tensor | None = None) -> GroupScales:
    r"""The GroupNormal around loc m that maximises sum_g log p(z_g1..z_gJ), z [G, J, D]: the prior term of ELBO_SSL at its best scales.

    One view_scale s and one content_scale c for all D dimensions. Balanced groups, with S = sum_gj ||z_gj - zbar_g||^2 and m = zbar:

        s^2 = S / G(J-1)D,   c^2 = sum_g ||zbar_g - zbar||^2 / GD - s^2 / J;   where that is negative: c = 0 and s^2 the pooled variance

    Ragged groups: with r = c^2 / s^2 and w_g = n_g / (1 + n_g r) the best m and s are closed forms, m = sum w_g zbar_g / sum w_g and
    s^2 = (S + sum w_g ||zbar_g - m||^2) / ND; the derivative in r changes sign in a bracket, and of its roots and 0 the best is taken.

    log_prob [G] is that of `GroupNormal` at z - m, in nats with exact normalisers, so the mean over groups can stand beside other terms of
    a deterministic guide. It is a density: z -> az shifts it by -n_g D log a, so a small or collapsed z scores high by itself. D + 2
    numbers are fitted to the groups that they are measured on; with G of some hundreds that is nothing. c = 0: groups do not differ more
    than their views; the limit is what log_prob gives then.

    Raises DataError where no group has two views (only s^2 + c^2 shows then), or where all views coincide with their group's others
    (s = 0: the likelihood has no maximum; invariance is perfect or z has collapsed); ShapeError, NonFiniteError.
    """
    who = "maximum_likelihood_scales"
    groups = grouped(who, z, valid)
    spread = float(groups.deviations().square().sum())
    if not bool((groups.number > 1).any()):
        raise DataError(
            f"{who}: every group has one view, which shows view_scale^2 + content_scale^2 only; give groups of two views"
        )
    if math.sqrt(spread) <= groups.rounding:
        raise DataError(
            f"{who}: the views of each group coincide, so view_scale = 0 and the likelihood is infinite; z has collapsed or "
            "ignores the views, report that instead"
        )
    profile = _Profile(groups, spread)
    ratio = profile.best()
    loc, variance = profile.at(ratio)[:2]
    view, content = math.sqrt(variance), math.sqrt(variance * ratio)
    # GroupNormal takes no content_scale of 0; this one adds less than float64 can show.
    prior = GroupNormal(view, z.shape[1], z.shape[2], max(content, 1e-9 * view), groups.valid)
    return GroupScales(view, content, loc, prior.log_prob(groups.z - loc))


class _Profile:
    """Minus twice the log likelihood, over D and up to a constant, as a function of r = c^2 / s^2 alone."""

    def __init__(self, groups: Grouped, spread: float) -> None:
        self.count, self.mean, self.spread, self.dim = groups.number, groups.mean, spread, groups.z.shape[2]
        self.total = float(groups.number.sum())

    def at(self, ratio: float) -> tuple[Tensor, float, Tensor, Tensor]:
        """m [D] and s^2 that are best at this ratio; the weights w_g and the squared distances ||zbar_g - m||^2 [G]."""
        weight = self.count / (1 + self.count * ratio)
        loc = weight @ self.mean / weight.sum()
        square = (self.mean - loc).square().sum(1)
        return loc, (self.spread + float(weight @ square)) / (self.total * self.dim), weight, square

    def value(self, ratio: float) -> float:
        return self.total * math.log(self.at(ratio)[1]) + float((1 + self.count * ratio).log().sum())

    def slope(self, ratio: float) -> float:
        """Its derivative: m and s^2 are optima, so only the explicit r counts."""
        _, variance, weight, square = self.at(ratio)
        return float(weight.sum()) - float(weight.square() @ square) / (self.dim * variance)

    def best(self) -> float:
        views = float(self.count[0])
        if bool((self.count == views).all()):
            within = self.spread / (len(self.count) * (views - 1) * self.dim)
            between = float((self.mean - self.mean.mean(0)).square().sum()) / (len(self.count) * self.dim)
            return max(0.0, between / within - 1 / views)
        # Beyond `end` the slope is positive: there s^2 >= S / ND, w_g <= 1 / r, and m lies among the group means.
        distance = (self.mean - self.mean.mean(0)).square().sum(1)
        most = 2 * float(distance.sum()) + 2 * len(distance) * float(distance.max())
        end = 2 * max(1.0, 2 * self.total * most / (len(distance) * self.spread))
        grid = [0.0, *torch.logspace(-6, math.log10(end), 64, dtype=torch.float64).tolist()]
        slopes = [self.slope(ratio) for ratio in grid]
        brackets = [i for i in range(len(grid) - 1) if slopes[i] < 0 <= slopes[i + 1]]
        roots = [brentq(self.slope, grid[i], grid[i + 1], xtol=1e-15, rtol=1e-13) for i in brackets]
        return min([0.0, *roots], key=self.value)

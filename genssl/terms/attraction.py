"""Terms of the prior slot that draw the views of a group together, in place of log p(z_1..z_J): scores, without normalisers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from genssl.errors import DataError, SettingsError, ShapeError
from genssl.terms.base import Term
from genssl.terms.batch import anchor_sum, pair_mean, unit, views, whiten
from genssl.terms.traces import Traces


def positive(term: Term, name: str, value: float) -> float:
    """A setting that must be a positive number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise SettingsError(f"{type(term).__name__}: {name} = {value!r}, expected a positive number")
    return float(value)


class CosineAttraction(Term):
    r"""sum_i mean_{j != i} cos(z_i, z_j) / temperature: log p(z_j | z_i) of a von Mises-Fisher law, up to its normaliser.

    Source: Chen et al. 2020 (SimCLR, arXiv:2002.05709), the numerator of Eq. 1, summed over anchors i; with target="z_target" the
    numerator of He et al. 2020 (MoCo, arXiv:1911.05722), Eq. 1, from query i to key j. {"z": [G]} nats; z is normalised here.

    Alone it collapses: every representation on one point makes it greatest.

    Args:
        temperature: 1 / concentration, > 0.  target: guide site of z_j.
    """

    slots = ("prior",)
    space = "sphere"
    guide_family = "delta"

    def __init__(self, temperature: float = 0.5, target: str = "z") -> None:
        super().__init__()
        self.temperature, self.target = positive(self, "temperature", temperature), target
        self.needs = frozenset() if target == "z" else frozenset({"target"})

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        z = unit(views(traces, "z"))
        other = z if self.target == "z" else unit(views(traces, self.target).detach())
        return {"z": anchor_sum(z @ other.mT / self.temperature, traces.groups.valid)}

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}" + ("" if self.target == "z" else f", target={self.target}")


class SquaredAttraction(Term):
    r"""-weight mean over pairs of the mean over D of (z_i - z_j)^2: log N(z_j; z_i, D / (2 weight) I), up to its normaliser.

    Source: Bardes, Ponce, LeCun 2022 (VICReg, arXiv:2105.04906), the invariance term as released (the paper's Eq. 5 sums over D where
    the code averages). {"z": [G]}. It compares raw representations on the plane, and alone it collapses.
    """

    slots = ("prior",)
    space = "plane"
    guide_family = "delta"

    def __init__(self, weight: float = 25.0) -> None:
        super().__init__()
        self.weight = positive(self, "weight", weight)

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        # Over all pairs of n views the mean of (z_i - z_j)^2 is 2 / (n - 1) of the sum of (z_j - mean)^2: no tensor of pairs.
        z, valid, count = views(traces, "z"), traces.groups.valid[..., None], traces.groups.count[:, None]
        mean = torch.where(valid, z, 0.0).sum(1) / count.clamp(min=1)
        spread = torch.where(valid, z - mean[:, None], 0.0).square().sum(1) / (count - 1).clamp(min=1)
        return {"z": -2 * self.weight * spread.mean(-1)}

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}"


class WhitenedAttraction(Term):
    r"""-mean over pairs of || what_i - what_j ||^2 = -(2 - 2 cos), w the whitened representations: {"z": [G]}.

        w = L^-1 (z - mean),   L L^T = (1 - shrinkage) Cov + shrinkage I,   view by view over the groups of the batch

    Source: Ermolov et al. 2021 (W-MSE, arXiv:2007.06346), Eq. 5 and 6 with the Cholesky whitening of their appendix; the whole
    batch is one slice here (they cut it into slices of about 2 D and repeat). Without shrinkage whitening is a constraint: Cov(w) = I
    whatever z is, so nothing else need hold representations apart; it needs clearly more groups than D. With shrinkage, directions
    in which z varies less than that drop out of w, and the optimum is to make most of them so: z collapses to few directions.

    Raises DataError for a batch of at most D groups without shrinkage, whose covariance cannot be inverted.
    """

    slots = ("prior",)
    space = "sphere"
    couples = True
    guide_family = "delta"

    def __init__(self, shrinkage: float = 0.0) -> None:
        super().__init__()
        if not 0 <= shrinkage < 1:
            raise SettingsError(f"WhitenedAttraction: shrinkage = {shrinkage}, expected at least 0 and below 1")
        self.shrinkage = float(shrinkage)

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        z, valid = views(traces, "z"), traces.groups.valid
        if self.shrinkage == 0 and len(z) <= z.shape[-1]:
            raise DataError(
                f"WhitenedAttraction: {len(z)} groups in a batch and {z.shape[-1]} dimensions, expected clearly more groups; take a larger "
                "batch, a smaller dim, or shrinkage above 0"
            )
        w = unit(whiten(z, valid, self.shrinkage))
        paired = traces.groups.count > 1
        return {"z": torch.where(paired, 2 * pair_mean(w @ w.mT, valid) - 2, 0.0)}

    def extra_repr(self) -> str:
        return f"shrinkage={self.shrinkage:g}"


class PredictorAttraction(Term):
    r"""Cosine from a predicted representation to the other view's, which is held fixed: {"z_predicted": [G]}.

        form "cosine":   mean over ordered pairs of cos(p_i, t_j),    t = z of the same network
        form "distance": -2 mean over ordered pairs of || phat_i - that_j ||^2,    t = z_target of a second network

    Sources: Chen and He 2021 (SimSiam, arXiv:2011.10566), Eq. 2, whose two halves make a mean; Grill et al. 2020 (BYOL,
    arXiv:2006.07733), Eq. 2 and its mirror, which are added. A vMF law around the predictor's output. No gradient reaches t: that, and
    a predictor that learns faster than the encoder, is all that stands against collapse.
    """

    slots = ("prior",)
    space = "sphere"
    guide_family = "delta"

    def __init__(self, form: str = "cosine") -> None:
        super().__init__()
        if form not in ("cosine", "distance"):
            raise SettingsError(f"PredictorAttraction: form = {form!r}, expected 'cosine' or 'distance'")
        self.form = form
        self.needs = frozenset({"predictor"}) | (frozenset({"target"}) if form == "distance" else frozenset())

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        predicted = unit(views(traces, "z_predicted"))
        target = unit(views(traces, "z" if self.form == "cosine" else "z_target").detach())
        mean = pair_mean(predicted @ target.mT, traces.groups.valid)
        if self.form == "cosine":
            return {"z_predicted": mean}
        paired = traces.groups.count > 1
        return {"z_predicted": torch.where(paired, 4 * mean - 4, 0.0)}

    def extra_repr(self) -> str:
        return f"form={self.form}"


class AssignmentAttraction(Term):
    r"""-[H(q_i, p_j) + H(q_j, p_i)] averaged over pairs, p = softmax(scores / temperature), q = z_target: {"z_target": [G]} nats.

    q_j [K] is the target assignment of view j (rows that sum to 1), held fixed; scores are the guide site `site`. Sources: Caron et
    al. 2020 (SwAV, arXiv:2006.09882), Eq. 1; Caron et al. 2021 (DINO, arXiv:2104.14294), Eq. 3 at two views. Both equations add the two
    directions; released code and pseudo-code halve them. log p(k | z_i) with k drawn from the other view's assignment.

    What keeps all views from one assignment is in how q is made (Sinkhorn, centring), not here.
    """

    slots = ("prior",)
    space = "simplex"
    guide_family = "delta"
    needs = frozenset({"target"})

    def __init__(self, temperature: float = 0.1, site: str = "z") -> None:
        super().__init__()
        self.temperature, self.site = positive(self, "temperature", temperature), site
        if site == "z_predicted":
            self.needs = frozenset({"target", "prototypes"})

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        scores, target = views(traces, self.site), views(traces, "z_target").detach()
        if scores.shape != target.shape:
            raise ShapeError(
                f"AssignmentAttraction: '{self.site}' has shape {list(scores.shape)} and 'z_target' {list(target.shape)}, expected the same"
            )
        log_p = (scores / self.temperature).log_softmax(-1)
        return {"z_target": 2 * pair_mean(log_p @ target.mT, traces.groups.valid)}

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}" + ("" if self.site == "z" else f", site={self.site}")

"""Whether the predictive intervals of pixels hold what they should: of the views that were seen, and of a further view of a group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genssl.errors import GensslError, SettingsError, SiteError
from genssl.evaluation.bound import is_discrete, unfitted
from genssl.evaluation.fresh_views import fresh_groups, no_groups
from genssl.evaluation.items import BATCH
from genssl.evaluation.measuring import measuring
from genssl.evaluation.predictive import predicted
from genssl.evaluation.weights import draws, innermost
from genssl.fit.precision import networks_in
from genssl.fit.randomness import seed_noise, stream_seed
from genssl.groups import Groups
from genssl.terms import Site, Traces

LEVELS = (0.5, 0.8, 0.9, 0.95)
TRAINING = 5000
"""Training views that say which pixels are constant."""
CONSTANT = 0.01
"""A pixel is constant if its standard deviation in training is at most this share of the largest one's."""

Shares = dict[str, dict[float, float]]
"""{"all" | "constant" | "varying" pixels: {level: share of pixels inside, in [0, 1]}}; a part without pixels is left out"""


class PredictiveCoverage(NamedTuple):
    """observed and next_view: shares, or empty; constant_share of pixels is constant in training; absent {part of the result: reason}."""

    observed: Shares
    next_view: Shares
    constant_share: float | None
    absent: dict[str, str]


def predictive_coverage(
    run: Any, groups: Groups, levels: Sequence[float] = LEVELS, samples: int = 100
) -> PredictiveCoverage:
    r"""Share of the pixels of x inside the central interval, at each level, of p(x' | x_1..x_J) = E_q p(x' | z), pixel by pixel.

        observed    x' against x_j itself, z ~ q(z_j | x_j)
        next_view   x' against the last view of each group, z ~ p(z | z_1..z_n), z_j ~ q(z_j | x_j) of the n others: groups of two and more
                    views, and methods whose prior ties views together (`genssl.evaluation.predictive`)

    The interval is that between order statistics of `samples` draws of x' (z and then x' given z, a draw of the mixture), as in
    `genssl.posterior.calibrate`: of the S + 1 gaps between the draws it takes the middle ones. A gap that an edge cuts counts by its
    share inside, and a pixel equal to draws by the gaps that meet there, so that a right model is covered at exactly its level on average,
    at any S. Where level (S + 1) / 2 leaves no fraction nothing is cut.

    Read with care. OBSERVED views chose z themselves: their residual is smaller than that of x', and even an exact posterior is covered
    ABOVE the level (posterior predictive checks are conservative). NEXT VIEW is the honest one: level exactly where
    model, guide and data agree. Coverage is averaged over pixels; it is of each pixel by itself, not of images. A constant background
    pixel is covered trivially by a likelihood of fixed scale, 100% at every level, and lifts "all": so pixels are split into those that are
    constant in training views (standard deviation at most 1% of the largest pixel's) and the others; a garment's border, which varies
    over items and is black in most, still lifts "varying". Too high at low levels and too low at high ones says: residuals have
    heavier tails than the likelihood. Factors of poutine.scale change the fit, not p(x | z), and are not in it.

    Intervals of discrete x, such as Bernoulli's, mean nothing and are absent (also of grey x, which a Bernoulli gives no density).

    Args:
        groups: one modality; labels are not read.  levels: in (0, 1).  samples: draws a view, at least 1.

    A function of the run's seed and the groups; run and torch's generators are left bit-identical.

    Raises SettingsError (levels, samples, groups).
    """
    _check(groups, levels, samples)
    method, seed = run.method, stream_seed(int(run.config.get("seed") or 0), "predictive_coverage")
    absent: dict[str, str] = {}
    if reason := unfitted(method):
        return PredictiveCoverage({}, {}, None, dict.fromkeys(("observed", "next_view", "constant_share"), reason))
    with measuring(method), networks_in(run.config.get("precision", "32"), method, run.device):
        groups = groups.to(run.device)
        groups.label = torch.full((len(groups),), -1, device=groups.device)
        constant = _constant_pixels(run, groups.num_views, absent)
        found: dict[str, Shares] = {}
        for name, pairs in (("observed", _observed), ("next_view", _next_view)):
            try:
                found[name] = _shares(pairs(method, groups, samples, seed), levels, samples, constant)
            except GensslError as error:
                found[name], absent[name] = {}, str(error)
    share = None if constant is None else float(constant.double().mean())
    return PredictiveCoverage(found["observed"], found["next_view"], share, absent)


class _Counted(NamedTuple):
    """below, equal [N, *event]: how many of the S draws of x' are below x, and how many are x."""

    below: Tensor
    equal: Tensor


def _observed(method: Any, groups: Groups, samples: int, seed: int) -> Iterator[_Counted]:
    """Of every view that exists, block by block."""
    for number, part in _blocks(groups):
        below: Any = 0
        equal: Any = 0
        for traces in draws(method.model, method.guide, part, samples, seed, number):
            site = _site(traces)
            drawn = site.fn.sample()
            below, equal = below + (drawn < site.value).int(), equal + (drawn == site.value).int()
        yield _Counted(part.pack(below), part.pack(equal))


def _next_view(method: Any, groups: Groups, samples: int, seed: int) -> Iterator[_Counted]:
    """Of the last view of every group that has two, block by block."""
    several = groups.count > 1
    if not bool(several.any()):
        raise SettingsError("no group has two views, of which one could be predicted from the other")
    if not hasattr(method, "observation"):
        raise SettingsError(f"{type(method).__name__} has no observation(z, groups), which gives p(x | z) of a new z")
    groups = groups[several]
    place = torch.arange(groups.num_views, device=groups.device)
    last = torch.where(groups.valid, place, -1).max(1).values
    rows = torch.arange(len(groups), device=groups.device)
    target = groups.x[rows, last]
    rest = groups.valid & (place != last[:, None])
    given = Groups(groups.x, rest) if groups.mask is not None else Groups(groups.x[:, :-1])
    given.label, given.source = groups.label, groups.source
    _site(next(draws(method.model, method.guide, given[:1], 1, seed)))  # refuses discrete values
    for number, part in _blocks(given):
        seed_noise(seed, number, groups.device, "next_view")
        z = predicted(method, part, samples)
        x = target[part.index][:, None]
        one = Groups(x)
        below = torch.zeros_like(x, dtype=torch.int)
        equal = torch.zeros_like(below)
        for sample in range(samples):
            law = method.observation(z[:, sample, None], one)
            drawn = law.sample()
            below, equal = below + (drawn < x).int(), equal + (drawn == x).int()
        yield _Counted(below[:, 0], equal[:, 0])


def _blocks(groups: Groups) -> Iterator[tuple[int, Groups]]:
    order = torch.arange(len(groups), device=groups.device).split(max(1, BATCH // groups.num_views))
    for number, rows in enumerate(order):
        part = groups[rows]
        part.total = groups.total
        yield number, part


def _shares(counted: Iterator[_Counted], levels: Sequence[float], samples: int, constant: Tensor | None) -> Shares:
    """The share of each pixel at each level, and its mean over each part."""
    inside: dict[float, Any] = dict.fromkeys(levels, 0.0)
    number = 0
    for below, equal in counted:
        number += len(below)
        for level in levels:
            edge = (1 - level) / 2 * (samples + 1)
            held = (below + equal + 1).clamp(max=samples + 1 - edge) - below.clamp(min=edge)
            inside[level] = inside[level] + (held.clamp(min=0) / (equal + 1)).sum(0, dtype=torch.float64)
    parts = {"all": torch.ones_like(inside[levels[0]], dtype=torch.bool)}
    if constant is not None:
        parts |= {"constant": constant, "varying": ~constant}
    return {
        name: {level: float((inside[level] / number)[pixels].mean()) for level in levels}
        for name, pixels in parts.items()
        if bool(pixels.any())
    }


def _constant_pixels(run: Any, views: int, absent: dict[str, str]) -> Tensor | None:
    """[*event] bool, which pixels hardly vary over training views."""
    if reason := no_groups(run, "train"):
        absent["constant_share"] = reason
        return None
    blocks = fresh_groups(run, "train", "predictive_coverage/train", TRAINING, views)
    x = torch.cat([block.pack(block.x).float() for block in blocks])
    spread = x.std(0, correction=0)
    return spread <= CONSTANT * spread.max()


def _site(traces: Traces) -> Site:
    """The observed site x, of real numbers."""
    site = next(site for site in traces.observed if not site.auxiliary)
    if is_discrete(site):
        law = type(innermost(site.fn)).__name__.lstrip("_")
        raise SiteError(f"site '{site.name}': {law} is of discrete values, for which intervals mean nothing")
    return site


def _check(groups: Any, levels: Sequence[float], samples: int) -> None:
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise SettingsError(
            f"predictive_coverage: samples = {samples!r}, expected a whole number of at least 1; take 100"
        )
    if not levels or not all(0 < level < 1 for level in levels):
        raise SettingsError(
            f"predictive_coverage: levels = {tuple(levels)}, expected shares in (0, 1), such as {LEVELS}"
        )
    if not isinstance(groups, Groups) or not isinstance(groups.x, Tensor):
        seen = "of several modalities" if isinstance(groups, Groups) else f"a {type(groups).__name__}"
        raise SettingsError(
            f"predictive_coverage: groups is {seen}, expected a genssl.Groups of one tensor; give Groups(x)"
        )

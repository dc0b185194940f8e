"""The held-out bound of a run: how many nats of log p(x_1..x_J) its model and guide guarantee on test groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor

from genssl.distributions import GroupNormal
from genssl.errors import SettingsError, SiteError
from genssl.evaluation.fresh_views import fresh_groups, no_groups
from genssl.evaluation.measuring import measuring
from genssl.evaluation.weights import (
    ContentPrior,
    draws,
    effective_sample_size,
    flat_site,
    importance_bound,
    innermost,
    is_tempered,
    log_weights,
)
from genssl.fit.precision import networks_in
from genssl.fit.randomness import seed_noise, stream_seed
from genssl.groups import Groups
from genssl.sites import run_guide, run_model
from genssl.terms import LogPrior, Site, Traces
from genssl.terms.closed_forms import diagonal_normal

CONTENT_GROUPS, VIEWS = 5000, 1000


def held_out_bound(
    run: Any, groups: int | None = None, samples: int = 32, ks: Sequence[int] = (1, 8, 32), num_views: int | None = None
) -> dict[str, Any] | str:
    r"""Lower bounds on the mean log p(x_1..x_J) of test groups, nats; or why there are none.

        elbo                 mean of log w = log p(x, z) - log q(z | x) over `samples` draws of the guide
        importance_weighted  {K: mean of log 1/K sum_k w_k} (`importance_bound`): grows with K towards log p(x)
        standard_error       of these means, over groups; methods on the same groups differ by less than it says
        bits_per_dimension   -bound / (numbers in x_1..x_J times log 2), largest K; null for several observed sites
        effective_samples    mean over groups of (sum w)^2 / sum w^2, at most `samples`
        content_prior        {fitted, scale, loc_norm, groups}: p(y) = N(loc, scale^2 I), fitted to so many training
                             groups in place of a flat one (`fit_content_prior`); not fitted, and null, where p(y) is proper
        observed             the sites whose density this is;   views J, groups, samples, note

    Source: Burda, Grosse, Salakhutdinov 2016 (arXiv:1509.00519). At most `groups` drawn test groups (by default as
    many as make 1000 views, at most 500: every draw of every view is decoded), with fresh views of the run (`fresh_groups`),
    num_views of them (default: the run's). Factors of poutine.scale are left out: a tempered density is no density of x. The
    bound is of the views of a group jointly, so compare it at equal J, and between likelihoods of one kind; never with the
    ELBO of a flat p(y). Where effective_samples is near 1 it is loose.

    Raises SettingsError (groups, samples, ks, num_views), NonFiniteError.
    """
    _check(1 if groups is None else groups, samples, ks, num_views)
    method, seed = run.method, stream_seed(int(run.config.get("seed") or 0), "bound")
    if reason := unfitted(method) or no_groups(run, "test"):
        return reason
    part, prior = run.data.test, None
    views = part.num_views if isinstance(part, Groups) else num_views or int(run.config["num_views"])
    groups = min(500, max(1, VIEWS // views)) if groups is None else groups
    columns, sizes, kept = [], [], 0
    with measuring(method), networks_in(run.config.get("precision", "32"), method, run.device):
        try:
            for number, block in enumerate(fresh_groups(run, "test", "bound/test", groups * views, views)):
                if number == 0:
                    first = next(draws(method.model, method.guide, block, 1, seed))
                    if reason := no_density(first):
                        return reason
                    if flat_site(first) is not None:
                        if reason := no_groups(run, "train"):
                            return reason
                        prior, kept = fitted_content_prior(run, views, seed)
                own = stream_seed(seed, "draws", number)
                found = log_weights(method, block, samples, prior, seed=own, block=len(block), tempered=False)
                columns.append(found.log_weight)
                sizes.append(_numbers(block))
        except SiteError as error:
            return str(error)
    figures = _figures(torch.cat(columns, 1), torch.cat(sizes), sorted(set(ks)))
    observed = [site.name for site in first.observed if not site.auxiliary]
    if len(observed) != 1:
        figures["bits_per_dimension"] = None
    return figures | {
        "content_prior": {
            "fitted": prior is not None,
            "scale": prior and prior.scale,
            "loc_norm": prior and float(prior.loc.norm()),
            "groups": kept or None,
        },
        "observed": observed,
        "views": views,
        "groups": sum(len(size) for size in sizes),
        "samples": samples,
        "note": _note(first, method, prior),
    }


@torch.no_grad()
def fit_content_prior(mean: Tensor, variance: Tensor, noise: Tensor) -> ContentPrior:
    r"""N(m, c^2 I) of contents seen through noise: maximises sum_g E_q log N(zbar_g; m, (c^2 + t_g) I) over m and c.

    mean [G, D] is E_q zbar_g, variance [G] is E_q ||zbar_g - mean_g||^2, noise [G] is t_g. For GroupNormal(s), t_g =
    s^2 / n_g and variance_g = sum_jd scale_gjd^2 / n_g^2; the sum is all of E_q log p(z_1..z_n) that depends on m and
    c, so this is the maximum of the training ELBO, with guide, decoder and s as they are. With equal t_g, in closed
    form:

        m = mean of mean_g,      c^2 = mean over g of (||mean_g - m||^2 + variance_g) / D - t,      at least 0

    So the posterior variance of zbar is added to the variance of its means (the law of total variance), and the noise
    of zbar around y is taken off. The same law with the flat posterior of y, N(zbar, t I), would give c^2 + 2 t: that
    is wider than the posterior under N(m, c^2 I), with which the law holds at this very c. Ragged: m = sum w_g mean_g /
    sum w_g with w_g = 1 / (c^2 + t_g), and of the roots in c^2 and 0 the best. Contents that differ by noise alone: c =
    1e-6 sqrt(t).
    """
    mean, variance, noise = mean.double(), variance.double(), noise.double()

    def at(square: float) -> tuple[Tensor, Tensor, Tensor]:
        weight = 1 / (square + noise)
        loc = weight @ mean / weight.sum()
        return loc, weight, (mean - loc).square().sum(1) + variance

    def slope(square: float) -> float:
        _, weight, distance = at(square)
        return float((weight * (mean.shape[1] - weight * distance)).sum())

    def loss(square: float) -> float:
        _, weight, distance = at(square)
        return float((weight * distance - mean.shape[1] * weight.log()).sum())

    if bool((noise == noise[0]).all()):
        loc = mean.mean(0)
        best = float(((mean - loc).square().sum(1) + variance).mean()) / mean.shape[1] - float(noise[0])
    else:
        # Beyond `end` the slope is positive: m lies among the means, so it is at most twice as far from any of them.
        end = 4 * float(at(0.0)[2].max()) + float(noise.max())
        grid = [0.0, *torch.logspace(-6, 0, 64, dtype=torch.float64).mul(end).tolist()]
        slopes = [slope(square) for square in grid]
        brackets = [i for i in range(len(grid) - 1) if slopes[i] < 0 <= slopes[i + 1]]
        best = min([0.0, *(brentq(slope, grid[i], grid[i + 1], xtol=1e-14, rtol=1e-13) for i in brackets)], key=loss)
    least = 1e-12 * float(noise.mean()) or 1e-12
    return ContentPrior(at(max(best, least))[0], math.sqrt(max(best, least)))


def fitted_content_prior(run: Any, views: int, seed: int) -> tuple[ContentPrior, int]:
    """Fitted to training groups, and to how many."""
    part, method = run.data.train, run.method
    views = part.num_views if isinstance(part, Groups) else views
    rows = []
    for number, block in enumerate(fresh_groups(run, "train", "bound/train", CONTENT_GROUPS * views, views)):
        seed_noise(seed, number, block.device, "content")
        sites, trace = run_guide(method.guide, block, alone=False)
        rows.append(_content(Traces(block, sites, run_model(method.model, sites, trace, block, whole=False))))
    mean, variance, noise = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return fit_content_prior(mean, variance, noise), len(mean)


def _content(traces: Traces) -> tuple[Tensor, Tensor, Tensor]:
    """What `fit_content_prior` takes; an explicit y is in the place of zbar, and has no noise."""
    site: Any = flat_site(traces)
    fn, normal = innermost(site.fn), diagonal_normal(traces.guide[site.name].fn)
    loc, variance = site.value, torch.zeros_like(site.value)  # another law than a Normal: its draw
    if normal is not None:
        loc, variance = normal.loc.expand_as(loc), normal.scale.square().expand_as(loc)
    mask = getattr(fn, "view_mask", None)
    valid = torch.ones_like(loc[..., 0], dtype=torch.bool) if mask is None else mask
    count = valid.sum(1).to(loc.dtype)
    scale = fn.view_scale if isinstance(fn, GroupNormal) else 0.0
    loc, variance = (torch.where(valid[..., None], value, 0.0) for value in (loc, variance))
    return loc.sum(1) / count[:, None], variance.sum((1, 2)) / count**2, scale**2 / count


def _figures(log_weight: Tensor, numbers: Tensor, ks: Sequence[int]) -> dict[str, Any]:
    bounds = {"elbo": log_weight.mean(0)} | {str(k): importance_bound(log_weight, k) for k in ks}
    several = log_weight.shape[1] > 1
    means = {name: float(value.mean()) for name, value in bounds.items()}
    return {
        "elbo": means.pop("elbo"),
        "importance_weighted": means,
        "standard_error": {
            name: float(value.std()) / math.sqrt(len(value)) if several else None for name, value in bounds.items()
        },
        "bits_per_dimension": -float(bounds[str(ks[-1])].sum() / numbers.sum()) / math.log(2),
        "effective_samples": float(effective_sample_size(log_weight).mean()),
    }


def _numbers(groups: Groups) -> Tensor:
    """[G] how many numbers the views of each group are."""
    shapes = [groups.event_shape] * groups.num_views if isinstance(groups.x, Tensor) else groups.event_shape
    return groups.valid.double() @ torch.tensor(
        [math.prod(shape) for shape in shapes], dtype=torch.float64, device=groups.device
    )


def unfitted(method: Any) -> str:
    """Why a method has no density of x that was fitted, or nothing."""
    if getattr(method, "model", None) is None:
        return "the method has no model of x"
    objective: Any = getattr(method, "objective", None)
    if "decoder" not in getattr(objective, "needs", {"decoder"}):
        return f"no likelihood was fitted: the reconstruction slot is {objective.reconstruction}"
    return ""


def unfitted_prior(method: Any) -> str:
    """Why no step of the fit saw the method's p(z), or nothing: y, weights and data drawn from it would be of a model nobody fitted."""
    prior: Any = getattr(getattr(method, "objective", None), "prior", None)
    if prior is None or any(isinstance(term, LogPrior) and float(weight) != 0 for weight, term in prior.parts):
        return ""
    return f"p(z) was not fitted: the prior slot is {prior}"


def no_density(traces: Traces) -> str:
    """Why what the model gives an observed site is no density, or nothing."""
    for site in traces.observed:
        if isinstance(innermost(site.fn), torch.distributions.Bernoulli) and bool((site.value % 1 != 0).any()):
            return f"site '{site.name}': a Bernoulli of values between 0 and 1 is no density (continuous_bernoulli is)"
    return ""


def _note(traces: Traces, method: Any, content: ContentPrior | None) -> str:
    """What a reader of the figures must know."""
    parts = [] if content is None else ["p(y), flat in the fit, is a Gaussian fitted to training groups here"]
    for site in traces.observed:
        if site.auxiliary:
            parts.append(f"pyro.factor '{site.name}' counts as a density")
        elif is_discrete(site):
            parts.append(f"'{site.name}': probabilities of discrete values")
        else:
            parts.append(
                f"'{site.name}': density of real numbers x; bits per dimension of v = 255 x are log2 255 = 7.994 more"
            )
        x = traces.groups.x
        if isinstance(x, Tensor) and site.value.shape == x.shape and not torch.equal(site.value, x):
            parts.append(
                f"'{site.name}' is not the views: the density is of what the model observes in their place, once for each"
            )
    parts += [
        f"'{site.name}': counts once here, scaled in the fit" for site in traces.model.values() if is_tempered(site)
    ]
    prior = getattr(getattr(method, "objective", None), "prior", None)
    if prior is not None and not any(isinstance(term, LogPrior) for _, term in prior.parts):
        parts.append(f"the prior slot was fitted as {prior}, not as log p(z)")
    return "; ".join(parts)


def is_discrete(site: Site) -> bool:
    if isinstance(innermost(site.fn), torch.distributions.Bernoulli):  # of 0 and 1 alone, see no_density
        return True
    try:
        return bool(site.fn.support.is_discrete)
    except NotImplementedError:
        return False


def _check(groups: int, samples: int, ks: Sequence[int], num_views: int | None) -> None:
    for name, value in (("groups", groups), ("samples", samples), ("num_views", 1 if num_views is None else num_views)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SettingsError(f"held_out_bound: {name} = {value!r}, expected a whole number of at least 1")
    if not ks or any(isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= samples for k in ks):
        raise SettingsError(f"held_out_bound: ks = {tuple(ks)}, expected whole numbers from 1 to samples = {samples}")

"""Simulation-based calibration: of data that the model itself makes, does the guide's posterior cover what made them?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyro
import torch
from scipy.stats import chi2
from torch import Tensor

from genssl.errors import SettingsError
from genssl.evaluation.bound import unfitted_prior
from genssl.evaluation.measuring import measuring
from genssl.evaluation.weights import draws
from genssl.fit.randomness import seed_noise, stream_seed
from genssl.groups import Groups
from genssl.posterior.blocks import content_prior_of
from genssl.sites import trace_sites

BINS, SAMPLES = 20, 199
LEVELS = (0.5, 0.8, 0.9, 0.95)


class Calibration(NamedTuple):
    """Of one latent site, every dimension by itself.

    histogram [D, bins] counts of the ranks of the truth among the draws; p [D] of a chi-square test that they are uniform;
    p_value the smallest of them times D (Bonferroni), at most 1; coverage {level: share of central intervals that hold the truth}
    """

    histogram: Tensor
    p: Tensor
    p_value: float
    coverage: dict[float, float]


def calibrate(
    method: Any,
    like: Groups,
    groups: int = 2000,
    samples: int = SAMPLES,
    bins: int = BINS,
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
) -> dict[str, Calibration]:
    r"""Ranks of true latents among draws of the guide, over data drawn from the model: {site: Calibration}.

        y, z ~ p,   x ~ p(x | z),   z^(1..S) ~ q(z | x):   rank of z in z^(1..S) is uniform on 0..S if q is the posterior

    Source: Talts, Betancourt, Simpson, Vehtari, Gelman 2018 (arXiv:1804.06788), Theorem 1. Of z the first view of a group is taken, and y
    where it is a site of the guide or integrated out by a GroupNormal. A hump in the histogram says that q is too wide, a U that
    it is too narrow, a slope that it is off to one side. Uniform ranks do not prove it right: the prior has them too. It says how right
    the guide is under ITS model: of real data the model may be wrong, and this does not see that.

    Args:
        like: groups whose number of views, event shape and device the simulated ones have.
        samples: draws, S + 1 a multiple of `bins` so that no bin is larger than another.

    Raises SettingsError (p(y) is flat, or was not fitted: there is nothing to draw from; S + 1 no multiple of bins; no model).
    """
    if (samples + 1) % bins:
        raise SettingsError(
            f"calibrate: samples + 1 = {samples + 1}, expected a multiple of bins = {bins}; take samples = {10 * bins - 1}"
        )
    if getattr(method, "model", None) is None:
        raise SettingsError(
            f"calibrate: {type(method).__name__} has no model to draw data from; take a generative method"
        )
    if reason := unfitted_prior(method):
        raise SettingsError(f"calibrate: {reason}; take a method whose prior slot is LogPrior")
    made: dict[str, list[Tensor]] = {}
    chosen: dict[str, list[Tensor]] = {}
    size, own = max(1, 1024 // like.num_views), stream_seed(seed, "calibrate")
    with measuring(method):
        for block, start in enumerate(range(0, groups, size)):
            here = min(size, groups - start)
            seed_noise(own, block, like.device, "simulate")
            simulated, truth = simulate(method, like, here)
            prior = content_prior_of(method, simulated)
            found: dict[str, list[Tensor]] = {}
            for traces in draws(None, method.guide, simulated, samples, own, block):
                for name, site in traces.guide.items():
                    if name in truth:
                        found.setdefault(name, []).append(_first(site.value))
                if "y" in truth and "y" not in traces.guide and prior is not None:
                    found.setdefault("y", []).append(prior.content_posterior(traces.guide["z"].value).sample())
            for name, values in found.items():
                made.setdefault(name, []).append(torch.stack(values))
                chosen.setdefault(name, []).append(truth[name])
    if not made:
        raise SettingsError(
            f"calibrate: model and guide of {type(method).__name__} share no latent; nothing can be ranked"
        )
    return {name: _calibration(torch.cat(made[name], 1), torch.cat(chosen[name]), bins, levels) for name in made}


def simulate(method: Any, like: Groups, number: int) -> tuple[Groups, dict[str, Tensor]]:
    """`number` groups drawn from the model, and their latents [G, D]: z of the first view; y given z where it is integrated out."""
    empty = Groups(torch.zeros(number, like.num_views, *like.event_shape, device=like.device))
    prior = content_prior_of(method, empty)
    trace = pyro.poutine.trace(pyro.poutine.uncondition(method.model)).get_trace(empty)
    sites = trace_sites(trace, empty, "model")
    observed = [name for name in sites if trace.nodes[name]["infer"].get("was_observed")]
    if len(observed) != 1:
        raise SettingsError(f"calibrate: the model observes {observed or 'nothing'}, expected one site, x")
    truth = {name: _first(site.value) for name, site in sites.items() if name not in observed and not site.auxiliary}
    if "y" not in truth and prior is not None:
        truth["y"] = prior.content_posterior(sites["z"].value).sample()
    return Groups(sites[observed[0]].value), truth


def _first(value: Tensor) -> Tensor:
    """[G, ...] -> [G, D]: of a site with views the first of them."""
    return value[:, 0] if value.dim() == 3 else value


def _calibration(draws_: Tensor, truth: Tensor, bins: int, levels: Sequence[float]) -> Calibration:
    samples, groups, dim = draws_.shape
    ranks = (draws_ < truth).sum(0)  # [G, D] in 0..S
    place = ranks * bins // (samples + 1)
    histogram = torch.stack([torch.bincount(place[:, d], minlength=bins) for d in range(dim)])
    expected = groups / bins
    statistic = ((histogram - expected).square() / expected).sum(1)
    p = torch.as_tensor(chi2.sf(statistic.double().numpy(), bins - 1))
    # The central interval between order statistics of the draws, which holds the truth at exactly its level if q is right.
    edges = {level: (1 - level) / 2 * (samples + 1) for level in levels}
    inside = {level: (ranks >= edge) & (ranks < samples + 1 - edge) for level, edge in edges.items()}
    coverage = {level: float(held.double().mean()) for level, held in inside.items()}
    return Calibration(histogram, p, min(1.0, float(p.min()) * dim), coverage)

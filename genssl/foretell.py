"""What theory says of a combination of terms before it is fitted: where it collapses, where it diverges."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import nn

from genssl.distributions import GroupNormal
from genssl.groups import Groups
from genssl.objective import Objective
from genssl.objective_module import buffers_kept, owners_of
from genssl.terms import (
    SLOTS,
    AggregateEntropy,
    AssignmentAttraction,
    Constant,
    LogLikelihood,
    LogPrior,
    PosteriorEntropy,
    PredictorAttraction,
    Site,
    SphericalAttraction,
    SquaredAttraction,
    Term,
    Traces,
    WhitenedAttraction,
)
from genssl.terms.closed_forms import diagonal_normal, is_delta

GUARDING = (AssignmentAttraction, PredictorAttraction, SphericalAttraction, WhitenedAttraction)
"""Terms of the prior slot that stand against collapse by themselves: target transforms, stopped gradients, whitening."""


def foretell(method: Any, groups: Groups) -> list[str]:
    r"""Sentences, "collapse: ..." or "divergence: ...", on what the optimum of method.objective is on groups like these; none where
    nothing is known against it. It is run once, and nothing is changed but torch's default generator.

    collapse    Nothing in the reconstruction slot tells inputs apart (no likelihood, no repulsion, and no other guard such as a stopped
                gradient or a whitening): with a flat p(y) all z on one point are best, with a proper one q(z | x) = p(z) is.
    divergence  The scale of z is free and something grows with it: an aggregate entropy on the plane without a proper p(y)
                (latent distribution matching, arXiv:2605.03517); the entropy of Normal posteriors with a prior that does not hold it (a
                flat p(y) at J = 1, a score that normalises z), since a -> a z adds D log a nats a view and a decoder can divide by a.
                A likelihood, or a p(z | y), with a learned scale and a point-mass guide: the density of what is met exactly has no bound.
    """
    with torch.enable_grad(), buffers_kept(owners_of(getattr(method, "model", None), method.guide)):
        _, traces = method.objective.run(getattr(method, "model", None), method.guide, groups)
    return foretell_of(method, traces)


def foretell_of(method: Any, traces: Traces) -> list[str]:
    """`foretell` from the traces of a forward that was made with gradients."""
    active = _active(method.objective)
    guarded = any(not isinstance(term, Constant) for term in active["reconstruction"])
    guarded = guarded or any(_guards(term, method) for term in active["prior"])
    point = is_delta(site.fn) if (site := _site(traces)) is not None else False
    generates = any(isinstance(term, LogLikelihood) for term in active["reconstruction"])
    normal = _normal(traces)
    free = normal is not None and normal.scale.requires_grad  # not the fixed scale that a swapped guide may have
    entropy = free and any(isinstance(term, PosteriorEntropy) for term in active["entropy"])
    proper = any(isinstance(term, LogPrior) for term in active["prior"]) and not _flat(traces)
    found = []
    if not guarded:
        best = "q(z | x) = p(z) is best" if proper else "all representations on one point are best"
        found.append(f"collapse: nothing in the reconstruction slot tells inputs apart, so that {best}")
    planar = [t for t in active["reconstruction"] if isinstance(t, AggregateEntropy) and t.space == "plane"]
    if planar and not proper:
        found.append(
            f"divergence: {type(planar[0]).__name__} grows with the scale of z, and no proper p(y) holds it; give a content_scale"
        )
    if entropy and not proper and not _holds_spread(active["prior"], traces.groups):
        single = bool((traces.groups.count == 1).all()) and any(isinstance(term, LogPrior) for term in active["prior"])
        alone = " of one view a group under a flat p(y); give more views, or a content_scale" if single else ""
        how = "slowly, as far as the decoder lets it" if generates else "without limit"
        found.append(
            f"divergence: the posterior entropy grows with the scale of z {how}, and the prior slot does not hold it{alone}"
        )
    likelihood = getattr(method, "likelihood", None)
    learned = isinstance(likelihood, nn.Module) and any(p.requires_grad for p in likelihood.parameters())
    if generates and learned and point and not getattr(likelihood, "floor", 0.0):
        found.append(
            "divergence: a likelihood with a learned scale has no bound where a point-mass guide reconstructs exactly"
        )
    if point and any(isinstance(term, LogPrior) for term in active["prior"]) and _learned_prior(traces):
        found.append("divergence: p(z | y) with a learned scale has no bound where a point-mass guide meets its mean")
    return found


def _guards(term: Term, method: Any) -> bool:
    """A stopped gradient alone holds nothing: the predictor must learn ahead of the encoder."""
    idle = isinstance(term, PredictorAttraction) and isinstance(getattr(method, "predictor", None), nn.Identity)
    return isinstance(term, GUARDING) and not idle


def _active(objective: Objective) -> dict[str, list[Term]]:
    """The terms of every slot whose weight is not 0."""
    return {slot: [term for weight, term in getattr(objective, slot).parts if float(weight) != 0] for slot in SLOTS}


def _learned_prior(traces: Traces) -> bool:
    """Whether a latent site of the model is a Normal whose scale is learned."""
    normals = (diagonal_normal(site.fn) for site in traces.latent)
    return any(normal is not None and normal.scale.requires_grad for normal in normals)


def _site(traces: Traces) -> Site | None:
    return traces.guide.get("z") or next(traces.posterior, None)


def _normal(traces: Traces) -> torch.distributions.Normal | None:
    """The Normal that z is drawn from, or None: a point mass, a law on the sphere."""
    site = _site(traces)
    return None if site is None else diagonal_normal(site.fn)


def _flat(traces: Traces) -> bool:
    """Whether content has a flat p(y): integrated out in a GroupNormal, or a site of its own."""
    return any(
        isinstance(site.fn, dist.ImproperUniform)
        or (isinstance(site.fn, GroupNormal) and site.fn.content_scale is None)
        for site in traces.latent
    )


def _holds_spread(prior: list[Term], groups: Groups) -> bool:
    """Whether the prior slot falls with the spread of views: of some groups is enough, since all share the encoder."""
    return bool((groups.count > 1).any()) and any(isinstance(term, (LogPrior, SquaredAttraction)) for term in prior)

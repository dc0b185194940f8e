"""What theory says of a combination of terms before it is fitted: where it collapses, where it diverges."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import nn

from genssl.distributions import GroupNormal, GroupPosterior
from genssl.evaluation.measuring import measuring
from genssl.groups import Groups
from genssl.objective import Objective
from genssl.terms import (
    SLOTS,
    AggregateEntropy,
    AssignmentAttraction,
    ClassNormaliser,
    ClassScore,
    Constant,
    DiagonalCorrelation,
    LogLikelihood,
    LogPrior,
    OffDiagonalCorrelation,
    PosteriorEntropy,
    PredictorAttraction,
    ProductAttraction,
    ProductNormaliser,
    Site,
    SphericalAttraction,
    SquaredAttraction,
    Term,
    Traces,
    VarianceCovariance,
    WhitenedAttraction,
)
from genssl.terms.closed_forms import diagonal_normal, is_delta

GUARDING = (AssignmentAttraction, DiagonalCorrelation, PredictorAttraction, SphericalAttraction, WhitenedAttraction)
"""Terms of the prior slot that stand against collapse by themselves: target transforms, stopped gradients, whitening, standardising."""

NORMALISES = {ProductNormaliser: ProductAttraction, ClassNormaliser: ClassScore}
"""Normalisers of one score: beside another attraction they hold nothing apart."""


def foretell(method: Any, groups: Groups) -> list[str]:
    r"""Sentences, "collapse: ..." or "divergence: ...", on what the optimum of method.objective is on groups like these; none where
    nothing is known against it. It is run once, in eval mode, and nothing is changed.

    collapse    Nothing in the reconstruction slot tells inputs apart (no likelihood, no repulsion, and no other guard such as a stopped
                gradient or a whitening; the normaliser of another score is none): with a flat p(y) all z on one point are best, with a
                proper one q(z | x) = p(z) is.
                A repulsion that normalises or standardises z beside a prior that reads z as it is (log p(z), a squared distance): the
                prior shrinks z without end, and what holds directions together with it; z drawn from a Normal whose entropy is in the
                objective: noise alone meets the repulsion, whatever x is.
    divergence  The scale of z is free and something grows with it: an aggregate entropy on the plane without a proper p(y)
                (latent distribution matching, arXiv:2605.03517); the entropy of Normal posteriors with a prior that does not hold it (a
                flat p(y) at J = 1, a score that normalises z), since a -> a z adds D log a nats a view and a decoder can divide by a.
                A score of products without its normaliser.
                A likelihood, or a p(z | y), with a learned scale and a point-mass guide: the density of what is met exactly has no bound.
    """
    with measuring(method), torch.enable_grad():
        _, traces = method.objective.run(getattr(method, "model", None), method.guide, groups)
    return foretell_of(method, traces)


def foretell_of(method: Any, traces: Traces) -> list[str]:
    """`foretell` from the traces of a forward that was made with gradients."""
    active = _active(method.objective)
    site = _site(traces)
    point = site is not None and is_delta(site.fn)
    repulsions = [term for term in active["reconstruction"] if _repels(term, active["prior"])]
    generates = any(isinstance(term, LogLikelihood) for term in repulsions)
    # Not the fixed scale that a swapped guide may have.
    free = site is not None and _scale_learned(site) and any(isinstance(t, PosteriorEntropy) for t in active["entropy"])
    proper = any(isinstance(term, LogPrior) for term in active["prior"]) and not _flat(traces)
    scores = [term for term in active["prior"] if isinstance(term, ProductAttraction)]
    unbounded = bool(scores) and not any(isinstance(term, ProductNormaliser) for term in repulsions)
    found = []
    if unbounded:
        found.append(
            "divergence: ProductAttraction grows with the scale of z, and nothing holds it; give reconstruction=ProductNormaliser()"
        )
    elif not repulsions and not any(_guards(term, method) for term in active["prior"]):
        best = "q(z | x) = p(z) is best" if proper else "all representations on one point are best"
        found.append(f"collapse: nothing in the reconstruction slot tells inputs apart, so that {best}")
    planar = [t for t in repulsions if isinstance(t, AggregateEntropy) and t.space == "plane"]
    if planar and not proper:
        remedy = (
            "give a content_scale"
            if any(isinstance(term, LogPrior) for term in active["prior"])
            else "take an entropy on the sphere (SphericalEntropy), or LogPrior with a content_scale"
        )
        found.append(
            f"divergence: {type(planar[0]).__name__} grows with the scale of z, and no proper p(y) holds it; {remedy}"
        )
    if free and not proper and not _holds_spread(active["prior"], traces.groups):
        single = bool((traces.groups.count == 1).all()) and any(isinstance(term, LogPrior) for term in active["prior"])
        alone = " of one view a group under a flat p(y); give more views, or a content_scale" if single else ""
        how = "slowly, as far as the decoder lets it" if generates else "without limit"
        found.append(
            f"divergence: the posterior entropy grows with the scale of z {how}, and the prior slot does not hold it{alone}"
        )
    if repulsions and not found and all(map(_scale_free, repulsions)):
        name = type(repulsions[0]).__name__
        if free:
            found.append(
                f"collapse: the noise of q(z | x) alone meets {name}, whatever x is; give entropy=Constant(), or a repulsion on the plane"
            )
        elif reading := _reads_scale(active["prior"], site):
            found.append(
                f"collapse: {reading} shrinks z without end, and {name} does not see its scale, so that directions come to be held "
                "together by nothing; give prior=CosineAttraction(), or a repulsion on the plane"
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


def _repels(term: Term, prior: list[Term]) -> bool:
    """Whether it tells inputs apart: a likelihood, or a repulsion that is not of another score and has not weight 0."""
    if isinstance(term, VarianceCovariance):
        return term.variance > 0
    for normaliser, score in NORMALISES.items():
        if isinstance(term, normaliser):
            return any(isinstance(other, score) for other in prior)
    return not isinstance(term, Constant)


def _guards(term: Term, method: Any) -> bool:
    """A stopped gradient alone holds nothing: the predictor must learn ahead of the encoder."""
    idle = isinstance(term, PredictorAttraction) and isinstance(getattr(method, "predictor", None), nn.Identity)
    return isinstance(term, GUARDING) and not idle


def _scale_free(term: Term) -> bool:
    """Whether a z and z are the same to it."""
    return term.space == "sphere" or isinstance(term, OffDiagonalCorrelation)


def _reads_scale(prior: list[Term], site: Site | None) -> str:
    """The name of what falls with the scale of z where that is all of the prior slot; none where z lies on the sphere."""
    planar = site is not None and (is_delta(site.fn) or _planar(site))
    scored = [term for term in prior if not isinstance(term, Constant)]
    reading = planar and scored and all(isinstance(term, (LogPrior, SquaredAttraction)) for term in scored)
    return type(scored[0]).__name__ if reading else ""


def _planar(site: Site) -> bool:
    return isinstance(site.fn, GroupPosterior) or diagonal_normal(site.fn) is not None


def _scale_learned(site: Site) -> bool:
    """Whether z is drawn from a Normal whose scale has a gradient: not a point mass, a fixed scale or a law on the sphere."""
    return _planar(site) and bool(site.fn.variance.requires_grad)


def _active(objective: Objective) -> dict[str, list[Term]]:
    """The terms of every slot whose weight is not 0."""
    return {slot: [term for weight, term in getattr(objective, slot).parts if float(weight) != 0] for slot in SLOTS}


def _learned_prior(traces: Traces) -> bool:
    """Whether a latent site of the model is a Normal whose scale is learned."""
    normals = (diagonal_normal(site.fn) for site in traces.latent)
    return any(normal is not None and normal.scale.requires_grad for normal in normals)


def _site(traces: Traces) -> Site | None:
    return traces.guide.get("z") or next(traces.posterior, None)


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

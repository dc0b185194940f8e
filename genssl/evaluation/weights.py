"""Importance weights of grouped generative models, and the bounds on log p(x) that they give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from genssl.distributions import GroupNormal
from genssl.errors import NonFiniteError, SettingsError, ShapeError, SiteError
from genssl.evaluation.items import BATCH
from genssl.evaluation.measuring import measuring
from genssl.fit.randomness import seed_noise
from genssl.groups import Groups
from genssl.objective_module import owners_of
from genssl.sites import run_guide, run_model
from genssl.terms import Site, Traces
from genssl.terms.closed_forms import is_delta


class LogWeights(NamedTuple):
    """Log densities at S draws for each of G groups, [S, G] float64, nats: log p(x | z), log p(z), log q(z | x)."""

    log_likelihood: Tensor
    log_prior: Tensor
    log_q: Tensor

    @property
    def log_weight(self) -> Tensor:
        """[S, G] log p(x, z) - log q(z | x); the mean over draws estimates the ELBO of each group without bias."""
        return self.log_likelihood + self.log_prior - self.log_q


class ContentPrior(NamedTuple):
    """p(y) = N(loc, scale^2 I) in place of a flat one: loc [D], scale a standard deviation."""

    loc: Tensor
    scale: float


def log_weights(
    method: Any,
    groups: Groups,
    samples: int = 64,
    content_prior: ContentPrior | tuple[Tensor, float] | None = None,
    *,
    seed: int = 0,
    block: int | None = None,
    tempered: bool = True,
) -> LogWeights:
    r"""log w = log p(x, z) - log q(z | x) at draws z of the guide, `samples` of them for every group.

        ELBO = E_q log w <= E log 1/K sum_k w_k <= log E_q w = log p(x_1..x_J)

    Source: Burda, Grosse, Salakhutdinov 2016 (arXiv:1509.00519), Theorem 1. The densities are read off Pyro's traces,
    as by Objective: of any user's model, in either layout, whose guide is reparameterised. z are all latents (an
    explicit y too). Padded views count in nothing, and the factor of a subsampled plate `groups` is divided out.

    Where p(y) is flat, p(x, z) is improper and the weights bound nothing. content_prior then puts N(loc, scale^2 I) in
    its place: GroupNormal(view_scale, J, D, content_scale=scale) at z - loc; that Normal for a site y that is
    ImproperUniform. A model whose p(y) is proper keeps it.

    Modules are in eval mode; they and torch's generators are left bit-identical. A draw is a function of (seed, sample,
    block), so more samples leave the first as they were, and so do more groups behind whole blocks. Another block size
    gives other draws from the same guide.

    Args:
        method: a method, or a pair (model, guide).  groups: on the device of its parameters.  samples: S.
        block: groups at a time, which bounds memory; default about 1024 views.
        tempered: keep the factors of poutine.scale, as Trace_ELBO does; False counts every density once, for log p(x).

    Sums over x are as precise as the model: about 1e-3 nats for 3000 pixels in float32.

    Raises SiteError (a flat p(y) and no content_prior; nothing observed; a point mass in the guide; a site outside the
    plate `groups`: all groups share it, and none has a weight of its own), SettingsError, ShapeError, NonFiniteError.
    """
    model, guide = method if isinstance(method, tuple) else (getattr(method, "model", None), method.guide)
    block = _checked(model, groups, samples, block)
    prior = None if content_prior is None else _checked_prior(*content_prior)
    columns = []
    with ExitStack() as kept:
        for owner in owners_of(model, guide) or [nn.Module()]:
            kept.enter_context(measuring(owner))
        for number, rows in enumerate(torch.arange(len(groups), device=groups.device).split(block)):
            part = groups[rows]
            part.total = groups.total
            found = [_densities(each, prior, tempered) for each in draws(model, guide, part, samples, seed, number)]
            columns.append([torch.stack(slot) for slot in zip(*found, strict=True)])
    weights = LogWeights(*(torch.cat(slot, 1) for slot in zip(*columns, strict=True)))
    wrong = ~(weights.log_weight < math.inf).all(0)  # NaN too; -inf is a weight of 0
    if bool(wrong.any()):
        raise NonFiniteError(
            f"log_weights: {int(wrong.sum())} of {len(groups)} groups have weights that are not finite; the run has "
            "diverged, fit again with a lower lr"
        )
    return weights


def draws(
    model: Callable[..., Any] | None,
    guide: Callable[..., Any],
    groups: Groups,
    samples: int,
    seed: int = 0,
    block: int = 0,
    modelled: int | None = None,
) -> Iterator[Traces]:
    """The sites of guide and model at each draw. Seeds torch's default generators: call it within `measuring`.

    modelled: the model is run for so many of the first draws (None: all; without a model none). A guide of one site is
    run once, and its distribution drawn from again: its networks are half of the cost. One of several sites is run for
    every draw.
    """
    sites: dict[str, Site] = {}
    for sample in range(samples):
        seed_noise(seed, block, groups.device, f"weights/{sample}")
        if len(sites) != 1:
            sites, trace = run_guide(guide, groups, alone=False)
            if model is not None:
                _check_guide(sites)
        else:
            ((name, site),) = sites.items()
            value = site.fn()
            trace = trace.copy()
            trace.nodes[name] = {**trace.nodes[name], "value": value}
            sites = {name: replace(site, value=value, _log_prob=None)}
        if model is None or (modelled is not None and sample >= modelled):
            yield Traces(groups, sites, {})
            continue
        found = Traces(groups, sites, run_model(model, sites, trace, groups, whole=True))
        _check_model(found)
        yield found


def importance_bound(log_weight: Tensor, k: int) -> Tensor:
    r"""E log 1/K sum_k w_k for each group, K = k: log_weight [S, G] -> [G], nats.

    Source: Burda, Grosse, Salakhutdinov 2016 (arXiv:1509.00519), Eq. 8. The mean over S // K disjoint blocks of draws,
    so unbiased for the bound of K draws; the last S % K draws are left out. K = 1 is the ELBO. The bound grows with K
    towards log p(x): at any weights, if K divides the larger K and that divides S. Loose where few draws have all the
    weight.

    Raises ShapeError, SettingsError.
    """
    _check_weights("importance_bound", log_weight)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(log_weight):
        raise SettingsError(f"importance_bound: k = {k}, expected a whole number from 1 to the {len(log_weight)} draws")
    blocks = log_weight[: len(log_weight) // k * k].unflatten(0, (-1, k))
    return (blocks.logsumexp(1) - math.log(k)).mean(0)


def effective_sample_size(log_weight: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 for each group (Kong 1992): log_weight [S, G] -> [G], from 1 (one draw has all weight) to S.

    It comes from the draws alone: where they miss a part of the posterior it is large, and wrong. 0 where every weight
    is.

    Raises ShapeError.
    """
    _check_weights("effective_sample_size", log_weight)
    size = (2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0)).exp()
    return torch.where((log_weight > -math.inf).any(0), size, 0.0)


def flat_site(traces: Traces) -> Site | None:
    """The latent site whose prior is flat in the content, if there is one; SiteError for several."""
    found = [site for site in traces.latent if _is_flat(site.fn)]
    if len(found) > 1:
        names = " and ".join(f"'{site.name}'" for site in found)
        raise SiteError(f"log_weights: the priors of sites {names} are improper, expected one flat p(y) at most")
    return found[0] if found else None


def innermost(fn: Any) -> Any:
    """The distribution under Independent and masks."""
    while isinstance(fn, (torch.distributions.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist
    return fn


def is_tempered(site: Site) -> bool:
    """Whether the site stands under poutine.scale: its density counts with another factor than that of its plates."""
    return bool((torch.as_tensor(site.scale / _plates(site) - 1).abs() > 1e-6).any())


def _plates(site: Site) -> float:
    """The factor of the subsampled plates of a site."""
    return math.prod(frame.full_size / frame.size for frame in site.plates.values())


def untempered(site: Site) -> Site:
    """The site as log p(x) counts it: once, whatever poutine.scale says; plates keep their factors."""
    return replace(site, scale=_plates(site), _log_prob=None)


def _densities(traces: Traces, prior: ContentPrior | None, tempered: bool) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x | z), log p(z), log q(z | x): each [G] float64."""
    latent = {site.name: site for site in traces.latent}
    if (flat := flat_site(traces)) is not None:
        if prior is None:
            raise SiteError(
                f"log_weights: site '{flat.name}' has a flat p(y), which is improper, so weights bound no log p(x); "
                "give content_prior=(loc, scale), or a model with content_scale"
            )
        latent[flat.name] = _proper(flat, prior)

    def total(sites: Any) -> Tensor:
        kept = (site if tempered else untempered(site) for site in sites)
        zero = torch.zeros(traces.groups.num_groups, dtype=torch.float64, device=traces.groups.device)
        return sum((site.log_prob.detach().double() for site in kept), start=zero)

    with torch.autocast(traces.groups.device.type, enabled=False):  # densities in float32, whoever calls
        return total(traces.observed), total(latent.values()), total(traces.posterior)


def _is_flat(fn: Any) -> bool:
    fn = innermost(fn)
    return isinstance(fn, dist.ImproperUniform) or (isinstance(fn, GroupNormal) and fn.content_scale is None)


def _proper(site: Site, prior: ContentPrior) -> Site:
    """The site with N(loc, scale^2 I) in place of the flat p(y): the value is moved by loc instead of the density."""
    fn, mask, dim = site.fn, True, site.value.shape[-1]
    if len(prior.loc) != dim:
        raise ShapeError(
            f"log_weights: content_prior has a loc [{len(prior.loc)}], but site '{site.name}' has {dim} dimensions"
        )
    if isinstance(fn, dist.MaskedDistribution):
        fn, mask = fn.base_dist, fn._mask
    if isinstance(fn, GroupNormal):
        new = GroupNormal(fn.view_scale, fn.num_views, fn.dim, prior.scale, fn.view_mask).expand(fn.batch_shape)
    elif isinstance(fn, dist.ImproperUniform) and len(fn.event_shape) == 1:
        new = dist.Normal(torch.zeros_like(site.value), prior.scale).to_event(1)
    else:
        raise SiteError(
            f"log_weights: the improper prior of site '{site.name}' is no p(y) over vectors; give a proper one"
        )
    return replace(site, fn=new.mask(mask), value=site.value - prior.loc.to(site.value), _log_prob=None)


def _check_guide(sites: dict[str, Site]) -> None:
    if any(site.auxiliary for site in sites.values()):
        return  # an AutoGuide: its Deltas carry the density of a change of variables
    if point := next((name for name, site in sites.items() if is_delta(site.fn)), ""):
        raise SiteError(
            f"log_weights: guide site '{point}' is a point mass, and q(z | x) no density; give the guide a scale"
        )


def _check_model(traces: Traces) -> None:
    if next(traces.observed, None) is None:
        raise SiteError(
            "log_weights: the model observes nothing, so there is no log p(x); add a site with obs=groups.x"
        )
    for site in (*traces.guide.values(), *traces.model.values()):
        if site.groups_dim is None:
            raise SiteError(
                f"log_weights: site '{site.name}' stands outside the plate 'groups', so all groups share it and none "
                "has a weight of its own; fix it: poutine.block(poutine.condition(model, data=...), hide=[...]), and block "
                "the guide"
            )


def _checked(model: Any, groups: Any, samples: int, block: int | None) -> int:
    """The block size, once the arguments are right."""
    if model is None:
        raise SettingsError("log_weights: there is no model, so no log p(x, z); use a method that generates x")
    if not isinstance(groups, Groups):
        raise SettingsError(f"log_weights: groups is a {type(groups).__name__}, expected a genssl.Groups: Groups(x)")
    block = max(1, BATCH // groups.num_views) if block is None else block
    for name, value in (("samples", samples), ("block", block)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SettingsError(f"log_weights: {name} = {value!r}, expected a whole number of at least 1")
    return block


def _checked_prior(loc: Any, scale: Any) -> ContentPrior:
    if not isinstance(loc, Tensor) or loc.dim() != 1:
        seen = list(loc.shape) if isinstance(loc, Tensor) else type(loc).__name__
        raise ShapeError(f"log_weights: the loc of content_prior is {seen}, expected a tensor [D]")
    if not 0 < float(scale) < math.inf:
        raise SettingsError(
            f"log_weights: the scale of content_prior is {scale}, expected a positive standard deviation"
        )
    return ContentPrior(loc, float(scale))


def _check_weights(who: str, log_weight: Tensor) -> None:
    if log_weight.dim() != 2 or log_weight.numel() == 0:
        raise ShapeError(f"{who}: log_weight has shape {list(log_weight.shape)}, expected [S, G], draws by groups")

"""What the posterior of some groups is, as arrays with named dimensions: draws, predictions, densities, data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from genssl.distributions import GroupMixture, GroupNormal
from genssl.evaluation.weights import draws, flat_site, untempered
from genssl.fit.randomness import seed_noise
from genssl.groups import Groups
from genssl.posterior.store import Block
from genssl.sites import trace_sites
from genssl.terms import Site, Traces
from genssl.terms.closed_forms import is_delta

Variables = dict[str, tuple[tuple[str, ...], np.ndarray]]
EVENT_DIMS = {1: ("feature",), 2: ("height", "width"), 3: ("channel", "height", "width")}


def block_of(
    method: Any,
    model: Any,
    groups: Groups,
    samples: int,
    predicted: int,
    stored: int,
    densities: bool,
    prior_fitted: bool,
    seed: int,
    number: int,
) -> Block:
    """The ArviZ groups of these data groups; run within `measuring` and `networks_in`. Draws are a function of (seed, number).

    model: None where the likelihood was not fitted, so that nothing is predicted. prior_fitted: whether the prior was, without which
    there is no y and no weight. predicted: how many of the draws are decoded (all,
    for densities); stored: of how many a draw of x is kept.
    """
    prior = content_prior_of(method, groups) if prior_fitted else None
    decoded = samples if densities else min(predicted, samples)
    latent: dict[str, list[Tensor]] = {}
    content: list[Tensor] = []
    log_p, log_q, log_likelihood = [], [], []
    prediction = _Prediction(stored)
    sites: dict[str, Site] = {}
    for sample, found in enumerate(draws(model, method.guide, groups, samples, seed, number, modelled=decoded)):
        sites = sites or {
            name: site
            for name, site in found.guide.items()
            if not (site.observed or site.auxiliary or is_delta(site.fn))
        }
        for name in sites:
            latent.setdefault(name, []).append(found.guide[name].value)
        if found.model:
            if sample < predicted:
                prediction.add(found)
            if densities and prior_fitted:
                log_p.append(_total(found.latent, groups))
                log_q.append(_total(found.posterior, groups))
            if densities:
                log_likelihood.append(
                    {site.name: per_view(site, groups) for site in found.observed if not site.auxiliary}
                )
        if "y" not in sites and prior is not None:
            content.append(prior.content_posterior(found.guide["z"].value).sample())
    width = (sites.get("z") or next(iter(sites.values()))).value.shape[-1]
    block: dict[str, Variables] = {
        "posterior": {name: _latent(sites[name], torch.stack(values), groups, width) for name, values in latent.items()}
    }
    if content:
        block["posterior"]["y"] = (("sample", "group", "latent"), _array(torch.stack(content).float()))
    block["posterior_predictive"] = prediction.variables(groups)
    if densities:
        block["log_likelihood"] = {
            name: (("sample", "group", "view"), _array(torch.stack([one[name] for one in log_likelihood])))
            for name in log_likelihood[0]
        }
    if log_p:
        whole = torch.stack([sum(one.values()).sum(-1) for one in log_likelihood])  # type: ignore[union-attr]
        p, q = torch.stack(log_p), torch.stack(log_q)
        dims = ("sample", "group")
        block["sample_stats"] = {
            "log_p": (dims, _array(p)), "log_q": (dims, _array(q)), "log_weight": (dims, _array(whole + p - q)),
        }  # fmt: skip
    block["observed_data"] = _data(groups)
    return {name: variables for name, variables in block.items() if variables}


def prior_of(method: Any, groups: Groups, samples: int, stored: int, seed: int) -> Block:
    """prior and prior_predictive: draws for one group of as many views, of a model that can be drawn from."""
    # What the model may ask of its data beside their views: a label that is not known, an item to compare with.
    source = None if groups.source is None else torch.zeros_like(groups.source[:1])
    one = Groups(torch.zeros_like(groups.x[:1]), label=torch.full((1,), -1, device=groups.device), source=source)
    seed_noise(seed, 0, groups.device, "prior")
    values: dict[str, list[Tensor]] = {}
    sites: dict[str, Site] = {}
    images: list[Tensor] = []
    for sample in range(samples):
        # Replayed guide sites would be posterior draws: here the model runs by itself, without its data.
        trace = pyro.poutine.trace(pyro.poutine.uncondition(method.model)).get_trace(one)
        found = trace_sites(trace, one, "model")
        for name, site in found.items():
            if trace.nodes[name]["infer"].get("was_observed"):
                if sample < stored and _is_continuous(site):
                    images.append(site.fn.mean[0])
            elif not site.auxiliary:
                sites.setdefault(name, site)
                values.setdefault(name, []).append(site.value)
    width = (sites.get("z") or next(iter(sites.values()))).value.shape[-1]
    prior = {name: _latent(sites[name], torch.stack(found), one, width) for name, found in values.items()}
    tied = content_prior_of(method, one)
    if "y" not in prior and tied is not None:  # y given its z: the pair is a draw of p(y, z)
        y = tied.content_posterior(torch.stack(values["z"])).sample()
        prior["y"] = (("sample", "group", "latent"), _array(y.float()))
    block = {"prior": {name: _without_group(*parts) for name, parts in prior.items()}}
    if images:
        block["prior_predictive"] = {
            "x_mean": (("prediction", "view", *event_dims(groups)), _array(torch.stack(images).float()))
        }
    return block


def is_proper(traces: Traces) -> bool:
    """Whether all of the model can be drawn from."""
    return flat_site(traces) is None


def per_view(site: Site, groups: Groups) -> Tensor:
    """[G, J] log density of every view, nats, 0 for padded ones; the factor of the subsampled plate `groups` is not in it."""
    fn, value = site.fn, site.value
    if (
        site.groups_dim == -1
        and isinstance(fn, torch.distributions.Independent)
        and fn.base_dist.batch_shape[-1:] == (groups.num_views,)
    ):
        inner = fn.base_dist
        density = inner.log_prob(value)
        extra = density.dim() - 2
        density = density.sum(tuple(range(-extra, 0))) if extra > 0 else density
    else:
        density = fn.log_prob(value)
        if density.dim() == 1:  # one density for all views: it cannot be told apart
            density = density[:, None].expand(-1, groups.num_views) / groups.num_views
    return torch.where(groups.valid, density, 0.0).double()


def _total(sites: Any, groups: Groups) -> Tensor:
    return sum(
        (untempered(site).log_prob.double() for site in sites),
        start=torch.zeros(len(groups), dtype=torch.float64, device=groups.device),
    )


def content_prior_of(method: Any, groups: Groups) -> Any:
    """The prior of z where its content is integrated out, so that y can be drawn given z; else None."""
    prior = method.prior(groups) if hasattr(method, "prior") else None
    return prior if isinstance(prior, GroupNormal | GroupMixture) else None


class _Prediction:
    """Mean and variance of p(x | data) over draws of z, by the law of total variance, and draws of x."""

    def __init__(self, stored: int) -> None:
        self.stored, self.count = stored, 0
        self.mean: dict[str, Tensor] = {}
        self.square: dict[str, Tensor] = {}
        self.inner: dict[str, Tensor] = {}
        self.draws: dict[str, list[Tensor]] = {}

    def add(self, traces: Traces) -> None:
        self.count += 1
        for site in traces.observed:
            if site.auxiliary or not _is_continuous(site):
                continue
            mean = site.fn.mean.double()
            self.mean[site.name] = self.mean.get(site.name, 0.0) + mean
            self.square[site.name] = self.square.get(site.name, 0.0) + mean.square()
            self.inner[site.name] = self.inner.get(site.name, 0.0) + site.fn.variance.double()
            if len(self.draws.setdefault(site.name, [])) < self.stored:
                self.draws[site.name].append(site.fn.sample())

    def variables(self, groups: Groups) -> Variables:
        out: Variables = {}
        for name, total in self.mean.items():
            mean = total / self.count
            between = (self.square[name] / self.count - mean.square()).clamp(min=0)
            event = _event_dims(mean.dim() - 2)
            out[f"{name}_mean"] = (("group", "view", *event), _array(mean.float()))
            out[f"{name}_variance"] = (
                ("group", "view", *event),
                _array((between + self.inner[name] / self.count).float()),
            )
            if self.draws[name]:
                out[name] = (("prediction", "group", "view", *event), _array(torch.stack(self.draws[name]).float()))
        return out


def _is_continuous(site: Site) -> bool:
    return bool(site.value.is_floating_point()) and not is_delta(site.fn)


def event_dims(groups: Groups) -> tuple[str, ...]:
    """Names of the dimensions of one view."""
    return _event_dims(len(groups.event_shape))


def _event_dims(number: int) -> tuple[str, ...]:
    return EVENT_DIMS.get(number, tuple(f"x_dim_{i}" for i in range(number)))


def _latent(site: Site, value: Tensor, groups: Groups, width: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Draws [S, G, ...] of a latent site with their dimensions; width: D, the size of the dimension `latent`."""
    dims = ["sample", "group"]
    rest = list(value.shape[2:])
    nested = site.groups_dim == -2
    if nested and not any(frame.name == "views" for frame in site.plates.values()):
        value, rest = value.squeeze(2), rest[1:]
    elif nested or (len(site.fn.event_shape) > 1 and site.fn.event_shape[0] == groups.num_views):
        dims.append("view")
        rest = rest[1:]
    dims += ["latent"] if rest == [width] else [f"{site.name}_dim_{i}" for i in range(len(rest))]
    return tuple(dims), _array(value.float())


def _without_group(dims: tuple[str, ...], values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    axis = dims.index("group")
    return dims[:axis] + dims[axis + 1 :], values.squeeze(axis)


def _data(groups: Groups) -> Variables:
    out: Variables = {
        "x": (("group", "view", *event_dims(groups)), _array(groups.x)),
        "valid": (("group", "view"), _array(groups.valid)),
    }
    if groups.label is not None:
        out["label"] = (("group",) if groups.label.dim() == 1 else ("group", "view"), _array(groups.label))
    if groups.index is not None:
        out["index"] = (("group",), _array(groups.index))
    return out


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()

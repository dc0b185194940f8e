"""Running a guide and its model, and checking that their sites are ones that the objective can treat rightly."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample
from pyro.poutine.trace_struct import Trace

from genssl.errors import GensslError, ShapeError, SiteError
from genssl.groups import Groups
from genssl.terms.closed_forms import is_delta
from genssl.terms.traces import Site
from genssl.whole import whole_draws


def run_guide(guide: Callable[..., Any], groups: Groups, alone: bool) -> tuple[dict[str, Site], Trace]:
    """The guide's sites in their order, and its trace for the model to replay; `alone` where no model will be run."""
    with _own_words(), whole_draws():
        trace = poutine.trace(guide).get_trace(groups)
    sites = trace_sites(trace, groups, where="guide")
    if alone:
        _check_in_groups(sites, groups, "guide")
    for site in sites.values():
        if not site.observed and not site.fn.has_rsample:
            raise SiteError(
                f"guide site '{site.name}': {type(site.fn).__name__} is not reparameterised, and its gradient would be left out; "
                "use a distribution with rsample, or Pyro's Trace_ELBO (score function) or TraceEnum_ELBO (enumeration)"
            )
    return sites, trace


def run_model(
    model: Callable[..., Any], guide: dict[str, Site], guide_trace: Trace, groups: Groups, whole: bool
) -> dict[str, Site]:
    """The model's sites at the guide's values; unless `whole`, the model is stopped as soon as its latents are recorded.

    A model samples z before it computes x from it, so a decoder that nobody asks for never runs.
    """
    latents = {
        name
        for name, node in guide_trace.nodes.items()
        if node["type"] == "sample"
        and not node["is_observed"]
        and not _is_plate(node)
        and not node["infer"].get("is_auxiliary")
    }
    stop = _StopAfter(set() if whole else set(latents))
    with _own_words(), poutine.trace() as tracer, poutine.replay(trace=guide_trace), stop, contextlib.suppress(_Stop):
        model(groups)
    sites = trace_sites(tracer.trace, groups, where="model")
    _check_same_plates(guide, sites)
    _check_in_groups({**guide, **sites}, groups, "model and guide")
    for site in sites.values():
        if not site.observed and site.name not in latents:
            raise SiteError(
                f"model site '{site.name}' is latent and the guide does not sample it; add it to the guide, observe it with obs=, or "
                "enumerate it under Pyro's TraceEnum_ELBO"
            )
    missing = [
        name
        for name in latents
        if (name not in sites or sites[name].observed) and not is_delta(guide_trace.nodes[name]["fn"])
    ]
    if missing:
        raise SiteError(
            f"guide site '{missing[0]}' is not a latent of the model, so nothing would stand against its entropy; hide it with "
            "poutine.block(guide, hide=[...]), or mark it with infer={'is_auxiliary': True}"
        )
    return sites


def trace_sites(trace: Trace, groups: Groups, where: str) -> dict[str, Site]:
    nodes = {
        name: n for name, n in trace.nodes.items() if n["type"] == "sample" and not _is_plate(n) and not _is_constant(n)
    }
    # N is the full size of the plate `groups` wherever it stands, so that sites outside it share it out alike.
    frames = [frame for node in nodes.values() for frame in node["cond_indep_stack"] if frame.name == "groups"]
    total = frames[0].full_size if frames else groups.total
    sites = {}
    for name, node in nodes.items():
        if node["infer"].get("enumerate"):
            raise SiteError(f"{where} site '{name}' is enumerated; integrate it out, or use Pyro's TraceEnum_ELBO")
        sites[name] = Site(
            name=name,
            fn=node["fn"],
            value=node["value"],
            observed=node["is_observed"],
            auxiliary=bool(node["infer"].get("is_auxiliary")),
            plates={frame.dim: frame for frame in node["cond_indep_stack"] if frame.vectorized},
            scale=node["scale"],
            mask=node["mask"],
            num_groups=groups.num_groups,
            total=total,
        )
        sites[name].check()
    _check_layout(sites, groups, where)
    return sites


def _check_in_groups(sites: dict[str, Site], groups: Groups, where: str) -> None:
    """Some site must stand in `groups`, or every density would be taken for one that all groups share."""
    found = [site.plates[site.groups_dim] for site in sites.values() if site.groups_dim is not None]
    if sites and not found:
        others = sorted({frame.name for site in sites.values() for frame in site.plates.values()})
        raise ShapeError(
            f"{where}: no site stands in the plate 'groups'{f' (there is {others})' if others else ''}, so densities would be "
            "divided by the number of groups; enter groups.plate (JOINT) or groups.plates (NESTED)"
        )
    for frame in found:
        if frame.full_size != groups.total and groups.total != groups.num_groups:
            raise ShapeError(
                f"{where}: the plate 'groups' has size {frame.full_size}, but there are {groups.total} groups in all; use groups.plate, or "
                "set groups.total"
            )


def _check_same_plates(guide: dict[str, Site], model: dict[str, Site]) -> None:
    """A latent stands in `groups` in both traces or in neither, and `groups` has one size: else its slots differ in scale."""
    for name in guide.keys() & model.keys():
        inside = [(s.groups_dim is not None, s.total) for s in (guide[name], model[name])]
        if inside[0][0] != inside[1][0]:
            one, other = ("guide", "model") if inside[0][0] else ("model", "guide")
            raise ShapeError(
                f"site '{name}': stands in the plate 'groups' in the {one} but not in the {other}; enter groups.plate in both"
            )
        dims = guide[name].groups_dim, model[name].groups_dim
        if dims[0] != dims[1]:
            raise ShapeError(
                f"site '{name}': the plate 'groups' is at dim {dims[0]} in the guide and {dims[1]} in the model; use one layout: "
                "groups.plate with joint sites (J, D), or groups.plates with one site a view"
            )
        if inside[0][1] != inside[1][1]:
            raise ShapeError(
                f"site '{name}': the plate 'groups' has size {inside[0][1]} in the guide and {inside[1][1]} in the model; use "
                "groups.plate in both"
            )


def _check_layout(sites: dict[str, Site], groups: Groups, where: str) -> None:
    """JOINT: `groups` at -1. NESTED: `groups` at -2 with `views` at -1. Never both."""
    dims = {site.groups_dim: site.name for site in sites.values() if site.groups_dim is not None}
    if len(dims) > 1:
        first, second = list(dims.items())[:2]
        raise ShapeError(
            f"{where}: the plate 'groups' is at dim {first[0]} for site '{first[1]}' and at dim {second[0]} for '{second[1]}'; use one "
            "layout: groups.plate with joint sites (J, D), or groups.plates with one site a view"
        )
    for dim, name in dims.items():
        frame = sites[name].plates[dim]
        if frame.size != groups.num_groups:
            raise ShapeError(
                f"{where} site '{name}': the plate 'groups' has size {frame.size}, but the batch has {groups.num_groups} groups; "
                "give the plate a subsample of that size, e.g. groups.plate"
            )
        if dim not in (-1, -2):
            raise ShapeError(
                f"{where} site '{name}': the plate 'groups' is at dim {dim}, expected -1 (groups.plate) or -2 with 'views' at -1 "
                "(groups.plates); put other plates to the left of it"
            )
    for site in sites.values():
        if any(frame.name == "views" and dim != -1 for dim, frame in site.plates.items()):
            raise ShapeError(
                f"{where} site '{site.name}': the plate 'views' must be at dim -1 and 'groups' at dim -2; use groups.plates"
            )


@contextlib.contextmanager
def _own_words() -> Iterator[None]:
    """An error of ours as it was raised: Pyro raises it again with the shapes of all sites behind the message."""
    try:
        yield
    except GensslError as error:
        if isinstance(error.__cause__, type(error)):
            raise error.__cause__ from None
        raise


def _is_plate(node: Any) -> bool:
    return isinstance(node["fn"], _Subsample)


def _is_constant(node: Any) -> bool:
    """pyro.deterministic records a value without a density."""
    return bool(node["infer"].get("_deterministic"))


class _Stop(Exception):
    """Raised inside a model that has nothing more to tell."""


class _StopAfter(poutine.messenger.Messenger):
    """Stop the model once all of these latent sites have been sampled (never, if there are none)."""

    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            self.names.discard(msg["name"])
            if not self.names:
                raise _Stop

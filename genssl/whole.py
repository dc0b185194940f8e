"""The batch of all processes: as terms that couple groups see it, and as the noise of guide sites is drawn for it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from genssl import distributed
from genssl.distributions import GroupPosterior
from genssl.distributions.spherical import Spherical
from genssl.errors import SiteError
from genssl.groups import Groups
from genssl.terms.closed_forms import diagonal_normal
from genssl.terms.traces import Site, Traces


def whole(traces: Traces) -> Traces:
    """The traces of all processes' groups, by rank; the same traces with one process. A site is gathered when a term reads it."""
    if not distributed.is_together():
        return traces
    sites = [{name: WholeSite(site) for name, site in part.items()} for part in (traces.guide, traces.model)]
    return Traces(_whole_groups(traces.groups), *sites)  # type: ignore[arg-type]


def own_values(values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Of {site: [G of all processes]} the values of this process's groups."""
    return {name: distributed.own(value) for name, value in values.items()}


class WholeSite:
    """The value and the law of a site over all processes' groups; nothing else of a Site."""

    def __init__(self, site: Site) -> None:
        self.name, self._site = site.name, site

    @cached_property
    def value(self) -> Tensor:
        dim = _groups_dim(self._site.fn, self._site.groups_dim)
        return self._site.value if dim is None else distributed.gather(self._site.value, dim)

    @cached_property
    def fn(self) -> Any:
        return self._site.fn if self._site.groups_dim is None else _whole_law(self._site.fn, self.name)


class WholeDraws(Messenger):
    """Sites of a Normal, GroupPosterior or spherical law are drawn for all processes' groups, and each process takes its own.

    Normal laws need no message for that: noise is drawn for all, and scaled here. A law on the sphere is gathered. Other laws are drawn
    here alone, from this process's stream.
    """

    def _pyro_sample(self, msg: Any) -> None:
        fn, frames = msg["fn"], [frame for frame in msg["cond_indep_stack"] if frame.name == "groups"]
        if msg["value"] is not None or msg["is_observed"] or not frames:
            return
        dim = _groups_dim(fn, frames[0].dim)
        if isinstance(fn, GroupPosterior):
            shape, like = fn.shape(), fn.loc
            one_a_group = torch.Size((*shape[:-2], 1, shape[-1]))
            msg["value"] = fn.from_noise(_noise(shape, dim, like), _noise(one_a_group, dim, like))
        elif (normal := diagonal_normal(fn)) is not None:
            msg["value"] = normal.loc + _noise(fn.shape(), dim, normal.loc) * normal.scale
        elif isinstance(_bare(fn), Spherical):
            law = _whole_law(fn, msg["name"])
            with distributed.shared_stream():
                msg["value"] = distributed.own(law.rsample(), dim)


def _noise(shape: torch.Size, dim: int, like: Tensor) -> Tensor:
    """Standard normal noise of this shape, a part along `dim` of what one process would draw."""
    whole = [*shape[:dim], shape[dim] * distributed.world(), *shape[dim + 1 :]]
    with distributed.shared_stream():
        return distributed.own(torch.randn(whole, dtype=like.dtype, device=like.device), dim)


def whole_draws() -> AbstractContextManager[Any]:
    """WholeDraws where several processes are together."""
    return WholeDraws() if distributed.is_together() else nullcontext()


def _groups_dim(fn: Any, dim: int | None) -> Any:
    """The dimension of groups in a value, from that in the batch (counted from its end)."""
    return None if dim is None else len(fn.batch_shape) + dim


def _bare(fn: Any) -> Any:
    while isinstance(fn, (torch.distributions.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist
    return fn


def _whole_law(fn: Any, name: str) -> Any:
    """The distribution over all processes' groups, whose batch starts with them."""
    if isinstance(fn, torch.distributions.Independent):
        return _whole_law(fn.base_dist, name).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.MaskedDistribution):
        mask = fn._mask if isinstance(fn._mask, bool) else distributed.gather(fn._mask.expand(fn.base_dist.batch_shape))
        return _whole_law(fn.base_dist, name).mask(mask)
    if isinstance(fn, Spherical):
        both = distributed.gather(torch.cat([fn.loc, fn.concentration.unsqueeze(-1)], -1))
        return type(fn)(both[..., :-1], both[..., -1], validate_args=False)
    if isinstance(fn, torch.distributions.Normal):
        both = distributed.gather(torch.stack([fn.loc, fn.scale], -1))
        return dist.Normal(both[..., 0], both[..., 1], validate_args=False)
    if isinstance(fn, dist.Delta):
        log_density = torch.as_tensor(fn.log_density, dtype=fn.v.dtype, device=fn.v.device).expand(fn.batch_shape)
        return dist.Delta(distributed.gather(fn.v), distributed.gather(log_density), event_dim=fn.event_dim)
    raise SiteError(
        f"site '{name}': a term reads the law of all processes' groups, and a {type(fn).__name__} cannot be gathered, expected a Normal, "
        "Delta or spherical law; take one process, or a term that reads values"
    )


def _whole_groups(groups: Groups) -> Groups:
    """Mask, index, rows and label of all processes' groups; the views themselves are not gathered, since terms read sites."""
    out = copy.copy(groups)
    parts = {"index": groups.index, "rows": groups.rows, "mask": groups.mask, "label": groups.label}
    known = {name: value if value.dim() == 2 else value[:, None] for name, value in parts.items() if value is not None}
    together = distributed.gather(torch.cat([value.long() for value in known.values()], 1))
    found = dict(zip(known, together.split([value.shape[1] for value in known.values()], 1), strict=True))
    out.num_groups = len(together)
    for name in known:
        value, like = found[name], parts[name]
        setattr(out, name if name != "rows" else "_rows", (value if like.dim() == 2 else value[:, 0]).to(like.dtype))  # type: ignore[union-attr]
    if not groups.placed:
        out._rows = torch.arange(len(together), device=together.device)
    if groups.total == groups.num_groups:
        out.total = out.num_groups
    absent = [groups.x] if isinstance(groups.x, Tensor) else list(groups.x)
    blanks = [x.new_zeros(()).expand(len(together), *x.shape[1:]) for x in absent]
    out.x = blanks[0] if isinstance(groups.x, Tensor) else tuple(blanks)
    out.style = out.source = out.style_names = out.style_kinds = None
    return out

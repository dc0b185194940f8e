"""Expectations that need no sampling: entropies, and expected log densities under a Normal guide."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from genssl.distributions import GroupNormal, GroupPosterior


def is_delta(fn: Any) -> bool:
    """Whether a distribution is a point mass, under Independent and masks too."""
    while isinstance(fn, (torch.distributions.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)


def entropy(fn: Any) -> Tensor | None:
    """H[q] of a guide distribution, batch shape, nats; None where it has no closed form or q has no density (Delta)."""
    if isinstance(fn, dist.Delta):
        return None
    if isinstance(fn, torch.distributions.Independent):
        return _sum_rightmost(entropy(fn.base_dist), fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.MaskedDistribution):
        inner = entropy(fn.base_dist)
        return None if inner is None else _masked(inner, fn._mask)
    try:
        return fn.entropy()
    except NotImplementedError:
        return None


def expected_log_prob(p: Any, q: Any) -> Tensor | None:
    """E_q log p(z), batch shape of p, nats, for q a diagonal Normal and p a GroupNormal or Normal, and for a GroupPosterior under a
    GroupNormal; None for any other pair."""
    if isinstance(p, GroupNormal) and isinstance(q, GroupPosterior):
        return q.expected_log_prob(p)
    if isinstance(p, GroupNormal):
        normal = diagonal_normal(q)
        return None if normal is None else p.expected_log_prob(normal.loc, normal.scale)
    if isinstance(p, torch.distributions.Independent) and isinstance(q, torch.distributions.Independent):
        if p.reinterpreted_batch_ndims != q.reinterpreted_batch_ndims:
            return None
        return _sum_rightmost(expected_log_prob(p.base_dist, q.base_dist), p.reinterpreted_batch_ndims)
    if isinstance(p, dist.MaskedDistribution):
        inner = expected_log_prob(p.base_dist, q.base_dist if isinstance(q, dist.MaskedDistribution) else q)
        return None if inner is None else _masked(inner, p._mask)
    normal = diagonal_normal(q)
    if normal is None or not isinstance(p, torch.distributions.Normal):
        return None
    return p.log_prob(normal.loc) - normal.scale.square() / (2 * p.scale.square())


def diagonal_normal(q: Any) -> torch.distributions.Normal | None:
    """The Normal under Independent and masks: padded views are left to p, which has its own mask."""
    while isinstance(q, (torch.distributions.Independent, dist.MaskedDistribution)):
        q = q.base_dist
    return q if isinstance(q, torch.distributions.Normal) else None


def _masked(value: Tensor, mask: Any) -> Tensor:
    if isinstance(mask, bool):
        return value if mask else torch.zeros_like(value)
    return torch.where(mask, value, value.new_zeros(()))


def _sum_rightmost(value: Tensor | None, dims: int) -> Tensor | None:
    return value if value is None or dims == 0 else value.sum(tuple(range(-dims, 0)))

"""The law of a further view of a group under a fitted method: p(z_{J+1} | z_1..z_J), z_j ~ q(z_j | x_j)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, MixtureSameFamily, Normal

from genssl.datasets.arrays import as_floats
from genssl.distributions import GroupMixture, GroupNormal, at_least_float32
from genssl.errors import SettingsError
from genssl.groups import Groups

BLOCK = 1024


def predicted(method: Any, groups: Groups, draws: int, means: bool = False, view_scale: float | None = None) -> Tensor:
    """[G, draws, D] z_{J+1}, from torch's default generator; arguments and errors as in `next_views`."""
    term = getattr(getattr(method, "objective", None), "prior", None)
    if view_scale is None and term is not None and "model" not in term.needs:
        raise SettingsError(
            f"next_views: {type(method).__name__} was fitted with {term} in the prior slot, which gives no "
            "p(z_J+1 | z_1..z_J); give view_scale"
        )
    if view_scale is None and hasattr(method, "prior_network"):  # Neural Statistician: given y, z_1..z_J say no more
        content = method.content(groups)
        y = content.mean.expand(draws, *content.mean.shape) if means else content.sample((draws,))
        loc, log_scale = at_least_float32(method.prior_network(y)).chunk(2, -1)
        return Normal(loc, log_scale.exp()).sample().transpose(0, 1).contiguous()
    if getattr(method, "group_guide", None) is not None:  # draws of the whole group at once
        joint = method.joint(groups)
        z = joint.mean.expand(draws, *joint.mean.shape) if means else joint.sample((draws,))
    else:
        blocks = [
            _posterior_draws(method.encode(as_floats(x)), draws, means) for x in groups.pack(groups.x).split(BLOCK)
        ]
        z = groups.unpack(torch.cat(blocks)).permute(2, 0, 1, 3)  # [draws, G, J, D]
    prior: Any = method.prior(groups) if view_scale is None and hasattr(method, "prior") else None
    if view_scale is not None:
        prior = GroupNormal(view_scale, groups.num_views, z.shape[-1], mask=groups.mask)
    if isinstance(prior, GroupMixture):
        law: Any = _next_of_mixture(prior, z)
    elif hasattr(prior, "next_view"):
        law = prior.next_view(z)
    else:
        raise SettingsError(
            f"next_views: {type(method).__name__} has no prior that ties the views of a group together, expected one "
            "with next_view, such as SimVAE's; take samples, or give view_scale"
        )
    return law.sample().transpose(0, 1).contiguous()


def _posterior_draws(posterior: Any, draws: int, means: bool) -> Tensor:
    """[N, draws, D]."""
    if means:
        return posterior.mean[:, None].expand(-1, draws, -1)
    return posterior.sample((draws,)).transpose(0, 1)


def _next_of_mixture(prior: GroupMixture, z: Tensor) -> MixtureSameFamily:
    """The posterior of y with each component widened by view_scale^2."""
    content = prior.content_posterior(z)
    parts = content.component_distribution.base_dist
    widened = (parts.variance + prior.flat.view_scale**2).sqrt()
    return MixtureSameFamily(content.mixture_distribution, Independent(Normal(parts.loc, widened), 1))

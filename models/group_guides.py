"""Guides that see the whole group: what `group_guide` of a generative method makes of the posteriors of its single views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from genssl.distributions import GroupNormal, GroupPosterior
from genssl.errors import SettingsError
from genssl.groups import Groups
from genssl.terms.closed_forms import diagonal_normal


class ProductOfExperts(nn.Module):
    r"""q(z_1..z_J | x_1..x_J) proportional to p(z_1..z_J) prod_j N(z_j; encoder(x_j)): the views' experts times the joint prior.

    The form of the exact posterior p(z | x), whose prior ties the views together and whose likelihoods look at one view each; only those
    are approximated, by Gaussians. It has no parameters, sharpens with J, and weighs views by how sure they are. With linear decoders and
    Gaussian noise it is exact, where a factorised guide loses 0.50 nats a group at J = 10 (theory of Bizeul et al. 2024, Eq. 4, at
    their variances, D = 1). The encoder's Normal is then a message about z_j and no posterior: `encode` multiplies it with the
    prior of a group of one view (flat p(y): by nothing).

    JOINT layout, methods with a GroupNormal prior: SimVAE. (Product of experts: Hinton 2002; as a guide: Wu and Goodman 2018,
    arXiv:1802.05335, over modalities that share one z.)

    start: added to the encoder's log scales, so that experts start sharp. An expert as wide as the prior costs nothing, unlike a view's own
    posterior, which the prior's ties hold narrow: those that start so can widen further until z tells nothing of x (measured: from
    start 0 one of three fits of FashionMNIST, 128 groups of 4, lr 1e-3, stays there for good).
    """

    def __init__(self, start: float = -3.0) -> None:
        super().__init__()
        self.start = float(start)

    def forward(self, views: Any, groups: Groups, prior: Any) -> GroupPosterior:
        """views: batch [G, J, D], of single views; the law of all of them, batch [G], event (J, D)."""
        if not isinstance(prior, GroupNormal):
            raise SettingsError(
                f"ProductOfExperts: the prior is {type(prior).__name__}, expected the GroupNormal of SimVAE; take SetGuide"
            )
        normal = _normal(views, self)
        return GroupPosterior(normal.loc, normal.scale, prior)

    def alone(self, view: Any, method: Any) -> Any:
        """A group of one view: the Normal of its z, batch [..., D], under the method's prior of one view."""
        if method.content_scale is None:
            return view
        marginal = method.view_scale**2 + method.content_scale**2
        variance = 1 / (view.scale.square().reciprocal() + 1 / marginal)
        return dist.Normal(view.loc * variance / view.scale.square(), variance.sqrt())


class SetGuide(nn.Module):
    r"""q(z_j | x_1..x_J) = N(h_j + f(h_j, hbar - h_j) - f(h_j, 0)), h_j = (loc, log scale) of encoder(x_j), hbar their mean over the group.

    An amortised guide that reads the others of the group through their mean (a set encoder: Zaheer et al. 2017, arXiv:1703.06114), and is
    factorised given all of them, so that it leaves out the posterior's correlations (0.003 nats at J = 10 in the linear-Gaussian case
    of theory, where not seeing the others costs 0.50). For any prior, in both layouts. In a group of one view it is the encoder, exactly.

    It can leave to the group what a view by itself would show: representations of single items, which is what `encode` gives, may then say
    less than those of a factorised guide.

    Args:
        dim: D.  hidden: width of f.
    """

    def __init__(self, dim: int, hidden: int = 128) -> None:
        super().__init__()
        # A bias of the last layer would cancel in the difference.
        self.network = nn.Sequential(nn.Linear(4 * dim, hidden), nn.ReLU(), nn.Linear(hidden, 2 * dim, bias=False))

    def forward(self, views: Any, groups: Groups, prior: Any) -> Any:
        """views: batch [G, J, D], of single views; the Normals of all of them, batch [G], event (J, D), masked where padded."""
        normal = _normal(views, self)
        own = torch.cat([normal.loc, normal.scale.log()], -1)
        valid = groups.valid.unsqueeze(-1)
        mean = torch.where(valid, own, 0.0).sum(1, keepdim=True) / groups.count[:, None, None].to(own.dtype)
        loc, log_scale = (own + self._shift(own, torch.where(valid, mean - own, 0.0))).chunk(2, -1)
        law = dist.Normal(loc, log_scale.exp())
        return (law if groups.mask is None else law.mask(groups.mask.unsqueeze(-1))).to_event(2)

    def alone(self, view: Any, method: Any) -> Any:
        """A group of one view is the view."""
        return view

    def _shift(self, own: Tensor, context: Tensor) -> Tensor:
        with_context = self.network(torch.cat([own, context], -1))
        return with_context - self.network(torch.cat([own, torch.zeros_like(context)], -1))


def make_group_guide(kind: Any, dim: int) -> nn.Module | None:
    """ "product", "set", a module as it is, or None: each view by itself."""
    if kind is None or isinstance(kind, nn.Module):
        return kind
    makers: dict[Any, Callable[[], nn.Module]] = {"product": ProductOfExperts, "set": lambda: SetGuide(dim)}
    if kind not in makers:
        raise SettingsError(f"group_guide = {kind!r}, expected product, set, an nn.Module or None")
    return makers[kind]()


def _normal(views: Any, guide: nn.Module) -> Any:
    normal = diagonal_normal(views)
    if normal is None:
        raise SettingsError(
            f"{type(guide).__name__}: the views have {type(views).__name__} posteriors, expected Normals; leave group_guide out"
        )
    return normal

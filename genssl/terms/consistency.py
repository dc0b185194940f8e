"""How far the posteriors of the views of a group are from each other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genssl.errors import SettingsError, SiteError
from genssl.terms import closed_forms
from genssl.terms.base import Term
from genssl.terms.traces import Traces


class ConsistencyKL(Term):
    r"""-weight sum over views of the mean KL to another view's posterior, halved: the consistency regulariser of CR-VAE.

        -weight (n / 2) mean_{i != j} KL[q(z_i | x_i) || q(z_j | x_j)],     n = views of the group, {site: [G]} nats

    Source: Sinha and Dieng 2021 (NeurIPS, arXiv:2105.14859), the regulariser -lambda KL[q(z | x~) || q(z | x)] of a pair. There x is
    the item and x~ its augmentation; views here are exchangeable, so at n = 2 this is the published term averaged over which view is
    which, and the factor n / 2 keeps its share beside n likelihoods for n > 2. Groups of one view give 0.

    It is at most 0, so an ELBO with it is still a lower bound. Posteriors that are all the same make it 0: alone it collapses; it
    also rewards wide posteriors, which the KL's denominator forgives.

    Args:
        weight: lambda, at least 0.  site: the guide's Normal site over z, batch [G] and event (J, D), or batch [G, J] and event (D).
    """

    slots = ("prior",)
    space = "plane"
    guide_family = "normal"

    def __init__(self, weight: float, site: str = "z") -> None:
        super().__init__()
        if not weight >= 0:
            raise SettingsError(f"ConsistencyKL: weight = {weight}, expected a number of at least 0")
        self.weight, self.site = float(weight), site

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        found = traces.guide.get(self.site)
        normal = None if found is None else closed_forms.diagonal_normal(found.fn)
        if normal is None:
            seen = f"a {type(found.fn).__name__}" if found else f"no such site, only {', '.join(traces.guide)}"
            raise SiteError(
                f"ConsistencyKL: guide site '{self.site}' is {seen}, expected a diagonal Normal; name it with site="
            )
        valid = traces.groups.valid.unsqueeze(-1)
        return {f"consistency {self.site}": -self.weight * half_mean_kl(normal.loc, normal.scale, valid)}

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}" + ("" if self.site == "z" else f", site={self.site}")


def half_mean_kl(loc: Tensor, scale: Tensor, valid: Tensor) -> Tensor:
    r"""(n / 2) mean over ordered pairs i != j of KL[N_i || N_j], loc and scale [G, J, D], valid [G, J, 1] -> [G].

    Over all ordered pairs the log ratios cancel, and sum_i (loc_i - loc_j)^2 = S + n (loc_j - locbar)^2, so J^2 pairs cost J.
    """
    count = valid.sum(-2)
    loc, variance = torch.where(valid, loc, 0.0), torch.where(valid, scale, 1.0).square()
    deviation = torch.where(valid, loc - loc.sum(-2, keepdim=True) / count.unsqueeze(-2), 0.0).square()
    spread = deviation.sum(-2, keepdim=True) + count.unsqueeze(-2) * deviation
    total = torch.where(valid, variance, 0.0).sum(-2, keepdim=True)
    pairs = torch.where(valid, (total - variance + spread) / (2 * variance), 0.0).sum((-2, -1))
    count = count.squeeze(-1)
    pairs = pairs - count * (count - 1) * loc.shape[-1] / 2
    return pairs / (2 * (count - 1).clamp(min=1))

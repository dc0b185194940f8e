"""Terms of guides that are uncertain on the sphere: contrast over posterior draws, and attraction of a learned concentration."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from genssl.distributions.power_spherical import PowerSpherical
from genssl.errors import SettingsError, SiteError
from genssl.terms import closed_forms
from genssl.terms.attraction import positive
from genssl.terms.base import Term
from genssl.terms.batch import anchor_sum, pairs, unit, views
from genssl.terms.traces import Traces


class MonteCarloContrast(Term):
    r"""sum_i mean_{j != i} log mean_s e^{k z_i.z_j} / (e^{k z_i.z_j} + mean_g' e^{k z_i.z_j(g')}), s over draws of every z: {"z": [G]}.

    Source: Kirchhof, Kasneci, Oh 2023 (MCInfoNCE, arXiv:2302.02865): the probability of the positive is averaged over the posteriors,
    inside the logarithm, with the negatives (view j of the other groups) averaged as released; anchors are all views, where they take the
    first. kind "inside the ratio": attraction and normaliser cannot be told apart here; `AveragedNormaliser` and a CosineAttraction
    of temperature 1 / k are its Jensen bound, which can. Draws are made here, from the distribution of the site z.

    Args:
        concentration: k > 0 of the positive around the anchor.  num_samples: draws s.
    """

    slots = ("reconstruction",)
    space = "sphere"
    couples = True
    kind = "inside the ratio"

    def __init__(self, concentration: float = 16.0, num_samples: int = 16) -> None:
        super().__init__()
        if num_samples < 1:
            raise SettingsError(f"MonteCarloContrast: num_samples = {num_samples}, expected at least 1")
        self.concentration, self.num_samples = positive(self, "concentration", concentration), num_samples

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        views(traces, "z")  # that there is one, of the right shape
        fn, valid = traces.guide["z"].fn, traces.groups.valid
        draws = unit(fn.rsample((self.num_samples,)))
        mean = _contrast(draws, valid, self.concentration).logsumexp(0) - math.log(self.num_samples)
        return {"z": anchor_sum(mean, valid)}

    def extra_repr(self) -> str:
        return f"concentration={self.concentration:g}, num_samples={self.num_samples}"


class AveragedNormaliser(Term):
    r"""-sum_i mean_{j != i} log[e^{k z_i.z_j} + mean_g' e^{k z_i.z_j(g')}]: MonteCarloContrast's normaliser by itself, at the draw of z.

    With CosineAttraction(temperature=1/k) a lower bound on MonteCarloContrast by Jensen's inequality: E log <= log E. {"z": [G]} nats.
    """

    slots = ("reconstruction",)
    space = "sphere"
    couples = True

    def __init__(self, concentration: float = 16.0) -> None:
        super().__init__()
        self.concentration = positive(self, "concentration", concentration)

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        z, valid = unit(views(traces, "z")), traces.groups.valid
        ratio = _contrast(z, valid, self.concentration)
        return {"z": anchor_sum(ratio - self.concentration * z @ z.mT, valid)}

    def extra_repr(self) -> str:
        return f"concentration={self.concentration:g}"


class SphericalAttraction(Term):
    r"""sum_i [ -H[q_i] + mean_{j != i} log PS(mu_i; p_j, k_j) ], a power-spherical law of learned concentration: {"z": [G]} nats.

    mu_i is the direction of q(z | x_i), held fixed, p_j the direction and k_j the LENGTH of the guide site z_predicted. -H[q_i] is what
    the own view's E_q log q(z | x_i) comes to, so that with the posterior entropy in its slot the sum over slots is the cross term alone.
    Sources: Nakamura et al. 2023 (VI-SimSiam, arXiv:2203.11437), alignment sum_j log p(z | x_j), as far as its abstract tells; De Cao and
    Aziz 2020 (arXiv:2006.04437) for the law. Greatest in k_j at about (D - 1) / (1 - cos) for cos near 1: views that cannot be predicted
    get a small one. At the direction and not at draws around it: draws carry the spread of q_i, which k_j would take over and hand on to
    the next, until every k is 0 (measured: digits, 400 epochs, k from 16 to 0.01).
    """

    slots = ("prior",)
    space = "sphere"
    guide_family = "sphere"
    needs = frozenset({"predictor"})

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        z, predicted, valid = views(traces, "z"), views(traces, "z_predicted"), traces.groups.valid
        own = closed_forms.entropy(traces.guide["z"].fn)
        if own is None:
            raise SiteError("SphericalAttraction: the guide site 'z' has no entropy, expected a spherical distribution")
        # Masked places of a mean have no length.
        mean = torch.where(valid.unsqueeze(-1), traces.guide["z"].fn.mean.expand_as(z), z).detach()
        length = torch.where(valid, predicted.norm(dim=-1), 0.0)
        law = PowerSpherical(predicted.unsqueeze(1), length.unsqueeze(1), validate_args=False)  # [G, 1, j]
        cross = law.log_prob(unit(mean).unsqueeze(2))
        return {"z": anchor_sum(cross, valid) - traces.guide["z"].per_group(own)}


def _contrast(z: Tensor, valid: Tensor, concentration: float) -> Tensor:
    """[..., G, i, j] log of the share of the positive j among itself and the mean of view j of the other groups; z [..., G, J, D] of
    norm 1."""
    scores = concentration * torch.einsum("...gid,...hjd->...gijh", z, z)
    own = torch.eye(len(valid), dtype=torch.bool, device=z.device)[:, None, None, :]
    positive_score = torch.where(own, scores, 0.0).sum(-1)
    others = valid.T[None, None] & ~own  # [G, 1, J, H]
    count = others.sum(-1)
    chosen = pairs(valid) & (count > 0)
    masked = scores.masked_fill(~others, -torch.inf)
    negative = torch.where(chosen.unsqueeze(-1), masked, 0.0).logsumexp(-1) - count.clamp(min=1).log()
    share = positive_score - torch.logaddexp(positive_score, negative)
    return torch.where(chosen, share, 0.0)

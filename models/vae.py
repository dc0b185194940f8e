"""The variational autoencoder and its beta form: every view on its own."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from genssl.models.method import GenerativeMethod
from torch import nn

from genssl.errors import SettingsError
from genssl.groups import Groups
from genssl.objective import Objective
from genssl.terms import LogPrior, PosteriorEntropy


class VAE(GenerativeMethod):
    r"""z_j ~ N(0, I), x_j | z_j: views of a group are independent, so a group of J views is J items.

        log p(x_j) >= E_q log p(x_j | z_j) + H[q(z_j | x_j)] + E_q log N(z_j; 0, I)

    Source: Kingma and Welling 2014 (arXiv:1312.6114), Eq. 2. A true bound, tight when q is. Latent dimensions whose information
    costs more nats than it saves in reconstruction collapse to the prior (large likelihood_scale: all of them).
    """

    source = "Kingma and Welling 2014, arXiv:1312.6114, Eq. 2"
    collapses = "large likelihood_scale: q(z | x) becomes the prior, dimension by dimension"
    defaults = {
        "digits": {"num_views": 1, "batch_size": 128, "lr": 1e-3, "epochs": 200},
        "": {"num_views": 1, "batch_size": 128, "lr": 1e-3, "epochs": 50},
    }

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood_scale: float = 1.0,
        *,
        likelihood: nn.Module | None = None,
        dim: int | None = None,
        objective: Objective | None = None,
        group_guide: nn.Module | None = None,
    ) -> None:
        super().__init__(
            encoder, decoder, likelihood_scale=likelihood_scale, likelihood=likelihood, dim=dim, group_guide=group_guide
        )
        self.objective = Objective() if objective is None else objective

    def model(self, groups: Groups) -> None:
        """JOINT layout: z [G, J, D] independent standard normal; x from z."""
        with groups.plate:
            z = pyro.sample("z", self.prior(groups))
            self.observe(z, groups)

    def prior(self, groups: Groups) -> Any:
        """N(0, I) for every view that exists, event (J, D)."""
        zero = torch.zeros(groups.num_groups, groups.num_views, self.dim, device=groups.device)
        normal = dist.Normal(zero, torch.ones_like(zero))
        return (normal if groups.mask is None else normal.mask(groups.mask.unsqueeze(-1))).to_event(2)


class BetaVAE(VAE):
    r"""The VAE with entropy and prior (together -KL[q || p]) weighted by beta.

        objective = E_q log p(x_j | z_j) - beta KL[q(z_j | x_j) || N(0, I)]

    Source: Higgins et al. 2017 (ICLR), Eq. 4. `.elbo` stays the true bound, `.objective` carries beta. For a Gaussian likelihood
    beta is the same as a likelihood variance beta times as large (up to the scale of the loss); the paper of SimVAE uses a VAE
    with variance 0.02 under this name.
    """

    source = "Higgins et al. 2017, ICLR, Eq. 4"
    collapses = "large beta: q(z | x) becomes the prior, dimension by dimension"

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, likelihood_scale: float = 1.0, *, beta: float = 4.0, **rest: Any
    ) -> None:
        if not beta >= 0:
            raise SettingsError(f"BetaVAE: beta = {beta}, expected a number of at least 0")
        if rest.get("objective") is None:
            rest["objective"] = Objective(entropy=beta * PosteriorEntropy(), prior=beta * LogPrior())
        super().__init__(encoder, decoder, likelihood_scale, **rest)
        self.beta = beta

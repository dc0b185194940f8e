"""CR-VAE: a VAE on views whose posteriors are asked to agree."""

from __future__ import annotations

from typing import Any

from genssl.models.vae import VAE
from torch import nn

from genssl.objective import Objective
from genssl.terms import ConsistencyKL, LogPrior


class CRVAE(VAE):
    r"""The VAE, z_j ~ N(0, I) and x_j | z_j for every view on its own, with the posteriors of a group's views held together.

        sum_j ELBO(x_j) - consistency (J / 2) mean_{i != j} KL[q(z_i | x_i) || q(z_j | x_j)]

    Generative story and guide are the VAE's: content is not in the model, only in the regulariser, which fills the prior slot beside
    log p(z) (genssl.terms.ConsistencyKL). It is at most 0, so the sum is still a lower bound on sum_j log p(x_j), looser than the
    VAE's by the regulariser.

    Source: Sinha and Dieng 2021 (NeurIPS, arXiv:2105.14859): ELBO(x) + ELBO(x~) - lambda KL[q(z | x~) || q(z | x)], their lambda
    1e-3; the comparison of Bizeul et al. 2024 uses 0.1 on two views, as here. Theirs has one direction, from the augmentation
    to the item; both of these views are augmentations, so both directions are averaged. With one view a group there is no pair, and it is
    the VAE.

    Args:
        consistency: lambda, at least 0; 0 is the VAE.  The rest: VAE.
    """

    source = "Sinha and Dieng 2021, NeurIPS, arXiv:2105.14859"
    collapses = "large consistency: all posteriors become one; large likelihood_scale: q(z | x) becomes the prior"
    defaults = {
        "digits": {"num_views": 2, "batch_size": 128, "lr": 1e-3, "epochs": 200},
        "": {"num_views": 2, "batch_size": 128, "lr": 1e-3, "epochs": 50},
    }

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood_scale: float = 1.0,
        *,
        consistency: float = 0.1,
        **rest: Any,
    ) -> None:
        if rest.get("objective") is None:
            rest["objective"] = Objective(prior=LogPrior() + ConsistencyKL(consistency))
        super().__init__(encoder, decoder, likelihood_scale, **rest)
        self.consistency = float(consistency)

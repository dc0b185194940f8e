"""SimVAE: the generative model of self-supervised learning, fitted as it stands."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
from genssl.models.method import GenerativeMethod, Preset
from torch import Tensor, nn

from genssl.distributions import GroupNormal, GroupPosterior
from genssl.groups import Groups
from genssl.objective import Objective


class SimVAE(GenerativeMethod):
    r"""y -> z_j -> x_j with y integrated out; a factorised guide; the three terms of the ELBO.

        p(z_1..z_J) = integral p(y) prod_j N(z_j; y, view_scale^2 I) dy,     p(x_j | z_j) = N(decoder(z_j), likelihood_scale^2 I)
        log p(x_1..x_J) >= sum_j E_q log p(x_j | z_j) + sum_j H[q(z_j | x_j)] + E_q log p(z_1..z_J)

    Source: Bizeul, Schoelkopf, Allen 2024 (arXiv:2402.01399, TMLR), Eq. 4 and 9, Algorithm 1. Flat p(y) (content_scale=None) is
    the paper's; it gives no log p(x) and no prior draws. content_scale gives N(0, content_scale^2 I), which does both.

    The prior pinches the views of a group together, the likelihood keeps what tells them apart; J = 1 with flat p(y) has no prior
    at all. The bound is loose since q(z_j | x_j) ignores the other views. With a large likelihood_scale the decoder is ignored
    and every representation collapses towards its group's mean.

    Args:
        view_scale: standard deviation of z_j around y.  content_scale: standard deviation of y, None for flat p(y).
        likelihood_weight: of log p(x | z); the sum of the terms is a bound on log p(x) at 1 alone.
        objective: the slots; default the plain ELBO with analytic entropy.  The rest: GenerativeMethod.
    """

    source = "Bizeul, Schoelkopf, Allen 2024, arXiv:2402.01399, Eq. 4 and 9"
    collapses = "large likelihood_scale, or a decoder that is ignored: the prior then pinches everything together"
    defaults = {
        "digits": {"num_views": 4, "batch_size": 128, "lr": 1e-3, "epochs": 200},
        "": {"num_views": 10, "batch_size": 128, "lr": 1e-3, "epochs": 50},
    }

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        view_scale: float,
        likelihood_scale: float,
        content_scale: float | None = None,
        *,
        likelihood: nn.Module | None = None,
        likelihood_weight: float = 1.0,
        dim: int | None = None,
        objective: Objective | None = None,
        group_guide: nn.Module | None = None,
    ) -> None:
        super().__init__(
            encoder, decoder, likelihood_scale=likelihood_scale, likelihood=likelihood, dim=dim, group_guide=group_guide
        )
        self.view_scale, self.content_scale = view_scale, content_scale
        self.likelihood_weight = float(likelihood_weight)
        self.objective = Objective() if objective is None else objective

    def model(self, groups: Groups) -> None:
        """JOINT layout: z [G, J, D] with y integrated out; x from z."""
        with groups.plate:
            z = pyro.sample("z", self.prior(groups))
            with pyro.poutine.scale(scale=self.likelihood_weight):
                self.observe(z, groups)

    def prior(self, groups: Groups) -> GroupNormal:
        """p(z_1..z_J) for these groups, event (J, D)."""
        return GroupNormal(self.view_scale, groups.num_views, self.dim, self.content_scale, groups.mask)

    def content(self, groups: Groups) -> Any:
        r"""q(y | x_1..x_J) = E_q p(y | z_1..z_J), a Normal in closed form: batch [G], event [D].

        p(y | z) = N(a zbar, v I), so q(y | x) = N(a locbar, v + a^2 sum_j scale_j^2 / n^2). Under a product of experts views count by
        how sure they are (`GroupPosterior.content`).
        """
        posterior = self.joint(groups)
        if isinstance(posterior, GroupPosterior):
            return posterior.content()
        given_z = self.prior(groups).content_posterior(posterior.mean)
        count = groups.count.unsqueeze(-1).to(posterior.mean.dtype)
        gain = 1.0 if self.content_scale is None else 1 / (1 + self.view_scale**2 / (count * self.content_scale**2))
        variance = posterior.variance
        variance = variance if groups.mask is None else variance * groups.mask.unsqueeze(-1)
        spread = gain**2 * variance.sum(-2) / count**2
        return dist.Normal(given_z.mean, (given_z.variance + spread).sqrt()).to_event(1)

    def next_view(self, z: Tensor) -> Any:
        """p(z_{J+1} | z_1..z_J), z [..., J, D]: another representation of the same content."""
        return GroupNormal(self.view_scale, z.shape[-2], z.shape[-1], self.content_scale).next_view(z)

    @classmethod
    def build(
        cls, example: Groups, *, view_scale: float = 0.15**0.5, content_scale: float | None = None, **settings: Any
    ) -> SimVAE:
        return super().build(example, view_scale=view_scale, content_scale=content_scale, **settings)

    @classmethod
    def paper(cls) -> Preset:
        """The paper's settings: variances 0.15 and 0.02, flat p(y), J = 10, 128 views a batch (12 groups of 10 is 120)."""
        return Preset(
            settings={"view_scale": math.sqrt(0.15), "likelihood_scale": math.sqrt(0.02), "content_scale": None},
            fit={"num_views": 10, "batch_size": 12, "lr": 8e-5, "epochs": 400},
        )

    @classmethod
    def released_code(cls) -> Preset:
        """What the released code does on MNIST and FashionMNIST, as far as it is sound: cross-entropy divided by exp(-4.6), Gaussian
        p(y), J = 2, 64 groups a batch.

        Two things differ on purpose. Its plug-in p(zbar) (coefficient 1/2 of ||zbar||^2) is replaced by the exact marginal
        (0.465 at J = 2). The factor 2 pi in the entropy of its last commits is a fault (optimal posterior variances 2 pi times too
        large) and is not reproduced.
        """
        return Preset(
            settings={
                "view_scale": math.sqrt(0.15),
                "content_scale": 1.0,
                "likelihood": "bernoulli",
                "likelihood_weight": math.exp(4.6),
            },
            fit={"num_views": 2, "batch_size": 64, "lr": 8e-5, "epochs": 400},
        )

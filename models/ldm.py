"""Latent distribution matching: the aggregate of representations is fitted to a latent model, without a decoder."""

from __future__ import annotations

from typing import Any, Self

import pyro
from genssl.models.discriminative import DiscriminativeMethod, mlp_head
from torch import nn

from genssl.distributions import GroupNormal
from genssl.groups import Groups
from genssl.networks import output_size
from genssl.objective import Objective
from genssl.terms import Constant, LogDeterminantEntropy, LogPrior, Term


class LDM(DiscriminativeMethod):
    r"""SimVAE's prior over a group, and the entropy of the batch in place of the likelihood: -KL[aggregate || model].

        objective = H[z_1..z_J]  + 0  + E log p(z_1..z_J),       p = GroupNormal(view_scale, content_scale)

    Source: latent distribution matching (arXiv:2605.03517), Eq. 5; with mi_weight 1 in the entropy term, Eq. 6. c = 1. Any latent model and
    any estimator: give `prior` (a term, in place of log p of the GroupNormal) and `reconstruction` (an AggregateEntropy). On the sphere
    CosineAttraction(2 / beta) at two views is its von Mises-Fisher law of concentration beta, and SphericalEntropy(temperature=1 / kappa) a
    kernel entropy with kernels of concentration kappa; by command: --reconstruction SphericalEntropy --prior CosineAttraction.

    The joint form keeps the spread of views that the model has: its optimum is E(z - z')^2 = 2 view_scale^2 and var z = content_scale^2 +
    view_scale^2 per dimension. The form with mutual information drives E(z - z')^2 to 0. Flat p(y) (content_scale=None) has no
    optimum: the scale of z grows without end.

    Args:
        view_scale, content_scale: standard deviations of z_j around y, and of y.  dim: size of z, where the head does not say.
        reconstruction: the entropy, default the joint log-determinant (`build` takes its mi_weight and shrinkage); by
            command --reconstruction NearestNeighbourEntropy, KernelDensityEntropy.  prior: default log p of the GroupNormal.
    """

    source = "Latent distribution matching, arXiv:2605.03517, Eq. 5 and 6"
    collapses = (
        "estimators that fail with near-equal views, or fewer groups in a batch than J D, D the size of z after the head; flat p(y): z "
        "diverges"
    )

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module | None = None,
        *,
        view_scale: float = 0.15**0.5,
        content_scale: float | None = 1.0,
        reconstruction: Term | None = None,
        prior: Term | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__(encoder, head)
        self.view_scale, self.content_scale = view_scale, content_scale
        self.dim = output_size(self.encoder, self.head, dim=dim)
        entropy = LogDeterminantEntropy() if reconstruction is None else reconstruction
        self.objective = Objective(entropy, Constant(), LogPrior() if prior is None else prior)

    def model(self, groups: Groups) -> None:
        """JOINT layout: z [G, J, D'] with y integrated out, and no x: nothing is generated."""
        with groups.plate:
            pyro.sample("z", GroupNormal(self.view_scale, groups.num_views, self.dim, self.content_scale, groups.mask))

    @classmethod
    def _assemble(
        cls,
        encoder: nn.Module,
        dim: int,
        head: tuple[int, ...],
        example: Groups,
        *,
        mi_weight: float = 0.0,
        shrinkage: float = 1e-3,
        **settings: Any,
    ) -> Self:
        settings.setdefault("reconstruction", LogDeterminantEntropy(mi_weight, shrinkage))
        return cls(encoder, mlp_head(dim, head), **settings)

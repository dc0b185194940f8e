"""InfoNCE: which view of the batch belongs to this one, by a bilinear score."""

from __future__ import annotations

from typing import Any, Self

import pyro
from genssl.models.discriminative import DiscriminativeMethod
from torch import nn

from genssl.groups import Groups
from genssl.networks import output_size
from genssl.objective import Objective
from genssl.terms import Constant, ProductAttraction, ProductNormaliser


class InfoNCE(DiscriminativeMethod):
    r"""The contrastive predictive coding loss: a log-bilinear critic of two views, and the other groups' views as negatives.

        objective = - sum_i mean_{j != i} log sum_g' exp(z_i' W z_j(g'))  + 0  + sum_i mean_{j != i} z_i' W z_j,    W z = z_predicted

    Source: van den Oord, Li, Vinyals 2018 (arXiv:1807.03748), Eq. 3 and 4 with views in place of past and future. c = J: -mean(elbo) is J
    times the mean loss over ordered pairs; log G minus that mean is a lower bound on I[z_i; z_j], never above log G. The score is
    not bounded, so with a flexible encoder it reaches that cap and says no more.

    Args:
        predictor: W, [N, D'] -> [N, D'], None for the identity.
    """

    source = "van den Oord, Li, Vinyals 2018, arXiv:1807.03748, Eq. 4"
    collapses = "not while the batch has other groups; its bound saturates at log G"

    predictor: nn.Module

    def __init__(self, encoder: nn.Module, head: nn.Module | None = None, predictor: nn.Module | None = None) -> None:
        super().__init__(encoder, head)
        self.predictor = nn.Identity() if predictor is None else predictor
        self.objective = Objective(ProductNormaliser("z_predicted"), Constant(), ProductAttraction("z_predicted"))

    def guide(self, groups: Groups) -> None:
        """z and W z = z_predicted: [G, J, D'] each."""
        with groups.plate:
            z = pyro.sample("z", self.delta(self.views(groups)))
            pyro.sample("z_predicted", self.delta(groups.unpack(self.predictor(groups.pack(z)))))

    @classmethod
    def _assemble(cls, encoder: nn.Module, dim: int, head: tuple[int, ...], example: Groups, **settings: Any) -> Self:
        method = super()._assemble(encoder, dim, head, example, **settings)
        width = output_size(method.encoder, method.head)
        method.predictor = nn.Linear(width, width, bias=False)
        return method

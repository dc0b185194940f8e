"""SimSiam: predict another view's representation, with its gradient stopped."""

from __future__ import annotations

from typing import Any, Self

import pyro
from genssl.models.discriminative import DiscriminativeMethod, mlp_head
from torch import nn

from genssl.groups import Groups
from genssl.objective import Objective
from genssl.terms import Constant, PredictorAttraction, StopGradient


class SimSiam(DiscriminativeMethod):
    r"""BYOL without the slow network: the target is z itself, detached.

        objective = 0 (stopped gradient)  + 0  + [ cos(p_1, z_2) + cos(p_2, z_1) ] / 2,    p = predictor(z)

    Source: Chen and He 2021 (CVPR, arXiv:2011.10566), Eq. 1 and 2, c = 1; J > 2: mean over pairs of views. A von Mises-Fisher law around
    the predictor's output. It does not separate: the stopped gradient takes the repulsion's place, and has no value.

    Args:
        predictor: [N, D'] -> [N, D'], with a bottleneck; None for the identity (which collapses).
    """

    source = "Chen and He 2021, CVPR, arXiv:2011.10566, Eq. 1 and 2"
    collapses = "without predictor or without the stopped gradient; often without BatchNorm at the end of the head"

    predictor: nn.Module

    def __init__(self, encoder: nn.Module, head: nn.Module | None = None, predictor: nn.Module | None = None) -> None:
        super().__init__(encoder, head)
        self.predictor = nn.Identity() if predictor is None else predictor
        self.objective = Objective(StopGradient(), Constant(), PredictorAttraction("cosine"))

    def guide(self, groups: Groups) -> None:
        """z after the head, z_predicted after the predictor: [G, J, D'] each."""
        with groups.plate:
            z = pyro.sample("z", self.delta(self.views(groups)))
            pyro.sample("z_predicted", self.delta(groups.unpack(self.predictor(groups.pack(z)))))

    @classmethod
    def _assemble(cls, encoder: nn.Module, dim: int, head: tuple[int, ...], example: Groups, **settings: Any) -> Self:
        width = head[-1] if head else dim
        settings.setdefault(
            "predictor", mlp_head(width, (max(width // 4, 8), width))
        )  # None: the identity, which collapses
        return cls(encoder, mlp_head(dim, head, final_norm=True), **settings)

"""BYOL: predict the slow network's view of another augmentation."""

from __future__ import annotations

from typing import Any, Self

import pyro
from genssl.models.discriminative import DiscriminativeMethod, mlp_head
from torch import nn

from genssl.groups import Groups
from genssl.networks.momentum import Momentum
from genssl.objective import Objective
from genssl.terms import Constant, PredictorAttraction, StopGradient


class BYOL(DiscriminativeMethod):
    r"""A predictor's output for one view is drawn to the target network's output for another; nothing is pushed apart.

        objective = 0 (stopped gradient)  + 0  - [ || phat_1 - that_2 ||^2 + || phat_2 - that_1 ||^2 ],   p = predictor(z), t = z_target

    Source: Grill et al. 2020 (NeurIPS, arXiv:2006.07733), Eq. 2 and the mirrored loss, c = 1; J > 2: mean over pairs of views. The
    momentum is constant here, where they raise it to 1 over training. It does not separate: the stopped gradient, the slow target and the
    predictor together take the repulsion's place, and have no value.

    Args:
        predictor: [N, D'] -> [N, D'], None for the identity (which collapses).  momentum: of the target's moving average.
    """

    source = "Grill et al. 2020, NeurIPS, arXiv:2006.07733, Eq. 2"
    collapses = "without predictor, or without BatchNorm in the heads unless weights are scaled with care"

    predictor: nn.Module

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module | None = None,
        predictor: nn.Module | None = None,
        *,
        momentum: float = 0.99,
    ) -> None:
        super().__init__(encoder, head)
        self.predictor = nn.Identity() if predictor is None else predictor
        self.target = Momentum(self.encoder, self.head, momentum=momentum)
        self.objective = Objective(StopGradient(), Constant(), PredictorAttraction("distance"))

    def guide(self, groups: Groups) -> None:
        """z after the head, z_predicted after the predictor, z_target from the slow network: [G, J, D'] each."""
        with groups.plate:
            z = pyro.sample("z", self.delta(self.views(groups)))
            pyro.sample("z_predicted", self.delta(groups.unpack(self.predictor(groups.pack(z)))))
            pyro.sample("z_target", self.delta(groups.map(self.target)))

    def update(self) -> None:
        """Move the target towards the encoder."""
        self.target.update(self.encoder, self.head)

    @classmethod
    def _assemble(cls, encoder: nn.Module, dim: int, head: tuple[int, ...], example: Groups, **settings: Any) -> Self:
        width = head[-1] if head else dim
        settings.setdefault("predictor", mlp_head(width, (256, width)))  # None: the identity, which collapses
        return cls(encoder, mlp_head(dim, head), **settings)

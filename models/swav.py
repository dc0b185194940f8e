"""SwAV: predict the cluster of one view from another, with clusters of equal size."""

from __future__ import annotations

import pyro
import torch
from genssl.models.discriminative import DiscriminativeMethod
from torch import Tensor, nn

from genssl import distributed
from genssl.groups import Groups
from genssl.networks import output_size
from genssl.objective import Objective
from genssl.terms import AssignmentAttraction, Constant, TargetTransform, sinkhorn, unit


class Prototypes(nn.Module):
    """Cosines with K learned directions: z [..., D] -> [..., K]."""

    def __init__(self, num_prototypes: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_prototypes, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.copy_(unit(torch.randn_like(self.weight)))

    def forward(self, z: Tensor) -> Tensor:
        return unit(z) @ unit(self.weight).T


class SwAV(DiscriminativeMethod):
    r"""Codes of one view from the prototype scores of the other; codes come from Sinkhorn-Knopp, which fills all clusters alike.

        objective = 0 (a target transform)  + 0  + sum_k q_2k log p_1k + sum_k q_1k log p_2k
        s = z . c / |z| |c| = z_predicted,   p = softmax(s / temperature),   q = sinkhorn(s / epsilon) = z_target, view by view

    Source: Caron et al. 2020 (NeurIPS, arXiv:2006.09882), Eq. 1 to 5, c = 1; the pseudo-code halves the sum. J > 2: mean over pairs, every
    view both gives and takes codes. There are no small crops and no queue, so the batch should hold more groups than
    there are prototypes. It does not separate: equal shares, in how z_target is made, take the repulsion's place.

    Args:
        num_prototypes: K.  temperature: of the prediction.  sinkhorn_epsilon, sinkhorn_steps: of the codes.  dim: of z after the head.
    """

    networks = ("encoder", "head")
    source = "Caron et al. 2020, NeurIPS, arXiv:2006.09882, Eq. 1 to 5"
    collapses = "batches with fewer groups than prototypes; large sinkhorn_epsilon makes codes uniform"

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module | None = None,
        *,
        num_prototypes: int = 64,
        temperature: float = 0.1,
        sinkhorn_epsilon: float = 0.05,
        sinkhorn_steps: int = 3,
        dim: int | None = None,
    ) -> None:
        super().__init__(encoder, head)
        self.prototypes = Prototypes(num_prototypes, output_size(self.encoder, self.head, dim=dim))
        self.sinkhorn_epsilon, self.sinkhorn_steps = sinkhorn_epsilon, sinkhorn_steps
        self.objective = Objective(TargetTransform(), Constant(), AssignmentAttraction(temperature, site="z_predicted"))

    def guide(self, groups: Groups) -> None:
        """z [G, J, D'], its scores z_predicted and the codes z_target [G, J, K]."""
        with groups.plate:
            z = pyro.sample("z", self.delta(self.views(groups)))
            scores = pyro.sample("z_predicted", self.delta(self.prototypes(z)))
            pyro.sample("z_target", self.delta(distributed.over_all(self.codes, scores.detach(), groups.valid)))

    def codes(self, scores: Tensor, valid: Tensor) -> Tensor:
        """[G, J, K] assignments of equal shares over the groups of the whole batch, view by view."""
        by_view, exists = scores.transpose(0, 1), valid.transpose(0, 1)
        return sinkhorn(by_view, self.sinkhorn_epsilon, self.sinkhorn_steps, exists).transpose(0, 1)

"""DINO: match the slow network's centred and sharpened assignment of another view."""

from __future__ import annotations

from typing import Any, Self

import pyro
from genssl.models.discriminative import DiscriminativeMethod, mlp_head
from torch import nn

from genssl.groups import Groups
from genssl.networks import output_size
from genssl.networks.momentum import Momentum
from genssl.objective import Objective
from genssl.terms import AssignmentAttraction, Centring, Constant, TargetTransform


class DINO(DiscriminativeMethod):
    r"""Self-distillation: the student's softmax over K outputs is to be the teacher's for the other view.

        objective = 0 (a target transform)  + 0  + sum_k q_2k log p_1k + sum_k q_1k log p_2k
        p = softmax(z / student_temperature),   q = softmax((teacher(x) - centre) / teacher_temperature) = z_target

    Source: Caron et al. 2021 (ICCV, arXiv:2104.14294), Eq. 1 to 4 with two global views, c = 1; the pseudo-code halves the sum. J > 2: mean
    over pairs. There are no local crops, and momentum and temperatures are constant. It does not separate: centring and
    sharpening, in how z_target is made, keep assignments from one output and from uniform; they have no value.

    Args:
        head: its K outputs are the logits.  center_momentum: of the centre.  momentum: of the teacher.
    """

    source = "Caron et al. 2021, ICCV, arXiv:2104.14294, Eq. 1 to 4"
    collapses = "no centring: to one output; no sharpening (teacher_temperature too high): to uniform"

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module | None = None,
        *,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        center_momentum: float = 0.9,
        momentum: float = 0.99,
        dim: int | None = None,
    ) -> None:
        super().__init__(encoder, head)
        size = output_size(self.encoder, self.head, dim=dim)
        self.target = Momentum(self.encoder, self.head, momentum=momentum)
        self.centring = Centring(size, teacher_temperature, center_momentum)
        self.objective = Objective(TargetTransform(), Constant(), AssignmentAttraction(student_temperature))

    def guide(self, groups: Groups) -> None:
        """z, the student's logits, and z_target, the teacher's assignment: [G, J, K] each."""
        with groups.plate:
            pyro.sample("z", self.delta(self.views(groups)))
            teacher = self.centring(groups.map(self.target), groups.valid)
            pyro.sample("z_target", self.delta(teacher))

    def update(self) -> None:
        """Move the teacher towards the student, and the centre towards the teacher's mean."""
        self.target.update(self.encoder, self.head)
        self.centring.update()

    @classmethod
    def _assemble(
        cls,
        encoder: nn.Module,
        dim: int,
        head: tuple[int, ...],
        example: Groups,
        *,
        num_outputs: int = 256,
        **settings: Any,
    ) -> Self:
        return cls(encoder, mlp_head(dim, (*head, num_outputs)), **settings)

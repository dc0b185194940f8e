"""Instance discrimination: every group is a class of its own."""

from __future__ import annotations

from typing import Any, Self

from genssl.models.discriminative import DiscriminativeMethod, mlp_head
from torch import nn

from genssl.groups import Groups
from genssl.networks import output_size
from genssl.objective import Objective
from genssl.terms import ClassNormaliser, ClassScore, Constant, Instances


class InstanceDiscrimination(DiscriminativeMethod):
    r"""Classification of every view into the N groups of the training set, by a vector w_y of each.

        objective = - sum_j log sum_k exp(cos(z_j, w_k) / t)  + 0  + sum_j cos(z_j, w_y) / t  = sum_j log p(y | z_j)

    Sources: Dosovitskiy et al. 2014 (NeurIPS, arXiv:1406.6909), vectors as parameters; Wu et al. 2018 (CVPR, arXiv:1805.01978), Eq. 2,
    vectors as a memory bank of what the encoder gave (bank=True); Bizeul et al. 2024, Eq. 6 and 7, as a bound on log p(y | x). c = J:
    -mean(elbo) is J times the mean cross-entropy over views. The normaliser is over all N, not sampled: N products a view.

    It keeps what tells every group from every other and, by the shared vector, drops what views differ in. With far more
    dimensions than needed, groups are told apart without any two alike ones coming close.

    Args:
        num_instances: N, the number of training groups.  temperature: t.
        bank: whether w is a memory bank, of momentum `bank_momentum`.
    """

    source = "Dosovitskiy et al. 2014, arXiv:1406.6909; Wu et al. 2018, arXiv:1805.01978, Eq. 2"
    collapses = "not while groups differ; a bank that is rarely visited is stale"

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module | None = None,
        *,
        num_instances: int,
        temperature: float = 0.07,
        bank: bool = False,
        bank_momentum: float = 0.5,
        dim: int | None = None,
    ) -> None:
        super().__init__(encoder, head)
        size = output_size(self.encoder, self.head, dim=dim)
        classes = Instances(num_instances, size, temperature, bank, bank_momentum)
        self.objective = Objective(ClassNormaliser(classes), Constant(), ClassScore(classes))

    @classmethod
    def _assemble(cls, encoder: nn.Module, dim: int, head: tuple[int, ...], example: Groups, **settings: Any) -> Self:
        settings.setdefault("num_instances", example.total)
        return cls(encoder, mlp_head(dim, head), **settings)

"""MoCo: contrast with a queue of keys from a slow encoder."""

from __future__ import annotations

from typing import Any, Self

import pyro
from genssl.models.discriminative import DiscriminativeMethod
from torch import nn

from genssl.groups import Groups
from genssl.networks import output_size
from genssl.networks.momentum import Momentum
from genssl.objective import Objective
from genssl.terms import Constant, CosineAttraction, QueueNormaliser


class MoCo(DiscriminativeMethod):
    r"""SimCLR with negatives from earlier batches, and positives from a moving average of the encoder.

        objective = - sum_i mean_{j != i} log[exp(q_i k_j / t) + sum_{n in queue} exp(q_i n / t)]
                    + 0 + sum_i mean_{j != i} q_i k_j / t,           q = z, k = z_target, normalised

    Source: He et al. 2020 (CVPR, arXiv:1911.05722), Eq. 1 and 2; head and augmentation of v2 (arXiv:2003.04297). c = J: -mean(elbo) is J
    times the mean over queries; every view is a query here, as in v3, where v1 and v2 take the first view alone. Keys enter the
    queue after the step. There is no shuffled BatchNorm: on one device the head's BatchNorm can leak which views belong together.

    Args:
        temperature: t.  momentum: of the moving average.  queue_size: number of keys kept. More than the
            training set has views, and a group meets its own older keys as negatives: `build` takes at most half as many as groups.
        dim: size of what the head gives, where it cannot be read off its last layer.
    """

    source = "He et al. 2020, CVPR, arXiv:1911.05722, Eq. 1 and 2"
    collapses = "not while the queue holds other groups; a target that moves too fast makes its keys inconsistent"

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module | None = None,
        *,
        temperature: float = 0.2,
        momentum: float = 0.99,
        queue_size: int = 4096,
        dim: int | None = None,
    ) -> None:
        super().__init__(encoder, head)
        dim = output_size(self.encoder, self.head, dim=dim)
        self.target = Momentum(self.encoder, self.head, momentum=momentum)
        self.objective = Objective(
            QueueNormaliser(temperature, queue_size, dim), Constant(), CosineAttraction(temperature, target="z_target")
        )

    def guide(self, groups: Groups) -> None:
        """z, the queries, and z_target, the keys: [G, J, D'] each."""
        with groups.plate:
            pyro.sample("z", self.delta(self.views(groups)))
            pyro.sample("z_target", self.delta(groups.map(self.target)))

    def update(self) -> None:
        """Move the target towards the encoder."""
        self.target.update(self.encoder, self.head)

    @classmethod
    def _assemble(cls, encoder: nn.Module, dim: int, head: tuple[int, ...], example: Groups, **settings: Any) -> Self:
        settings.setdefault("queue_size", min(4096, max(1, example.total // 2)))
        return super()._assemble(encoder, dim, head, example, **settings)

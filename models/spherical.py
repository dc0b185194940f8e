"""What methods with posteriors on the sphere share: a direction and a concentration from one network."""

from __future__ import annotations

import math
from typing import Any

import torch
from genssl.models.discriminative import DiscriminativeMethod
from torch import Tensor, nn

from genssl.distributions import at_least_float32
from genssl.groups import Groups

LARGEST = 1e4


class SphericalMethod(DiscriminativeMethod):
    """A guide q(z | x) on the unit sphere in R^D: encoder and head give D + 1 numbers, a direction and log(k / concentration_start),
    up to the bound: k = 1e4 takes its place smoothly.

    `encode` is this distribution where there is no head (the default of `build`), so that the representation carries its certainty; with a
    head it is the encoder's output, before the head, as everywhere. `project` gives the direction times k.
    """

    guide_family = "sphere"
    default_head = ()
    extra_outputs = 1
    family: Any

    def __init__(self, encoder: nn.Module, head: nn.Module | None = None, *, concentration_start: float = 16.0) -> None:
        super().__init__(encoder, head)
        self.concentration_start = float(concentration_start)

    def posterior(self, output: Tensor) -> Any:
        """The spherical law of every view from encoder and head, output [..., D + 1]: batch [...], event [D]."""
        output = at_least_float32(output)
        # 1 / k = 1 / k' + 1 / LARGEST: a bound that k can be brought back from, as from a hard one it cannot.
        concentration = LARGEST * torch.sigmoid(output[..., -1] + math.log(self.concentration_start / LARGEST))
        return self.family(output[..., :-1], concentration, validate_args=False)

    def views_posterior(self, groups: Groups) -> Any:
        """The law of every view of the groups: batch [G, J], masked where views are padded."""
        law = self.posterior(self.views(groups))
        return law if groups.mask is None else law.mask(groups.mask)

    def encode(self, x: Tensor) -> Any:
        if not isinstance(self.head, nn.Identity):
            return super().encode(x)
        return self.posterior(self._leading(self.encoder, x))

    def project(self, x: Tensor) -> Tensor:
        law = self.posterior(super().project(x))
        return law.loc * law.concentration.unsqueeze(-1)

"""Views of feature vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genssl.errors import SettingsError


@dataclass(frozen=True)
class CorruptFeatures:
    """Views of features: each value is, with probability `rate`, that of a random row of the batch in the same column.

    SCARF's random feature corruption (Bahri et al. 2022, arXiv:2106.15147) with every view corrupted, at a lower rate than its 0.6 for
    one of two. Columns keep their marginal laws, so that nothing depends on their scale. A batch of one row stays as it is. Where
    neighbouring columns say the same (pixels, spectra), views are noisier than any real row: give views of your own.
    SettingsError: rate is no probability.
    """

    rate: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise SettingsError(f"CorruptFeatures: rate = {self.rate}, expected a probability; such as 0.2")

    def __call__(self, x: Tensor, index: Tensor | None, generator: torch.Generator) -> Tensor:
        """One view [B, *event] of x [B, *event]."""
        place, flat = generator.device, x.flatten(1)
        rows = torch.randint(len(flat), flat.shape, generator=generator, device=place).to(x.device)
        swapped = (torch.rand(flat.shape, generator=generator, device=place) < self.rate).to(x.device)
        return torch.where(swapped, flat.gather(0, rows), flat).view_as(x)

"""Barlow Twins: the correlation of two views over the batch is the identity."""

from __future__ import annotations

from genssl.models.discriminative import DiscriminativeMethod
from torch import nn

from genssl.objective import Objective
from genssl.terms import Constant, DiagonalCorrelation, OffDiagonalCorrelation


class BarlowTwins(DiscriminativeMethod):
    r"""Same dimension, two views: correlation 1. Two dimensions: correlation 0.

        objective = - off_diagonal sum_{d != d'} C_dd'^2  + 0  - sum_d (1 - C_dd)^2

    Source: Zbontar et al. 2021 (ICML, arXiv:2103.03230), Eq. 1, c = 1; J > 2: mean over pairs of views. C is over the groups of the
    batch, so small batches (below about 128) make it noisy, and scale and mean of z are free.

    Args:
        off_diagonal: lambda, 0.0051 in the paper.
    """

    source = "Zbontar et al. 2021, ICML, arXiv:2103.03230, Eq. 1"
    collapses = "small off_diagonal: dimensions become copies of each other"

    def __init__(self, encoder: nn.Module, head: nn.Module | None = None, *, off_diagonal: float = 0.0051) -> None:
        super().__init__(encoder, head)
        self.objective = Objective(OffDiagonalCorrelation(off_diagonal), Constant(), DiagonalCorrelation())

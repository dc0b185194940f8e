"""W-MSE: whitened representations of two views are close."""

from __future__ import annotations

from genssl.models.discriminative import DiscriminativeMethod
from torch import nn

from genssl.objective import Objective
from genssl.terms import Constant, Constraint, WhitenedAttraction


class WMSE(DiscriminativeMethod):
    r"""Whitening fixes the covariance over the batch to I, and views are drawn together within that.

        objective = 0 (a constraint, not a term)  + 0  - mean over pairs (2 - 2 cos(w_i, w_j)),   w = L^-1 (z - mean), L L^T = Cov(z)

    Source: Ermolov et al. 2021 (ICML, arXiv:2007.06346), Eq. 3 to 6, c = 1. It does not separate into attraction and repulsion: what
    holds representations apart is the whitening inside the attraction. The whole batch is one slice, where they cut it into slices of
    2 D and average over shuffles. The batch must have clearly more groups than D', or whitening fits its noise.

    Args:
        shrinkage: (1 - shrinkage) Cov + shrinkage I is what is inverted. Above 0, directions of less variance than that are not held.
    """

    source = "Ermolov et al. 2021, ICML, arXiv:2007.06346, Eq. 3 to 6"
    collapses = (
        "shrinkage > 0: directions of less variance drop out; hardly more groups in a batch than dimensions: the covariance of so few is "
        "noise, and noise is whitened"
    )

    def __init__(self, encoder: nn.Module, head: nn.Module | None = None, *, shrinkage: float = 0.0) -> None:
        super().__init__(encoder, head)
        self.objective = Objective(Constraint(), Constant(), WhitenedAttraction(shrinkage))

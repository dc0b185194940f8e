"""VICReg: views agree, every dimension varies, and no two dimensions say the same."""

from __future__ import annotations

from genssl.models.discriminative import DiscriminativeMethod
from torch import nn

from genssl.objective import Objective
from genssl.terms import Constant, SquaredAttraction, VarianceCovariance


class VICReg(DiscriminativeMethod):
    r"""A Gaussian attraction on the plane, and a floor under the spread of the batch.

        objective = - [variance (v(Z) + v(Z')) / 2 + covariance (c(Z) + c(Z'))]  + 0  - invariance mean (z - z')^2

    Source: Bardes, Ponce, LeCun 2022 (ICLR, arXiv:2105.04906), Eq. 1 to 6 in the authors' released form, c = 1; the paper's Eq. 6 has the
    variance term twice as large and sums the squares over D. J > 2: mean over pairs of views. Latent distribution matching
    puts it in one cell with a Gaussian log-determinant (plane, Gaussian, mutual information): hinge and covariance penalty are a
    bound on the spread of each axis, not that log-determinant.

    Args:
        invariance, variance, covariance: the published weights, 25, 25, 1.
    """

    source = "Bardes, Ponce, LeCun 2022, ICLR, arXiv:2105.04906, Eq. 1 to 6, as released"
    collapses = "variance = 0: to a point; covariance = 0: dimensions become copies of each other"

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module | None = None,
        *,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
    ) -> None:
        super().__init__(encoder, head)
        self.objective = Objective(VarianceCovariance(variance, covariance), Constant(), SquaredAttraction(invariance))

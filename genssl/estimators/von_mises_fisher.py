"""The normaliser of the von Mises-Fisher density, in log space."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammaln, ive, logsumexp

from genssl.errors import SettingsError


def log_kernel_integral(dim: int, concentration: float) -> float:
    r"""log integral over S^(D-1) of exp(kappa (m . z - 1)) dz = (D/2) log 2 pi - nu log kappa + log I_nu(kappa) - kappa, nu = D/2 - 1.

    (Mardia and Jupp 2000, Section 9.3; the density is exp(kappa (m . z - 1)) over this.) The factor exp(-kappa) is kept in, so that
    neither it nor the kernel overflows. Its limit at kappa = 0 is the log area of the sphere. Relative error about 1e-12.

    Args: dim: D >= 2.  concentration: 0 < kappa <= 1e9.
    """
    if not 0 < concentration <= 1e9:
        raise SettingsError(
            f"von Mises-Fisher kernel: concentration 1/bandwidth^2 = {concentration:.3g}, expected in (0, 1e9]; give another bandwidth"
        )
    order = dim / 2 - 1
    return 0.5 * dim * math.log(2 * math.pi) - order * math.log(concentration) + _log_ive(order, concentration)


def _log_ive(order: float, x: float) -> float:
    """log(I_order(x) exp(-x)); by its power series where the value itself underflows (many dimensions, small x)."""
    value = float(ive(order, x))
    if value > 1e-290:
        return math.log(value)
    # All terms are positive, so nothing cancels; they fall from m ~ x / 2 on at the latest.
    m = np.arange(int(x) + 100)
    return float(logsumexp((2 * m + order) * math.log(x / 2) - gammaln(m + 1) - gammaln(m + order + 1))) - x

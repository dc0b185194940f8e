"""Gaussian pairs whose information is known: the exact critic and its mutual information."""

from __future__ import annotations

import math

from torch import Tensor

from genssl.errors import SettingsError, ShapeError
from genssl.estimators.rows import inner_products, rows


def gaussian_pair_critic(z: Tensor, z_other: Tensor, rho: float, scale: float = 1.0) -> Tensor:
    r"""f_ij = log p(z_i, z'_j) / p(z_i) p(z'_j), the pointwise mutual information; z [N, D], z' [M, D] -> [N, M], nats.

        f = -(D/2) log(1 - rho^2) - [rho^2 (||z||^2 + ||z'||^2) - 2 rho z . z'] / (2 (1 - rho^2) scale^2)

    for z, z' ~ N(0, scale^2 I) with correlation rho in each dimension and none between dimensions. Two views of a GroupNormal
    are such a pair (Bizeul, Schoelkopf, Allen 2024, arXiv:2402.01399, the joint prior of their A.4): rho = c^2 / (c^2 + s^2),
    scale = sqrt(c^2 + s^2), c = content_scale, s = view_scale. It is the tightest critic of every bound in mutual_information (plus 1 for
    nwj), and the optimum that sim reaches in InfoNCE up to a function of the anchor (their Eq. 12 to 15).

    Args: rho: in (-1, 1).  scale: > 0, standard deviation of each view.
    """
    _check("gaussian_pair_critic", rho)
    if not 0 < scale < math.inf:
        raise SettingsError(f"gaussian_pair_critic: scale = {scale}, expected a positive standard deviation")
    a = rows("gaussian_pair_critic", z).z
    b = rows("gaussian_pair_critic", z_other, name="z_other").z
    if a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"gaussian_pair_critic: z has {a.shape[1]} features and z_other {b.shape[1]}, expected the same dimension"
        )
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    quadratic = rho**2 * norms - 2 * rho * inner_products(a, b)
    return gaussian_mutual_information(rho, a.shape[1]) - quadratic / (2 * (1 - rho**2) * scale**2)


def gaussian_mutual_information(rho: float, dim: int) -> float:
    r"""I[z; z'] = -(D/2) log(1 - rho^2), nats: the mean of gaussian_pair_critic over pairs. rho in (-1, 1), D = dim."""
    _check("gaussian_mutual_information", rho)
    if dim < 1:
        raise SettingsError(f"gaussian_mutual_information: dim = {dim}, expected at least 1")
    return -0.5 * dim * math.log1p(-(rho**2))


def _check(who: str, rho: float) -> None:
    if not -1 < rho < 1:
        raise SettingsError(f"{who}: rho = {rho}, expected a correlation in (-1, 1)")

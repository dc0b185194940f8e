"""Entropy by a kernel density: minus the mean log density of the sample under its own kernels."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from genssl.errors import SettingsError, ShapeError
from genssl.estimators.rows import Rows, inner_products, refuse_simplex, rows
from genssl.estimators.von_mises_fisher import log_kernel_integral


def kde_entropy(
    z: Tensor,
    bandwidth: float,
    kernel: Literal["gaussian", "vmf"] = "gaussian",
    *,
    leave_one_out: bool = True,
    valid: Tensor | None = None,
) -> Tensor:
    r"""H[z] ~ -1/N sum_i log 1/(N-1) sum_{j != i} K(z_i, z_j), z [N, D] -> [], nats, with a normalised kernel K.

        gaussian   K = (2 pi h^2)^(-D/2) exp(-||z_i - z_j||^2 / 2h^2)     on the plane, h = bandwidth
        vmf        K = C_D(1/h^2) exp(z_i . z_j / h^2)                    on the unit sphere, z divided by its norm here

    (Ahmad and Lin 1976; left out: Hall and Morton 1993; as a repulsion: Wang and Isola 2020, latent distribution matching,
    arXiv:2605.03517, Table 1.) The von Mises-Fisher kernel is the Gaussian one restricted to the sphere, with its normaliser over the
    sphere: bandwidth means the same in both, and SimCLR's temperature is bandwidth^2.

    Bias: each left-out density is independent of its point, so the expectation is a cross-entropy, never below the true entropy. For
    N(0, s^2 I) it tends to (D/2) log 2 pi (s^2 + h^2) + D s^2 / 2(s^2 + h^2) as N grows. With leave_one_out=False the sum runs over
    all j, over N (what SimCLR-like denominators do): points see themselves, the value is at most log N - log K(z, z), and for small
    h it says nothing about z. At fixed h the law H(az) = H(z) + D log a fails: the value of a shrinking cloud stops at about -log K(z, z).

    The value rises without limit with the scale of z on the plane, as distance^2 / h^2 once points are isolated. In float32 it loses digits
    where h is below 1e-3 of the spread. A row of zeros has no direction: on the sphere it counts as orthogonal to all.

    Args:
        bandwidth: h > 0, standard deviation of the kernel; a number, in units of z, or of the sphere's radius.
        leave_one_out: False counts the point itself.
        valid: [N] bool; rows that are False enter no sum. With fewer than two rows left the left-out value is not finite.

    O(N^2) memory. Raises SettingsError for the kernel or bandwidth, ShapeError, DataError for z.
    """
    if kernel not in ("gaussian", "vmf"):
        raise SettingsError(f"kde_entropy: kernel = {kernel!r}, expected 'gaussian' or 'vmf'")
    if not isinstance(bandwidth, (int, float)) or not 0 < bandwidth < math.inf:
        raise SettingsError(f"kde_entropy: bandwidth = {bandwidth}, expected a positive standard deviation")
    given = rows("kde_entropy", z, valid, least=2 if leave_one_out else 1)
    log_kernel = _gaussian(given, bandwidth) if kernel == "gaussian" else _von_mises_fisher(given, bandwidth)
    pool = given.others() if leave_one_out else given.valid
    log_sum = log_kernel.masked_fill(~pool, -math.inf).logsumexp(1)
    return (given.number - int(leave_one_out)).log() - given.mean(log_sum)


def _gaussian(given: Rows, bandwidth: float) -> Tensor:
    refuse_simplex("kde_entropy", given, "leave one coordinate out")
    # Distances do not depend on the centre, and as a matrix product they cancel least around the mean.
    z = given.z - (given.z.sum(0) / given.number).detach()
    norm = z.square().sum(1)
    square = norm[:, None] + norm - 2 * inner_products(z, z)
    square = square.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), 0.0)
    return -square / (2 * bandwidth**2) - 0.5 * z.shape[1] * math.log(2 * math.pi * bandwidth**2)


def _von_mises_fisher(given: Rows, bandwidth: float) -> Tensor:
    dim, concentration = given.z.shape[1], 1 / bandwidth**2
    if dim < 2:
        raise ShapeError("kde_entropy: z has 1 feature, expected at least 2 for the sphere; use kernel='gaussian'")
    z = normalize(given.z, dim=1)
    return concentration * (inner_products(z, z) - 1) - log_kernel_integral(dim, concentration)

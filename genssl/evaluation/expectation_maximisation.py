"""Expectation maximisation for Gaussian mixtures with full covariances, many mixtures at once, as matrix products."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

RIDGE = 1e-6
_BLOCK = 2**17  # responsibilities of a block of rows: 1 MB, which stays near the caches, and at most 8 MB of monomials


class Mixtures(NamedTuple):
    """The parameters of R mixtures: weights [R, K], means [R, K, D], covariances [R, K, D, D]."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def of(self, rows: Tensor) -> Mixtures:
        return Mixtures(*(value[rows] for value in self))


def expectation_maximisation(
    points: Tensor, start: Mixtures, tolerance: float, max_iterations: int
) -> tuple[Mixtures, Tensor, Tensor, Tensor]:
    """Steps from start until the mean log-likelihood of points [N, D] moves by less than tolerance, nats a row.

    Returns the mixtures and of each [R]: its mean log-likelihood before the last step, steps, whether it converged. One
    that has converged rests while the others go on. points should have mean 0 and deviations of about 1: the ridge is
    1e-6, and the quadratic forms are expanded in monomials, which loses about |z|^2 / ridge roundings of float64.
    """
    found = Mixtures(*(value.clone() for value in start))
    level = points.new_full((len(start.weights),), -math.inf)
    steps = torch.zeros(len(level), dtype=torch.long, device=points.device)
    active = torch.arange(len(level), device=points.device)
    for _ in range(max_iterations):
        statistics, now = expectation(points, found.of(active))
        for value, new in zip(found, maximisation(statistics, points.shape[1]), strict=True):
            value[active] = new
        moving = (now - level[active]).abs() >= tolerance
        level[active] = now
        steps[active] += 1
        active = active[moving]
        if len(active) == 0:
            break
    converged = torch.ones_like(level, dtype=torch.bool)
    converged[active] = False
    return found, level, steps, converged


def _monomials(z: Tensor) -> Tensor:
    """[1 + D + D (D + 1) / 2, B] of z [B, D]: 1, z_i, z_i z_j for i <= j, in which log N(z; m, S) is linear."""
    i, j = torch.triu_indices(z.shape[1], z.shape[1], device=z.device)
    columns = z.T.contiguous()
    return torch.cat([torch.ones_like(columns[:1]), columns, columns[i] * columns[j]])


def expectation(points: Tensor, mixtures: Mixtures) -> tuple[Tensor, Tensor]:
    """(sums over rows of responsibility times monomials [R, K, number of them], mean log-likelihood [R])."""
    weights, means, covariances = mixtures
    restarts, components, dim = means.shape
    i, j = torch.triu_indices(dim, dim, device=points.device)
    factor = torch.linalg.cholesky(covariances)
    precision = torch.cholesky_inverse(factor)
    linear = (precision @ means[..., None])[..., 0]
    constant = weights.log() - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = constant - 0.5 * ((linear * means).sum(-1) + dim * math.log(2 * math.pi))
    quadratic = -torch.where(i == j, 0.5, 1.0) * precision[..., i, j]
    coefficients = torch.cat([constant[..., None], linear, quadratic], -1).flatten(0, 1)
    sums, level = torch.zeros_like(coefficients), points.new_zeros(restarts)
    for block in points.split(max(64, min(_BLOCK // coefficients.shape[0], 8 * _BLOCK // coefficients.shape[1]))):
        monomials = _monomials(block)
        joint = (coefficients @ monomials).unflatten(0, (restarts, components))  # [R, K, B] log w_k N(z; m_k, S_k)
        top = joint.amax(1, keepdim=True)
        share = (joint - top).exp_()
        total = share.sum(1, keepdim=True)
        level += (top + total.log()).sum((1, 2))
        sums += (share / total).flatten(0, 1) @ monomials.T
    return sums.unflatten(0, (restarts, components)), level / len(points)


def maximisation(sums: Tensor, dim: int) -> Mixtures:
    """The mixtures that make the expected log-likelihood largest, from the sums of `expectation`."""
    number = sums[..., 0] + 10 * torch.finfo(sums.dtype).eps  # a component without rows stays, at the origin
    means = sums[..., 1 : dim + 1] / number[..., None]
    i, j = torch.triu_indices(dim, dim, device=sums.device)
    covariances = sums.new_empty(*number.shape, dim, dim)
    covariances[..., i, j] = sums[..., dim + 1 :] / number[..., None]
    covariances[..., j, i] = covariances[..., i, j]
    # E zz^T - mm^T cancels, which z standardised keeps far below the ridge.
    covariances -= means[..., None] * means[..., None, :]
    covariances.diagonal(dim1=-2, dim2=-1).add_(RIDGE)
    return Mixtures(number / number.sum(-1, keepdim=True), means, covariances)

"""Kernel ridge regression of many targets at once, over a grid of penalties and widths of the kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

ALPHAS = (1.0, 0.1, 0.01, 0.001)
GAMMAS = tuple(torch.logspace(-2, 2, 4, dtype=torch.float64).tolist())
BLOCK = 1024
APART = 1e-12  # a sum of kernel values that is nothing beside the kernel of a point with itself, which is 1

Setting = tuple[float, float]  # gamma, alpha


def grid() -> list[Setting]:
    """Every gamma with every alpha, as von Kuegelgen et al. (2021, arXiv:2106.04619)."""
    return [(gamma, alpha) for gamma in GAMMAS for alpha in ALPHAS]


def kernel_ridge(
    z: Tensor, target: Tensor, asked: Sequence[Tensor], settings: Iterable[Setting]
) -> Iterator[tuple[dict[str, float], list[Tensor]]]:
    """For each setting ({alpha, gamma}, t at each of `asked`), where

        t(z) = b + sum_n a_n exp(-gamma ||z - z_n||^2),   (K + alpha I) a = t - b,   b the mean of the training targets

    z [N, D] and target [N, M] of training in float64; asked: tensors [B, D].

    Time: a Cholesky factor, N^3 / 3, for every setting, which all targets share; none where the kernel is so narrow that no
    point sees another, and K is I. Memory: three N x N matrices.
    """
    mean = target.mean(0)
    squares = torch.cdist(z, z).square_()
    squares.fill_diagonal_(0.0)  # cdist rounds it
    alphas: dict[float, list[float]] = {}
    for gamma, alpha in settings:
        alphas.setdefault(gamma, []).append(alpha)
    for gamma in alphas:
        weights = torch.cat(_weights(squares, gamma, alphas[gamma], target - mean), 1)
        found = [_predicted(points, z, gamma, weights) for points in asked]
        for i, alpha in enumerate(alphas[gamma]):
            columns = slice(i * target.shape[1], (i + 1) * target.shape[1])
            yield {"alpha": alpha, "gamma": gamma}, [each[:, columns] + mean for each in found]


def _weights(squares: Tensor, gamma: float, alphas: Sequence[float], target: Tensor) -> list[Tensor]:
    """a [N, M] for every alpha."""
    kernel = torch.exp(-gamma * squares)
    if float(kernel.sum(1).max()) - 1 < APART:
        return [target / (1 + alpha) for alpha in alphas]
    out = []
    for alpha in alphas:
        kernel.fill_diagonal_(1 + alpha)
        out.append(torch.cholesky_solve(target, torch.linalg.cholesky(kernel)))
    return out


def _predicted(points: Tensor, z: Tensor, gamma: float, weights: Tensor) -> Tensor:
    """[B, M], in blocks of points, so that no matrix is larger than the kernel's own."""
    parts = [torch.exp(torch.cdist(part, z).square_().mul_(-gamma)) @ weights for part in points.split(BLOCK)]
    return torch.cat(parts)

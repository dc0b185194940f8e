"""The geometry of a representation without labels: its rank, its eigenspectrum, and how groups stand apart in it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.estimators.rows import rows
from genssl.evaluation.grouped import grouped, rounding_level


@torch.no_grad()
def effective_rank(z: Tensor) -> float:
    r"""exp H(p), p_k = s_k / sum s, of the singular values s of the CENTRED z [N, D]; in [1, min(D, N - 1)].

    (Roy and Vetterli 2007, there of any matrix.) A number of dimensions: D for an isotropic cloud and many rows, r for one of rank r,
    1 for a line and for a point. Translations, rotations and the scale of z leave it alone, so that it sees neither total collapse
    by itself (a shrinking ball keeps its rank: look at `eigenspectrum`) nor what the dimensions hold; noise has full rank.
    Singular values at the rounding level of z count as 0. Of few rows it is too low: take N of at least 10 D.

    Raises ShapeError, DataError, NonFiniteError on bad z.
    """
    return _exp_entropy(_centred_singular_values("effective_rank", z))


@torch.no_grad()
def rankme(z: Tensor, epsilon: float = 1e-7) -> float:
    r"""RankMe = exp -sum_k p_k log p_k, p_k = s_k / ||s||_1 + epsilon, of the singular values s of z [N, D], NOT centred.

    (Garrido, Balestriero, Najman, LeCun 2023, arXiv:2210.02885, Eq. 1.) As published, with their epsilon of 1e-7, k = 1..min(N, D); copies
    of it take up to 1e-5, which adds about -D epsilon log epsilon in the exponent. A number of dimensions in [1, min(N, D)], up to that:
    1 for rows that are multiples of one vector, above all for a representation collapsed to a point. The mean of z counts as a
    dimension and, where it is long, hides the others: with ||mean|| far above the spread the value is near 1 whatever the cloud looks
    like. Rotations and scale leave it alone, translations do not. The authors take 25600 training images and the output of the
    encoder; the value is comparable between representations of the same D alone.

    Raises ShapeError, DataError, NonFiniteError, SettingsError (epsilon).
    """
    if not 0 <= epsilon < 1:
        raise SettingsError(f"rankme: epsilon = {epsilon}, expected a small number of at least 0, such as 1e-7")
    return _exp_entropy(torch.linalg.svdvals(_points("rankme", z, least=1)), epsilon)


@torch.no_grad()
def eigenspectrum(z: Tensor) -> Tensor:
    r"""[D] the eigenvalues of the covariance of z [N, D], over N - 1, descending, float64, in units of z^2; they sum to the total.

    All 0 at collapse to a point, one above 0 on a line; equal for an isotropic cloud, up to the spread that sampling gives them
    (Marchenko and Pastur 1967: factors (1 -+ sqrt(D/N))^2). Eigenvalues at the rounding level of z, and those beyond N - 1, are 0.

    Raises ShapeError, DataError, NonFiniteError.
    """
    values = _centred_singular_values("eigenspectrum", z)
    spectrum = values.new_zeros(z.shape[1])
    spectrum[: len(values)] = values.square() / (len(z) - 1)
    return spectrum


@torch.no_grad()
def alpha_req(z: Tensor, first: int = 1, last: int | None = None) -> float:
    r"""alpha of lambda_i ~ i^-alpha: minus the least-squares slope of log lambda_i against log i, lambda = eigenspectrum(z), z [N, D].

    (Agrawal, Mondal, Ghosh, Richards 2022, alpha-ReQ, after Stringer et al. 2019.) i = first..last, counted from 1, all with equal
    weight; by default all D. Eigenvalues of 0 and at the rounding level are left out. (The authors leave out the head of the
    spectrum and its tail, and so should first and last where D is in the hundreds.) No unit, at least 0: 0 for an isotropic
    cloud, about 1 in good representations by the authors' account, large where few directions hold all variance, infinite where
    fewer than two eigenvalues are left (collapse to a line or a point). Dimensions that are exactly dead are left out and so not
    seen: a flat spectrum of rank r has alpha 0 for any r, look at `effective_rank` too. Translations, rotations and the scale of z
    leave it alone. With N not far above D sampling alone tilts the spectrum.

    Raises SettingsError (first, last), ShapeError, DataError, NonFiniteError.
    """
    spectrum = eigenspectrum(z)
    end = len(spectrum) if last is None else last
    if not 1 <= first < end <= len(spectrum):
        raise SettingsError(
            f"alpha_req: first = {first} and last = {last}, expected two indices 1 <= first < last <= D = {len(spectrum)}"
        )
    place = torch.arange(first, end + 1, dtype=spectrum.dtype, device=spectrum.device)
    kept = spectrum[first - 1 : end] > 0
    if int(kept.sum()) < 2:
        return math.inf
    x, y = place[kept].log(), spectrum[first - 1 : end][kept].log()
    x = x - x.mean()
    return float(-(x @ y) / (x @ x))


@torch.no_grad()
def lidar(z: Tensor, valid: Tensor | None = None, delta: float = 1e-4, epsilon: float = 1e-8) -> float:
    r"""LiDAR = exp -sum_i p_i log p_i, p_i = l_i / ||l||_1 + epsilon, of the eigenvalues l of S_w^-1/2 S_b S_w^-1/2; z [G, J, D].

        S_b = 1/(G - 1) sum_g (zbar_g - zbar)(zbar_g - zbar)^T,   zbar the mean of the group means zbar_g
        S_w = 1/(N - G) sum_gj (z_gj - zbar_g)(z_gj - zbar_g)^T + delta I

    (Thilak et al. 2023, arXiv:2312.04000: the surrogate classes of its discriminant analysis are the clean images, here the groups. delta
    and epsilon are those of public code.) The number of dimensions that tell groups apart, each in units of the variation within groups;
    in [1, min(D, G - 1)], up to about -D epsilon log epsilon in the exponent. 1 where one direction stands out, and after collapse to a
    point or a line. It says how many directions, not how well: the means of J views carry noise S_w / J, so that groups which do not
    differ at all give about D (look at `variance_components` too), and many views help (the authors take 50 of each of 1000 images).
    Every invertible linear map of z leaves it alone while S_w is well above delta, a variance in units of z^2.

    Ragged groups: N counts the views that exist, every group weighs the same in S_b, and a group of one view enters S_b with that view
    and not S_w.

    Raises ShapeError, DataError (no group of two views), NonFiniteError, SettingsError (delta, epsilon).
    """
    if not 0 < delta < math.inf or not 0 <= epsilon < 1:
        raise SettingsError(f"lidar: delta = {delta}, epsilon = {epsilon}, expected delta > 0 and a small epsilon >= 0")
    groups = grouped("lidar", z, valid)
    freedom = int(groups.number.sum()) - len(z)
    if freedom == 0:
        raise DataError("lidar: every group has one view, so nothing varies within groups; give groups of two views")
    deviation = groups.deviations().flatten(0, 1)
    within = deviation.T @ deviation / freedom
    within.diagonal().add_(delta)
    # As the singular values of the centred means times L^-T, S_w = L L^T, whose squares are these eigenvalues: no product is squared.
    _, size, directions = torch.linalg.svd(groups.mean - groups.mean.mean(0), full_matrices=False)
    means = torch.where(size > groups.rounding, size, 0.0)[:, None] * directions
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(within), means.T, upper=False)
    return _exp_entropy(torch.linalg.svdvals(whitened).square(), epsilon)


def _exp_entropy(values: Tensor, epsilon: float = 0.0) -> float:
    """exp H of values >= 0 over their sum, plus epsilon; where all are 0, as for one of them."""
    share = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny) + epsilon
    return float(torch.special.entr(share).sum().exp())


def _centred_singular_values(who: str, z: Tensor) -> Tensor:
    """[min(N, D)] of z - mean z, those at the rounding level 0."""
    points = _points(who, z, least=2)
    values = torch.linalg.svdvals(points - points.mean(0))
    return torch.where(values > rounding_level(z, points), values, 0.0)


def _points(who: str, z: Tensor, least: int) -> Tensor:
    """z [N, D] in float64, checked."""
    points = rows(who, z, least=least).z.detach().double()
    if z.shape[1] == 0:
        raise ShapeError(f"{who}: z has shape {list(z.shape)}, expected at least one dimension")
    if not bool(torch.isfinite(points).all()):
        bad = int((~torch.isfinite(points).all(1)).sum())
        raise NonFiniteError(f"{who}: {bad} of {len(z)} rows of z are not finite; lower lr and fit again")
    return points

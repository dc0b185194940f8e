"""Entropy by distances to nearest neighbours."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genssl.errors import SettingsError
from genssl.estimators.rows import Rows, inner_products, refuse_simplex, rows


def knn_entropy(
    z: Tensor,
    k: int = 3,
    clip: float | None = None,
    *,
    manifold_dim: int | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    r"""H[z] ~ psi(N) - psi(k) + log V_D + D/N sum_i log e_i, z [N, D] -> [], nats; psi = digamma.

    e_i is the Euclidean distance from z_i to its k-th nearest other row, V_D = pi^(D/2) / Gamma(D/2 + 1) the volume of the unit ball
    (Kozachenko and Leonenko 1987; k > 1: Kraskov, Stoegbauer, Grassberger 2004, Eq. 20, whose e is a diameter). H(az) = H(z) + D log a;
    translations and rotations leave it alone. Neighbours are chosen in float64 without gradient; the gradient is that of the distances.

    Bias: vanishes as N grows for smooth densities, about as (k/N)^(2/D), so slowly in many dimensions. Its variance falls as 1/N and
    with k. On a flat or curved set of fewer dimensions give manifold_dim, on the unit sphere D - 1 (chords stand for arcs): the
    value is then that of the density on the set. Without it the value tends to -infinity with N.

    Duplicates: a distance of 0 means an atom, whose entropy is -infinity. Distances are floored at the square root of the smallest normal
    number (1.1e-19 in float32, 1.5e-154 in float64): such a row adds about -44 D/N nats (-354 D/N) and has no gradient, so that a
    collapsed batch gives a very low, finite value, and nothing that pulls it apart.

    Args:
        k: which neighbour, 1 <= k < N.
        clip: a quantile in (0, 1]: larger distances count as this quantile (detached) of all, so outliers have no gradient;
            the value falls below the unclipped one. Latent distribution matching (arXiv:2605.03517) uses k = 3, clip = 0.9.
        manifold_dim: D of the formula where z lies on a set of fewer dimensions.
        valid: [N] bool; rows that are False are neither points nor neighbours. With k or fewer rows left the value is nan.

    O(N^2) memory. Raises SettingsError for k, clip, manifold_dim; ShapeError, DataError for z.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise SettingsError(f"knn_entropy: k = {k}, expected an integer of at least 1")
    if clip is not None and not 0 < clip <= 1:
        raise SettingsError(f"knn_entropy: clip = {clip}, expected a quantile in (0, 1], or None")
    given = rows("knn_entropy", z, valid, least=k + 1)
    width = given.z.shape[1]
    if manifold_dim is None:
        refuse_simplex("knn_entropy", given, f"give manifold_dim={width - 1}")
    elif not 1 <= manifold_dim <= width:
        raise SettingsError(f"knn_entropy: manifold_dim = {manifold_dim}, expected 1 to D = {width}")
    dim = manifold_dim or width
    # The distance itself from the difference: exact where a matrix product would cancel.
    difference = given.z - given.z.index_select(0, _kth_neighbour(given, k))
    square = difference.square().sum(1).clamp(min=torch.finfo(given.z.dtype).tiny)
    log_distance = 0.5 * square.log()
    if clip is not None:
        distance = square.detach().sqrt().masked_fill(~given.valid, math.nan)
        limit = distance.nanquantile(clip).log()
        log_distance = torch.where(log_distance > limit, limit, log_distance)
    log_ball = 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim + 1)
    constants = torch.digamma(given.number) - torch.digamma(given.number.new_full((), k)) + log_ball
    return torch.where(given.number > k, constants + dim * given.mean(log_distance), math.nan)


@torch.no_grad()
def _kth_neighbour(given: Rows, k: int) -> Tensor:
    """[N] the index of each row's k-th nearest other row."""
    # float64 around the mean, as a matrix product: in float32 the order of close neighbours would be lost. A row's own norm is left
    # out: it shifts all its distances alike.
    z = (given.z - given.z.sum(0) / given.number).double()
    square = z.square().sum(1) - 2 * inner_products(z, z)
    return square.masked_fill(~given.others(), math.inf).topk(k, largest=False).indices[:, -1]

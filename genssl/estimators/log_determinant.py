"""Entropy of a Gaussian with the covariance of the sample: log-determinants, their expansion, and joint ones over views."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genssl.errors import SettingsError, ShapeError
from genssl.estimators.rows import Rows, inner_products, refuse_simplex, rows


def logdet_entropy(z: Tensor, shrinkage: float = 0.0, *, unbiased: bool = False, valid: Tensor | None = None) -> Tensor:
    r"""H[z] ~ (D/2)(1 + log 2 pi) + 1/2 log |S|, z [N, D] -> [], nats; S the covariance of the rows, over N - 1.

    The entropy of the Gaussian with covariance S: the greatest that any z with this covariance can have, so an upper bound for
    other shapes (no entropy at all on the sphere or the simplex). H(az) = H(z) + D log a; translations and rotations leave it
    alone. By Cholesky, without waiting for a device.

    Bias on a Gaussian: E log |S| - log |Sigma| = sum_{d=1..D} psi((N - d)/2) + D log(2/(N - 1)), about -D(D + 1)/2N. Half of it is
    subtracted with unbiased=True, which is then exact in expectation at every N > D (Ahmed and Gokhale 1989) and of the same gradient.

    Args:
        shrinkage: a in [0, 1]: S becomes (1 - a) S + a (tr S / D) I, which keeps all the laws above, raises the value, and is finite for
            N <= D. Directions of variance far below a tr S / D count as that wide, and little is gained by opening them.
        unbiased: subtract the bias; for shrinkage = 0 alone.
        valid: [N] bool; rows that are False enter no statistic.

    Singular S (no more than D valid rows without shrinkage, a constant or repeated feature, a collapsed batch) gives -infinity, and its
    gradient means nothing, as far as rounding shows it: in float32 variances below about 1e-7 of the greatest are noise.

    Raises SettingsError for shrinkage and unbiased, ShapeError where N <= D without shrinkage, DataError.
    """
    given = rows("logdet_entropy", z, valid, least=2)
    refuse_simplex("logdet_entropy", given, "leave one coordinate out")
    return _logdet_entropy("logdet_entropy", given, shrinkage, unbiased)


def joint_logdet_entropy(
    *views: Tensor, shrinkage: float = 0.0, unbiased: bool = False, valid: Tensor | None = None
) -> Tensor:
    r"""H[z_1, ..., z_J] of a Gaussian: the log-determinant over the JD x JD covariance of the CONCATENATED views -> [], nats.

    Views are [N, D_1], ..., [N, D_J], or one tensor [N, J, D]. They are joined along the features, row by row, so that a row is
    one draw of the whole group; joined along the batch they would give the pooled D x D covariance, which knows nothing of the
    pairing. (Latent distribution matching, arXiv:2605.03517, Eq. 9: F_LDM = log-likelihood of the pair + this; with
    logdet_entropy(z) + logdet_entropy(z') in its place, F_MI.) For z ~ N(0, V I), z' = z + N(0, v I) its log-determinant is
    D log V + D log v: it holds within-pair spread open where the sum of single entropies lets v go to 0. It needs a proper prior
    of z: with a flat one V grows without limit.

    I[z; z'] of a Gaussian is logdet_entropy(z) + logdet_entropy(z') - joint_logdet_entropy(z, z').

    As z' approaches z the value tends to -infinity, D/2 log v; shrinkage a (of the joint covariance, as in logdet_entropy) stops
    it about where v = 2a V. A group with a missing view has no row here: mark it False in valid [N]. Arguments, bias, limits and
    errors otherwise as in logdet_entropy, with D the joined width.
    """
    who = "joint_logdet_entropy"
    if len(views) == 1 and views[0].dim() == 3:
        views = views[0].unbind(1)
    elif len(views) < 2:
        shapes = [list(view.shape) for view in views]
        raise ShapeError(f"{who}: views of shapes {shapes}, expected one tensor [N, J, D] or several [N, D]")
    each = [rows(who, view, valid, name=f"view {j}", least=2) for j, view in enumerate(views)]
    if len({len(given.z) for given in each}) > 1:
        shapes = [list(view.shape) for view in views]
        raise ShapeError(f"{who}: views of shapes {shapes}, expected the same number of rows; pair them row by row")
    for given in each:
        refuse_simplex(who, given, "leave one coordinate out")
    joined = each[0]._replace(z=torch.cat([given.z for given in each], 1))
    return _logdet_entropy(who, joined, shrinkage, unbiased)


def logdet_expansion_entropy(z: Tensor, *, valid: Tensor | None = None) -> Tensor:
    r"""(D/2)(1 + log 2 pi) + 1/2 [sum_i log S_ii - 1/2 sum_{i != j} S_ij^2 / S_ii S_jj], z [N, D] -> [], nats.

    logdet_entropy to second order in the correlations r_ij = S_ij / sqrt(S_ii S_jj), from log |I + A| = tr A - tr A^2 / 2 + ... with
    A = r - I (latent distribution matching, arXiv:2605.03517): exact for uncorrelated features, else off by tr A^3 / 6 to the next
    order, of either sign. Bias on independent features about -D(D + 1)/4N, as for logdet_entropy, but any N will do.

    NOT invariant to rotations. Its last part is at least -D(D - 1)/4: where features repeat each other, and the
    log-determinant diverges, it stays finite. A constant feature gives -infinity.

    valid: [N] bool; rows that are False enter no statistic. Raises ShapeError, DataError.
    """
    given = rows("logdet_expansion_entropy", z, valid, least=2)
    covariance = _covariance(given)
    dim, variance = len(covariance), covariance.diagonal()
    deviation = variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt()
    correlation = covariance / deviation / deviation[:, None]
    # Off the diagonal: 1 subtracted from the diagonal would leave rounding there.
    squares = correlation.square().triu(1).sum()
    return 0.5 * (dim * (1 + math.log(2 * math.pi)) + variance.log().sum()) - 0.5 * squares


def _covariance(given: Rows) -> Tensor:
    """[D, D] over the valid rows, divided by their number less one."""
    centred = given.z - given.z.sum(0) / given.number.clamp(min=1)
    centred = centred.where(given.valid[:, None], centred.new_zeros(())).T
    return inner_products(centred, centred) / (given.number - 1).clamp(min=1)


def _logdet_entropy(who: str, given: Rows, shrinkage: float, unbiased: bool) -> Tensor:
    n, dim = given.z.shape
    if not 0 <= shrinkage <= 1:
        raise SettingsError(f"{who}: shrinkage = {shrinkage}, expected a weight in [0, 1]")
    if unbiased and shrinkage:
        raise SettingsError(
            f"{who}: unbiased is known without shrinkage alone, shrinkage = {shrinkage}; give one of them"
        )
    if n <= dim and not shrinkage:
        raise ShapeError(
            f"{who}: {n} rows of {dim} features have a singular covariance, expected more rows than features; give shrinkage > 0"
        )
    covariance = _covariance(given)
    if shrinkage:
        level = covariance.diagonal().mean()
        identity = torch.eye(dim, dtype=covariance.dtype, device=covariance.device)
        covariance = (1 - shrinkage) * covariance + shrinkage * level * identity
    factor, failed = torch.linalg.cholesky_ex(covariance, check_errors=False)
    half_log_det = factor.diagonal().log().sum()
    if unbiased:
        d = torch.arange(1, dim + 1, device=covariance.device)
        bias = torch.digamma((given.number - d) / 2).sum() + dim * (2 / (given.number - 1)).log()
        half_log_det = half_log_det - 0.5 * bias
    singular = failed > 0
    if not shrinkage:
        singular = singular | (given.number <= dim)
    return 0.5 * dim * (1 + math.log(2 * math.pi)) + torch.where(singular, -math.inf, half_log_det)

"""Entropies of categorical codes, exact tables of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from genssl.errors import DataError, ShapeError
from genssl.estimators.rows import Rows, inner_products, on_simplex, rows


def categorical_entropy(p: Tensor, *, valid: Tensor | None = None) -> Tensor:
    r"""H[k] = -sum_k m_k log m_k of the mean m = 1/N sum_n p_n over the rows, p [N, K] probabilities -> [], nats; 0 <= H <= log K.

    The entropy of the aggregate code, which E H[p_n] falls short of by I[x; k]: it is raised by using all categories, not by unsure
    ones. Exact for the batch as the whole population; for a sample from a larger one E H lies below the true value, by about
    (K - 1)/2N at most (Jensen; the full amount for one-hot p). 0 log 0 = 0; the gradient is finite at 0.

    Args: valid [N] bool; rows that are False enter no mean.
    Raises DataError where rows are no probabilities (looked at while Pyro's validation is on), ShapeError.
    """
    given = _probabilities("categorical_entropy", "p", p, valid)
    return _entropy(given.z.sum(0) / given.number)


def categorical_joint_entropy(p: Tensor, p_other: Tensor, *, valid: Tensor | None = None) -> Tensor:
    r"""H[k, k'] = -sum t log t of the table t(k, k') = 1/N sum_n p_n(k) p'_n(k'), p [N, K], p' [N, K'] -> [], nats; at most log K K'.

    The code of two views of a row is independent given the row (latent distribution matching, arXiv:2605.03517, App. A.8), so the
    table is that of the joint aggregate and the entropy exact, not a bound: no sampling. I[k; k'] =
    categorical_entropy(p) + categorical_entropy(p') - this. It is not symmetrised: average t and its transpose for exchangeable views.
    For a sample from a larger population E H lies below the true value, by about (K K' - 1)/2N at most.

    Args, limits and errors as in categorical_entropy; rows of p and p' are paired.
    """
    who = "categorical_joint_entropy"
    given, other = _probabilities(who, "p", p, valid), _probabilities(who, "p_other", p_other, valid)
    if len(given.z) != len(other.z):
        raise ShapeError(
            f"{who}: p has {len(given.z)} rows and p_other {len(other.z)}, expected as many; pair them row by row"
        )
    return _entropy(inner_products(given.z.T, other.z.T) / given.number)


def _probabilities(who: str, name: str, p: Tensor, valid: Tensor | None) -> Rows:
    given = rows(who, p, valid, name=name, axes="[N, K]")
    if on_simplex(given, slack=1e-2) is False:  # a softmax in bfloat16 sums to 1 within 0.4 %
        raise DataError(
            f"{who}: rows of {name} are no probabilities, expected entries of at least 0 that sum to 1; apply softmax"
        )
    return given


def _entropy(table: Tensor) -> Tensor:
    # The derivative of t log t is infinite at 0, where a softmax that underflows can land.
    return -(table * table.clamp(min=torch.finfo(table.dtype).tiny).log()).sum()

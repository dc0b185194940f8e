"""Alignment and uniformity on the unit sphere: what a contrastive loss pulls and pushes, measured apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from genssl.errors import SettingsError, ShapeError
from genssl.estimators.rows import inner_products, rows


def alignment(z: Tensor, z_other: Tensor, alpha: float = 2.0, *, valid: Tensor | None = None) -> Tensor:
    r"""E ||z - z'||^alpha over the pairs of rows, both divided by their norms here; z, z' [N, D] -> [], in [0, 2^alpha].

    (Wang and Isola 2020, arXiv:2005.10242, Section 4.1.) 0 where the views of a row coincide, 2 at alpha = 2 for unrelated
    directions; alpha = 2 is 2 - 2 E cos. Unbiased. Alone it is 0 at collapse. For alpha < 2 the gradient of a pair that coincides is 0.

    Args: alpha > 0.  valid: [N] bool; rows that are False enter no mean.  Raises SettingsError, ShapeError, DataError.
    """
    if not 0 < alpha < math.inf:
        raise SettingsError(f"alignment: alpha = {alpha}, expected a positive exponent")
    given, other = rows("alignment", z, valid), rows("alignment", z_other, valid, name="z_other")
    if given.z.shape != other.z.shape:
        raise ShapeError(
            f"alignment: z has shape {list(z.shape)} and z_other {list(z_other.shape)}, expected the same; pair the rows"
        )
    square = (normalize(given.z, dim=1) - normalize(other.z, dim=1)).square().sum(1)
    if alpha != 2:
        square = square.clamp(min=torch.finfo(square.dtype).tiny).pow(alpha / 2)
    return given.mean(square)


def uniformity(z: Tensor, t: float = 2.0, *, valid: Tensor | None = None) -> Tensor:
    r"""log of the mean over i < j of exp(-t ||z_i - z_j||^2), z [N, D] divided by its norm here -> [], in [-4t, 0].

    (Wang and Isola 2020, arXiv:2005.10242, Section 4.1.) 0 at collapse, to the origin too; least for the uniform distribution on the
    sphere, whose value is -2t + log(Gamma(D/2) t^(1 - D/2) I_{D/2-1}(2t)), about -2t in many dimensions. It has no entropy's units: up to
    the kernel's normaliser it is minus kde_entropy(z, (2t)^(-1/2), "vmf") with the logarithm outside the mean over i, hence at least that
    (Jensen). The mean is unbiased, its logarithm biased downwards by order 1/N.

    Args: t > 0.  valid: [N] bool; rows that are False enter no pair, and fewer than two leave no finite value.
    Raises SettingsError, ShapeError, DataError.
    """
    if not 0 < t < math.inf:
        raise SettingsError(f"uniformity: t = {t}, expected a positive number")
    given = rows("uniformity", z, valid, least=2)
    z = normalize(given.z, dim=1)
    squares = z.square().sum(1)  # 1; less of a row without a direction, for all rows at the origin are a collapse, too
    exponent = t * (2 * inner_products(z, z) - squares[:, None] - squares)
    pairs = given.others() & given.valid[:, None]
    return exponent.masked_fill(~pairs, -math.inf).logsumexp((0, 1)) - (given.number * (given.number - 1)).log()

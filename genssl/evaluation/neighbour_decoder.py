"""Items as means of their neighbours: what of x a decoder without parameters reads off z."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genssl.errors import SettingsError, ShapeError
from genssl.evaluation.inputs import SPLITS, checked
from genssl.precision import at_least_float32

BANDWIDTHS = tuple(2.0**power for power in range(-6, 4))  # of the distance to the neighbours
_BLOCK = 4_000_000  # numbers in memory at once: 32 MB


@torch.no_grad()
def nonparametric_decoder(
    train_z: Tensor,
    train_x: Tensor,
    validation_z: Tensor,
    validation_x: Tensor,
    test_z: Tensor,
    test_x: Tensor,
    train_y: Tensor | None = None,
    test_y: Tensor | None = None,
    neighbours: int = 64,
) -> dict[str, Any]:
    r"""E[x | z] by training items near z: xhat(z) = sum_i w_i x_i, w_i ~ exp(-||z - z_i||^2 / 2h^2); x [N, *event].

    (Nadaraya 1964, Watson 1964; over the `neighbours` nearest alone, so as written where those are all.) On the unit
    sphere w is the softmax of cosines over h^2, and -log w_i of an item's own view over all items is its contrastive
    loss: the decoder without parameters of a contrastive method. The bandwidth h is chosen on validation, from 2^-6
    (the nearest alone) to 2^3 (a plain mean) times the root median square distance of validation to these neighbours.

    Returns mean squared errors per value on test, in units of x^2: mse; constant, of the training mean; nearest, of the
    one nearest item; with labels [N] class_mean, of the training mean of the own class, and nearest_of_class, of the
    nearest item of the own class, over test items of classes that training has (else None; a negative label is none). And validation_mse,
    bandwidth (in units of z), neighbours.

    A z that holds nothing has about 1 + 1/neighbours times constant, one that holds the class alone as much of
    class_mean; below class_mean z tells more of x than the class. A single neighbour adds the spread of an item to its
    error: a random item of the class has twice class_mean. No bound on what z holds: neighbours are few where D is
    large, and where z varies most with what x does not show they are the wrong ones.

    Raises SettingsError (neighbours), ShapeError, DataError (types, no rows), NonFiniteError.
    """
    who = "nonparametric_decoder"
    if neighbours < 1:
        raise SettingsError(f"{who}: neighbours = {neighbours}, expected at least 1")
    parts = zip(SPLITS, (train_z, validation_z, test_z), (train_x, validation_x, test_x), strict=True)
    z, x = [], []
    for name, points, values in parts:
        z.append(checked(who, name, points, train_z.shape[-1]))
        if values.shape[1:] != train_x.shape[1:] or len(values) != len(points) or not values.is_floating_point():
            raise ShapeError(
                f"{who}: {name}_x {values.dtype} {list(values.shape)}, expected floats [{len(points)}, *event of train_x]"
            )
        x.append(at_least_float32(values.detach().to(points.device).flatten(1)))
    near = [_nearest(queries, z[0], min(neighbours, len(z[0]))) for queries in z[1:]]
    bandwidths = (float(near[0][0].mean(1).median().sqrt()) or 1.0) * z[0].new_tensor(BANDWIDTHS)
    on_validation = _errors(*near[0], x[0], x[1], bandwidths)
    best = int(on_validation.argmin())
    figures: dict[str, Any] = {
        "mse": float(_errors(*near[1], x[0], x[2], bandwidths[best, None])),
        "constant": float((x[2] - x[0].mean(0)).square().mean(dtype=torch.float64)),
        "nearest": float((x[2] - x[0][near[1][1][:, 0]]).square().mean(dtype=torch.float64)),
        "class_mean": None,
        "nearest_of_class": None,
        "validation_mse": float(on_validation[best]),
        "bandwidth": float(bandwidths[best]),
        "neighbours": near[1][1].shape[1],
    }
    if train_y is not None and test_y is not None:
        mean = nearest = numbers = 0.0
        for label in test_y[test_y >= 0].unique().tolist():
            own, asked = (y.to(z[0].device) == label for y in (train_y, test_y))
            if own.any():
                _, which = _nearest(z[2][asked], z[0][own], 1)
                mean += float((x[2][asked] - x[0][own].mean(0)).square().sum(dtype=torch.float64))
                nearest += float((x[2][asked] - x[0][own][which[:, 0]]).square().sum(dtype=torch.float64))
                numbers += x[2][asked].numel()
        if numbers:
            figures |= {"class_mean": mean / numbers, "nearest_of_class": nearest / numbers}
    return figures


def _nearest(queries: Tensor, points: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Squared distances and rows [Q, number] of the nearest points, the nearest first."""
    centre = points.median(0).values  # float64 around the middle: see `knn`
    points = points - centre
    square = points.square().sum(1)
    found = []
    for block in (queries - centre).split(max(1, _BLOCK // len(points))):
        distance = torch.addmm(square, block, points.T, alpha=-2) + block.square().sum(1, keepdim=True)
        found.append(distance.clamp_(min=0).topk(number, largest=False))
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def _errors(square: Tensor, which: Tensor, train_x: Tensor, x: Tensor, bandwidths: Tensor) -> Tensor:
    """[len(bandwidths)] mean squared errors of the kernel means of the neighbours."""
    total = torch.zeros_like(bandwidths)
    step = max(1, _BLOCK // (which.shape[1] * max(1, x.shape[1])))
    for start in range(0, len(x), step):
        block = slice(start, start + step)
        # [block, bandwidths, neighbours]
        weights = (-square[block, None] / (2 * bandwidths[:, None].square())).softmax(2).to(x)
        total += (weights @ train_x[which[block]] - x[block, None]).square().sum((0, 2), dtype=torch.float64)
    return total / x.numel()

"""Accuracy of k nearest neighbours on frozen representations: exact, by brute force in blocks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from genssl.errors import SettingsError
from genssl.evaluation.inputs import Labelled, labelled

# Distances of one block of queries to the whole training set: 4e6 float64 numbers, 32 MB, which stays near the caches.
_BLOCK = 4_000_000


@torch.no_grad()
def knn(
    train_z: Tensor,
    train_y: Tensor,
    validation_z: Tensor,
    validation_y: Tensor,
    test_z: Tensor,
    test_y: Tensor,
    ks: Iterable[int] = range(1, 16),
) -> dict[str, float | int]:
    """Accuracy of the majority among the k nearest training representations (Euclidean), k chosen on validation.

    z: [N, D], y: [N] integers. Ties in the vote go to the smallest label and, between k's, to the smallest k. Agrees
    with scikit-learn's KNeighborsClassifier (uniform weights) wherever no two distances are equal; else either order is
    right. A k above the number of training rows is left out.

    Returns validation and test: fractions in [0, 1] at the chosen k; test_best: the best test accuracy over ks, as
    Bizeul et al. (2024, appendix) report it for k = 1..15, optimistic since it is chosen on the test set; k.

    Raises SettingsError where no k is left; ShapeError, DataError, NonFiniteError on bad tensors.
    """
    (train, validation, test), classes = labelled("knn", train_z, train_y, validation_z, validation_y, test_z, test_y)
    chosen = sorted({k for k in ks if 1 <= k <= len(train.y)})
    if not chosen:
        raise SettingsError(f"knn: no k in ks between 1 and the {len(train.y)} training rows; give a smaller k")
    on_validation = _accuracies(train, validation, classes, chosen)
    on_test = _accuracies(train, test, classes, chosen)
    best = int(on_validation.argmax())
    return {
        "validation": float(on_validation[best]),
        "test": float(on_test[best]),
        "test_best": float(on_test.max()),
        "k": chosen[best],
    }


@torch.no_grad()
def knn_accuracy(train_z: Tensor, train_y: Tensor, z: Tensor, y: Tensor, k: int = 15) -> float:
    """The accuracy at one k, in [0, 1]: the cheap figure to follow a run by. Same rules as `knn`."""
    (train, queries), classes = labelled("knn_accuracy", train_z, train_y, z, y)
    if not 1 <= k <= len(train.y):
        raise SettingsError(f"knn_accuracy: k = {k}, expected 1 to the {len(train.y)} training rows; give a smaller k")
    return float(_accuracies(train, queries, classes, [k])[0])


def _accuracies(train: Labelled, queries: Labelled, classes: int, ks: list[int]) -> Tensor:
    """[len(ks)] the accuracy on the queries at each k."""
    # ||a - b||^2 as a matrix product cancels where distances are small against the norms. In float32 that reorders
    # neighbours; in float64, around the middle (which no far row moves), less is lost than float32 representations can tell apart.
    centre = train.z.median(0).values
    points = train.z - centre
    norms = points.square().sum(1)
    correct = torch.zeros(len(ks), dtype=torch.float64, device=train.z.device)
    rows = torch.tensor(ks, device=train.z.device) - 1
    step = min(1024, max(1, _BLOCK // len(points)))
    for start in range(0, len(queries.z), step):
        block = slice(start, start + step)
        # The query's own norm is left out: it shifts all its distances alike.
        distance = torch.addmm(norms, queries.z[block] - centre, points.T, alpha=-2)
        nearest = train.y[distance.topk(ks[-1], largest=False).indices]
        votes = torch.nn.functional.one_hot(nearest, classes).cumsum(1)[:, rows]  # [block, ks, classes]
        correct += (votes.argmax(-1) == queries.y[block, None]).sum(0)
    return correct / len(queries.z)

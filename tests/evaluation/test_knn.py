"""k nearest neighbours against scikit-learn, which is an independent implementation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.evaluation import knn, knn_accuracy


def made(seed=0, size=400, dim=5, classes=4, spread=1.5):
    """Overlapping clusters in float32: train, validation, test."""
    generator = torch.Generator().manual_seed(seed)
    centres = spread * torch.randn(classes, dim, generator=generator)
    out = []
    for number in (size, size // 2, size // 2):
        y = torch.randint(classes, (number,), generator=generator)
        out += [centres[y] + torch.randn(number, dim, generator=generator), y]
    return out


def sklearn_accuracy(k, train_z, train_y, z, y):
    model = KNeighborsClassifier(k, algorithm="brute").fit(train_z.double().numpy(), train_y.numpy())
    return model.score(z.double().numpy(), y.numpy())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(2, 6), st.floats(0.0, 3.0))
def test_agrees_with_scikit_learn(seed, k, classes, spread):
    train_z, train_y, _, _, z, y = made(seed, size=200, classes=classes, spread=spread)
    assert knn_accuracy(train_z, train_y, z, y, k) == pytest.approx(sklearn_accuracy(k, train_z, train_y, z, y))


def test_agrees_where_float32_products_would_not():
    """Two far ends, and close together within each: a float32 |a|^2 - 2ab + |b|^2 has no correct digit left."""
    train_z, train_y, _, _, z, y = made(3)
    train_z, z = (part * 1e-2 + 1000 * (torch.arange(len(part)) % 2 * 2 - 1)[:, None] for part in (train_z, z))
    assert knn_accuracy(train_z, train_y, z, y, 5) == pytest.approx(sklearn_accuracy(5, train_z, train_y, z, y))


def test_chooses_k_on_validation_alone():
    parts = made(1)
    figures = knn(*parts)
    scores = {k: sklearn_accuracy(k, *parts[:4]) for k in range(1, 16)}
    assert figures["k"] == max(scores, key=lambda k: scores[k])
    assert figures["validation"] == pytest.approx(scores[figures["k"]])
    assert figures["test"] == pytest.approx(sklearn_accuracy(figures["k"], *parts[:2], *parts[4:]))
    assert figures["test_best"] == pytest.approx(max(sklearn_accuracy(k, *parts[:2], *parts[4:]) for k in range(1, 16)))
    permuted = knn(*parts[:5], parts[5][torch.randperm(len(parts[5]), generator=torch.Generator().manual_seed(0))])
    assert (permuted["k"], permuted["validation"]) == (figures["k"], figures["validation"])


def test_a_tied_vote_goes_to_the_smallest_label():
    train_z = torch.tensor([[0.0], [1.0], [10.0]])
    train_y = torch.tensor([7, 3, 9])
    query = torch.tensor([[0.4]])
    assert knn_accuracy(train_z, train_y, query, torch.tensor([3]), 2) == 1.0  # 7 and 3 once each
    assert knn_accuracy(train_z, train_y, query, torch.tensor([7]), 1) == 1.0


def test_labels_need_not_count_from_zero_and_unknown_ones_are_wrong():
    train_z, train_y, _, _, z, y = made(2)
    names = torch.tensor([5, 2, 40, 11])
    assert knn_accuracy(train_z, names[train_y], z, names[y], 5) == knn_accuracy(train_z, train_y, z, y, 5) > 0.3
    assert knn_accuracy(train_z, train_y, z, torch.full_like(y, 99), 5) == 0.0


def test_leaves_out_k_above_the_training_size_and_refuses_what_cannot_be():
    z, y = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1])
    assert knn(z, y, z, y, z, y)["k"] in (1, 2, 3, 4)
    with pytest.raises(SettingsError, match="smaller k"):
        knn(z, y, z, y, z, y, ks=[9])
    with pytest.raises(SettingsError, match="k = 5"):
        knn_accuracy(z, y, z, y, 5)
    with pytest.raises(ShapeError, match="test_z"):
        knn(z, y, z, y, z[:, :1], y)
    with pytest.raises(ShapeError, match="validation_y"):
        knn(z, y, z, y[:2], z, y)
    with pytest.raises(DataError, match="no rows"):
        knn(z, y, z[:0], y[:0], z, y)
    with pytest.raises(NonFiniteError, match="1 of 4 rows of test_z"):
        knn(z, y, z, y, torch.cat([z[:3], torch.full((1, 2), float("nan"))]), y)

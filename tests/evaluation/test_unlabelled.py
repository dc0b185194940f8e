"""Items with a negative label have none: every figure of classes is that of the labelled items alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits

from genssl.datasets import from_any
from genssl.errors import DataError
from genssl.evaluation import clustering_scores, knn, knn_accuracy, linear_probe, low_label_probe, mlp_probe, retrieval
from genssl.evaluation.inputs import labelled
from genssl.evaluation.neighbour_decoder import nonparametric_decoder
from genssl.evaluation.subject import Subject
from genssl.fit.follow import Follow


def digits():
    """(z, y) of three splits, nine in ten of their labels -1; and the labelled rows alone."""
    x, y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    z, generator = x.double() @ torch.linalg.svd(x.double())[2][:6].T, torch.Generator().manual_seed(0)
    y = y.where(torch.rand(len(y), generator=generator) < 0.1, -1)
    parts = [part for rows in torch.arange(len(y)).split(600) for part in (z[rows], y[rows])]
    return parts, [part[y >= 0] for z_, y in zip(parts[::2], parts[1::2], strict=True) for part in (z_, y)]


@pytest.mark.parametrize(
    "measure",
    [
        knn,
        linear_probe,
        mlp_probe,
        low_label_probe,
        lambda *parts: clustering_scores(*parts, components=3, restarts=2),
        lambda *parts: knn_accuracy(*parts[:4], k=3),
    ],
    ids=["knn", "linear", "mlp", "low label", "clustering", "knn at one k"],
)
def test_digits_with_few_labels_give_what_the_labelled_alone_give(measure):
    parts, alone = digits()
    found, expected = measure(*parts), measure(*alone)
    assert found == pytest.approx(expected) if not isinstance(expected, dict) else str(found) == str(expected)


def test_within_class_and_the_mean_of_a_class():
    (z, y, *_, test_z, test_y), _ = digits()
    views = z + torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=z.dtype)
    known = y >= 0
    found, expected = (
        retrieval(a, b, label=c, sizes=(5,))["within_class"]
        for a, b, c in ((views, z, y), (views[known], z[known], y[known]))
    )
    assert found.pop("top1_of") == pytest.approx(expected.pop("top1_of"))
    assert found == pytest.approx(expected)
    all_, asked = (
        nonparametric_decoder(z, z, z, z, a, a, train_y=y, test_y=b)
        for a, b in ((test_z, test_y), (test_z[test_y >= 0], test_y[test_y >= 0]))
    )
    assert [all_[key] for key in ("class_mean", "nearest_of_class")] == pytest.approx(
        [asked[key] for key in ("class_mean", "nearest_of_class")]
    )


def test_classes_that_training_lacks_are_wrong_and_no_label_at_all_is_told():
    z = torch.randn(6, 2)
    (train, test), classes = labelled(
        "knn", z, torch.tensor([3, 3, 5, -1, 5, -7]), z, torch.tensor([4, 3, -1, 5, 5, 5])
    )
    assert (classes, train.y.tolist(), test.y.tolist()) == (2, [0, 0, 1, 1], [-1, 0, 1, 1, 1])
    with pytest.raises(DataError, match="none of the 6 rows of train_y has a label"):
        labelled("knn", z, -torch.ones(6, dtype=torch.long))


def test_a_fit_is_followed_by_its_labelled_items():
    x, y = torch.rand(40, 3), torch.arange(40) % 4
    data = from_any((x, y.where(y < 2, -1)), seed=0)
    known = from_any((x, y), seed=0)
    for name in ("train", "validation"):
        rows = getattr(known, name).label < 2
        setattr(known, name, getattr(known, name).subset(rows.nonzero()[:, 0]))
    assert Follow(lambda x: x, data, 1).knn() == Follow(lambda x: x, known, 1).knn() is not None
    assert Follow(lambda x: x, from_any((x, y - 9), seed=0), 1).knn() is None


def test_one_class_alone_has_no_accuracy():
    """Any z tells all of it: 100 % would say nothing."""
    x = torch.rand(60, 1, 4, 4)
    one = Subject(fake_run_of(from_any((x, torch.full((60,), 3)), seed=0)))
    assert "one class alone" in one.no_labels
    assert "one class alone" in Subject(fake_run_of(from_any((x, torch.tensor([3, -1]).repeat(30)), seed=0))).no_labels
    assert Subject(fake_run_of(from_any((x, torch.arange(60) % 2), seed=0))).no_labels == ""


def fake_run_of(data):
    return SimpleNamespace(data=data, config={"seed": 0}, method=torch.nn.Identity(), represent=lambda x: x.flatten(1))

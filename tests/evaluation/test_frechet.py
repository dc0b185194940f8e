"""The Frechet distance against matrix square roots and closed forms, and the classifier whose features it takes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from fake_runs import images
from hypothesis import given, settings
from hypothesis import strategies as st

from genssl.errors import DataError, NonFiniteError, ShapeError
from genssl.evaluation import frechet
from genssl.evaluation.frechet import classifier_features, frechet_distance
from genssl.evaluation.items import spaced


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_covariance(size, variances, seed=0, mean=0.0):
    """[size, F] rows whose sample mean and covariance are exactly these (diagonal)."""
    x = normal(size, len(variances), seed=seed)
    x = torch.linalg.qr(x - x.mean(0)).Q * (size - 1) ** 0.5  # columns that add to 0: means of 0, covariance I
    return x * torch.tensor(variances, dtype=torch.float64).sqrt() + mean


def by_square_root(a, b):
    """The formula as it is written, by scipy's Schur square root."""
    a, b = a.double().numpy(), b.double().numpy()
    c, d = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(c @ d).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c + d - 2 * root)


# ---------------------------------------------------------------------- the distance


@pytest.mark.parametrize(("n", "m", "features"), [(60, 60, 5), (200, 90, 12), (50, 400, 3)])
def test_is_the_formula(n, m, features):
    a = normal(n, features) @ normal(features, features, seed=1)
    b = normal(m, features, seed=2) @ normal(features, features, seed=3) + normal(features, seed=4)
    assert frechet_distance(a, b) == pytest.approx(by_square_root(a, b), rel=1e-9)
    assert frechet_distance(a.float(), b.float()) == pytest.approx(by_square_root(a, b), rel=1e-5)


def test_closed_forms():
    a = normal(40, 6) @ normal(6, 6, seed=1)
    shift = normal(6, seed=2)
    assert frechet_distance(a, a + shift) == pytest.approx(float(shift.square().sum()), rel=1e-12)
    assert frechet_distance(a, a) < 1e-25 * float(a.square().sum())
    trace = float(torch.cov(a.T).trace())
    assert frechet_distance(a - a.mean(0), 3 * (a - a.mean(0))) == pytest.approx(4 * trace, rel=1e-12)  # (1 - 3)^2
    first, second = [1.0, 4.0, 0.25], [9.0, 1.0, 0.01]
    one, other = with_covariance(30, first), with_covariance(50, second, seed=1, mean=0.5)
    expected = 3 * 0.5**2 + sum((p**0.5 - q**0.5) ** 2 for p, q in zip(first, second, strict=True))
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-12)
    u, v = normal(20, 1), 2 * normal(33, 1, seed=1) + 1
    expected = float((u.mean() - v.mean()) ** 2 + (u.std() - v.std()) ** 2)
    assert frechet_distance(u, v) == pytest.approx(expected, rel=1e-12)


def test_singular_and_nearly_singular_covariances():
    first, second = [1.0, 1e-12, 0.0, 0.0], [1.0, 4e-12, 0.0, 1e-20]
    distance = frechet_distance(with_covariance(30, first), with_covariance(40, second, seed=1))
    assert distance == pytest.approx((2e-6 - 1e-6) ** 2, rel=1e-3)  # beside a variance of 1
    # Two lines at an angle t, and fewer rows than features: tr (C_a C_b)^{1/2} = s_a s_b |cos t|.
    a, b, t = normal(4, 1), normal(3, 1, seed=1), 0.7
    line = torch.zeros(2, 9, dtype=torch.float64)
    line[0, 2], line[1, 2], line[1, 5] = 1, np.cos(t), np.sin(t)
    p, q = (a - a.mean()) * line[0], (b - b.mean()) * line[1]
    expected = float(a.var() + b.var() - 2 * a.std() * b.std() * np.cos(t))
    assert frechet_distance(p, q) == pytest.approx(expected, rel=1e-12)
    constant = torch.ones(5, 3)
    assert frechet_distance(constant, constant + 1) == pytest.approx(3)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 8), st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_is_a_squared_distance(n, m, features, seed, scale):
    a, b = normal(n, features, seed=seed), 2 * normal(m, features, seed=seed + 1) + 1
    turn = torch.linalg.qr(normal(features, features, seed=seed + 2)).Q
    distance = frechet_distance(a, b)
    assert distance >= 0
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(a @ turn + 5, b @ turn + 5) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(scale * a, scale * b) == pytest.approx(scale**2 * distance, rel=1e-9)
    c = 0.5 * normal(n + 1, features, seed=seed + 3)
    assert distance**0.5 <= frechet_distance(a, c) ** 0.5 + frechet_distance(c, b) ** 0.5 + 1e-9


def test_two_samples_of_one_law_are_apart_by_the_bias_that_is_told():
    features, n, m, variance = 6, 300, 200, 2.0
    pairs = [(normal(n, features, seed=2 * i), normal(m, features, seed=2 * i + 1)) for i in range(300)]
    found = np.mean([frechet_distance(variance**0.5 * a, variance**0.5 * b) for a, b in pairs])
    assert found == pytest.approx(variance * features * (features + 5) / 4 * (1 / n + 1 / m), rel=0.05)


def test_agrees_with_torchmetrics():
    metrics = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics is not installed")

    class Flat(torch.nn.Module):
        num_features = 12

        def forward(self, x):
            return x.flatten(1)

    a, b = torch.rand(90, 3, 2, 2), torch.rand(70, 3, 2, 2) ** 2
    metric = metrics.FrechetInceptionDistance(feature=Flat(), normalize=True)
    metric.set_dtype(torch.float64)
    metric.update(a.double(), real=True)
    metric.update(b.double(), real=False)
    assert frechet_distance(a.flatten(1), b.flatten(1)) == pytest.approx(float(metric.compute()), rel=1e-6)


def test_distance_refuses_what_it_cannot_measure():
    a = torch.rand(9, 4)
    with pytest.raises(ShapeError, match=r"a has shape \[9\], expected \[N, F\]"):
        frechet_distance(a[:, 0], a)
    with pytest.raises(ShapeError, match="b has 1 rows, expected at least 2"):
        frechet_distance(a, a[:1])
    with pytest.raises(ShapeError, match="b has 3 features, expected 4"):
        frechet_distance(a, a[:, :3])
    with pytest.raises(DataError, match=r"b holds torch.int64"):
        frechet_distance(a, torch.ones(9, 4, dtype=torch.long))
    with pytest.raises(NonFiniteError, match="1 of 9 rows of a are not finite"):
        frechet_distance(torch.where(torch.arange(9)[:, None] == 4, torch.inf, a), a)


# ---------------------------------------------------------------------- the features


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(frechet, "STEPS", 30)


def test_features_of_a_classifier_that_has_learned(monkeypatch):
    monkeypatch.setattr(frechet, "STEPS", 100)
    train, test = images(0, 400), images(1, 200)
    network = classifier_features(train.x, train.label)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.trained_on == 400
    assert float((network.classify(test.x) == test.label).float().mean()) > 0.97
    found = network(train.x)
    assert found.shape == (400, 64)
    assert float(found.double().var(0).sum()) == pytest.approx(1, rel=1e-5)
    assert float(found.double().mean(0).abs().max()) < 1e-6
    torch.testing.assert_close(network(test.x[:7]), network(test.x)[:7])  # of no batch


def test_distance_grows_with_what_is_wrong(monkeypatch):
    monkeypatch.setattr(frechet, "STEPS", 100)
    train, one, other = images(0, 400), images(1, 300), images(2, 300)
    network = classifier_features(train.x, train.label)

    def distance(x):
        return frechet_distance(network(one.x), network(x))

    floor = distance(other.x)
    noise = torch.randn(other.x.shape, generator=torch.Generator().manual_seed(5))
    noisy = [distance(other.x + level * noise) for level in (0.2, 0.5, 1.0)]
    assert floor < noisy[0] < noisy[1] < noisy[2]
    without = distance(other.x[other.label != 1])
    alone = distance(other.x[other.label == 1])
    assert 3 * floor < without < alone
    assert distance(one.x[:1].expand(300, -1, -1, -1)) > 0.9  # one image only: all variance is missing


@pytest.mark.usefixtures("few_steps")
def test_the_same_bits_for_the_same_seed_and_no_generator_is_moved():
    train = images(0, 200)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = classifier_features(train.x, train.label, 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    with torch.no_grad():  # as within a measurement
        other = classifier_features(train.x, train.label, 3)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert not torch.equal(classifier_features(train.x, train.label, 4)(train.x), one(train.x))


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("event", [(1, 6, 6), (3, 32, 32), (1, 28, 28), (2, 5, 9), (4,), (3, 2)])
def test_shapes(event):
    x = torch.rand(40, *event)
    label = torch.arange(40) % 2
    network = classifier_features(x, label)
    assert network(x[:5]).shape == (5, 64)
    assert bool(torch.isfinite(network(x)).all())


@pytest.mark.usefixtures("few_steps")
def test_bytes_are_read_as_the_floats_that_they_mean():
    x, label = torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8), torch.arange(50) % 3
    of_bytes, of_floats = classifier_features(x, label), classifier_features(x / 255, label)
    torch.testing.assert_close(of_bytes(x), of_floats(x / 255))


@pytest.mark.usefixtures("few_steps")
def test_negative_labels_are_none_and_other_numbers_are_kept():
    train = images(0, 200)
    label = torch.tensor([9, 4, 70])[train.label]
    alone = classifier_features(train.x, label)
    junk = torch.full((50, 1, 6, 6), torch.nan)
    mixed = torch.cat([train.x[:120], junk, train.x[120:]])
    marked = torch.cat([label[:120], torch.full((50,), -1), label[120:]])
    found = classifier_features(mixed, marked)
    assert found.trained_on == 200
    assert torch.equal(found(train.x), alone(train.x))
    assert set(alone.classify(train.x).tolist()) <= {4, 9, 70}


@pytest.mark.usefixtures("few_steps")
def test_of_many_items_some_drawn_ones_are_taken(monkeypatch):
    train = images(0, 90)
    expected = classifier_features(train.x[spaced(90, 30)], train.label[spaced(90, 30)])
    monkeypatch.setattr(frechet, "RULER_ITEMS", 30)
    found = classifier_features(train.x, train.label)
    assert found.trained_on == 30
    assert torch.equal(found(train.x), expected(train.x))


@pytest.mark.usefixtures("few_steps")
def test_constant_items_give_finite_features():
    network = classifier_features(torch.ones(20, 1, 6, 6), torch.arange(20) % 2)
    assert bool(torch.isfinite(network(torch.rand(3, 1, 6, 6))).all())


def test_features_refuse_what_they_cannot_learn_from():
    x, label = torch.rand(8, 1, 6, 6), torch.arange(8) % 2
    with pytest.raises(ShapeError, match=r"train_label \[7\]"):
        classifier_features(x, label[:7])
    with pytest.raises(DataError, match="1 classes in 8 items, expected at least 2"):
        classifier_features(x, label * 0)
    with pytest.raises(DataError, match="0 classes in 8 items"):
        classifier_features(x, label - 5)
    with pytest.raises(DataError, match=r"holds torch.int64"):
        classifier_features(torch.ones(8, 4, dtype=torch.long), label)
    with pytest.raises(NonFiniteError, match="train_x is not finite"):
        classifier_features(x / 0, label)

"""The kernel distance and precision and recall against loops over pairs, and what they can and cannot see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genssl.datasets import ensure_torchvision
from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.evaluation import sample_quality
from genssl.evaluation.sample_quality import kernel_distance, kernel_distance_of_subsets, precision_recall


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel_by_loops(a, b, degree):
    def k(x, y):
        return (float(x @ y) / len(x) + 1) ** degree

    def mean(values):
        return sum(values) / len(values)

    within = [mean([k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]) for x in (a, b)]
    return sum(within) - 2 * mean([k(x, y) for x in a for y in b])


def covered_by_loops(points, support, k):
    count = 0
    for x in points:
        inside = False
        for i, centre in enumerate(support):
            others = sorted(float((centre - support[j]).norm()) for j in range(len(support)) if j != i)
            inside = inside or float((x - centre).norm()) <= others[k - 1]
        count += inside
    return count / len(points)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.integers(1, 4), st.integers(0, 100), st.integers(1, 20)
)
def test_kernel_distance_is_the_sum_over_pairs(n, m, features, degree, seed, block):
    a, b = normal(n, features, seed=seed), normal(m, features, seed=seed + 1) + 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_quality, "BLOCK", block)
        found = kernel_distance(a, b, degree)
    assert found == pytest.approx(kernel_by_loops(a, b, degree), rel=1e-9, abs=1e-9)
    assert found == pytest.approx(kernel_distance(b, a, degree), rel=1e-9, abs=1e-9)


def test_kernel_distance_has_no_bias():
    found = [kernel_distance(normal(12, 3, seed=2 * i), normal(9, 3, seed=2 * i + 1)) for i in range(400)]
    assert abs(np.mean(found)) < 3 * np.std(found) / 20
    # A known mean, at degree 1: ||E a - E b||^2 / F.
    shifted = [kernel_distance(normal(12, 3, seed=2 * i), normal(9, 3, seed=2 * i + 1) + 1, 1) for i in range(400)]
    assert np.mean(shifted) == pytest.approx(1, abs=3 * np.std(shifted) / 20)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(4, 12),
    st.integers(4, 12),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 100),
    st.integers(1, 20),
)
def test_precision_and_recall_are_those_of_the_balls(n, m, features, k, seed, block):
    real, made = normal(n, features, seed=seed), 0.7 * normal(m, features, seed=seed + 1) + 0.3
    made[0] = real[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_quality, "BLOCK", block)
        precision, recall = precision_recall(real, made, k)
    assert precision == covered_by_loops(made, real, k)
    assert recall == covered_by_loops(real, made, k)


def test_one_good_image_is_precise_and_recalls_nothing():
    real = normal(200, 4)
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real[:1].expand(50, -1)) == (1, 1 / 200)
    precision, recall = precision_recall(real, 100 + normal(200, 4, seed=1))
    assert precision == recall == 0
    half = precision_recall(torch.cat([real, 100 + real]), normal(200, 4, seed=1))
    assert half.precision > 0.8
    assert half.recall < 0.5


def test_half_precision_is_read_and_computed_in_full():
    a, b = normal(20, 3).half(), normal(20, 3, seed=1).half()
    assert kernel_distance(a, b) == kernel_distance(a.double(), b.double())
    assert precision_recall(a, b) == precision_recall(a.double(), b.double())


def test_errors():
    a = torch.rand(9, 4)
    for measure, name in ((kernel_distance, "b"), (precision_recall, "generated")):
        with pytest.raises(ShapeError, match=f"{name} has 3 features, expected 4"):
            measure(a, a[:, :3])
        with pytest.raises(ShapeError, match=f"{name} has 1 rows"):
            measure(a, a[:1])
        with pytest.raises(DataError, match=r"holds torch.int64"):
            measure(a, torch.ones(9, 4, dtype=torch.long))
        with pytest.raises(NonFiniteError, match=f"9 of 9 rows of {name} are not finite"):
            measure(a, a / 0)
    with pytest.raises(SettingsError, match="degree = 0"):
        kernel_distance(a, a, 0)
    with pytest.raises(SettingsError, match="k = 0"):
        precision_recall(a, a, 0)
    with pytest.raises(ShapeError, match="generated has 4 rows, expected at least 6"):
        precision_recall(a, a[:4], 5)


def test_subsets_of_all_rows_are_all_pairs_and_the_mean_has_no_bias():
    a, b = normal(40, 3), normal(40, 3, seed=1) + 0.5
    whole = kernel_distance_of_subsets(a, b, size=40, subsets=3)
    assert whole.mean == pytest.approx(kernel_distance(a, b), rel=1e-9)
    assert whole.std == pytest.approx(0, abs=1e-9)
    found = kernel_distance_of_subsets(a, b, size=8, subsets=400)
    assert found.mean == pytest.approx(kernel_distance(a, b), abs=3 * found.std / 20)
    state = torch.get_rng_state()
    assert kernel_distance_of_subsets(a, b, 8, 5, seed=1) == kernel_distance_of_subsets(a, b, 8, 5, seed=1)
    assert kernel_distance_of_subsets(a, b, 8, 5, seed=1) != kernel_distance_of_subsets(a, b, 8, 5, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(SettingsError, match="size = 41, expected 2 to 40"):
        kernel_distance_of_subsets(a, b, 41)
    with pytest.raises(SettingsError, match="size = 1, expected"):
        kernel_distance_of_subsets(a, b, 1)
    with pytest.raises(SettingsError, match="subsets = 0"):
        kernel_distance_of_subsets(a, b, 8, 0)
    with pytest.raises(ShapeError, match="kernel_distance_of_subsets: b has 2 features"):
        kernel_distance_of_subsets(a, b[:, :2], 8)


@pytest.mark.filterwarnings("ignore:Metric .Kernel Inception Distance:UserWarning")
def test_agrees_with_torchmetrics():
    ensure_torchvision()
    metrics = pytest.importorskip("torchmetrics.image.kid", reason="torchmetrics is not installed")

    class Flat(torch.nn.Module):
        num_features = 12

        def forward(self, x):
            return x.flatten(1)

    a, b = torch.rand(60, 3, 2, 2).double(), torch.rand(60, 3, 2, 2).double() ** 2
    for degree in (1, 3):
        metric = metrics.KernelInceptionDistance(feature=Flat(), subsets=2, subset_size=60, degree=degree)
        metric.update(a, real=True)
        metric.update(b, real=False)
        mean, std = metric.compute()
        assert kernel_distance(a.flatten(1), b.flatten(1), degree) == pytest.approx(float(mean), rel=1e-5)
        assert float(std) == pytest.approx(0, abs=1e-6)
    metric = metrics.KernelInceptionDistance(feature=Flat(), subsets=300, subset_size=20)
    metric.update(a, real=True)
    metric.update(b, real=False)
    mean, std = metric.compute()
    ours = kernel_distance_of_subsets(a.flatten(1), b.flatten(1), 20, 300)
    assert ours.mean == pytest.approx(float(mean), abs=4 * ours.std * (2 / 300) ** 0.5)
    assert ours.std == pytest.approx(float(std), rel=0.25)


def test_far_from_the_origin_and_in_tiny_units_nothing_changes():
    real, made = normal(60, 3), 2 * normal(60, 3, seed=1)
    expected = precision_recall(real, made)
    assert 0 < expected.precision < 1
    assert precision_recall(real + 1e5, made + 1e5) == expected
    assert precision_recall(1e-100 * real, 1e-100 * made) == expected

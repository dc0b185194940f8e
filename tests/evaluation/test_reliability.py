"""Calibration against a loop, against scikit-learn's calibration curve, and on classifiers whose error is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.evaluation.reliability import expected_calibration_error, reliability


def made(seed=0, size=300, classes=4, sharpness=2.0):
    """Softmax probabilities in float64 and labels, some of them of no class."""
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(size, classes, generator=generator, dtype=torch.float64)
    return logits.softmax(1), torch.randint(-1, classes, (size,), generator=generator)


def by_loop(probability, y, bins):
    total = 0.0
    for m in range(1, bins + 1):
        confidences, rights = [], []
        for row, label in zip(probability.tolist(), y.tolist(), strict=True):
            confidence = max(row)
            if (m - 1) / bins < confidence <= m / bins or (m == bins and confidence > 1):
                confidences.append(confidence)
                rights.append(row.index(confidence) == label)
        if rights:
            gap = abs(sum(rights) / len(rights) - sum(confidences) / len(confidences))
            total += len(rights) / len(y) * gap
    return total


def binary(confidence, right):
    """Rows of two classes with this confidence in class 0, and whether class 0 is the true one."""
    first = torch.tensor(confidence, dtype=torch.float64)
    return torch.stack([first, 1 - first], 1), torch.tensor([0 if hit else 1 for hit in right])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 80), st.integers(1, 6), st.integers(1, 20), st.floats(0.0, 30.0))
def test_agrees_with_a_loop(seed, size, classes, bins, sharpness):
    probability, y = made(seed, size, classes, sharpness)
    assert expected_calibration_error(probability, y, bins) == pytest.approx(by_loop(probability, y, bins), abs=1e-12)


def test_the_table_is_scikit_learns_calibration_curve():
    probability, y = made(1, 2000)
    confidence, predicted = probability.max(1)
    accuracy, mean = calibration_curve((predicted == y).numpy(), confidence.numpy(), n_bins=15)
    table = reliability(probability, y, 15)
    used = table.count > 0
    assert table.accuracy[used].tolist() == pytest.approx(accuracy.tolist())
    assert table.confidence[used].tolist() == pytest.approx(mean.tolist())


def test_the_error_is_the_weighted_gap_of_the_table():
    probability, y = made(2)
    table = reliability(probability, y, 10)
    assert table.count.sum() == 300
    used = table.count > 0
    assert not used[:2].any()  # four classes: the largest probability is at least a quarter
    assert table.confidence[~used].isnan().all()
    assert table.accuracy[~used].isnan().all()
    gaps = (table.accuracy - table.confidence).abs()[used]
    assert expected_calibration_error(probability, y, 10) == pytest.approx(float(table.count[used] @ gaps) / 300)


def test_known_errors():
    assert expected_calibration_error(*binary([0.7] * 10, [True] * 5 + [False] * 5)) == pytest.approx(0.2)
    assert expected_calibration_error(*binary([0.7] * 10, [True] * 7 + [False] * 3)) == pytest.approx(0)
    assert expected_calibration_error(*binary([0.95] * 4 + [0.65] * 4, [True] * 4 + [False] * 4)) == pytest.approx(
        0.5 * 0.05 + 0.5 * 0.65
    )
    # In one bin the two errors cancel.
    assert expected_calibration_error(*binary([0.95, 0.55], [False, True]), bins=1) == pytest.approx(0.25)


def test_certain_rows():
    eye = torch.eye(3, dtype=torch.float64)
    assert expected_calibration_error(eye, torch.arange(3)) == 0
    assert expected_calibration_error(eye, torch.tensor([1, 2, 0])) == 1
    assert expected_calibration_error(eye, torch.full((3,), -1)) == 1
    assert expected_calibration_error(torch.ones(5, 1), torch.zeros(5)) == 0  # one class
    table = reliability(eye, torch.tensor([0, 1, -1]), 15)
    assert table.count.tolist() == [0] * 14 + [3]
    assert table.accuracy[-1] == pytest.approx(2 / 3)


def test_the_upper_edge_belongs_to_its_bin():
    fifth = torch.full((2, 5), 0.2, dtype=torch.float64)
    assert reliability(fifth, torch.tensor([0, 0]), 5).count.tolist() == [2, 0, 0, 0, 0]
    half = torch.full((3, 2), 0.5)
    assert reliability(half, torch.tensor([0, 1, 1]), 4).count.tolist() == [0, 3, 0, 0]


def test_labels_drawn_from_the_probabilities_are_calibrated():
    """And the same logits three times as large are too sure by far."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(20000, 3, generator=generator, dtype=torch.float64)
    y = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    in_use = float((reliability(logits.softmax(1), y).count > 0).sum())
    # The docstring's figure of what sampling alone gives.
    assert expected_calibration_error(logits.softmax(1), y) == pytest.approx((in_use / 20000) ** 0.5 / 3, rel=0.7)
    assert expected_calibration_error((3 * logits).softmax(1), y) > 0.2
    table = reliability((3 * logits).softmax(1), y)
    assert (table.accuracy < table.confidence)[table.count > 100].all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_takes_other_precisions(dtype):
    probability, y = made(4)
    found = expected_calibration_error(probability.to(dtype), y.to(torch.int32))
    assert found == pytest.approx(by_loop(probability.to(dtype).double(), y, 15), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 5))
def test_stays_between_0_and_1_in_any_order_of_rows_and_classes(seed, size, classes):
    probability, y = made(seed, size, classes)
    found = expected_calibration_error(probability, y)
    assert 0 <= found <= 1
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(size, generator=generator), torch.randperm(classes, generator=generator)
    moved = torch.where(y[rows] >= 0, columns.argsort()[y[rows]], -1)
    assert expected_calibration_error(probability[rows][:, columns], moved) == pytest.approx(found)


@pytest.mark.parametrize("measure", [reliability, expected_calibration_error])
def test_errors(measure):
    probability, y = made()
    name = measure.__name__
    with pytest.raises(ShapeError, match=rf"{name}: probability has shape \[300\] and y \[300\]"):
        measure(probability[:, 0], y)
    with pytest.raises(ShapeError, match=r"y \[299\], expected \[N, C\] and \[N\]"):
        measure(probability, y[:-1])
    with pytest.raises(DataError, match="empty"):
        measure(probability[:0], y[:0])
    with pytest.raises(DataError, match="softmax"):
        measure(probability.log(), y)
    with pytest.raises(DataError, match="softmax"):
        measure(2 * probability, y)
    with pytest.raises(SettingsError, match="bins = 0"):
        measure(probability, y, 0)
    broken = probability.clone()
    broken[3, 1] = math.nan
    with pytest.raises(NonFiniteError, match="1 of 300 rows"):
        measure(broken, y)

"""Categorical entropies against loops and closed forms."""

from __future__ import annotations

import math

import pyro
import pytest
import torch

from genssl.errors import DataError, ShapeError
from genssl.estimators import categorical_entropy, categorical_joint_entropy


def test_equal_loops(float64):
    p, other = torch.randn(13, 4).softmax(1), torch.randn(13, 3).softmax(1)
    table = [[sum(float(p[n, a] * other[n, b]) for n in range(13)) / 13 for b in range(3)] for a in range(4)]
    joint = -sum(t * math.log(t) for row in table for t in row)
    single = -sum(sum(row) * math.log(sum(row)) for row in table)
    assert float(categorical_joint_entropy(p, other)) == pytest.approx(joint, abs=1e-12)
    assert float(categorical_entropy(p)) == pytest.approx(single, abs=1e-12)
    assert float(categorical_entropy(p)) == pytest.approx(
        float(torch.distributions.Categorical(p.mean(0)).entropy()), abs=1e-12
    )


def test_one_hot_codes():
    """Balanced one-hot codes: log K alone; together log K where views agree, 2 log K where they are independent."""
    codes = torch.eye(5, dtype=torch.float64)
    assert float(categorical_entropy(codes)) == pytest.approx(math.log(5), abs=1e-12)
    assert float(categorical_joint_entropy(codes, codes)) == pytest.approx(math.log(5), abs=1e-12)
    first, second = codes.repeat_interleave(5, 0), codes.repeat(5, 1)
    assert float(categorical_joint_entropy(first, second)) == pytest.approx(2 * math.log(5), abs=1e-12)
    assert float(categorical_entropy(codes[:1].expand(7, 5))) == pytest.approx(0, abs=1e-12)


def test_unsure_and_spread_codes_have_the_same_aggregate_entropy():
    unsure = torch.full((4, 4), 0.25)
    torch.testing.assert_close(categorical_entropy(unsure), categorical_entropy(torch.eye(4)))


def test_gradient_is_finite_where_a_probability_is_zero():
    p = torch.eye(3, dtype=torch.float64)[:2].requires_grad_()
    categorical_entropy(p).backward()
    assert p.grad.isfinite().all()
    categorical_joint_entropy(p, p.detach()).backward()
    assert p.grad.isfinite().all()


def test_errors_say_what_and_how():
    p = torch.randn(6, 3).softmax(1)
    for wrong in (torch.randn(6, 3), 1.5 * p, p * float("nan")):
        with pytest.raises(DataError, match="rows of p are no probabilities.*apply softmax"):
            categorical_entropy(wrong)
        with pytest.raises(DataError, match="rows of p_other"):
            categorical_joint_entropy(p, wrong)
        with pyro.validation_enabled(False):
            categorical_entropy(wrong)  # looking at values would wait for a device
    with pytest.raises(ShapeError, match=r"expected \[N, K\]"):
        categorical_entropy(p[0])
    with pytest.raises(ShapeError, match="6 rows and p_other 5"):
        categorical_joint_entropy(p, p[1:])
    assert categorical_entropy(torch.randn(6, 300).softmax(1).bfloat16()).isfinite()

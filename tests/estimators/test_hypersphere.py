"""Alignment and uniformity against loops and the uniform distribution on the sphere."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import gammaln, ive

from genssl.errors import SettingsError, ShapeError
from genssl.estimators import alignment, kde_entropy, uniformity
from genssl.estimators.von_mises_fisher import log_kernel_integral


def units(n, dim):
    return torch.nn.functional.normalize(torch.randn(n, dim, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_alignment_equals_a_loop(alpha):
    z, other = units(17, 3), units(17, 3)
    expected = sum(float((a - b).norm()) ** alpha for a, b in zip(z, other, strict=True)) / 17
    assert float(alignment(2 * z, 5 * other, alpha)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("t", [0.5, 2.0, 50.0])
def test_uniformity_equals_a_double_loop(t):
    z = units(21, 4)
    pairs = [math.exp(-t * float((z[i] - z[j]).square().sum())) for i in range(21) for j in range(i + 1, 21)]
    assert float(uniformity(3 * z, t)) == pytest.approx(math.log(sum(pairs) / len(pairs)), abs=1e-10)


@pytest.mark.parametrize("dim", [2, 3, 10])
def test_uniform_points_have_the_stated_value(dim):
    t, order = 2.0, dim / 2 - 1
    expected = gammaln(dim / 2) - order * math.log(t) + math.log(ive(order, 2 * t))
    assert float(uniformity(units(3000, dim), t)) == pytest.approx(expected, abs=0.02)


def test_uniformity_is_the_jensen_relative_of_the_kernel_entropy():
    for t in (0.5, 2.0, 10.0):
        z = units(30, 3)
        kernel = -kde_entropy(z, (2 * t) ** -0.5, "vmf") + log_kernel_integral(3, 2 * t)
        assert kernel <= uniformity(z, t)
    # Where all points see the same, both are one.
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)
    kernel = -kde_entropy(square, 0.5, "vmf") + log_kernel_integral(2, 4.0)
    torch.testing.assert_close(kernel, uniformity(square, 2.0), rtol=0, atol=1e-12)


def test_ends_of_the_range():
    z = units(1, 3).expand(6, 3)
    assert float(uniformity(z)) == pytest.approx(0, abs=1e-12)
    assert float(uniformity(torch.cat([z[:1], -z[:1]]))) == pytest.approx(-8, abs=1e-12)
    assert float(alignment(z, z)) == 0
    assert float(alignment(z, -z)) == pytest.approx(4)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_alignment_of_coinciding_pairs_has_no_gradient(alpha):
    z = torch.randn(5, 3, requires_grad=True)
    alignment(z, z.detach().clone(), alpha).backward()
    assert z.grad.abs().max() == 0


def test_errors_say_what_and_how():
    z = torch.randn(5, 3)
    with pytest.raises(SettingsError, match="alpha = 0"):
        alignment(z, z, 0)
    with pytest.raises(SettingsError, match="t = -1"):
        uniformity(z, -1)
    with pytest.raises(ShapeError, match=r"\[5, 3\] and z_other \[4, 3\]"):
        alignment(z, z[:4])
    with pytest.raises(ShapeError, match="1 rows, expected at least 2"):
        uniformity(z[:1])

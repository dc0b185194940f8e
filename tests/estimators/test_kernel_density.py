"""kde_entropy against double loops, scikit-learn, scipy, and what its bias must be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import vonmises_fisher
from sklearn.neighbors import KernelDensity

from genssl.errors import DataError, SettingsError, ShapeError
from genssl.estimators import kde_entropy
from genssl.estimators.von_mises_fisher import log_kernel_integral


def looped(z, log_kernel, leave_one_out):
    total = 0.0
    for i in range(len(z)):
        density = sum(math.exp(log_kernel(z[i], z[j])) for j in range(len(z)) if j != i or not leave_one_out)
        total -= math.log(density / (len(z) - leave_one_out)) / len(z)
    return total


@pytest.mark.parametrize("leave_one_out", [True, False])
@pytest.mark.parametrize("dim", [1, 3])
def test_gaussian_kernel_equals_a_double_loop(dim, leave_one_out):
    z, h = torch.randn(23, dim, dtype=torch.float64) + 5, 0.6

    def log_kernel(a, b):
        return float(torch.distributions.Normal(b, h).log_prob(a).sum())

    seen = kde_entropy(z, h, leave_one_out=leave_one_out)
    assert float(seen) == pytest.approx(looped(z, log_kernel, leave_one_out), abs=1e-10)


@pytest.mark.parametrize("leave_one_out", [True, False])
@pytest.mark.parametrize("dim", [2, 3, 7])
def test_von_mises_fisher_kernel_equals_a_double_loop_with_scipy(dim, leave_one_out):
    z, h = 3 * torch.randn(19, dim, dtype=torch.float64), 0.5
    unit = (z / z.norm(dim=1, keepdim=True)).numpy()

    def log_kernel(a, b):
        return float(vonmises_fisher(b, 1 / h**2).logpdf(a))

    seen = kde_entropy(z, h, "vmf", leave_one_out=leave_one_out)
    assert float(seen) == pytest.approx(looped(unit, log_kernel, leave_one_out), abs=1e-10)


def test_with_self_equals_scikit_learn():
    z = torch.randn(200, 4, dtype=torch.float64)
    reference = KernelDensity(bandwidth=0.7, rtol=1e-12, atol=1e-300).fit(z.numpy()).score_samples(z.numpy())
    assert float(kde_entropy(z, 0.7, leave_one_out=False)) == pytest.approx(-reference.mean(), abs=1e-10)


@pytest.mark.parametrize("dim", [2, 3, 10, 128, 2048])
@pytest.mark.parametrize("concentration", [1e-3, 0.5, 10.0, 1e4])
def test_normaliser_equals_quadrature(dim, concentration):
    """The area of S^(D-2) times the integral over t = cos of exp(kappa (t - 1)) (1 - t^2)^((D - 3)/2)."""
    angle = (np.arange(2_000_000) + 0.5) * math.pi / 2_000_000
    if concentration == 1e4:
        angle /= 4  # all the mass is near the pole, unless there are many dimensions
    if dim == 2048 and concentration == 1e4:
        angle *= 4
    log_integrand = concentration * (np.cos(angle) - 1) + (dim - 2) * np.log(np.sin(angle))
    log_area = math.log(2) + 0.5 * (dim - 1) * math.log(math.pi) - math.lgamma(0.5 * (dim - 1))
    top = log_integrand.max()
    expected = log_area + top + math.log(np.exp(log_integrand - top).sum() * (angle[1] - angle[0]))
    assert log_kernel_integral(dim, concentration) == pytest.approx(expected, abs=1e-8, rel=1e-10)


def test_normaliser_tends_to_the_area_of_the_sphere():
    for dim in (2, 5, 500):
        area = math.log(2) + 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim)
        assert log_kernel_integral(dim, 1e-9) == pytest.approx(area, abs=1e-7, rel=1e-9)


def test_both_kernels_agree_on_the_sphere_but_for_the_normaliser(float64):
    z = torch.nn.functional.normalize(torch.randn(30, 3), dim=1)
    h = 0.4
    difference = kde_entropy(z, h) - kde_entropy(z, h, "vmf")
    constant = 1.5 * math.log(2 * math.pi * h**2) - log_kernel_integral(3, 1 / h**2)
    assert float(difference) == pytest.approx(constant, abs=1e-10)


@pytest.mark.parametrize(("dim", "h"), [(1, 0.3), (2, 0.5), (5, 1.0)])
def test_the_limit_is_the_cross_entropy_to_the_smoothed_density(dim, h):
    """N(0, I) under N(0, (1 + h^2) I); above the entropy."""
    seen = [float(kde_entropy(torch.randn(2000, dim), h)) for _ in range(4)]
    total = 1 + h**2
    limit = 0.5 * dim * (math.log(2 * math.pi * total) + 1 / total)
    assert np.mean(seen) == pytest.approx(limit, abs=0.05)
    assert np.mean(seen) > 0.5 * dim * (1 + math.log(2 * math.pi))


def test_von_mises_fisher_limit_on_the_circle(float64):
    """The uniform density on the circle is its own smoothing: log 2 pi."""
    z = torch.randn(3000, 2)
    assert float(kde_entropy(z, 0.3, "vmf")) == pytest.approx(math.log(2 * math.pi), abs=0.01)
    draws = vonmises_fisher(np.array([0.0, 0.0, 1.0]), 4.0).rvs(3000, random_state=1)
    entropy = float(vonmises_fisher(np.array([0.0, 0.0, 1.0]), 4.0).entropy())
    seen = float(kde_entropy(torch.from_numpy(draws), 0.2, "vmf"))
    assert entropy < seen < entropy + 0.1


@pytest.mark.parametrize("dim", [1, 3])
def test_a_fixed_bandwidth_breaks_the_scaling_law_upwards(dim):
    """H(az) = H(z) + D log a fails: shrinking z by a, the estimate falls too little; moving h with z restores it exactly."""
    z, a, h = torch.randn(500, dim, dtype=torch.float64), 0.1, 0.5
    error = float(kde_entropy(a * z, h) - kde_entropy(z, h)) - dim * math.log(a)
    assert error > 0.5 * dim
    assert float(kde_entropy(a * z, a * h) - kde_entropy(z, h)) == pytest.approx(dim * math.log(a), abs=1e-10)
    floor = 0.5 * dim * math.log(2 * math.pi * h**2)
    assert float(kde_entropy(1e-6 * z, h)) == pytest.approx(floor, abs=1e-6)


def test_with_self_is_bounded_whatever_z():
    z = 1e3 * torch.randn(50, 2, dtype=torch.float64)
    limit = math.log(50) + math.log(2 * math.pi * 0.01)
    assert float(kde_entropy(z, 0.1, leave_one_out=False)) == pytest.approx(limit, abs=1e-9)
    assert float(kde_entropy(z, 0.1)) > 1e3


def test_far_from_the_origin_float32_keeps_its_digits():
    z = torch.randn(200, 3, dtype=torch.float64)
    moved = (z + 100).float()
    torch.testing.assert_close(kde_entropy(moved, 0.5), kde_entropy(moved.double(), 0.5).float(), rtol=0, atol=1e-5)


def test_errors_say_what_and_how():
    z = torch.randn(8, 3)
    with pytest.raises(SettingsError, match="kernel = 'box'"):
        kde_entropy(z, 1.0, "box")
    with pytest.raises(SettingsError, match="bandwidth = 0"):
        kde_entropy(z, 0)
    with pytest.raises(SettingsError, match="bandwidth"):
        kde_entropy(z, torch.tensor(1.0))
    with pytest.raises(SettingsError, match="concentration"):
        kde_entropy(z, 1e-6, "vmf")
    with pytest.raises(ShapeError, match="at least 2 for the sphere"):
        kde_entropy(z[:, :1], 1.0, "vmf")
    with pytest.raises(ShapeError, match="1 rows"):
        kde_entropy(z[:1], 1.0)
    with pytest.raises(DataError, match="leave one coordinate out"):
        kde_entropy(z.softmax(1), 1.0)
    assert kde_entropy(z.softmax(1), 1.0, "vmf").isfinite()

"""Log-determinant entropies against dense linear algebra, known Gaussians, and calculus."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from genssl.errors import DataError, SettingsError, ShapeError
from genssl.estimators import joint_logdet_entropy, logdet_entropy, logdet_expansion_entropy

LOG_2PI = math.log(2 * math.pi)


def whitened(n, dim):
    """Rows whose sample covariance is the identity, to rounding."""
    z = torch.randn(n, dim, dtype=torch.float64)
    q, _ = torch.linalg.qr(z - z.mean(0))
    return q * math.sqrt(n - 1)


@pytest.mark.parametrize("dim", [1, 2, 5, 10])
def test_equals_scipy_at_the_sample_covariance(dim):
    z = torch.randn(40, dim, dtype=torch.float64) @ torch.randn(dim, dim, dtype=torch.float64) + 2
    covariance = np.atleast_2d(np.cov(z.numpy().T))
    assert float(logdet_entropy(z)) == pytest.approx(
        multivariate_normal(np.zeros(dim), covariance).entropy(), abs=1e-10
    )
    shrunk = 0.7 * covariance + 0.3 * np.trace(covariance) / dim * np.eye(dim)
    expected = multivariate_normal(np.zeros(dim), shrunk).entropy()
    assert float(logdet_entropy(z, 0.3)) == pytest.approx(expected, abs=1e-10)
    assert logdet_entropy(z, 0.3) >= logdet_entropy(z) - 1e-12


@pytest.mark.parametrize(("n", "dim"), [(50, 1), (30, 2), (20, 5), (15, 10)])
def test_unbiased_on_correlated_gaussians(n, dim):
    """The mean over many small samples; the plain value is low by the stated amount."""
    factor = torch.tril(0.5 * torch.randn(dim, dim, dtype=torch.float64), -1) + torch.eye(dim)
    truth = 0.5 * dim * (1 + LOG_2PI)  # the factor has determinant 1
    batches = [torch.randn(n, dim, dtype=torch.float64) @ factor.T for _ in range(400)]
    exact = torch.stack([logdet_entropy(z, unbiased=True) for z in batches])
    error = float(exact.std()) / 20
    assert float(exact.mean()) == pytest.approx(truth, abs=4 * error)
    bias = float(logdet_entropy(batches[0]) - logdet_entropy(batches[0], unbiased=True))
    assert bias < 0
    if n >= 4 * dim:
        assert bias == pytest.approx(-dim * (dim + 1) / (4 * n), rel=0.3)


@pytest.mark.parametrize("shrinkage", [0.0, 0.2])
def test_scaling_translation_and_rotation(shrinkage):
    z = torch.randn(50, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    reference = logdet_entropy(z, shrinkage)
    for moved, shift in ((3 * z, 4 * math.log(3)), (1e-4 * z, 4 * math.log(1e-4)), (z + 9, 0.0), (z @ rotation, 0.0)):
        assert float(logdet_entropy(moved, shrinkage) - reference) == pytest.approx(shift, abs=1e-9)


def test_singular_covariances():
    z = torch.randn(10, 4)
    with pytest.raises(ShapeError, match="4 rows of 4 features have a singular covariance.*shrinkage > 0"):
        logdet_entropy(z[:4])
    assert logdet_entropy(z[:4], 0.1).isfinite()
    assert logdet_entropy(z, valid=torch.arange(10) < 4) == -math.inf
    assert logdet_entropy(z, valid=torch.arange(10) < 5).isfinite()
    constant = z.clone()
    constant[:, 2] = 1.0
    assert logdet_entropy(constant) == -math.inf
    assert logdet_expansion_entropy(constant) == -math.inf
    assert logdet_entropy(torch.ones(10, 4), 0.5) == -math.inf


# ---------------------------------------------------------------------- expansion


def test_expansion_equals_loops_and_is_exact_without_correlation():
    z = torch.randn(30, 4, dtype=torch.float64) @ (torch.eye(4) + 0.3 * torch.randn(4, 4)).double()
    s = np.cov(z.numpy().T)
    log_det = sum(math.log(s[i, i]) for i in range(4))
    log_det -= 0.5 * sum(s[i, j] ** 2 / (s[i, i] * s[j, j]) for i in range(4) for j in range(4) if i != j)
    assert float(logdet_expansion_entropy(z)) == pytest.approx(2 * (1 + LOG_2PI) + 0.5 * log_det, abs=1e-10)
    z = whitened(30, 4) * torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(logdet_expansion_entropy(z), logdet_entropy(z), rtol=0, atol=1e-10)


def test_expansion_is_of_second_order():
    """The error falls as the cube of the correlations and is tr A^3 / 6: a fourth power of them in place of the square would not do."""
    pattern = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, -1.5], [2.0, -1.5, 0.0]], dtype=torch.float64)
    base = whitened(50, 3)
    for size in (0.02, 0.04):
        z = base @ torch.linalg.cholesky(torch.eye(3) + size * pattern).T
        error = float(logdet_entropy(z) - logdet_expansion_entropy(z))
        third = float(torch.linalg.matrix_power(size * pattern, 3).trace()) / 6
        assert error == pytest.approx(third, rel=0.2)


def test_expansion_stays_finite_where_features_repeat():
    z = torch.randn(50, 1, dtype=torch.float64).expand(50, 3)
    marginal = 3 * logdet_entropy(z[:, :1])
    assert float(logdet_expansion_entropy(z) - marginal) == pytest.approx(-3 * 2 / 4, abs=1e-10)


# ---------------------------------------------------------------------- joint


def test_joint_is_over_features_not_over_the_batch(float64):
    z, other = torch.randn(40, 3), torch.randn(40, 2)
    stacked = np.cov(np.concatenate([z.numpy(), other.numpy()], 1).T)
    assert stacked.shape == (5, 5)
    expected = multivariate_normal(np.zeros(5), stacked).entropy()
    assert float(joint_logdet_entropy(z, other)) == pytest.approx(expected, abs=1e-10)
    # The pairing counts: shuffled partners have another joint entropy, but the same pooled covariance.
    paired, shuffled = z + 0.1 * torch.randn(40, 3), torch.randperm(40)
    assert joint_logdet_entropy(z, paired) < joint_logdet_entropy(z, paired[shuffled]) - 1


def test_joint_of_any_number_of_views(float64):
    views = torch.randn(60, 4, 3)
    torch.testing.assert_close(joint_logdet_entropy(views), joint_logdet_entropy(*views.unbind(1)))
    torch.testing.assert_close(joint_logdet_entropy(views), joint_logdet_entropy(views[:, [2, 0, 3, 1]]))
    torch.testing.assert_close(joint_logdet_entropy(views[:, :1]), logdet_entropy(views[:, 0]))
    torch.testing.assert_close(
        joint_logdet_entropy(views, unbiased=True), logdet_entropy(views.flatten(1), unbiased=True)
    )


@pytest.mark.parametrize(("big", "small", "dim"), [(1.0, 0.3, 1), (2.0, 0.01, 4)])
def test_gaussian_toy_by_calculus(big, small, dim):
    """z ~ N(0, V I), z' = z + N(0, v I): the joint log-determinant is D log V + D log v."""
    base = whitened(50, 2 * dim)
    z = math.sqrt(big) * base[:, :dim]
    other = z + math.sqrt(small) * base[:, dim:]
    expected = dim * (1 + LOG_2PI) + 0.5 * dim * (math.log(big) + math.log(small))
    assert float(joint_logdet_entropy(z, other)) == pytest.approx(expected, abs=1e-9)
    information = logdet_entropy(z) + logdet_entropy(other) - joint_logdet_entropy(z, other)
    assert float(information) == pytest.approx(0.5 * dim * math.log((big + small) / small), abs=1e-9)


def test_joint_entropy_keeps_the_spread_of_pairs_and_two_single_ones_do_not():
    """With the conditional N(z, s^2): the joint objective is stationary in v at v = s^2, the other falls in v wherever V + v > s^2."""
    base, s2 = whitened(50, 2), 0.3

    def slopes(v):
        log_v = torch.tensor(math.log(v), dtype=torch.float64, requires_grad=True)
        z = base[:, :1]
        other = z + (0.5 * log_v).exp() * base[:, 1:]
        fit = -(other - z).square().sum() / (len(z) - 1) / (2 * s2)
        joint, single = joint_logdet_entropy(z, other), logdet_entropy(z) + logdet_entropy(other)
        return [float(torch.autograd.grad(fit + h, log_v, retain_graph=True)[0]) for h in (joint, single)]

    assert slopes(s2)[0] == pytest.approx(0, abs=1e-10)
    assert slopes(0.5 * s2)[0] > 0.1
    assert slopes(2 * s2)[0] < -0.1
    assert max(slopes(v)[1] for v in (0.01, 0.1, 0.3, 1.0)) < 0


def test_shrinkage_makes_coinciding_views_finite():
    z = torch.randn(50, 3, dtype=torch.float64)
    assert joint_logdet_entropy(z, z.clone(), shrinkage=0.05).isfinite()
    near, far = (joint_logdet_entropy(z, z + v * torch.randn_like(z), shrinkage=0.05) for v in (1e-4, 1.0))
    assert near < far


def test_errors_say_what_and_how():
    z = torch.randn(9, 3)
    with pytest.raises(SettingsError, match="shrinkage = 2"):
        logdet_entropy(z, 2)
    with pytest.raises(SettingsError, match="unbiased"):
        logdet_entropy(z, 0.1, unbiased=True)
    with pytest.raises(DataError, match="leave one coordinate out"):
        logdet_entropy(z.softmax(1))
    with pytest.raises(DataError, match="leave one coordinate out"):
        joint_logdet_entropy(z, z.softmax(1))
    with pytest.raises(ShapeError, match=r"\[\[9, 3\], \[8, 3\]\]"):
        joint_logdet_entropy(z, z[1:])
    for views in ((), (z,), (z[:, None, None],)):
        with pytest.raises(ShapeError, match=r"expected one tensor \[N, J, D\]"):
            joint_logdet_entropy(*views)
    with pytest.raises(ShapeError, match="9 rows of 12 features"):
        joint_logdet_entropy(torch.randn(9, 4, 3))

"""Likelihoods against torch's own distributions."""

from __future__ import annotations

import math

import pytest
import torch

from genssl.distributions import Bernoulli, ContinuousBernoulli, Gaussian, IsotropicNormal, LogitsContinuousBernoulli
from genssl.errors import SettingsError, ShapeError


@pytest.mark.parametrize("scale", [0.3, torch.tensor(0.3, dtype=torch.float64)])
def test_isotropic_normal_is_normal(scale):
    loc, x = torch.randn(4, 3, 1, 5, 5, dtype=torch.float64), torch.randn(4, 3, 1, 5, 5, dtype=torch.float64)
    ours, theirs = IsotropicNormal(loc, scale, 3), torch.distributions.Normal(loc, scale)
    assert (ours.batch_shape, ours.event_shape) == ((4, 3), (1, 5, 5))
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x).sum((-3, -2, -1)), rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(ours.entropy(), theirs.entropy().sum((-3, -2, -1)), rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(ours.variance, theirs.variance)
    torch.testing.assert_close(ours.expand([2, 4, 3]).log_prob(x)[1], ours.log_prob(x))
    draws = ours.sample((4000,))
    assert ((draws - loc).std(0) - 0.3).abs().max() < 0.03


def test_batch_of_scales():
    loc, scale = torch.zeros(4, 3), torch.tensor([0.5, 1.0, 2.0, 4.0])
    expected = torch.distributions.Normal(loc, scale[:, None]).log_prob(torch.ones(4, 3)).sum(1)
    torch.testing.assert_close(IsotropicNormal(loc, scale, 1).log_prob(torch.ones(4, 3)), expected)


def test_learned_scale_finds_the_root_mean_squared_error():
    likelihood, errors = Gaussian(1.0, learned=True), 0.2 * torch.randn(500, 10)
    optimiser = torch.optim.Adam(likelihood.parameters(), lr=0.05)
    for _ in range(400):
        optimiser.zero_grad()
        (-likelihood(errors, 1).log_prob(torch.zeros(500, 10)).mean()).backward()
        optimiser.step()
    torch.testing.assert_close(likelihood.scale, errors.square().mean().sqrt(), rtol=1e-3, atol=1e-3)


def test_bernoulli_and_its_continuous_form():
    logits, x = torch.randn(4, 6), torch.rand(4, 6)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
    torch.testing.assert_close(Bernoulli()(logits, 1).log_prob(x), -cross_entropy)
    grid = torch.linspace(0, 1, 20_001)
    for logit in (-3.0, -0.01, 0.0, 2.0):
        density = ContinuousBernoulli()(torch.full((20_001, 1), logit), 1).log_prob(grid[:, None]).exp()
        assert abs(float(torch.trapezoid(density, grid)) - 1) < 1e-3
        mean = float(torch.trapezoid(density * grid, grid))
        assert abs(mean - float(ContinuousBernoulli().mean(torch.tensor(logit)))) < 1e-3


@pytest.mark.parametrize("logit", [-300.0, -40.0, -17.0, -0.2, -1e-3, 0.0, 0.006, 0.2, 17.0, 40.0, 300.0])
def test_continuous_bernoulli_has_no_limit(logit):
    """float32 against float64 by the plain formula, and its gradient against that of the formula."""
    x = torch.tensor([0.0, 0.3, 1.0])
    l32 = torch.full((3,), logit, requires_grad=True)
    fn = LogitsContinuousBernoulli(l32)
    fn.log_prob(x).sum().backward()
    a = abs(logit)
    # log((1 - e^-a) / a) and its derivative, in double precision
    normaliser = 0.0 if a == 0 else math.log(-math.expm1(-a) / a)
    expected = x.double() * logit - max(logit, 0.0) - normaliser
    torch.testing.assert_close(fn.log_prob(x).double(), expected, rtol=1e-5, atol=1e-5)
    mean = (
        0.5 + logit / 12
        if a < 1e-2
        else -1 / math.expm1(-logit) - 1 / logit
        if a < 200
        else (1 - 1 / a if logit > 0 else 1 / a)
    )
    torch.testing.assert_close(fn.mean.double(), torch.full((3,), mean, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(l32.grad.double(), x.double() - mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("logit", [-8.0, -0.5, 0.0, 0.5, 8.0])
def test_continuous_bernoulli_draws(logit):
    fn = LogitsContinuousBernoulli(torch.tensor(logit)).expand([3])
    draws = fn.sample((40_000,))
    assert draws.shape == (40_000, 3)
    assert 0 <= draws.min() <= draws.max() <= 1
    assert (draws.mean(0) - fn.mean).abs().max() < 0.01


def test_values_outside_the_support_are_named():
    with pytest.raises(ValueError, match="support"):
        Bernoulli()(torch.zeros(2, 3), 1).log_prob(torch.full((2, 3), 2.0))
    with pytest.raises(ValueError, match="support"):
        ContinuousBernoulli()(torch.zeros(2, 3), 1).log_prob(torch.full((2, 3), 2.0))
    with pytest.raises(ShapeError, match="scale has shape"):
        IsotropicNormal(torch.zeros(4, 1, 6), torch.ones(6), 1)


def test_half_is_promoted():
    for likelihood in (Gaussian(0.5), Bernoulli(), ContinuousBernoulli()):
        assert likelihood(torch.zeros(2, 3, dtype=torch.bfloat16), 1).log_prob(torch.zeros(2, 3)).dtype == torch.float32


def test_bad_scale():
    with pytest.raises(SettingsError, match="standard deviation"):
        Gaussian(0.0)

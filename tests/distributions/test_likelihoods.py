"""Likelihoods against torch's own distributions."""

from __future__ import annotations

import pytest
import torch

from genssl.distributions import Bernoulli, ContinuousBernoulli, Gaussian, IsotropicNormal
from genssl.errors import SettingsError


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


def test_bad_scale():
    with pytest.raises(SettingsError, match="standard deviation"):
        Gaussian(0.0)

"""GroupNormal against dense multivariate normals, quadrature, and its own laws."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genssl.distributions import GroupNormal
from genssl.errors import SettingsError, ShapeError


def dense_log_prob(z, view, content, valid):
    """One multivariate normal over the views that exist, dimension by dimension: covariance s^2 I + c^2 1 1^T."""
    z = z[valid]
    n = len(z)
    if n == 0:
        return torch.zeros((), dtype=z.dtype)
    covariance = view**2 * torch.eye(n, dtype=z.dtype) + content**2 * torch.ones(n, n, dtype=z.dtype)
    joint = torch.distributions.MultivariateNormal(torch.zeros(n, dtype=z.dtype), covariance)
    return sum(joint.log_prob(z[:, d]) for d in range(z.shape[1]))


@settings(deadline=None, max_examples=60)
@given(
    views=st.integers(1, 10),
    dim=st.integers(1, 8),
    view=st.floats(0.05, 3),
    content=st.floats(0.05, 3),
    seed=st.integers(0, 2**31),
    ragged=st.booleans(),
)
def test_equals_dense_normal(views, dim, view, content, seed, ragged):
    generator = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(3, views, dim, dtype=torch.float64, generator=generator)
    mask = torch.rand(3, views, generator=generator) < 0.6 if ragged else torch.ones(3, views, dtype=torch.bool)
    mask[:, 0] = True
    prior = GroupNormal(view, views, dim, content, mask=mask if ragged else None)
    expected = torch.stack([dense_log_prob(z[g], view, content, mask[g]) for g in range(3)])
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("views", "dim"), [(2, 3), (10, 10), (4, 2)])
def test_flat_form_equals_quadrature(views, dim, float64):
    """The integral over y done numerically, dimension by dimension."""
    z = torch.randn(views, dim, dtype=torch.float64)
    view = 0.6
    y = torch.linspace(-30, 30, 200_001, dtype=torch.float64)
    total = 0.0
    for d in range(dim):
        log_joint = torch.distributions.Normal(y[:, None], view).log_prob(z[:, d]).sum(1)
        total += torch.logsumexp(log_joint, 0) + math.log(float(y[1] - y[0]))
    torch.testing.assert_close(GroupNormal(view, views, dim).log_prob(z), total, rtol=1e-10, atol=1e-10)


def test_flat_is_the_limit_of_a_wide_content():
    z, wide = torch.randn(5, 4, 3, dtype=torch.float64), 1e5
    proper = GroupNormal(0.4, 4, 3, content_scale=wide).log_prob(z) + 1.5 * math.log(2 * math.pi * wide**2)
    torch.testing.assert_close(proper, GroupNormal(0.4, 4, 3).log_prob(z), rtol=0, atol=1e-8)


def test_one_view():
    z = torch.randn(6, 1, 3, dtype=torch.float64)
    assert GroupNormal(0.4, 1, 3).log_prob(z).abs().max() == 0
    marginal = torch.distributions.Normal(0.0, torch.tensor(math.hypot(0.4, 1.3), dtype=torch.float64))
    expected = marginal.log_prob(z).sum((1, 2))
    torch.testing.assert_close(GroupNormal(0.4, 1, 3, content_scale=1.3).log_prob(z), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("content", [None, 1.3])
def test_permutation_and_rotation_leave_it_alone(content):
    z = torch.randn(4, 5, 3, dtype=torch.float64)
    prior = GroupNormal(0.4, 5, 3, content)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    torch.testing.assert_close(prior.log_prob(z[:, torch.randperm(5)]), prior.log_prob(z))
    torch.testing.assert_close(prior.log_prob(z @ rotation), prior.log_prob(z))


@pytest.mark.parametrize("content", [None, 1.3])
@pytest.mark.parametrize("ragged", [False, True])
def test_expected_log_prob_is_the_average(content, ragged):
    loc, scale = torch.randn(2, 4, 3, dtype=torch.float64), torch.rand(2, 4, 3, dtype=torch.float64) + 0.1
    mask = torch.tensor([[True, True, False, True], [True, True, True, True]]) if ragged else None
    prior = GroupNormal(0.7, 4, 3, content, mask=mask)
    draws = prior.log_prob(loc + scale * torch.randn(200_000, 2, 4, 3, dtype=torch.float64))
    error = draws.std(0) / len(draws) ** 0.5
    assert ((prior.expected_log_prob(loc, scale) - draws.mean(0)).abs() < 5 * error).all()


@pytest.mark.parametrize("views", [2, 10])
def test_best_posterior_variance_without_decoder(views):
    """Entropy + expected log prior is greatest at s^2 = sigma^2 J / (J - 1) for flat p(y): 0.30 at J = 2, 0.1667 at J = 10."""
    log_scale = torch.zeros(views, 1, dtype=torch.float64, requires_grad=True)
    prior = GroupNormal(0.15**0.5, views, 1)
    optimiser = torch.optim.LBFGS([log_scale], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        optimiser.zero_grad()
        loss = -(log_scale.sum() + prior.expected_log_prob(torch.zeros(views, 1, dtype=torch.float64), log_scale.exp()))
        loss.backward()
        return loss

    optimiser.step(closure)
    expected = 0.15 * views / (views - 1)
    assert torch.allclose((2 * log_scale).exp(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5)


@pytest.mark.parametrize("content", [None, 1.3])
def test_bayes_rule_for_content(content, float64):
    """log p(y) + sum_j log p(z_j | y) - log p(y | z) = log p(z) at any y."""
    z, y = torch.randn(5, 4, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    prior = GroupNormal(0.4, 4, 3, content)
    given_y = torch.distributions.Normal(y[:, None], 0.4).log_prob(z).sum((1, 2))
    content_prior = 0.0 if content is None else torch.distributions.Normal(0.0, content).log_prob(y).sum(1)
    joint = content_prior + given_y - prior.content_posterior(z).log_prob(y)
    torch.testing.assert_close(joint, prior.log_prob(z), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("content", [None, 1.3])
def test_next_view_is_the_ratio_of_joints(content, float64):
    """p(z_5 | z_1..z_4) = p(z_1..z_5) / p(z_1..z_4)."""
    z = torch.randn(3, 5, 2, dtype=torch.float64)
    ratio = GroupNormal(0.4, 5, 2, content).log_prob(z) - GroupNormal(0.4, 4, 2, content).log_prob(z[:, :4])
    conditional = GroupNormal(0.4, 4, 2, content).next_view(z[:, :4]).log_prob(z[:, 4])
    torch.testing.assert_close(conditional, ratio, rtol=1e-10, atol=1e-10)


def test_samples_have_the_stated_covariance():
    z = GroupNormal(0.5, 3, 2, content_scale=1.2).sample((200_000,))
    covariance = torch.cov(z[..., 0].T)
    expected = 0.25 * torch.eye(3) + 1.44 * torch.ones(3, 3)
    assert (covariance - expected).abs().max() < 0.03
    mask = torch.tensor([[True, False, True]])
    assert GroupNormal(0.5, 3, 2, content_scale=1.2, mask=mask).sample((7,))[:, 0, 1].abs().max() == 0


def test_shapes_batch_expand_and_sample_dimensions():
    prior = GroupNormal(0.5, 3, 2, content_scale=1.0)
    assert (prior.batch_shape, prior.event_shape) == ((), (3, 2))
    assert prior.expand([7]).log_prob(torch.randn(7, 3, 2)).shape == (7,)
    assert prior.log_prob(torch.randn(4, 7, 3, 2)).shape == (4, 7)
    masked = GroupNormal(0.5, 3, 2, content_scale=1.0, mask=torch.ones(7, 3, dtype=torch.bool))
    assert masked.batch_shape == (7,)
    assert masked.expand([4, 7]).sample((5,)).shape == (5, 4, 7, 3, 2)
    learned = GroupNormal(torch.tensor([0.5, 0.6]), 3, 2, content_scale=torch.tensor(1.0))
    assert learned.batch_shape == (2,)
    torch.testing.assert_close(
        learned.expand([4, 2]).log_prob(torch.zeros(3, 2)), learned.log_prob(torch.zeros(3, 2)).expand(4, 2)
    )


def test_padding_is_integrated_out():
    mask = torch.tensor([[True, True, False]])
    z = torch.randn(1, 3, 2, dtype=torch.float64, requires_grad=True)
    filled = z.detach().clone()
    filled[0, 2] = float("nan")
    prior = GroupNormal(0.5, 3, 2, content_scale=1.0, mask=mask, validate_args=False)
    torch.testing.assert_close(
        prior.log_prob(filled), GroupNormal(0.5, 2, 2, content_scale=1.0).log_prob(z.detach()[:, :2])
    )
    prior.log_prob(z).sum().backward()
    assert z.grad[0, 2].abs().max() == 0
    assert z.grad[0, :2].abs().min() > 0


@pytest.mark.parametrize("content", [None, 1.3])
def test_a_group_without_views_has_density_one(content):
    prior = GroupNormal(0.5, 3, 2, content, mask=torch.zeros(1, 3, dtype=torch.bool))
    z = torch.randn(1, 3, 2)
    assert prior.log_prob(z).abs().max() < 1e-6
    assert prior.expected_log_prob(z, z.exp()).abs().max() < 1e-6
    if content is not None:
        torch.testing.assert_close(prior.content_posterior(z).stddev, torch.full((1, 2), content))


def test_precision():
    prior = GroupNormal(0.5, 3, 2)
    z = torch.randn(4, 3, 2, dtype=torch.float64)
    assert prior.log_prob(z).dtype == torch.float64
    assert prior.log_prob(z.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(prior.log_prob(z.float()).double(), prior.log_prob(z), rtol=1e-5, atol=1e-5)


def test_gradients_pass_through_scales():
    view, content = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.5, 1.2))
    z = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, c, x: GroupNormal(v, 3, 2, c).log_prob(x), (view, content, z))


def test_errors_say_what_and_how():
    with pytest.raises(SettingsError, match="content_scale"):
        GroupNormal(0.5, 3, 2).sample()
    with pytest.raises(SettingsError, match="view_scale = -1"):
        GroupNormal(-1, 3, 2)
    with pytest.raises(SettingsError, match="content_scale = 0"):
        GroupNormal(1.0, 3, 2, content_scale=0)
    with pytest.raises(ShapeError, match=r"expected \[..., 3, 2\]"):
        GroupNormal(1.0, 3, 2).content_posterior(torch.zeros(3, 4))
    with pytest.raises(ShapeError, match="mask"):
        GroupNormal(1.0, 3, 2, mask=torch.ones(5, 2, dtype=torch.bool))
    with pytest.raises(ShapeError, match="num_views"):
        GroupNormal(1.0, 0, 2)
    with pytest.raises(ValueError, match="view_scale"):
        GroupNormal(torch.tensor(-1.0), 3, 2, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        GroupNormal(1.0, 1, 1, validate_args=True).log_prob(torch.full((1, 1), float("nan")))


def test_is_a_pyro_distribution():
    fn = GroupNormal(0.5, 3, 2, content_scale=1.0)
    assert isinstance(fn.mask(torch.tensor(True)), dist.MaskedDistribution)
    assert fn.has_rsample

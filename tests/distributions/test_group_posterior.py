"""GroupPosterior against dense normals and the product that it is, ragged groups, flat p(y), and its own laws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genssl.distributions import GroupNormal, GroupPosterior
from genssl.errors import ShapeError


def dense(loc, scale, view, content, valid):
    """Mean and covariance of one group in one dimension over the views that exist, from the joint of y, z by Gaussian elimination."""
    n = int(valid.sum())
    prior_precision = torch.eye(n, dtype=loc.dtype) / view**2
    ones = torch.ones(n, n, dtype=loc.dtype)
    weight = 1 / n if content is None else content**2 / (view**2 + n * content**2)
    precision = prior_precision - weight * ones / view**2 + torch.diag(scale[valid] ** -2)
    covariance = torch.linalg.inv(precision)
    return covariance @ (loc[valid] / scale[valid] ** 2), covariance


def make(seed, groups, views, dim, ragged, content, view=0.5):
    generator = torch.Generator().manual_seed(seed)
    loc = 2 * torch.randn(groups, views, dim, dtype=torch.float64, generator=generator)
    scale = 0.05 + 2 * torch.rand(groups, views, dim, dtype=torch.float64, generator=generator)
    mask = (
        torch.rand(groups, views, generator=generator) < 0.6 if ragged else torch.ones(groups, views, dtype=torch.bool)
    )
    mask[:, 0] = True
    return (
        loc,
        scale,
        mask,
        GroupPosterior(loc, scale, GroupNormal(view, views, dim, content, mask if ragged else None)),
    )


@settings(deadline=None, max_examples=40)
@given(
    views=st.integers(1, 6), dim=st.integers(1, 3), seed=st.integers(0, 2**31), ragged=st.booleans(),
    content=st.one_of(st.none(), st.floats(0.05, 3)), view=st.floats(0.05, 3),
)  # fmt: skip
def test_equals_the_dense_normal(views, dim, seed, ragged, content, view):
    loc, scale, mask, q = make(seed, 2, views, dim, ragged, content, view)
    z = torch.randn(2, views, dim, dtype=torch.float64)
    for g in range(2):
        log_prob = entropy = torch.zeros((), dtype=torch.float64)
        for d in range(dim):
            mean, covariance = dense(loc[g, :, d], scale[g, :, d], view, content, mask[g])
            normal = torch.distributions.MultivariateNormal(mean, (covariance + covariance.T) / 2)
            log_prob, entropy = log_prob + normal.log_prob(z[g, mask[g], d]), entropy + normal.entropy()
            torch.testing.assert_close(q.mean[g, mask[g], d], mean, rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(q.variance[g, mask[g], d], covariance.diagonal(), rtol=1e-8, atol=1e-8)
            here = q.covariance[g, d][mask[g]][:, mask[g]]
            torch.testing.assert_close(here, covariance, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(q.log_prob(z)[g], log_prob, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(q.entropy()[g], entropy, rtol=1e-8, atol=1e-8)
    assert bool((q.mean[~mask] == 0).all())
    assert bool((q.variance[~mask] == 0).all())
    assert bool((q.covariance.transpose(1, 2)[~mask] == 0).all())


@pytest.mark.parametrize("content", [None, 0.7])
@pytest.mark.parametrize("ragged", [False, True])
def test_is_the_product_up_to_a_constant(content, ragged):
    loc, scale, mask, q = make(0, 3, 4, 2, ragged, content)
    z = torch.randn(5, 3, 4, 2, dtype=torch.float64)
    experts = torch.where(mask[..., None], torch.distributions.Normal(loc, scale).log_prob(z), 0.0).sum((-2, -1))
    rest = q.prior.log_prob(z) + experts - q.log_prob(z)  # the log normaliser of each group, whatever z
    torch.testing.assert_close(rest, rest[:1].expand_as(rest), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("content", [None, 0.7])
@pytest.mark.parametrize("ragged", [False, True])
def test_draws_have_its_moments_and_closed_forms_their_means(content, ragged):
    _, _, mask, q = make(1, 2, 3, 2, ragged, content)
    torch.manual_seed(0)
    z = q.rsample((200_000,))
    assert z.dtype == torch.float64
    assert bool((z[:, ~mask] == 0).all())
    torch.testing.assert_close(z.mean(0), q.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(z.var(0), q.variance, rtol=0.03, atol=1e-3)
    together = z.sum(-2).var(0)  # the covariance between views shows in their sum
    expected = q._variance.sum(-2) + q._shared.squeeze(-2) * q._variance.sum(-2).square()
    torch.testing.assert_close(together, expected, rtol=0.03, atol=1e-3)
    torch.testing.assert_close(-q.log_prob(z).mean(0), q.entropy(), rtol=0, atol=0.02)
    other = GroupNormal(0.9, 3, 2, 1.3, mask if ragged else None)
    torch.testing.assert_close(q.expected_log_prob(other), other.log_prob(z).mean(0), rtol=5e-3, atol=0.02)
    flat = GroupNormal(0.9, 3, 2, None, mask if ragged else None)
    torch.testing.assert_close(q.expected_log_prob(flat), flat.log_prob(z).mean(0), rtol=5e-3, atol=0.02)


@pytest.mark.parametrize("content", [None, 0.7])
def test_content_is_the_mean_of_its_posterior_given_z(content):
    _, _, _, q = make(2, 2, 3, 2, True, content)
    torch.manual_seed(0)
    z = q.rsample((200_000,))
    given_z = q.prior.content_posterior(z)
    torch.testing.assert_close(given_z.mean.mean(0), q.content().mean, rtol=0, atol=0.02)
    variance = given_z.mean.var(0) + given_z.variance.mean(0)
    torch.testing.assert_close(variance, q.content().variance, rtol=0.03, atol=1e-3)


def test_one_view_with_flat_content_is_its_expert():
    loc, scale = torch.randn(4, 1, 3), 0.1 + torch.rand(4, 1, 3)
    q = GroupPosterior(loc, scale, GroupNormal(0.3, 1, 3))
    torch.testing.assert_close(q.mean, loc)
    torch.testing.assert_close(q.variance, scale**2)


@pytest.mark.parametrize("content", [None, 1.0, 30.0])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("unsure", [30.0, 1e3, 1e4])
def test_experts_that_know_nothing_cost_no_digits(content, ragged, unsure):
    """float32 against float64, where a difference of sums of variances would leave none of its digits."""
    generator = torch.Generator().manual_seed(2)
    loc = torch.randn(6, 3, 2, dtype=torch.float64, generator=generator)
    scale = unsure * (0.5 + torch.rand(6, 3, 2, dtype=torch.float64, generator=generator))
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]] * 2, dtype=torch.bool) if ragged else None
    prior = GroupNormal(0.387, 3, 2, content, mask)
    exact, q = GroupPosterior(loc, scale, prior), GroupPosterior(loc.float(), scale.float(), prior)
    z = exact.rsample().float().double()  # a step of float32 at 1e4 is 1e-3 of view_scale
    for name in ("mean", "variance", "covariance"):
        torch.testing.assert_close(getattr(q, name), getattr(exact, name).float(), rtol=1e-4, atol=1e-5 * unsure)
    torch.testing.assert_close(q.entropy(), exact.entropy().float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(q.log_prob(z.float()), exact.log_prob(z).float(), rtol=1e-4, atol=1e-3)
    if content is not None or not ragged:
        mine, reference = q.expected_log_prob(prior), exact.expected_log_prob(prior).float()
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-3)


def test_padding_changes_nothing_and_stops_no_gradient():
    loc, scale, mask, _ = make(3, 2, 4, 2, True, None)
    mask[0, 3] = mask[1, 2] = False
    results = []
    for fill in (0.0, 1e6, -3.0):
        here = torch.where(mask[..., None], loc, fill).requires_grad_()
        wide = torch.where(mask[..., None], scale, 1.0 + abs(fill)).requires_grad_()
        q = GroupPosterior(here, wide, GroupNormal(0.5, 4, 2, 1.0, mask))
        value = q.log_prob(torch.full_like(loc, 0.3)) + q.entropy() + q.expected_log_prob(q.prior)
        torch.manual_seed(0)
        total = value.sum() + q.rsample().square().sum()
        gradients = torch.autograd.grad(total, (here, wide))
        assert all(bool(g.isfinite().all()) and bool((g[~mask] == 0).all()) for g in gradients)
        results.append((value.detach(), *gradients))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_expands_keeps_at_least_float32_and_names_wrong_shapes():
    loc, scale, _, q = make(4, 2, 3, 2, True, 0.5)
    z = torch.randn(5, 2, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(q.expand((5, 2)).log_prob(z), q.log_prob(z))
    assert q.expand((5, 2)).rsample().shape == (5, 2, 3, 2)
    half = GroupPosterior(loc.bfloat16(), scale.bfloat16(), GroupNormal(0.5, 3, 2))
    assert half.mean.dtype == half.log_prob(z[0].bfloat16()).dtype == torch.float32
    with pytest.raises(ShapeError, match=r"\[2, 3, 2\] and \[2, 3\], expected \[\.\.\., 3, 2\]"):
        GroupPosterior(loc, scale[..., 0], GroupNormal(0.5, 3, 2))
    with pytest.raises(ShapeError, match="expected"):
        GroupPosterior(loc, scale, GroupNormal(0.5, 4, 2))

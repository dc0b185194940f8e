"""GroupMixture against dense normals, quadrature, and GroupNormal."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal

from genssl.distributions import GroupMixture, GroupNormal
from genssl.errors import SettingsError, ShapeError

S = 0.4


def parts(k=3, d=2):
    generator = torch.Generator().manual_seed(7)
    draw = [torch.randn(shape, generator=generator) for shape in ((k,), (k, d), (k, d))]
    return draw[0], 2 * draw[1], draw[2].exp()


def dense(z, logits, loc, scale):
    """log sum_k pi_k N(vec z; 1 m_k, s^2 I + 11' c_k^2), dimension by dimension."""
    n, d = z.shape
    values = []
    for k in range(len(logits)):
        total = logits.log_softmax(0)[k]
        for i in range(d):
            covariance = S**2 * torch.eye(n) + scale[k, i] ** 2 * torch.ones(n, n)
            total = total + MultivariateNormal(loc[k, i].expand(n), covariance).log_prob(z[:, i])
        values.append(total)
    return torch.stack(values)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_density_is_the_dense_normals(n, float64):
    logits, loc, scale = parts()
    z = torch.randn(6, n, 2)
    mixture = GroupMixture(S, n, logits, loc, scale)
    naive = torch.stack([dense(row, logits, loc, scale) for row in z])
    torch.testing.assert_close(mixture.log_prob(z), naive.logsumexp(1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mixture.component(z).probs, naive.softmax(1), rtol=1e-9, atol=1e-12)


def test_one_component_is_group_normal(float64):
    z = torch.randn(4, 3, 2)
    one = GroupMixture(S, 3, torch.zeros(1), torch.zeros(1, 2), torch.full((1, 2), 1.3))
    normal = GroupNormal(S, 3, 2, 1.3)
    torch.testing.assert_close(one.log_prob(z), normal.log_prob(z))
    ours, theirs = one.content_posterior(z), normal.content_posterior(z)
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.variance, theirs.variance)


def test_padded_views_are_integrated_out(float64):
    logits, loc, scale = parts()
    mask = torch.tensor([[True, False, True], [True, True, True]])
    z = torch.randn(2, 3, 2)
    mixture = GroupMixture(S, 3, logits, loc, scale, mask)
    assert (mixture.batch_shape, mixture.event_shape) == ((2,), (3, 2))
    expected = dense(z[0, [0, 2]], logits, loc, scale).logsumexp(0)
    torch.testing.assert_close(mixture.log_prob(z)[0], expected)
    moved = z.clone()
    moved[0, 1] = 1e6
    assert torch.equal(mixture.log_prob(moved), mixture.log_prob(z))
    assert torch.equal(mixture.content_posterior(moved).mean, mixture.content_posterior(z).mean)


def test_content_posterior_by_quadrature(float64):
    logits, loc, scale = parts(k=4, d=1)
    z = torch.randn(3, 1) + 1
    y = torch.linspace(-15, 15, 60_001)
    prior = (logits.log_softmax(0) + torch.distributions.Normal(loc.T, scale.T).log_prob(y[:, None])).logsumexp(1)
    joint = prior + torch.distributions.Normal(z.T, S).log_prob(y[:, None]).sum(1)
    evidence = torch.trapezoid(joint.exp(), y)
    mixture = GroupMixture(S, 3, logits, loc, scale)
    torch.testing.assert_close(mixture.log_prob(z), evidence.log(), rtol=1e-8, atol=1e-8)
    posterior = mixture.content_posterior(z)
    mean = torch.trapezoid(y * joint.exp(), y) / evidence
    torch.testing.assert_close(posterior.mean[0], mean, rtol=1e-7, atol=1e-7)
    variance = torch.trapezoid((y - mean) ** 2 * joint.exp(), y) / evidence
    torch.testing.assert_close(posterior.variance[0], variance, rtol=1e-6, atol=1e-7)


def test_samples_have_its_moments():
    logits, loc, scale = parts()
    mixture = GroupMixture(S, 3, logits, loc, scale)
    z = mixture.sample((100_000,))
    pi = logits.softmax(0)
    mean = pi @ loc
    between = pi @ (scale**2 + (loc - mean) ** 2)
    assert (z.mean((0, 1)) - mean).abs().max() < 0.05
    assert (z.var(0).mean(0) / (between + S**2) - 1).abs().max() < 0.05
    assert ((z - z.mean(1, keepdim=True)).square().sum(1).mean(0) / (2 * S**2) - 1).abs().max() < 0.05
    masked = GroupMixture(S, 3, logits, loc, scale, torch.tensor([[True, False, True]]))
    assert (masked.sample((5,))[:, 0, 1] == 0).all()


def test_expand_and_errors():
    logits, loc, scale = parts()
    mixture = GroupMixture(S, 3, logits, loc, scale)
    z = torch.randn(4, 3, 2)
    wide = mixture.expand([4])
    assert wide.batch_shape == (4,)
    assert torch.equal(wide.log_prob(z), mixture.log_prob(z))
    with pytest.raises(ShapeError, match=r"\[K, D\]"):
        GroupMixture(S, 3, logits, loc[0], scale)
    with pytest.raises(SettingsError, match="one number"):
        GroupMixture(torch.tensor(S), 3, logits, loc, scale)
    with pytest.raises(SettingsError, match="view_scale"):
        GroupMixture(-1.0, 3, logits, loc, scale)

"""The stop-gradient identity: both sides have the same gradient, in encoder and predictor."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from genssl.errors import ShapeError
from genssl.estimators import plug_in_entropy, stop_gradient_plug_in


class Predictor(nn.Module):
    """log N(z'; m(z), s(z)^2), both learned."""

    def __init__(self, dim):
        super().__init__()
        self.mean, self.log_scale = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, z_other, z):
        return torch.distributions.Normal(self.mean(z).tanh(), self.log_scale(z).exp()).log_prob(z_other).sum(-1)


@pytest.mark.parametrize("ragged", [False, True])
def test_both_sides_have_the_same_gradient(ragged, float64):
    encoder, predictor = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), Predictor(3)
    x, x_other = torch.randn(11, 6), torch.randn(11, 6)
    valid = torch.arange(11) % 3 > 0 if ragged else None
    parameters = [*encoder.parameters(), *predictor.parameters()]

    z, z_other = encoder(x), encoder(x_other)
    left = stop_gradient_plug_in(predictor, z, z_other, valid=valid)
    live, stopped = predictor(z_other, z), predictor(z_other.detach(), z)
    likelihood = live.mean() if valid is None else live[valid].mean()
    entropy = plug_in_entropy(live, stopped, valid=valid)
    expected = torch.autograd.grad(left, parameters, retain_graph=True)
    seen = torch.autograd.grad(likelihood + entropy, parameters, retain_graph=True)
    for a, b in zip(seen, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        assert a.abs().max() > 0
    torch.testing.assert_close(left, likelihood)
    torch.testing.assert_close(entropy, -likelihood)
    # Without the entropy the gradient is another one.
    alone = torch.autograd.grad(likelihood, parameters)
    assert max((a - b).abs().max() for a, b in zip(alone, expected, strict=True)) > 1e-3


def test_each_side_reaches_what_it_should(float64):
    predictor, z, z_other = Predictor(3), torch.randn(7, 3, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    everything = [z, *predictor.parameters()]
    entropy = plug_in_entropy(predictor(z_other, z), predictor(z_other.detach(), z))
    reached, *cancelled = torch.autograd.grad(entropy, [z_other, *everything], retain_graph=True)
    assert reached.abs().max() > 0
    assert max(g.abs().max() for g in cancelled) < 1e-14
    still, *_ = torch.autograd.grad(stop_gradient_plug_in(predictor, z, z_other), [z_other, z], allow_unused=True)
    assert still is None


def test_gradients_equal_finite_differences(float64):
    """The entropy's gradient is that of -E log P(z'|z) with everything but z' held still."""
    predictor, z, z_other = Predictor(2), torch.randn(5, 2), torch.randn(5, 2, requires_grad=True)
    entropy = plug_in_entropy(predictor(z_other, z), predictor(z_other.detach(), z))
    (seen,) = torch.autograd.grad(entropy, z_other)
    step = 1e-6
    for i in range(5):
        for d in range(2):
            shift = torch.zeros(5, 2)
            shift[i, d] = step
            with torch.no_grad():
                up, down = (-predictor(z_other + s * shift, z).mean() for s in (1, -1))
            assert float(seen[i, d]) == pytest.approx(float(up - down) / (2 * step), abs=1e-8)


def test_the_value_is_the_conditional_entropy_at_the_true_density(float64):
    z = torch.randn(100_000, 1)
    z_other = z + 0.5 * torch.randn(100_000, 1)
    true = torch.distributions.Normal(z, 0.5).log_prob(z_other).sum(1)
    wrong = torch.distributions.Normal(z, 0.8).log_prob(z_other).sum(1)
    truth = 0.5 * (1 + math.log(2 * math.pi * 0.25))
    assert float(plug_in_entropy(true, true)) == pytest.approx(truth, abs=0.01)
    assert plug_in_entropy(wrong, wrong) > truth + 0.05


def test_errors_say_what_and_how():
    with pytest.raises(ShapeError, match=r"\[4\] and \[3\]"):
        plug_in_entropy(torch.zeros(4), torch.zeros(3))
    with pytest.raises(ShapeError, match=r"the log density has shape \[4, 2\], expected \[N\]"):
        stop_gradient_plug_in(lambda b, a: b - a, torch.zeros(4, 2), torch.zeros(4, 2))

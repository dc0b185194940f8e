"""Entropies and expected log densities against sampling and torch, under Independent, masks and Delta."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from genssl.distributions import GroupNormal
from genssl.terms import closed_forms

MASK = torch.tensor([[True, False, True], [True, True, True]])


def normal(*shape):
    return dist.Normal(torch.randn(*shape), torch.rand(*shape) + 0.2)


def test_entropy_equals_torch_and_leaves_padding_out():
    q = normal(2, 3, 4)
    torch.testing.assert_close(closed_forms.entropy(q.to_event(2)), q.entropy().sum((1, 2)))
    masked = q.mask(MASK[..., None]).to_event(2)
    torch.testing.assert_close(closed_forms.entropy(masked), (q.entropy() * MASK[..., None]).sum((1, 2)))
    assert closed_forms.entropy(q.mask(False)).abs().max() == 0
    torch.testing.assert_close(closed_forms.entropy(q.mask(True)), q.entropy())


def test_no_closed_form():
    assert closed_forms.entropy(dist.Delta(torch.zeros(3, 2)).to_event(1)) is None
    flow = dist.TransformedDistribution(normal(3), [dist.transforms.ExpTransform()])
    assert closed_forms.entropy(flow) is None
    assert closed_forms.expected_log_prob(dist.Laplace(0.0, 1.0).expand([3]), normal(3)) is None
    assert closed_forms.expected_log_prob(normal(3), dist.Laplace(0.0, 1.0).expand([3])) is None
    assert closed_forms.expected_log_prob(normal(3, 2).to_event(1), normal(3, 2).to_event(2)) is None
    assert closed_forms.expected_log_prob(GroupNormal(1.0, 3, 2), dist.Delta(torch.zeros(3, 2)).to_event(2)) is None


@pytest.mark.parametrize("kind", ["normal", "masked", "group"])
def test_expected_log_prob_is_the_average_over_q(kind, float64):
    q = normal(2, 3, 4)
    mask = MASK[..., None]
    if kind == "normal":
        p, guide = normal(2, 3, 4).to_event(2), q.to_event(2)
    elif kind == "masked":
        p, guide = normal(2, 3, 4).mask(mask).to_event(2), q.mask(mask).to_event(2)
    else:
        p, guide = GroupNormal(0.5, 3, 4, content_scale=1.0, mask=MASK), q.mask(mask).to_event(2)
    draws = p.log_prob(q.sample((100_000,)))
    error = draws.std(0) / len(draws) ** 0.5
    assert ((closed_forms.expected_log_prob(p, guide) - draws.mean(0)).abs() < 5 * error).all()


def test_is_delta():
    assert closed_forms.is_delta(dist.Delta(torch.zeros(2, 3, 4)).mask(MASK[..., None]).to_event(2))
    assert not closed_forms.is_delta(normal(2).to_event(1))

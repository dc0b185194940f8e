"""ConsistencyKL against torch's own KL, pair by pair."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from genssl import Groups, Objective
from genssl.errors import SettingsError, SiteError
from genssl.terms import ConsistencyKL, Constant


def measured(loc, scale, mask=None, weight=1.0, nested=False):
    groups = Groups(torch.zeros(len(loc), loc.shape[1], 1), mask=mask)

    def guide(groups):
        normal = dist.Normal(loc, scale)
        if mask is not None:
            normal = normal.mask(mask.unsqueeze(-1))
        if nested:
            one, two = groups.plates
            with one, two:
                pyro.sample("z", normal.to_event(1))
        else:
            with groups.plate:
                pyro.sample("z", normal.to_event(2))

    objective = Objective(Constant(), Constant(), ConsistencyKL(weight))
    return objective.terms(None, guide, groups).prior


def naive(loc, scale):
    n = len(loc)
    pairs = [
        kl_divergence(Normal(loc[i], scale[i]), Normal(loc[j], scale[j])).sum()
        for i in range(n)
        for j in range(n)
        if i != j
    ]
    return n / 2 * sum(pairs) / len(pairs) if pairs else torch.zeros(())


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("views", [1, 2, 5])
def test_is_half_the_mean_kl_of_the_pairs(views, nested, float64):
    loc, scale = torch.randn(4, views, 3), torch.rand(4, views, 3) + 0.1
    expected = torch.stack([-0.1 * naive(a, b) for a, b in zip(loc, scale, strict=True)])
    torch.testing.assert_close(measured(loc, scale, weight=0.1, nested=nested), expected, rtol=1e-10, atol=1e-10)


def test_padded_views_do_not_count(float64):
    mask = torch.tensor([[True, False, True], [True, False, False], [True, True, True]])
    loc, scale = torch.randn(3, 3, 2), torch.rand(3, 3, 2) + 0.1
    loc[~mask], scale[~mask] = 1e9, 1e-9
    loc, scale = loc.requires_grad_(), scale.requires_grad_()
    value = measured(loc, scale, mask)
    expected = torch.stack([-naive(loc[g, mask[g]], scale[g, mask[g]]) for g in range(3)])
    torch.testing.assert_close(value, expected)
    value.sum().backward()
    assert (loc.grad[~mask] == 0).all()
    assert (scale.grad[~mask] == 0).all()


def test_far_from_the_origin_nothing_cancels():
    loc = 1000 + torch.tensor([[[0.0], [1e-2]]])
    value = measured(loc, torch.full((1, 2, 1), 0.1))
    difference = float(loc[0, 1] - loc[0, 0])
    assert float(value) == pytest.approx(-(difference**2) / (2 * 0.01), rel=1e-3)


def test_errors():
    with pytest.raises(SettingsError, match="weight"):
        ConsistencyKL(-1.0)
    groups = Groups(torch.zeros(2, 2, 1))

    def guide(groups):
        with groups.plate:
            pyro.sample("z", dist.Delta(torch.zeros(2, 2, 1)).to_event(2))

    with pytest.raises(SiteError, match="diagonal Normal"):
        Objective(Constant(), Constant(), ConsistencyKL(1.0)).terms(None, guide, groups)
    with pytest.raises(SiteError, match="no such site"):
        Objective(Constant(), Constant(), ConsistencyKL(1.0, site="h")).terms(None, guide, groups)

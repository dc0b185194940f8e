"""Ensembles against scipy's Procrustes, loops, and members that are known to agree or not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from genssl.models import SimVAE
from scipy.linalg import orthogonal_procrustes
from scipy.stats import special_ortho_group
from torch import nn

from genssl.datasets.data import Data
from genssl.errors import NonFiniteError, SettingsError
from genssl.groups import Groups
from genssl.posterior import ensemble, strangeness
from genssl.posterior.ensemble import aligned, rotation

VIEWS, DIM = 3, 4


class Turned(nn.Module):
    """loc = scale x R + shift, and a constant log scale."""

    def __init__(self, turn, scale=1.0, shift=0.0):
        super().__init__()
        self.turn, self.scale, self.shift = nn.Parameter(turn), scale, shift

    def forward(self, x):
        loc = self.scale * x @ self.turn + self.shift
        return torch.cat([loc, torch.full_like(loc, -1.0)], -1)


class FakeRun:
    def __init__(self, encoder, train, seed=0, dim=DIM):
        self.method = SimVAE(encoder, nn.Linear(dim, DIM), 0.4, 0.3, 1.0, dim=dim).eval()
        self.config, self.device, self.path = {"seed": seed, "num_views": VIEWS}, torch.device("cpu"), "run"
        self.data = Data("natural", train, None, train)

    @property
    def views(self):
        return self.data.views

    def represent(self, x):
        with torch.no_grad():
            return self.method.encode(x).mean


def natural(seed, number, ragged=False):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(number, VIEWS, DIM, generator=generator) * torch.tensor([2.0, 1.0, 0.5, 0.3])
    mask = torch.arange(VIEWS) < torch.randint(1, VIEWS + 1, (number, 1), generator=generator)
    return Groups(x, mask if ragged else None)


def turn(seed):
    return torch.tensor(special_ortho_group.rvs(DIM, random_state=seed), dtype=torch.float32)


def test_rotation_is_scipys():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(50, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    np.testing.assert_allclose(rotation(a, b).numpy(), orthogonal_procrustes(a.numpy(), b.numpy())[0], atol=1e-12)


def test_members_that_are_rotated_scaled_and_moved_agree():
    train = natural(0, 300)
    runs = [
        FakeRun(Turned(turn(i), scale, shift), train, i) for i, (scale, shift) in enumerate([(1, 0), (3, 2), (0.1, -5)])
    ]
    found = ensemble(runs, natural(1, 20, ragged=True), samples=4)
    assert float(found.scores["disagreement"].max()) < 1e-6


def test_disagreement_is_the_spread_of_members_in_the_common_frame():
    generator = torch.Generator().manual_seed(3)
    train = [torch.randn(200, DIM, generator=generator, dtype=torch.float64) for _ in range(3)]
    points = [part[:10] for part in train]
    turned = aligned(train, points)
    whole = aligned(train, train)
    # A stationary point of generalised Procrustes: no member comes closer to the mean by a further rotation.
    mean = torch.stack(whole).mean(0)
    for part in whole:
        best = part.numpy() @ orthogonal_procrustes(part.numpy(), mean.numpy())[0]
        assert (part - mean).square().sum() <= np.square(best - mean.numpy()).sum() * (1 + 1e-4)
        assert math.isclose(float(part.square().sum(1).mean()), 1.0, rel_tol=1e-9)
    np.testing.assert_allclose(turned[1], whole[1][:10])


def test_a_member_of_its_own_mind_is_seen():
    train = natural(0, 300)
    same = [FakeRun(Turned(torch.eye(DIM)), train, i) for i in (0, 1)]
    other = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0])).clone()
    other[0, 0] = 0.2  # no rotation gives back the lost axis
    found = ensemble([*same, FakeRun(Turned(other), train, 2)], natural(1, 20), samples=4)
    assert float(found.scores["disagreement"].min()) > 1e-4


@pytest.mark.parametrize("members", [2, 3, 10])
def test_members_with_half_in_common_disagree_on_half_however_many_they_are(members):
    generator = torch.Generator().manual_seed(4)
    shared = torch.randn(4000, 8, generator=generator)
    runs = [shared + torch.randn(4000, 8, generator=generator) for _ in range(members)]
    apart = torch.stack(aligned(runs, runs)).var(0).sum(1)
    assert float(apart.mean()) == pytest.approx(0.5, abs=0.02)


def test_scores_are_those_of_the_members_together():
    train, groups = natural(0, 100), natural(1, 6)
    runs = [FakeRun(Turned(turn(i)), train, i) for i in (0, 1, 2)]
    found = ensemble(runs, groups, samples=8).scores
    each = [strangeness(run, groups, 8).scores for run in runs]
    for g in range(len(groups)):
        bounds = [-float(one["negative_bound"][g]) for one in each]
        mean = sum(bounds) / 3
        variance = sum((b - mean) ** 2 for b in bounds) / 2
        assert math.isclose(float(found["waic"][g]), variance - mean, rel_tol=1e-9)
        assert math.isclose(
            float(found["mixture_bound"][g]), -float(np.logaddexp.reduce(bounds) - math.log(3)), rel_tol=1e-9
        )
        assert math.isclose(
            float(found["mean_distance"][g]), sum(float(one["distance"][g]) for one in each) / 3, rel_tol=1e-9
        )


def test_an_ensemble_leaves_generators_alone():
    train = natural(0, 50)
    runs = [FakeRun(Turned(turn(i)), train, i) for i in (0, 1)]
    before = torch.random.get_rng_state()
    first = ensemble(runs, natural(1, 5), samples=4).scores
    assert torch.equal(before, torch.random.get_rng_state())
    again = ensemble(runs, natural(1, 5), samples=4).scores
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_what_is_no_ensemble():
    train = natural(0, 50)
    run = FakeRun(Turned(turn(0)), train)
    with pytest.raises(SettingsError, match="at least two"):
        ensemble([run], natural(1, 5))
    narrow = FakeRun(Turned(turn(1)[:, :2]), train, dim=2)
    with pytest.raises(SettingsError, match="2 and 4 dimensions"):
        ensemble([run, narrow], natural(1, 5))
    flat = FakeRun(Turned(torch.zeros(DIM, DIM)), train)
    with pytest.raises(NonFiniteError, match="all the same"):
        ensemble([run, flat], natural(1, 5), samples=4)

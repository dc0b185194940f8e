"""Information between views and about the input, against loops and channels whose information is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.distributions import Normal

from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.estimators import gaussian_mutual_information, infonce
from genssl.evaluation.information import information_of_draws, posterior_information, view_information


def groups(g, j, dim, view=0.5, content=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = content * torch.randn(g, 1, dim, generator=generator, dtype=torch.float64)
    return y + view * torch.randn(g, j, dim, generator=generator, dtype=torch.float64)


def rotation(dim):
    return torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64))[0]


# ---------------------------------------------------------------------- between views


def test_one_cosine_critic_equals_a_loop_over_the_odd_groups():
    z = groups(11, 3, 4)
    pairs = torch.nn.functional.normalize(z[1::2, :2], dim=-1).tolist()
    total = 0.0
    for one, other in ((0, 1), (1, 0)):
        for i in range(5):
            scores = [sum(a * b for a, b in zip(pairs[i][one], pairs[j][other], strict=True)) / 0.3 for j in range(5)]
            total += scores[i] - math.log(sum(math.exp(score) for score in scores))
    found = view_information(z, temperatures=[0.3], variances=[])
    assert found.bound == pytest.approx(math.log(5) + total / 10, abs=1e-10)
    assert found.cap == pytest.approx(math.log(5))
    assert found.critic == "cos(z, z') / 0.3"


def test_one_gaussian_critic_has_its_variance_from_the_even_groups():
    z = groups(30, 2, 3) + 100
    within = float((z[::2, 0] - z[::2, 1]).square().mean()) / 2
    scores = -torch.cdist(z[1::2, 0], z[1::2, 1]).square() / (2 * 4 * within)
    found = view_information(z, temperatures=[], variances=[4.0])
    assert found.bound == pytest.approx(float(infonce(scores, "both")), abs=1e-7)
    assert "4 x within" in found.critic


def test_the_critic_is_chosen_on_the_even_groups_alone():
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(40, 2, generator=generator, dtype=torch.float64), dim=1)
    lengths = 1 + 9 * torch.rand(40, 2, 1, generator=generator, dtype=torch.float64)
    angular = directions[:, None] * lengths  # views share their direction only: cosines tell groups apart
    radial = torch.randn(40, 1, 2, generator=generator, dtype=torch.float64) * torch.tensor([0.0, 1.0]) + torch.tensor(
        [50.0, 0.0]
    )
    radial = radial.expand(-1, 2, -1) + 0.01 * torch.randn(
        40, 2, 2, generator=generator, dtype=torch.float64
    )  # distances do
    z = angular.clone()
    z[1::2] = radial[1::2]
    assert view_information(z).critic.startswith("cos")
    z = radial.clone()
    z[1::2] = angular[1::2]
    assert view_information(z).critic.startswith("-||")


def test_a_bound_below_the_truth_that_comes_near_it():
    truth = gaussian_mutual_information(1 / 1.25, 2)
    found = view_information(groups(1400, 2, 2))
    assert 0.75 * truth < found.bound < truth
    truth = gaussian_mutual_information(1 / 1.01, 1)  # groups far apart: the Gaussian critic is tight
    found = view_information(groups(1400, 2, 1, view=0.1))
    assert truth - 0.1 < found.bound < truth + 0.05
    assert "2 x within" in found.critic


def test_ends_of_the_range_between_views():
    point = torch.full((40, 2, 5), 0.3)
    assert view_information(point).bound == pytest.approx(0, abs=1e-12)
    assert view_information(point + 1e-8 * torch.randn(40, 1, 5)).bound == pytest.approx(0, abs=1e-12)
    assert view_information(torch.zeros(40, 2, 5)).bound == pytest.approx(0, abs=1e-12)
    assert abs(view_information(groups(1200, 2, 3, content=0)).bound) < 0.02
    apart = view_information(groups(100, 1, 5).expand(-1, 2, -1))
    assert apart.bound == pytest.approx(apart.cap, abs=1e-6)
    assert apart.cap == pytest.approx(math.log(50))


def test_limit_is_on_the_groups_of_each_half():
    found = view_information(groups(101, 2, 3), limit=20)
    assert found.cap == pytest.approx(math.log(20))


def test_rotation_and_scale_leave_it_alone():
    z = groups(60, 2, 4)
    one, other = view_information(z), view_information(5 * z @ rotation(4))
    assert other.bound == pytest.approx(one.bound, abs=1e-8)


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 20), st.integers(2, 4), st.integers(1, 3), st.integers(0, 10**6))
def test_only_groups_with_both_first_views_count(g, j, dim, seed):
    z = groups(g, j, dim, seed=seed)
    valid = torch.rand(g, j, generator=torch.Generator().manual_seed(seed)) < 0.6
    valid[:5, :2] = True
    valid[:, 0] |= ~valid.any(1)
    both = valid[:, 0] & valid[:, 1]
    found = view_information(torch.where(valid[..., None], z, torch.nan), valid)
    expected = view_information(z[both, :2])
    assert found.bound == pytest.approx(expected.bound, abs=1e-9)
    assert found.bound <= found.cap + 1e-12
    assert found.cap == pytest.approx(math.log(int(both.sum()) // 2))


def test_errors_between_views_say_what_and_how():
    z = torch.randn(8, 2, 3)
    with pytest.raises(SettingsError, match="temperatures = "):
        view_information(z, temperatures=[0.0])
    with pytest.raises(SettingsError, match="one critic at least"):
        view_information(z, temperatures=[], variances=[])
    with pytest.raises(SettingsError, match="limit = 1"):
        view_information(z, limit=1)
    with pytest.raises(DataError, match="3 of 3 groups"):
        view_information(z[:3])
    with pytest.raises(DataError, match="0 of 8 groups"):
        view_information(z[:, :1])
    with pytest.raises(ShapeError, match=r"\[G, J, D\]"):
        view_information(z[0])
    with pytest.raises(NonFiniteError, match="1 of 16 views"):
        view_information(z.masked_fill(torch.arange(48).view(8, 2, 3) == 7, math.nan))


# ---------------------------------------------------------------------- about the input


def naive(z, loc, scale):
    total = 0.0
    for i in range(len(loc)):
        densities = [float(Normal(loc[k], scale[k]).log_prob(z[i]).sum()) for k in range(len(loc))]
        total += densities[i] - math.log(sum(math.exp(x) for x in densities) / len(loc))
    return total / len(loc)


def test_information_of_draws_equals_a_double_loop():
    loc, scale = torch.randn(9, 2, dtype=torch.float64), torch.rand(9, 2, dtype=torch.float64) + 0.3
    z = Normal(loc, scale).sample()
    found = information_of_draws(z, lambda block: Normal(loc, scale).log_prob(block[:, None]).sum(-1))
    assert found.bound == pytest.approx(naive(z, loc, scale), abs=1e-10)
    assert found.cap == pytest.approx(math.log(9))


def test_posterior_information_is_that_of_its_own_draws():
    loc, scale = torch.randn(9, 2, dtype=torch.float64) + 50, torch.rand(9, 2, dtype=torch.float64) + 0.3
    generator = torch.Generator().manual_seed(4)
    noise = [torch.randn(9, 2, generator=generator, dtype=torch.float64) for _ in range(3)]
    expected = sum(naive(loc + scale * each, loc, scale) for each in noise) / 3
    assert posterior_information(loc, scale, draws=3, seed=4).bound == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("spread", [0.5, 2.0, 10.0])
def test_a_gaussian_channel(spread):
    loc = spread * torch.randn(1200, 1)
    found = posterior_information(loc, torch.ones(1200, 1), draws=4)
    assert found.bound == pytest.approx(0.5 * math.log1p(spread**2), abs=0.04)
    # Scales are standard deviations: a channel of twice the noise carries less.
    wider = posterior_information(loc, torch.full((1200, 1), 2.0), draws=4)
    assert wider.bound == pytest.approx(0.5 * math.log1p(spread**2 / 4), abs=0.04)


def test_ends_of_the_range_about_the_input():
    same = posterior_information(torch.full((50, 3), 0.7), torch.full((50, 3), 0.2))
    assert same.bound == pytest.approx(0, abs=1e-9)
    apart = posterior_information(1000 * torch.arange(50.0)[:, None].expand(-1, 3), torch.full((50, 3), 0.2))
    assert apart.bound == pytest.approx(math.log(50), abs=1e-9)
    assert apart.cap == pytest.approx(math.log(50))
    many = posterior_information(torch.randn(400, 64), torch.ones(400, 64), draws=1)
    assert 0.9 * many.cap < many.bound <= many.cap


def test_blocks_seed_and_generator(monkeypatch):
    loc, scale = torch.randn(37, 2), torch.rand(37, 2) + 0.5
    before = torch.get_rng_state()
    whole = posterior_information(loc, scale, draws=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert posterior_information(loc, scale, draws=2) == whole
    assert posterior_information(loc, scale, draws=2, seed=1) != whole
    monkeypatch.setattr("genssl.evaluation.information._BLOCK", 5 * 37)
    assert posterior_information(loc, scale, draws=2).bound == pytest.approx(whole.bound, abs=1e-12)


def test_invertible_maps_leave_it_alone():
    loc, scale = torch.randn(60, 2, dtype=torch.float64), torch.rand(60, 2, dtype=torch.float64) + 0.2
    stretch = torch.tensor([7.0, 0.01], dtype=torch.float64)
    found = posterior_information(loc * stretch + 5, scale * stretch)
    assert found.bound == pytest.approx(posterior_information(loc, scale).bound, abs=1e-9)


def test_errors_about_the_input_say_what_and_how():
    loc, scale = torch.randn(5, 2), torch.ones(5, 2)
    with pytest.raises(SettingsError, match="draws = 0"):
        posterior_information(loc, scale, draws=0)
    with pytest.raises(ShapeError, match="1 rows, expected at least 2"):
        posterior_information(loc[:1], scale[:1])
    with pytest.raises(ShapeError, match=r"scale \[5, 1\]"):
        posterior_information(loc, scale[:, :1])
    with pytest.raises(DataError, match="10 scales are not positive"):
        posterior_information(loc, 0 * scale)
    with pytest.raises(NonFiniteError, match="loc or scale"):
        posterior_information(loc * math.nan, scale)
    with pytest.raises(ShapeError, match=r"shape \[5\] for 5 rows"):
        information_of_draws(loc, lambda z: z[:, 0])
    with pytest.raises(NonFiniteError, match="its own posterior"):
        information_of_draws(loc, lambda z: torch.full((len(z), 5), -math.inf))

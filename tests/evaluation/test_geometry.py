"""Ranks, spectra and variance components against numpy, loops, scipy's optimiser and dense normals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genssl.distributions import GroupNormal
from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.evaluation.components import maximum_likelihood_scales, variance_components
from genssl.evaluation.geometry import alpha_req, effective_rank, eigenspectrum, lidar, rankme

RANKS = {"effective_rank": effective_rank, "rankme": rankme}
GROUPED = {"lidar": lidar, "variance_components": variance_components, "ml": maximum_likelihood_scales}


def cloud(n, dim, rank=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, rank or dim, generator=generator, dtype=torch.float64)
    return z if rank is None else z @ torch.linalg.qr(torch.randn(dim, rank, generator=generator).double())[0].T


def groups(g, j, dim, view=0.5, content=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = content * torch.randn(g, 1, dim, generator=generator, dtype=torch.float64)
    return y + view * torch.randn(g, j, dim, generator=generator, dtype=torch.float64)


def ragged(g, j, seed=0, share=0.5):
    valid = torch.rand(g, j, generator=torch.Generator().manual_seed(seed)) < share
    valid[torch.arange(g), torch.arange(g) % j] = True
    valid[0, :2] = True
    return valid


def rotation(dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]


def perplexity(p):
    return math.exp(-sum(float(x) * math.log(x) for x in p if x > 0))


def views_of(z, valid):
    return [z[g][valid[g]].numpy() for g in range(len(z))]


# ---------------------------------------------------------------------- ranks and spectra


def test_ranks_equal_numpy():
    z = cloud(60, 5) * torch.tensor([3.0, 1, 1, 0.5, 0.1]) + 2
    centred = np.linalg.svd(z.numpy() - z.numpy().mean(0), compute_uv=False)
    assert effective_rank(z) == pytest.approx(perplexity(centred / centred.sum()), rel=1e-12)
    raw = np.linalg.svd(z.numpy(), compute_uv=False)
    assert rankme(z) == pytest.approx(perplexity(raw / raw.sum() + 1e-7), rel=1e-12)
    assert rankme(z, 1e-3) == pytest.approx(perplexity(raw / raw.sum() + 1e-3), rel=1e-12)
    assert rankme(z + 1000) < 1.1 < 3 < effective_rank(z + 1000)  # a far mean hides the others


@pytest.mark.parametrize("name", RANKS)
def test_isotropic_is_the_dimension_and_rank_r_is_r(name):
    assert RANKS[name](cloud(4000, 8)) == pytest.approx(8, abs=0.02)
    assert RANKS[name](cloud(4000, 20, rank=3)) == pytest.approx(3, abs=0.02)
    assert RANKS[name](cloud(4000, 20, rank=3).float()) == pytest.approx(3, abs=0.02)
    assert RANKS[name](cloud(4000, 20, rank=1)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", RANKS)
def test_ranks_of_a_collapsed_representation_are_one(name):
    rounding = 0.37 + 1e-8 * torch.randn(200, 6)  # float32: what is left of a point
    for z in (torch.zeros(50, 6), torch.full((50, 6), 0.1), rounding):
        assert RANKS[name](z) == pytest.approx(1, abs=1e-4)


def test_what_leaves_ranks_and_slopes_alone():
    z = cloud(200, 6) * torch.tensor([3.0, 2, 1, 1, 0.5, 0.2])
    turned, moved = 7 * z @ rotation(6), z + 5
    for measure in (effective_rank, rankme, alpha_req):
        assert measure(turned) == pytest.approx(measure(z), rel=1e-9)
    for measure in (effective_rank, alpha_req):
        assert measure(moved) == pytest.approx(measure(z), rel=1e-9)
    assert abs(rankme(moved) - rankme(z)) > 0.5


def test_eigenspectrum_equals_the_covariance_and_pads_with_zeros():
    z = cloud(40, 6) * torch.arange(1.0, 7) + 3
    expected = np.linalg.eigvalsh(np.cov(z.numpy().T))[::-1]
    np.testing.assert_allclose(eigenspectrum(z).numpy(), expected, rtol=1e-10)
    few = eigenspectrum(cloud(4, 6))
    assert few.shape == (6,)
    assert int((few > 0).sum()) == 3
    assert eigenspectrum(torch.full((50, 6), 0.1)).abs().max() == 0
    assert int((eigenspectrum(cloud(50, 6, rank=2).float()) > 0).sum()) == 2


@pytest.mark.parametrize("alpha", [0.0, 0.7, 2.0])
def test_alpha_of_an_exact_power_law(alpha):
    place = torch.arange(1, 9, dtype=torch.float64)
    orthogonal = torch.linalg.qr(cloud(50, 8) - cloud(50, 8).mean(0))[0]
    z = (orthogonal * place ** (-alpha / 2)) @ rotation(8) + 4
    assert alpha_req(z) == pytest.approx(alpha, abs=1e-9)
    assert alpha_req(z, 3, 6) == pytest.approx(alpha, abs=1e-9)


def test_alpha_is_numpy_polyfit_over_the_indices_asked_for():
    z = cloud(60, 7) * torch.tensor([5.0, 2, 2, 1, 0.5, 0.4, 0.1])
    spectrum = np.linalg.eigvalsh(np.cov(z.numpy().T))[::-1]
    for first, last in ((1, 7), (2, 5)):
        expected = -np.polyfit(np.log(np.arange(first, last + 1)), np.log(spectrum[first - 1 : last]), 1)[0]
        assert alpha_req(z, first, last) == pytest.approx(expected, rel=1e-9)
    dead = torch.cat([z, torch.full((60, 3), 0.3, dtype=torch.float64)], 1)
    assert alpha_req(dead) == pytest.approx(alpha_req(z), rel=1e-9)
    assert alpha_req(cloud(60, 7, rank=1)) == math.inf
    assert alpha_req(torch.full((60, 7), 0.3)) == math.inf


# ---------------------------------------------------------------------- LiDAR


def naive_lidar(z, valid, delta=1e-4, epsilon=1e-8):
    views = views_of(z, valid)
    means = np.stack([v.mean(0) for v in views])
    between = sum(np.outer(m - means.mean(0), m - means.mean(0)) for m in means) / (len(means) - 1)
    within = sum(np.outer(x - x_bar, x - x_bar) for v, x_bar in zip(views, means, strict=True) for x in v)
    within = within / sum(len(v) - 1 for v in views) + delta * np.eye(z.shape[-1])
    root = np.linalg.inv(scipy.linalg.sqrtm(within).real)
    values = np.linalg.eigvalsh(root @ between @ root).clip(0)
    return perplexity(values / values.sum() + epsilon)


@pytest.mark.parametrize("valid", [torch.ones(30, 3, dtype=torch.bool), ragged(30, 3)])
def test_lidar_equals_its_definition(valid):
    z = groups(30, 3, 4) * torch.tensor([3.0, 1, 0.3, 2])
    assert lidar(z, valid) == pytest.approx(naive_lidar(z, valid), rel=1e-7)
    assert lidar(z, valid, delta=0.5, epsilon=1e-3) == pytest.approx(naive_lidar(z, valid, 0.5, 1e-3), rel=1e-7)


def test_lidar_counts_the_directions_of_content():
    z = groups(800, 4, 9, view=0.1, content=0)
    z[..., :3] += 5 * cloud(800, 3, seed=1)[:, None]
    assert lidar(z) == pytest.approx(3, abs=0.05)
    assert lidar(groups(800, 4, 9)) == pytest.approx(9, abs=0.1)
    assert lidar(groups(800, 4, 9, content=0)) == pytest.approx(9, abs=0.1)  # noise alone: as the docstring warns
    assert lidar(groups(4, 50, 9)) <= 3 + 1e-5


def test_lidar_is_one_at_collapse_and_blind_to_linear_maps():
    assert lidar(torch.full((20, 3, 5), 0.3)) == pytest.approx(1, abs=1e-5)
    assert lidar(0.37 + 1e-8 * torch.randn(20, 3, 5)) == pytest.approx(1, abs=1e-5)
    z = groups(50, 3, 4) @ (cloud(4, 4) + 2 * torch.eye(4, dtype=torch.float64))
    assert lidar(z + 3, delta=1e-12) == pytest.approx(lidar(groups(50, 3, 4), delta=1e-12), rel=1e-6)


# ---------------------------------------------------------------------- variance components


@pytest.mark.parametrize("valid", [torch.ones(12, 4, dtype=torch.bool), ragged(12, 4)])
def test_components_equal_a_loop(valid):
    z = groups(12, 4, 3)
    views, total = views_of(z, valid), int(valid.sum())
    centre = np.concatenate(views).mean(0)
    within = sum(((v - v.mean(0)) ** 2).sum(0) for v in views) / (total - 12)
    between = sum(len(v) * (v.mean(0) - centre) ** 2 for v in views) / 11
    weight = (total - sum(len(v) ** 2 for v in views) / total) / 11
    found = variance_components(z, valid)
    assert found.within == pytest.approx(within.mean(), rel=1e-12)
    assert found.between == pytest.approx(((between - within) / weight).mean(), rel=1e-12)
    if bool(valid.all()):
        assert weight == pytest.approx(4)


def test_components_are_unbiased_in_ragged_groups():
    valid = ragged(10, 5, share=0.4)
    found = [variance_components(groups(10, 5, 20, view=0.7, content=1.5, seed=seed), valid) for seed in range(300)]
    within, between = np.array(found).T
    for values, expected in ((within, 0.49), (between, 2.25)):
        assert values.mean() == pytest.approx(expected, abs=4 * values.std() / math.sqrt(len(values)))
        assert values.std() / math.sqrt(len(values)) < 0.01 * expected


def test_components_at_the_ends():
    point = variance_components(torch.full((5, 3, 2), 0.25))
    assert point == (0, 0)
    same = groups(50, 1, 4).expand(-1, 3, -1)
    assert variance_components(same).within == pytest.approx(0, abs=1e-30)
    assert variance_components(same).between == pytest.approx(float(same[:, 0].var(0).mean()), rel=1e-10)
    clipped = torch.tensor([[[-1.0], [1.0]], [[1.0], [-1.0]]])  # equal means: MSB = 0
    assert variance_components(clipped) == (2, 0)
    z = groups(30, 3, 4)
    np.testing.assert_allclose(variance_components(z @ rotation(4) + 9), variance_components(z), rtol=1e-9)
    np.testing.assert_allclose(variance_components(3 * z), 9 * np.array(variance_components(z)), rtol=1e-9)


# ---------------------------------------------------------------------- maximum likelihood


def negative_log_likelihood(parameters, views):
    """From dense covariances, whatever the number of views; the loc is a parameter."""
    view, content, loc = parameters[0] ** 2, parameters[1] ** 2, parameters[2:]
    total = 0.0
    for v in views:
        cov = 2 * np.pi * (view * np.eye(len(v)) + content)
        far = np.pi * np.sum((v - loc) * np.linalg.solve(cov, v - loc))
        total += far + 0.5 * v.shape[1] * np.linalg.slogdet(cov)[1]
    return total


@pytest.mark.parametrize("content", [1.0, 0.0])
@pytest.mark.parametrize("valid", [torch.ones(9, 3, dtype=torch.bool), ragged(9, 3)])
def test_scales_are_the_maximum_that_scipy_finds(valid, content):
    z = groups(9, 3, 2, content=content, seed=7) + 1.5
    found = maximum_likelihood_scales(z, valid)
    views = views_of(z, valid)
    starts = [np.array([0.5, c, 1.5, 1.5]) for c in (1.0, 0.05)]
    options = {"gtol": 1e-7}
    best = min(
        (scipy.optimize.minimize(negative_log_likelihood, start, args=(views,), options=options) for start in starts),
        key=lambda result: result.fun,
    )
    ours = np.array([found.view_scale, found.content_scale, *found.loc.tolist()])
    assert float(found.log_prob.sum()) == pytest.approx(-negative_log_likelihood(ours, views), abs=1e-9)
    assert float(found.log_prob.sum()) >= -best.fun - 1e-9
    np.testing.assert_allclose(ours, np.abs(best.x), atol=2e-3 if found.content_scale == 0 else 2e-5)


def test_balanced_closed_form_and_its_boundary():
    z = groups(40, 4, 3, view=0.6, content=1.2)
    mean = z.mean(1)
    view = float((z - mean[:, None]).square().sum()) / (40 * 3 * 3)
    content = float((mean - mean.mean(0)).square().sum()) / (40 * 3) - view / 4
    found = maximum_likelihood_scales(z)
    assert (found.view_scale**2, found.content_scale**2) == pytest.approx((view, content), rel=1e-12)
    torch.testing.assert_close(found.loc, mean.mean(0))
    expected = GroupNormal(view**0.5, 4, 3, content**0.5).log_prob(z - mean.mean(0))
    torch.testing.assert_close(found.log_prob, expected)
    # The views of every group are centred: their means differ less than chance would have it.
    z = z - mean[:, None] + 2
    found = maximum_likelihood_scales(z)
    assert found.content_scale == 0
    assert found.view_scale**2 == pytest.approx(float((z - 2).square().mean()), rel=1e-12)
    normal = torch.distributions.Normal(torch.tensor(2.0, dtype=torch.float64), found.view_scale)
    torch.testing.assert_close(found.log_prob, normal.log_prob(z).sum((1, 2)), rtol=1e-12, atol=0)


def test_the_ragged_search_gives_the_closed_form_where_both_apply():
    z = torch.cat([groups(30, 3, 2), torch.zeros(30, 2, 2)], 1)
    z = torch.cat([z, torch.zeros(1, 5, 2)])
    valid = torch.zeros(31, 5, dtype=torch.bool)
    valid[:30, :3] = True
    closed = maximum_likelihood_scales(z[:30, :3])
    z[30, 0], valid[30, 0] = closed.loc, True  # one group more, ragged, that carries next to nothing
    found = maximum_likelihood_scales(z, valid)
    assert found.view_scale == pytest.approx(closed.view_scale, rel=0.02)
    assert found.content_scale == pytest.approx(closed.content_scale, rel=0.05)
    wide = [groups(60, 3, 2, view=v, content=1, seed=2) for v in (1e-4, 1.0, 100.0)]
    valid = ragged(60, 3)
    for z, view in zip(wide, (1e-4, 1.0, 100.0), strict=True):
        assert maximum_likelihood_scales(z, valid).view_scale == pytest.approx(view, rel=0.25)


@pytest.mark.parametrize(
    ("means", "spread", "zero"),
    [([0, 0, 0, 3, 14, -13, 3, 5], 200.0, False), ([-0.08, 0.07, -0.05, 0.17, 1.97, -2.02, 1.11, 1.29], 14.5, True)],
)
def test_of_two_maxima_the_higher_one_is_taken(means, spread, zero):
    """Some groups of many views close together, single views far apart: either content or its absence may explain them."""
    many, views = (3, 16) if not zero else (4, 10)
    z = torch.tensor(means, dtype=torch.float64)[:, None, None].repeat(1, views, 1)
    z[:many, ::2] += (spread / many / views) ** 0.5
    z[:many, 1::2] -= (spread / many / views) ** 0.5
    valid = torch.ones(8, views, dtype=torch.bool)
    valid[many:, 1:] = False
    found = maximum_likelihood_scales(z, valid)
    values = {}
    for view in np.geomspace(0.1, 10, 40):
        for content in (1e-6, *np.geomspace(0.01, 20, 40)):
            weight = 1 / (content**2 + view**2 / valid.sum(1))
            mean = (z * valid[..., None]).sum(1)[:, 0] / valid.sum(1)
            prior = GroupNormal(float(view), views, 1, float(content), valid)
            values[view, content] = float(prior.log_prob(z - (weight * mean).sum() / weight.sum()).sum())
    best = max(values, key=values.get)
    # Without content there is a maximum too, in the first case the lower one.
    edge, near = (max(v for (_, c), v in values.items() if c == content) for content in (1e-6, 0.01))
    assert edge > near
    assert (best[1] == 1e-6) == zero == (found.content_scale == 0)
    assert float(found.log_prob.sum()) == pytest.approx(values[best], abs=0.1)
    assert float(found.log_prob.sum()) >= values[best] - 1e-9


def test_scales_and_log_prob_under_rotation_translation_and_scale():
    z, valid = groups(25, 3, 4), ragged(25, 3)
    one, other = maximum_likelihood_scales(z, valid), maximum_likelihood_scales(3 * z @ rotation(4) + 7, valid)
    assert other.view_scale == pytest.approx(3 * one.view_scale, rel=1e-7)
    assert other.content_scale == pytest.approx(3 * one.content_scale, rel=1e-7)
    shift = valid.sum(1) * 4 * math.log(3)
    torch.testing.assert_close(other.log_prob, one.log_prob - shift, rtol=0, atol=1e-6)


# ---------------------------------------------------------------------- ragged shapes and bad input


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 7), st.integers(2, 4), st.integers(1, 3), st.integers(0, 10**6))
def test_padding_and_the_order_of_views_and_groups_change_nothing(g, j, dim, seed):
    z, valid = groups(g, j, dim, seed=seed), ragged(g, j, seed)
    padded = torch.where(valid[..., None], z, torch.nan)
    order = torch.randperm(g, generator=torch.Generator().manual_seed(seed))
    for z_other, valid_other in ((padded, valid), (z[order].flip(1), valid[order].flip(1))):
        assert lidar(z_other, valid_other) == pytest.approx(lidar(z, valid), rel=1e-6)
        assert variance_components(z_other, valid_other) == pytest.approx(variance_components(z, valid), rel=1e-9)
        one, other = maximum_likelihood_scales(z, valid), maximum_likelihood_scales(z_other, valid_other)
        assert other[:2] == pytest.approx(one[:2], rel=1e-5, abs=1e-6)
    nudges = [(1.01, 1.0), (0.99, 1.0), (1.0, 1.01), (1.0, 0.99)]
    for view, content in nudges:  # no scales nearby are better
        scales = one.view_scale * view, max(one.content_scale * content, 1e-3 * one.view_scale)
        near = GroupNormal(scales[0], j, dim, scales[1], valid).log_prob(z - one.loc)
        assert float(near.sum()) <= float(one.log_prob.sum()) + 1e-9


@pytest.mark.parametrize("name", GROUPED)
def test_bad_groups_are_errors_that_say_how(name):
    measure, z = GROUPED[name], torch.randn(6, 3, 2)
    with pytest.raises(ShapeError, match=r"expected \[G, J, D\]"):
        measure(z[0])
    with pytest.raises(ShapeError, match="1 rows, expected at least 2"):
        measure(z[:1])
    with pytest.raises(ShapeError, match="at least one view"):
        measure(z[:, :0])
    with pytest.raises(DataError, match="int64"):
        measure(z.long())
    with pytest.raises(DataError, match="one view"):
        measure(z[:, :1])
    with pytest.raises(DataError, match="valid holds"):
        measure(z, torch.ones(6, 3))
    with pytest.raises(ShapeError, match=r"\[6, 2\], expected \[6, 3\]"):
        measure(z, torch.ones(6, 2, dtype=torch.bool))
    empty = torch.ones(6, 3, dtype=torch.bool)
    empty[2] = False
    with pytest.raises(DataError, match="1 of 6 groups have no view"):
        measure(z, empty)
    z[1, 2, 0] = math.inf
    with pytest.raises(NonFiniteError, match="1 of 18 views"):
        measure(z)


def test_scales_of_coinciding_views_are_an_error():
    with pytest.raises(DataError, match="views of each group coincide"):
        maximum_likelihood_scales(torch.randn(9, 1, 4).expand(-1, 3, -1))
    with pytest.raises(DataError, match="views of each group coincide"):
        maximum_likelihood_scales(torch.full((9, 3, 4), 0.3) + 1e-8 * torch.randn(9, 3, 4))


@pytest.mark.parametrize("measure", [effective_rank, rankme, eigenspectrum, alpha_req])
def test_bad_points_are_errors_that_say_how(measure):
    z = torch.randn(6, 3)
    with pytest.raises(ShapeError, match=r"expected \[N, D\]"):
        measure(z[None])
    with pytest.raises(ShapeError, match="rows, expected at least"):
        measure(z[:0])
    with pytest.raises(ShapeError, match="at least one dimension"):
        measure(z[:, :0])
    with pytest.raises(DataError, match="int64"):
        measure(z.long())
    z[1, 2] = math.nan
    with pytest.raises(NonFiniteError, match="1 of 6 rows"):
        measure(z)


def test_bad_settings_are_errors():
    z = torch.randn(9, 3)
    for first, last in ((0, 3), (2, 2), (1, 4)):
        with pytest.raises(SettingsError, match=f"first = {first} and last = {last}"):
            alpha_req(z, first, last)
    with pytest.raises(SettingsError, match="epsilon = -1"):
        rankme(z, -1)
    with pytest.raises(SettingsError, match="delta = 0"):
        lidar(torch.randn(9, 2, 3), delta=0)

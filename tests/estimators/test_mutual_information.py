"""Bounds of mutual information against loops, exact Gaussians, and their own laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genssl.distributions import GroupNormal
from genssl.errors import DataError, SettingsError, ShapeError
from genssl.estimators import (
    barber_agakov,
    dv,
    gaussian_mutual_information,
    gaussian_pair_critic,
    infonce,
    js,
    nwj,
    smile,
    tuba,
)


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def looped(name, f):
    """Every formula by double loops."""
    n = len(f)
    positives = [float(f[i, i]) for i in range(n)]
    negatives = [float(f[i, j]) for i in range(n) for j in range(n) if i != j]

    def mean(values):
        return sum(values) / len(values)

    if name == "infonce":
        return math.log(n) + mean([positives[i] - math.log(sum(math.exp(v) for v in f[i].tolist())) for i in range(n)])
    if name == "nwj":
        return mean(positives) - mean([math.exp(v - 1) for v in negatives])
    if name == "dv":
        return mean(positives) - math.log(mean([math.exp(v) for v in negatives]))
    if name == "smile":
        clipped = [min(max(math.exp(v), math.exp(-1.5)), math.exp(1.5)) for v in negatives]
        return mean(positives) - math.log(mean(clipped))
    return -mean([softplus(-v) for v in positives]) - mean([softplus(v) for v in negatives])


FORMULAS = {"infonce": infonce, "nwj": nwj, "dv": dv, "smile": lambda f: smile(f, 1.5), "js": js}


@pytest.mark.parametrize("name", FORMULAS)
def test_equals_double_loops(name):
    scores = 2 * torch.randn(14, 14, dtype=torch.float64)
    assert float(FORMULAS[name](scores)) == pytest.approx(looped(name, scores), abs=1e-10)


def test_tuba_equals_a_loop_and_contains_nwj(float64):
    f, log_a = torch.randn(9, 9), torch.randn(9)
    first = sum(float(f[i, i] - log_a[i]) for i in range(9)) / 9
    last = sum(math.exp(f[i, j] - log_a[i]) for i in range(9) for j in range(9) if i != j) / 72
    assert float(tuba(f, log_a)) == pytest.approx(1 + first - last, abs=1e-10)
    torch.testing.assert_close(tuba(f, 1.0), nwj(f))
    torch.testing.assert_close(tuba(f, torch.tensor(1.0)), nwj(f))
    torch.testing.assert_close(tuba(f + log_a[:, None], log_a), tuba(f))


def test_the_orientations_of_infonce(float64):
    f = torch.randn(8, 8)
    torch.testing.assert_close(infonce(f, "columns"), infonce(f.T.contiguous()))
    torch.testing.assert_close(infonce(f, "both"), (infonce(f) + infonce(f.T)) / 2)
    anchors, columns = torch.randn(8, 1), torch.randn(8)
    torch.testing.assert_close(infonce(f + anchors), infonce(f))
    torch.testing.assert_close(infonce(f + columns, "columns"), infonce(f, "columns"))
    cross_entropy = torch.nn.functional.cross_entropy(f, torch.arange(8))
    torch.testing.assert_close(infonce(f), math.log(8) - cross_entropy)


def test_infonce_with_a_queue(float64):
    f = torch.randn(6, 20)
    expected = math.log(20) - torch.nn.functional.cross_entropy(f, torch.arange(6))
    torch.testing.assert_close(infonce(f), expected)
    valid = torch.tensor([True, False, True, True, False, True])
    kept = torch.cat([valid, torch.ones(14, dtype=torch.bool)])
    expected = math.log(18) - torch.nn.functional.cross_entropy(f[valid][:, kept], torch.arange(4))
    torch.testing.assert_close(infonce(f, valid=valid), expected)


@settings(deadline=None, max_examples=100)
@given(
    n=st.integers(1, 12),
    extra=st.integers(0, 5),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 50.0, 1e6, 1e30]),
    dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]),
    orientation=st.sampled_from(["rows", "columns", "both"]),
    seed=st.integers(0, 2**31),
    ragged=st.booleans(),
)
def test_infonce_never_exceeds_log_k(n, extra, scale, dtype, orientation, seed, ragged):
    extra = extra if orientation == "rows" else 0
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, n + extra, generator=generator, dtype=torch.float64) * scale
    scores = scores.clamp(-6e4, 6e4).to(dtype) if dtype == torch.float16 else scores.to(dtype)
    scores.diagonal()[::2] = scores.abs().max()  # perfect for some anchors
    valid = torch.rand(n, generator=generator) < 0.5 if ragged else torch.ones(n, dtype=torch.bool)
    valid[0] = True
    k = int(valid.sum()) + extra
    value = infonce(scores, orientation, valid=valid)
    assert value <= torch.tensor(k).to(value.dtype).log()
    assert value.isfinite()


# ---------------------------------------------------------------------- Gaussians


def test_the_pair_critic_is_the_ratio_of_densities(float64):
    """log p(z, z') - log p(z) - log p(z') of GroupNormal, for all pairs of rows."""
    content, view, dim = 1.2, 0.7, 3
    z, other = torch.randn(6, dim), torch.randn(5, dim)
    pairs = torch.stack(torch.broadcast_tensors(z[:, None], other[None]), 2)
    joint = GroupNormal(view, 2, dim, content_scale=content).log_prob(pairs)
    single = GroupNormal(view, 1, dim, content_scale=content)
    expected = joint - single.log_prob(z[:, None])[:, None] - single.log_prob(other[:, None])
    rho = content**2 / (content**2 + view**2)
    torch.testing.assert_close(
        gaussian_pair_critic(z, other, rho, math.hypot(content, view)), expected, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize(("rho", "dim"), [(0.0, 2), (-0.6, 1), (0.9, 5)])
def test_gaussian_information(rho, dim):
    covariance = np.array([[1.0, rho], [rho, 1.0]])
    assert gaussian_mutual_information(rho, dim) == pytest.approx(-0.5 * dim * np.log(np.linalg.det(covariance)))
    z, other = pairs_of(100_000, rho, dim)
    pointwise = [gaussian_pair_critic(z[i : i + 1], other[i : i + 1], rho)[0, 0] for i in range(200)]
    diagonal = gaussian_pair_critic(z[:200], other[:200], rho).diagonal()
    torch.testing.assert_close(torch.stack(pointwise), diagonal)
    quadratic = rho**2 * (z.square() + other.square()).sum(1) - 2 * rho * (z * other).sum(1)
    mean = gaussian_mutual_information(rho, dim) - quadratic.mean() / (2 * (1 - rho**2))
    assert float(mean) == pytest.approx(gaussian_mutual_information(rho, dim), abs=0.02)


def pairs_of(n, rho, dim):
    z = torch.randn(n, dim, dtype=torch.float64)
    return z, rho * z + math.sqrt(1 - rho**2) * torch.randn(n, dim, dtype=torch.float64)


@pytest.mark.parametrize(("rho", "dim"), [(0.8, 1), (0.6, 2), (0.5, 5), (0.3, 10)])
def test_bounds_at_the_exact_critic(rho, dim):
    truth = gaussian_mutual_information(rho, dim)
    values = {name: [] for name in ("infonce", "both", "nwj", "dv", "tuba", "smile", "barber_agakov")}
    for _ in range(20):
        z, other = pairs_of(300, rho, dim)
        f = gaussian_pair_critic(z, other, rho)
        conditional = torch.distributions.Normal(rho * z, math.sqrt(1 - rho**2)).log_prob(other).sum(1)
        entropy = 0.5 * dim * (1 + math.log(2 * math.pi))
        anchors = f + z.square().sum(1, keepdim=True)
        for name, value in {
            "infonce": infonce(anchors),
            "both": infonce(f, "both"),
            "nwj": nwj(f + 1),
            "dv": dv(f - 3),
            "tuba": tuba(anchors, z.square().sum(1)),
            "smile": smile(f, 20.0),
            "barber_agakov": barber_agakov(conditional, entropy),
        }.items():
            values[name].append(float(value))
    for name, seen in values.items():
        assert np.mean(seen) == pytest.approx(truth, abs=0.1), name
    assert np.mean(values["infonce"]) < truth + 0.02


def test_wrong_critics_are_worse():
    """The lower bounds, at critics off their best by scale, offset or noise."""
    z, other = pairs_of(800, 0.7, 2)
    f = gaussian_pair_critic(z, other, 0.7)
    noisy = f + torch.randn_like(f)
    for bound, best in ((nwj, f + 1), (dv, f), (infonce, f), (js, f)):
        assert bound(best) > bound(0.3 * best) + 0.01
        assert bound(best) > bound(noisy) + 0.01
    assert nwj(f + 1) > nwj(f) + 0.1
    assert nwj(f + 1) > nwj(f + 2) + 0.1
    assert js(f) > js(f + 2) + 0.01
    torch.testing.assert_close(dv(f), dv(f + 2))


def test_large_information_saturates_infonce_and_misleads_dv():
    """I = 16 nats from 64 pairs: InfoNCE stays at log 64, dv's missing tail lifts it above what it could know."""
    rho, dim = math.sqrt(1 - math.exp(-1.6)), 20
    assert gaussian_mutual_information(rho, dim) == pytest.approx(16)
    z, other = pairs_of(64, rho, dim)
    f = gaussian_pair_critic(z, other, rho)
    assert 0.95 * math.log(64) < infonce(f) <= math.log(64)
    assert dv(f) > 16.5


def test_independence():
    z, other = torch.randn(2, 500, 3, dtype=torch.float64)
    zero = torch.zeros(500, 500)
    assert [float(bound(zero)) for bound in (infonce, dv, smile)] == pytest.approx([0, 0, 0], abs=1e-5)
    assert float(nwj(zero + 1)) == pytest.approx(0, abs=1e-5)
    assert float(js(zero)) == pytest.approx(-2 * math.log(2), abs=1e-5)
    f = gaussian_pair_critic(z, other, 0.5)
    assert max(float(infonce(f)), float(dv(f)), float(nwj(f + 1))) < 0


def test_js_bounds_the_jensen_shannon_divergence(float64):
    """A 4 x 4 table as population: at the log ratio js is 2 JS - 2 log 2, and less elsewhere."""
    table = torch.rand(4, 4) + 0.05
    table /= table.sum()
    product = table.sum(1, keepdim=True) * table.sum(0)

    def population(f):
        positive, negative = torch.nn.functional.softplus(-f), torch.nn.functional.softplus(f)
        return -(table * positive).sum() - (product * negative).sum()

    middle = (table + product) / 2
    divergence = 0.5 * ((table * (table / middle).log()).sum() + (product * (product / middle).log()).sum())
    ratio = (table / product).log()
    torch.testing.assert_close(population(ratio), 2 * divergence - 2 * math.log(2))
    # js on a sample from it comes near.
    draws = torch.multinomial(table.flatten(), 2000, replacement=True)
    f = ratio[draws // 4][:, draws % 4]
    assert float(js(f)) == pytest.approx(float(population(ratio)), abs=0.03)


def test_large_scores_stay_finite_in_log_space():
    f = torch.randn(10, 10) * 1e4
    for bound in (infonce, dv, smile, js):
        scores = f.clone().requires_grad_()
        value = bound(scores)
        value.backward()
        assert value.isfinite()
        assert scores.grad.isfinite().all()
    assert nwj(f) == -math.inf


def test_smile_tends_to_dv_and_clipped_negatives_have_no_gradient(float64):
    f = (3 * torch.randn(12, 12)).requires_grad_()
    torch.testing.assert_close(smile(f, 1e3), dv(f))
    smile(f, 1.0).backward()
    outside = (f.detach().abs() > 1) & ~torch.eye(12, dtype=torch.bool)
    assert f.grad[outside].abs().max() == 0
    assert f.grad[~outside].abs().min() > 0


def test_errors_say_what_and_how():
    f = torch.randn(5, 5)
    for bound in (nwj, dv, smile, js, tuba):
        with pytest.raises(ShapeError, match=r"\[5, 4\], expected \[N, N\]"):
            bound(f[:, :4])
        with pytest.raises(ShapeError, match="at least 2"):
            bound(f[:1, :1])
    with pytest.raises(ShapeError, match="M >= N"):
        infonce(f[:, :4])
    with pytest.raises(ShapeError, match="use 'rows'"):
        infonce(f[:4], "both")
    with pytest.raises(SettingsError, match="orientation = 'diagonal'"):
        infonce(f, "diagonal")
    with pytest.raises(SettingsError, match="clip = 0"):
        smile(f, 0)
    with pytest.raises(ShapeError, match="log_baseline has 4 entries, expected 5"):
        tuba(f, torch.zeros(4))
    with pytest.raises(DataError, match=r"int64.*\.float\(\)"):
        infonce(f.long())
    with pytest.raises(ShapeError, match=r"log_conditional has shape \[5, 5\], expected \[N\]"):
        barber_agakov(f, 0.0)
    with pytest.raises(SettingsError, match="rho = 1"):
        gaussian_pair_critic(f, f, 1.0)
    with pytest.raises(SettingsError, match="scale = 0"):
        gaussian_pair_critic(f, f, 0.5, 0)
    with pytest.raises(ShapeError, match="5 features and z_other 4"):
        gaussian_pair_critic(f, f[:, :4], 0.5)
    with pytest.raises(SettingsError, match="dim = 0"):
        gaussian_mutual_information(0.5, 0)

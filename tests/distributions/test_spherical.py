"""Distributions on the sphere against quadrature, scipy, sampling, and their own laws."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.infer import SVI
from scipy import special, stats
from torch import nn

from genssl import Groups, Objective
from genssl.distributions.power_spherical import PowerSpherical
from genssl.distributions.spherical import uniform_entropy, unit
from genssl.distributions.von_mises_fisher import VonMisesFisher, _angle
from genssl.errors import ShapeError
from genssl.estimators.von_mises_fisher import log_kernel_integral
from genssl.terms import PosteriorEntropy

BOTH = pytest.mark.parametrize("family", [VonMisesFisher, PowerSpherical])


def first_axis(dim, **kwargs):
    return torch.eye(dim, **kwargs)[0]


def angles(family, dim, kappa, size=40_001):
    """Grid of the angle to loc, its density and its distribution function, by the trapezoid rule; nothing of ours in it."""
    t = np.linspace(0, np.pi, size)
    with np.errstate(divide="ignore"):
        log_kernel = kappa * (np.cos(t) - 1) if family is VonMisesFisher else 2 * kappa * np.log(np.cos(t / 2))
        log_area = (dim - 2) * np.log(np.sin(t).clip(1e-300)) if dim > 2 else 0.0
    density = np.exp(log_kernel + log_area - (log_kernel + log_area).max())
    steps = (density[1:] + density[:-1]) / 2 * (t[1] - t[0])
    return t, density / steps.sum(), np.concatenate([[0.0], steps.cumsum()]) / steps.sum()


def cosine_moments(family, dim, kappa):
    t, density, _ = angles(family, dim, kappa)
    return [float(np.trapezoid(density * np.cos(t) ** power, t)) for power in (1, 2)]


# ------------------------------------------------------------------ densities


@pytest.mark.parametrize("dim", [2, 3, 5, 10, 26, 64, 128, 512])
def test_von_mises_fisher_equals_scipy(dim):
    kappa = torch.logspace(-3, 4, 43, dtype=torch.float64)
    q = VonMisesFisher(first_axis(dim, dtype=torch.float64), kappa)
    expected = [-log_kernel_integral(dim, k) for k in kappa.tolist()]
    torch.testing.assert_close(q.log_prob(q.loc), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-11)
    above, below = (special.ive(dim / 2 - shift, kappa.numpy()) for shift in (0, 1))
    kept = above > 1e-290
    assert kept.sum() > 8
    ratio = torch.from_numpy(above[kept] / below[kept])
    torch.testing.assert_close(q.resultant_length[torch.from_numpy(kept)], ratio, rtol=1e-11, atol=0)


@pytest.mark.parametrize("dim", [2, 3, 10, 512])
@pytest.mark.parametrize("kappa", [0.0, 0.3, 7.0, 1e4])
def test_power_spherical_equals_its_formula(dim, kappa):
    """In 40 digits, beside which float64 and float32 of ours are judged."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(40):
        a, b = mpmath.mpf(dim - 1) / 2 + kappa, mpmath.mpf(dim - 1) / 2
        log_c = (a + b) * mpmath.log(2) + b * mpmath.log(mpmath.pi) + mpmath.loggamma(a) - mpmath.loggamma(a + b)
        at_loc = float(kappa * mpmath.log(2) - log_c)
        entropy = float(log_c - kappa * (mpmath.log(2) + mpmath.psi(0, a) - mpmath.psi(0, a + b)))
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-6)):
        q = PowerSpherical(first_axis(dim, dtype=dtype), kappa)
        assert abs(q.log_prob(q.loc).item() - at_loc) < tolerance * max(1, abs(at_loc))
        assert abs(q.entropy().item() - entropy) < tolerance * max(1, abs(entropy))


@BOTH
@pytest.mark.parametrize("kappa", [0.0, 0.7, 30.0])
def test_density_integrates_to_one(family, kappa, float64):
    t = (torch.arange(2000) + 0.5) * math.pi / 1000
    circle = family(torch.tensor([0.6, -0.8]), kappa).log_prob(torch.stack([t.cos(), t.sin()], -1)).exp()
    torch.testing.assert_close(circle.mean() * 2 * math.pi, torch.tensor(1.0), rtol=1e-7, atol=0)
    height, turn = torch.meshgrid((torch.arange(1000) + 0.5) / 500 - 1, t[::20], indexing="ij")
    radius = (1 - height.square()).sqrt()
    points = torch.stack([radius * turn.cos(), radius * turn.sin(), height], -1)  # of equal area (Archimedes)
    sphere = family(torch.tensor([1.0, 2.0, -2.0]), kappa).log_prob(points).exp()
    torch.testing.assert_close(sphere.mean() * 4 * math.pi, torch.tensor(1.0), rtol=1e-4, atol=0)


@BOTH
def test_density_integrates_to_one_in_ten_dimensions(family, float64):
    uniform = unit(torch.randn(400_000, 10))
    weight = (family(torch.ones(10), 4.0).log_prob(uniform) + uniform_entropy(10)).exp()
    assert abs(weight.mean() - 1) < 5 * weight.std() / len(weight) ** 0.5
    assert weight.std() / len(weight) ** 0.5 < 0.01


@BOTH
@settings(deadline=None, max_examples=25)
@given(dim=st.integers(2, 40), kappa=st.floats(0, 1e4), seed=st.integers(0, 2**31))
def test_rotation_leaves_it_alone(family, dim, kappa, seed):
    generator = torch.Generator().manual_seed(seed)
    loc, z = torch.randn(2, 5, dim, dtype=torch.float64, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=generator))
    before, after = family(loc, kappa).log_prob(unit(z)), family(loc @ rotation, kappa).log_prob(unit(z) @ rotation)
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


@BOTH
@pytest.mark.parametrize("dim", [2, 3, 10, 100])
def test_no_concentration_is_uniform(family, dim):
    kappa = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    q = family(torch.randn(3, dim, dtype=torch.float64), kappa)
    uniform = torch.full((3,), -uniform_entropy(dim), dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(unit(torch.randn(3, dim, dtype=torch.float64))), uniform)
    torch.testing.assert_close(q.entropy(), -uniform)
    assert q.mean.abs().max() == 0
    draws = q.rsample((2000,))
    draws.sum().backward()
    assert kappa.grad.isfinite().all()
    assert draws.mean((0, 1)).norm() < 5 / 6000**0.5
    near = family(first_axis(dim, dtype=torch.float64), 1e-6)
    assert abs(near.kl_to_uniform()) < 1e-11


def test_uniform_entropy_is_the_log_area():
    assert uniform_entropy(2) == pytest.approx(math.log(2 * math.pi))
    assert uniform_entropy(3) == pytest.approx(math.log(4 * math.pi))
    with pytest.raises(ShapeError, match="dim = 1"):
        uniform_entropy(1)


@BOTH
@pytest.mark.parametrize(("dim", "kappa"), [(2, 0.5), (3, 10.0), (10, 200.0), (64, 30.0)])
def test_entropy_is_the_average_of_minus_log_q(family, dim, kappa, float64):
    q = family(torch.randn(dim), kappa)
    draws = -q.log_prob(q.sample((20_000,)))
    error = draws.std() / len(draws) ** 0.5
    assert abs(draws.mean() - q.entropy()) < 5 * error
    assert torch.isclose(q.kl_to_uniform(), uniform_entropy(dim) - q.entropy())
    assert q.kl_to_uniform() > 0


@BOTH
@pytest.mark.parametrize("dim", [2, 3, 30])
def test_gradients_of_closed_forms(family, dim):
    kappa = torch.tensor([0.3, 9.0, 150.0], dtype=torch.float64, requires_grad=True)
    loc = torch.randn(3, dim, dtype=torch.float64, requires_grad=True)
    z = unit(torch.randn(3, dim, dtype=torch.float64))

    def forms(loc, kappa):
        q = family(loc, kappa)
        return q.log_prob(z), q.entropy(), q.mean

    assert torch.autograd.gradcheck(forms, (loc, kappa), rtol=1e-5, atol=1e-6)
    if family is VonMisesFisher:
        assert torch.autograd.gradgradcheck(lambda kappa: family(loc.detach(), kappa).entropy(), (kappa,), atol=1e-6)


@BOTH
@pytest.mark.parametrize("dim", [2, 3, 10, 128])
def test_float32_equals_float64(family, dim):
    """The draws of one as values of the other: near loc, where 1 - m . z has few digits left."""
    kappa = torch.tensor([0.0, 1e-3, 0.5, 20.0, 1e3, 1e4])
    single = family(torch.randn(6, dim), kappa)
    double = family(single.loc.double(), kappa.double())
    for z in (single.sample((50,)), unit(torch.randn(50, 6, dim))):
        exact = double.log_prob(unit(z.double()))
        torch.testing.assert_close(single.log_prob(z).double(), exact, rtol=1e-4, atol=2e-4)
    for name in ("entropy", "kl_to_uniform"):
        torch.testing.assert_close(getattr(single, name)().double(), getattr(double, name)(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(single.mean.double(), double.mean, rtol=1e-5, atol=1e-9)


@BOTH
def test_opposite_loc_is_finite(family):
    for dtype in (torch.float32, torch.float64):
        loc = unit(torch.randn(8, 5, dtype=dtype)).requires_grad_()
        value = family(loc, 3.0).log_prob(-loc.detach())
        value.sum().backward()
        assert value.isfinite().all()
        assert loc.grad.isfinite().all()
        assert (value < family(loc, 3.0).log_prob(loc.detach()) - 5).all()


# ------------------------------------------------------------------ draws


@BOTH
@pytest.mark.parametrize("dim", [2, 3, 10, 64])
@pytest.mark.parametrize("kappa", [0.5, 10.0, 200.0])
def test_draws_have_the_distribution(family, dim, kappa, float64):
    """Angles against quadrature; directions about loc, both poles included, by their first two moments."""
    loc = torch.stack([first_axis(dim), -first_axis(dim), unit(torch.randn(dim))])
    z = family(loc, kappa).sample((5000,))
    assert (z.norm(dim=-1) - 1).abs().max() < 1e-12
    t, _, cdf = angles(family, dim, kappa)
    drawn = torch.atan2((z - (z * loc).sum(-1, keepdim=True) * loc).norm(dim=-1), (z * loc).sum(-1))
    assert stats.kstest(drawn.flatten().numpy(), lambda x: np.interp(x, t, cdf)).pvalue > 1e-3
    rho, second = cosine_moments(family, dim, kappa)
    assert torch.allclose(family(loc, kappa).mean, rho * loc, rtol=1e-6)
    error = z.std(0) / 5000**0.5
    assert ((z.mean(0) - rho * loc).abs() < 5 * error + 1e-12).all()
    across, a = (1 - second) / (dim - 1), torch.randn(dim)
    expected = across * a.square().sum() + (second - across) * (loc @ a).square()
    squares = (z @ a).square()
    assert ((squares.mean(0) - expected).abs() < 5 * squares.std(0) / 5000**0.5).all()


@pytest.mark.parametrize("dim", [2, 3, 10, 128])
@pytest.mark.parametrize("kappa", [0.5, 10.0, 200.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_angles_invert_the_distribution_function(dim, kappa, dtype):
    """Quantiles and their derivatives in kappa, against quadrature and its finite differences."""
    u = (torch.arange(400, dtype=dtype) + 0.5) / 400
    k = torch.full((400,), kappa, dtype=dtype, requires_grad=True)
    t = _angle(k, dim, u[:, None])[:, 0]
    t.sum().backward()
    grid, _, cdf = angles(VonMisesFisher, dim, kappa, 200_001)
    reached = np.interp(t.detach().double().numpy(), grid, cdf)
    assert np.abs(reached - u.double().numpy()).max() < 1e-5
    step = 0.01 * kappa
    inverse = [
        np.interp(u.double().numpy(), c, g)
        for g, _, c in (angles(VonMisesFisher, dim, kappa + h, 200_001) for h in (step, -step))
    ]
    slope = (inverse[0] - inverse[1]) / (2 * step)
    assert np.abs(k.grad.double().numpy() - slope).max() < 2e-3 * np.abs(slope).max()


@BOTH
@pytest.mark.parametrize("dim", [2, 3, 10])
@pytest.mark.parametrize("kappa", [0.5, 10.0, 200.0])
def test_pathwise_gradient(family, dim, kappa, float64):
    """d E[a . z + (a . z)^2] in kappa and in loc, an axis and its opposite among them, against quadrature."""
    a, draws = torch.randn(dim), 3000
    loc = 1.7 * torch.stack([first_axis(dim), -first_axis(dim), unit(torch.randn(dim))])

    def expected(loc, kappa):
        rho, second = cosine_moments(family, dim, kappa)
        along, across = (unit(loc) @ a), (1 - second) / (dim - 1)
        return rho * along + across * a.square().sum() + (second - across) * along.square()

    step = 1e-3 * kappa
    exact_kappa = (expected(loc, kappa + step) - expected(loc, kappa - step)) / (2 * step)
    exact_loc = torch.autograd.functional.jacobian(lambda loc: expected(loc, kappa).sum(), loc)
    locs = loc.expand(draws, -1, -1).clone().requires_grad_()
    kappas = torch.full((draws, 3), kappa, requires_grad=True)
    along = family(locs, kappas).rsample() @ a
    (along + along.square()).sum().backward()
    for grad, exact in ((kappas.grad, exact_kappa), (locs.grad, exact_loc)):
        error = grad.std(0) / draws**0.5
        assert ((grad.mean(0) - exact).abs() < 5 * error + 1e-3 * exact.abs() + 1e-9).all()
        assert (error <= 0.2 * (exact.abs().max() + 1)).all()


@BOTH
def test_draws_follow_the_default_generator(family):
    q = family(torch.randn(4, 5), torch.rand(4) * 9)
    torch.manual_seed(3)
    first = q.rsample((2,))
    torch.manual_seed(3)
    assert torch.equal(first, q.sample((2,)))


@BOTH
def test_neither_shapes_nor_values_stop_the_step(family):
    """On the meta device there are no values: a step that waits for one, or makes a shape of one, fails there."""
    loc = torch.randn(6, 4, device="meta", requires_grad=True)
    kappa = torch.rand(6, device="meta", requires_grad=True)
    q = family(loc, kappa, validate_args=False)
    # torch's own Beta, which the other one draws from, has no meta kernel.
    z = q.rsample((3,)) if family is VonMisesFisher else torch.randn(3, 6, 4, device="meta")
    (q.log_prob(z).sum() + q.entropy().sum()).backward()
    assert z.shape == (3, 6, 4)
    assert loc.grad.shape == loc.shape
    assert kappa.grad.shape == kappa.shape


# ------------------------------------------------------------------ shapes, arguments, Pyro


@BOTH
def test_shapes(family):
    loc, kappa = torch.randn(2, 1, 5), torch.rand(3) * 9 + 1
    q = family(loc, kappa)
    assert (q.batch_shape, q.event_shape) == ((2, 3), (5,))
    z = q.rsample((7, 4))
    assert z.shape == (7, 4, 2, 3, 5)
    assert q.log_prob(z).shape == (7, 4, 2, 3)
    assert q.entropy().shape == q.resultant_length.shape == (2, 3)
    wide = q.expand([6, 2, 3])
    assert type(wide) is family
    assert wide.rsample().shape == (6, 2, 3, 5)
    torch.testing.assert_close(wide.log_prob(z[0, 0]), q.log_prob(z[0, 0]).expand(6, 2, 3))
    torch.testing.assert_close(q.log_prob(z)[..., 1, 2], family(loc[1, 0], kappa[2]).log_prob(z[..., 1, 2, :]))
    one = family(loc[0, 0], 3.0)
    assert one.rsample().shape == (5,)
    assert one.log_prob(one.rsample()).shape == ()


@BOTH
def test_arguments_are_named(family):
    with pytest.raises(ValueError, match="concentration"):
        family(torch.ones(3), torch.tensor(-1.0))
    with pytest.raises(ValueError, match="loc"):
        family(torch.tensor([1.0, math.nan]), 1.0)
    with pytest.raises(ValueError, match="support"):
        family(torch.ones(3), 1.0).log_prob(torch.ones(3))
    with pytest.raises(ShapeError, match=r"loc has shape \[4, 1\]"):
        family(torch.ones(4, 1), 1.0)
    with pytest.raises(ShapeError, match=r"concentration has shape \[4, 3\]"):
        family(torch.ones(4, 3), torch.ones(4, 3))


@BOTH
def test_padded_views_stay_on_the_sphere(family):
    """Networks leave zeros at padded views; the masked densities there must not turn gradients into NaN."""
    loc = torch.zeros(2, 4, requires_grad=True)
    q = family(loc, torch.zeros(2))
    assert torch.equal(q.loc, first_axis(4).expand(2, 4))
    q.log_prob(q.rsample()).sum().backward()
    assert torch.equal(loc.grad, torch.zeros(2, 4))


@BOTH
def test_half_is_promoted(family):
    q = family(torch.randn(5, dtype=torch.bfloat16), torch.tensor(2.0, dtype=torch.bfloat16))
    assert q.rsample().dtype == q.log_prob(first_axis(5)).dtype == q.entropy().dtype == q.mean.dtype == torch.float32
    assert family(torch.ones(5, dtype=torch.float64), torch.tensor(2.0)).rsample().dtype == torch.float64


class OnTheSphere(nn.Module):
    """Views of a direction that nothing is known of: q(z_j | x_j) on the sphere, and a von Mises-Fisher around the first view."""

    def __init__(self, family):
        super().__init__()
        self.encoder, self.family = nn.Linear(4, 4), family

    def model(self, groups):
        with groups.plate:
            pyro.sample("z", VonMisesFisher(torch.ones(groups.num_views, 3), 2.0).expand([6, 3]).to_event(1))

    def guide(self, groups):
        out = groups.map(self.encoder)
        self.posterior = self.family(out[..., :3], nn.functional.softplus(out[..., 3]))
        with groups.plate:
            pyro.sample("z", self.posterior.mask(groups.valid).to_event(1))


@BOTH
@pytest.mark.parametrize("ragged", [False, True])
def test_stochastic_guide_in_pyro(family, ragged):
    mask = torch.ones(6, 3, dtype=torch.bool)
    mask[0, 2], mask[3, 1:] = False, False
    groups = Groups(torch.rand(6, 3, 4), mask=mask if ragged else None)
    method = OnTheSphere(family)
    objective = Objective(reconstruction=None, entropy=PosteriorEntropy(analytic=True))
    terms = objective.terms(method.model, method.guide, groups)
    expected = torch.where(groups.valid, method.posterior.entropy(), 0.0).sum(1)
    torch.testing.assert_close(terms.entropy, expected)
    before = [p.detach().clone() for p in method.parameters()]
    step = SVI(method.model, method.guide, pyro.optim.Adam({"lr": 0.1}), loss=objective)
    assert math.isfinite(step.step(groups))
    assert all(not torch.equal(a, b) for a, b in zip(before, method.parameters(), strict=True))


@pytest.mark.parametrize("family", [VonMisesFisher, PowerSpherical])
@pytest.mark.parametrize("dim", [2, 3, 10])
def test_variance_is_that_of_draws(family, dim):
    torch.manual_seed(0)
    law = family(torch.randn(4, dim), torch.tensor([0.0, 1.5, 20.0, 300.0]))
    draws = law.sample((60_000,))
    assert (draws.mean(0) - law.mean).abs().max() < 0.01
    torch.testing.assert_close(draws.var(0), law.variance, rtol=0.05, atol=2e-4)
    assert (law.stddev > 0).all()

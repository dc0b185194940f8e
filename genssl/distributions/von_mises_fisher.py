"""The von Mises-Fisher distribution: the normal of the unit sphere, for stochastic guides of contrastive methods."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from numpy.polynomial import Polynomial
from torch import Size, Tensor
from torch.distributions.utils import lazy_property

from genssl.distributions.spherical import Spherical, uniform_entropy
from genssl.precision import at_least_float32

LEAST_ORDER = 12  # where Olver's expansion starts; smaller orders are reached from there by recurrence
TERMS = 10  # of the expansion
CELLS = 64  # of the table of angles
NEWTON_STEPS = 3  # within a cell


class VonMisesFisher(Spherical):
    r"""q(z) = exp(kappa m . z) / C on the unit sphere S^(D-1), m = loc, kappa = concentration; v = D/2 - 1, I_v a Bessel function.

        log C = (D/2) log 2 pi - v log kappa + log I_v(kappa) = log area + log M,     M = mean of exp(kappa m . z) over the sphere
        rho = I_{v+1}(kappa) / I_v(kappa) = d log M / d kappa,     KL(q || uniform) = kappa rho - log M,     nats

    (Mardia and Jupp 2000, Section 9.3.) kappa = 0 is uniform; as kappa grows q nears N(m, I / kappa) on the tangent plane. It is the
    posterior that InfoNCE implies with temperature 1 / kappa.

    log M and rho are computed in float64 by Olver's uniform expansion, for any D >= 2. Seen against scipy and power series for
    D = 2 to 512 and kappa = 1e-3 to 1e4: log M within 1e-11, rho within 1e-12 relative; float32 rounds the result.

    Draws invert the distribution function F of the angle, tabulated for each kappa on the interval that holds all but 1e-8 of the
    mass: F is met within 1e-5. The derivative in kappa is the implicit one, dt / dkappa = -(dF / dkappa) / f (Figurnov, Mohamed and
    Mnih 2018, arXiv:1805.08498), within 0.2 % for all but the outermost 1e-4 of the draws. Memory: a few times 129 numbers for
    every element of the batch.

    Args: loc: m [..., D].  concentration: kappa >= 0, number or [...].
    """

    @property
    def resultant_length(self) -> Tensor:
        return self._moments[1].to(self.concentration.dtype)

    @property
    def along(self) -> Tensor:
        kappa, rho = self.concentration.double(), self._moments[1]
        ratio = torch.where(kappa > 0, rho / kappa.clamp(min=torch.finfo(kappa.dtype).tiny), 1 / self.dim)
        # 1 - (D - 1) rho / kappa - rho^2 (the derivative of rho), which cannot be below 0
        return (1 - (self.dim - 1) * ratio - rho.square()).clamp(min=0).to(self.concentration.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """[..., D] -> [...], nats."""
        if self._validate_args:
            self._validate_sample(value)
        gap = self._gap(at_least_float32(value))
        log_mean = (self._moments[0] - self.concentration.double()).to(gap.dtype)
        return -self.concentration * gap - log_mean - uniform_entropy(self.dim)

    def kl_to_uniform(self) -> Tensor:
        log_mean, rho = self._moments
        return (self.concentration.double() * rho - log_mean).to(self.concentration.dtype)

    @lazy_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """log M and rho, batch shape, float64."""
        return _Moments.apply(self.concentration.double(), self.dim)

    def _cosine_and_sine(self, sample_shape: Size) -> tuple[Tensor, Tensor]:
        kappa = self.concentration.reshape(-1)
        u = torch.rand(sample_shape.numel(), len(kappa), dtype=kappa.dtype, device=kappa.device)
        t = _angle(kappa, self.dim, u.T).T.reshape(sample_shape + self.batch_shape)
        return t.cos(), t.sin()


# ------------------------------------------------------------------ normaliser


class _Moments(torch.autograd.Function):
    """(log M, rho) of kappa: rho is the derivative of log M, and rho' = 1 - rho^2 - (D - 1) rho / kappa."""

    @staticmethod
    def forward(ctx: Any, kappa: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        log_mean, rho = _log_mean_and_slope(kappa, dim / 2 - 1)
        ctx.save_for_backward(kappa, rho)
        ctx.dim = dim
        return log_mean, rho

    @staticmethod
    def backward(ctx: Any, grad_log_mean: Tensor, grad_rho: Tensor) -> tuple[Tensor, None]:
        kappa, rho = ctx.saved_tensors
        ratio = torch.where(kappa > 0, rho / kappa.clamp(min=torch.finfo(kappa.dtype).tiny), 1 / ctx.dim)
        return grad_log_mean * rho + grad_rho * (1 - rho.square() - (ctx.dim - 1) * ratio), None


def _log_mean_and_slope(x: Tensor, order: float) -> tuple[Tensor, Tensor]:
    r"""log M_v(x) and its derivative, M_v(x) = Gamma(v + 1) (2 / x)^v I_v(x), which is 1 at x = 0.

    At a large order n, with z = x / n, q = sqrt(1 + z^2), p = 1 / q (Olver 1974, Chapter 10, Eq. 7.16):

        log M_n = n (q - 1) - n log((1 + q) / 2) - log(q) / 2 + L(p) - L(1),     L = log sum_k U_k(p) / n^k

    and M_{v-1} = M_v + x^2 M_{v+1} / 4 v (v + 1) leads down from there, stably and without cancellation.
    """
    steps = max(0, math.ceil(LEAST_ORDER - order))
    n = order + steps
    series = _debye(n)
    z2 = (x / n).square()
    q = (1 + z2).sqrt()
    p, rise = 1 / q, x.square() / (n * (1 + q))  # rise = n (q - 1)
    log_mean = rise - n * torch.log1p(rise / (2 * n)) - 0.25 * torch.log1p(z2) + _horner(series, p) - float(series(1))
    ratio = (1 / (1 + q) - (0.5 + p * _horner(series.deriv(), p)) / (n * q.square())) / n  # I_{n+1} / (x I_n)
    for k in range(steps, 0, -1):
        growth = x.square() * ratio / (2 * (order + k))
        log_mean = log_mean + torch.log1p(growth)
        ratio = 1 / (2 * (order + k) * (1 + growth))
    return log_mean, x * ratio


@functools.lru_cache
def _debye(order: float) -> Polynomial:
    """L(p) = log sum_k U_k(p) / n^k, U_{k+1} = p^2 (1 - p^2) U_k' / 2 + integral_0^p (1 - 5 t^2) U_k dt / 8."""
    u, logs = [Polynomial([1.0])], [Polynomial([0.0])]
    for k in range(1, TERMS + 1):
        last = u[-1]
        u.append(Polynomial([0, 0, 0.5, 0, -0.5]) * last.deriv() + (Polynomial([1, 0, -5]) * last).integ() / 8)
        logs.append(u[k] - sum((j / k * logs[j] * u[k - j] for j in range(1, k)), Polynomial([0.0])))
    return sum((term / order**k for k, term in enumerate(logs)), Polynomial([0.0]))


def _horner(polynomial: Polynomial, p: Tensor) -> Tensor:
    """The coefficients stay numbers: copied to a GPU as a tensor, they would make the host wait for it."""
    out = torch.zeros_like(p)
    for coefficient in polynomial.coef[::-1].tolist():
        out = out * p + coefficient
    return out


# ------------------------------------------------------------------ draws


def _angle(kappa: Tensor, dim: int, u: Tensor) -> Tensor:
    """The angle t with F(t; kappa) = u, [B] and [B, S] -> [B, S], for the density f ~ exp(kappa cos t) sin(t)^(D-2) on [0, pi].

    A table of F by Simpson's rule, inverted within a cell as if f were linear there, and Newton steps on Simpson's rule again.
    """
    k, tiny = kappa.detach().unsqueeze(-1), torch.finfo(kappa.dtype).tiny
    curvature = (4 * k.square() + (dim - 2) ** 2).sqrt().clamp(min=1e-6)  # of -log f at its mode, for D > 2
    share = (dim - 2) / (dim - 2 + curvature)
    mode = torch.atan2((2 * share).sqrt(), 2 * k / (dim - 2 + curvature))
    low = (mode - 6 * curvature.rsqrt()).clamp(min=0)
    high = (mode + 9 * (k.square() + (dim - 2) ** 2).clamp(min=1e-12).pow(-0.25)).clamp(max=math.pi)
    top = (0.5 * mode).sin().square()
    log_top = (top * (1 - top)).clamp(min=tiny).log()

    def density(t: Tensor) -> tuple[Tensor, Tensor]:
        """f(t) over its maximum, and (1 - cos t) / 2, in which nothing cancels near 0."""
        s = (0.5 * t).sin().square()
        log_sine = (s * (1 - s)).clamp(min=tiny).log() - log_top
        return (-2 * k * (s - top) + 0.5 * (dim - 2) * log_sine).exp(), s

    # Lengths below are in cells, and F is in the unit of f times a cell.
    cell = (high - low) / CELLS
    nodes = torch.arange(2 * CELLS + 1, dtype=kappa.dtype, device=kappa.device) / 2
    f, s = density(low + cell * nodes)
    mass = _simpson(f)
    below = _running(mass)
    target = u.contiguous() * below[:, -1:]
    place = (torch.searchsorted(below, target, right=True) - 1).clamp(0, CELLS - 1)
    left, right = f[:, :-1:2].gather(1, place), f[:, 2::2].gather(1, place)
    here = target - below.gather(1, place)
    part = here / mass.gather(1, place).clamp(min=tiny) * (left + right) / 2
    x = 2 * part / (left + (left.square() + 2 * (right - left) * part).clamp(min=0).sqrt()).clamp(min=tiny)
    start = low + cell * place

    def inside(x: Tensor) -> tuple[Tensor, ...]:
        middle, end = density(start + 0.5 * cell * x), density(start + cell * x)
        return *middle, *end

    for _ in range(NEWTON_STEPS):
        f_middle, _, f_end, _ = inside(x)
        x = x - (x * (left + 4 * f_middle + f_end) / 6 - here) / f_end.clamp(min=tiny)
        x = x.clamp(0, 1)
    t = start + cell * x
    if not kappa.requires_grad:
        return t

    # dF / dkappa = integral_0^t (cos - E cos) f / integral f. The integrand changes sign once; from the nearer end nothing cancels.
    centre = _simpson(s * f).sum(1, keepdim=True) / below[:, -1:]
    moment = _simpson((centre - s) * f)
    f_middle, s_middle, f_end, s_end = inside(x)
    s_left = s[:, :-1:2].gather(1, place)
    rest = x * ((centre - s_left) * left + 4 * (centre - s_middle) * f_middle + (centre - s_end) * f_end) / 6
    from_low = _running(moment).gather(1, place) + rest
    from_high = rest - moment.flip(1).cumsum(1).flip(1).gather(1, place)
    slope = -2 * cell * torch.where(s_end < centre, from_low, from_high) / f_end.clamp(min=tiny)
    return t + slope * (kappa - kappa.detach()).unsqueeze(-1)


def _simpson(f: Tensor) -> Tensor:
    """[B, 2K + 1] values at the ends and middles of K cells -> [B, K] integrals, in cells."""
    return (f[:, :-1:2] + 4 * f[:, 1::2] + f[:, 2::2]) / 6


def _running(mass: Tensor) -> Tensor:
    """[B, K] -> [B, K + 1], what lies below each end of a cell."""
    return torch.cat([torch.zeros_like(mass[:, :1]), mass.cumsum(1)], 1)

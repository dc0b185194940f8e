"""The power-spherical distribution: a posterior on the unit sphere with normaliser and draws in closed form."""

from __future__ import annotations

import math

import torch
from torch import Size, Tensor

from genssl.distributions.spherical import Spherical, uniform_entropy
from genssl.precision import at_least_float32


class PowerSpherical(Spherical):
    r"""q(z) = (1 + m . z)^kappa / C on the unit sphere, close to von Mises-Fisher's, with a normaliser and draws in closed form.

        log C = (a + b) log 2 + b log pi + log Gamma(a) - log Gamma(a + b),     a = (D-1)/2 + kappa,  b = (D-1)/2
        (1 + m . z) / 2 ~ Beta(a, b),     rho = kappa / (kappa + D - 1)
        H = log C - kappa (log 2 + psi(a) - psi(a + b)),     nats

    (De Cao and Aziz 2020, arXiv:2006.04437, Section 2.) kappa = 0 is uniform. At the same large kappa it is wider than
    VonMisesFisher: the variance along a tangent is about 2 / kappa instead of 1 / kappa. Opposite m its density is 0.

    Gamma functions and Beta draws are taken in float64 whatever the input: in float32 they have few digits left at large kappa.
    Accuracy of log C and H, kappa <= 1e4, D <= 512: 1e-10 in float64; float32 rounds the result. Draws are those of torch's Beta,
    whose derivative in kappa is within 0.2 % (in float32, save within 1e-3 radians of the point opposite m).

    Args: loc: m [..., D].  concentration: kappa >= 0, number or [...].
    """

    @property
    def resultant_length(self) -> Tensor:
        return self.concentration / (self.concentration + self.dim - 1)

    @property
    def along(self) -> Tensor:
        b = (self.dim - 1) / 2
        a = self.concentration + b
        return 4 * a * b / ((a + b).square() * (a + b + 1))  # of 2 Beta(a, b) - 1

    def log_prob(self, value: Tensor) -> Tensor:
        """[..., D] -> [...], nats; -inf opposite loc is cut off at the smallest number's logarithm times kappa."""
        if self._validate_args:
            self._validate_sample(value)
        value = at_least_float32(value)
        gap = self._gap(value)
        near = gap < 1
        opposite = 0.25 * (value + self.loc).square().sum(-1).clamp(min=torch.finfo(gap.dtype).tiny)
        log_half = torch.where(near, torch.log1p(-0.5 * torch.where(near, gap, 0.0)), opposite.log())
        return self.concentration * log_half - self._log_normaliser().to(gap.dtype) - uniform_entropy(self.dim)

    def kl_to_uniform(self) -> Tensor:
        kappa, b = self.concentration.double(), (self.dim - 1) / 2
        expected = torch.digamma(kappa + b) - torch.digamma(kappa + 2 * b)
        return (kappa * expected - self._log_normaliser()).to(self.concentration.dtype)

    def _log_normaliser(self) -> Tensor:
        """log of the mean of ((1 + m . z) / 2)^kappa over the sphere, in float64: log B(a, b) - log B(b, b)."""
        kappa, b = self.concentration.double(), (self.dim - 1) / 2
        return torch.lgamma(kappa + b) - torch.lgamma(kappa + 2 * b) + math.lgamma(2 * b) - math.lgamma(b)

    def _cosine_and_sine(self, sample_shape: Size) -> tuple[Tensor, Tensor]:
        kappa, b = self.concentration.double(), (self.dim - 1) / 2
        # (1 - m . z) / 2 rather than (1 + m . z) / 2: near m it keeps its digits.
        low = torch.distributions.Beta(torch.full_like(kappa, b), kappa + b, validate_args=False).rsample(sample_shape)
        low = low.to(self.concentration.dtype)
        low = low.clamp(
            min=torch.finfo(low.dtype).tiny, max=1 - torch.finfo(low.dtype).eps
        )  # the root has no slope at 0 and 1
        return 1 - 2 * low, 2 * (low * (1 - low)).sqrt()

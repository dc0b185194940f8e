"""Likelihoods p(x | z): modules from a decoder's output to a distribution over one view."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from genssl.distributions.pixels import IsotropicNormal, LogitsContinuousBernoulli
from genssl.distributions.precision import at_least_float32
from genssl.errors import SettingsError


class Gaussian(nn.Module):
    """p(x | z) = N(decoder(z), scale^2 I): a decoder's mean [*batch, *event] to a distribution over x.

    Args:
        scale: standard deviation of every pixel or feature (the paper's likelihood variance 0.02 is scale 0.1414).
        learned: makes log scale a parameter, the same for all pixels; its optimum is the root mean squared error. With a
            deterministic guide on a flexible decoder it diverges (scale -> 0), so keep an entropy term beside it.
    """

    def __init__(self, scale: float, learned: bool = False) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise SettingsError(f"Gaussian: scale = {scale}, expected a positive standard deviation")
        self._fixed = None if learned else float(scale)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale))) if learned else None

    @property
    def scale(self) -> float | Tensor:
        """The standard deviation, a number when fixed and a tensor when learned."""
        return self._fixed if self.log_scale is None else self.log_scale.exp()  # type: ignore[return-value]

    def forward(self, output: Tensor, event_dim: int) -> dist.TorchDistribution:
        return IsotropicNormal(at_least_float32(output), self.scale, event_dim)

    def mean(self, output: Tensor) -> Tensor:
        """E[x | z] from the decoder's output."""
        return output


class Bernoulli(nn.Module):
    """p(x | z) = prod Bernoulli(x; sigmoid(decoder(z))), x in {0, 1}; decoder output: logits.

    Grey values in [0, 1] are accepted as the cross-entropy is defined for them, but then the sum over x is not 1: the value is
    not a log probability of anything. Use ContinuousBernoulli for grey images, or threshold them.
    """

    def forward(self, output: Tensor, event_dim: int) -> dist.TorchDistribution:
        return _GreyBernoulli(logits=at_least_float32(output)).to_event(event_dim)

    def mean(self, output: Tensor) -> Tensor:
        """E[x | z] from the decoder's output."""
        return output.sigmoid()


class _GreyBernoulli(dist.Bernoulli):
    support = constraints.unit_interval


class ContinuousBernoulli(nn.Module):
    """p(x | z) = prod C(p) p^x (1 - p)^(1 - x), p = sigmoid(decoder(z)), x in [0, 1]; decoder output: logits.

    The normalised form of the cross-entropy on grey values (Loaiza-Ganem and Cunningham 2019, arXiv:1907.06845).
    """

    def forward(self, output: Tensor, event_dim: int) -> dist.TorchDistribution:
        return LogitsContinuousBernoulli(at_least_float32(output)).to_event(event_dim)

    def mean(self, output: Tensor) -> Tensor:
        """E[x | z] from the decoder's output."""
        return LogitsContinuousBernoulli(at_least_float32(output)).mean

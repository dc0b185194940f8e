"""Likelihoods p(x | z): modules from a decoder's output to a distribution over one view."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from genssl.distributions.pixels import IsotropicNormal, LogitsContinuousBernoulli
from genssl.errors import SettingsError, ShapeError
from genssl.precision import at_least_float32


class Gaussian(nn.Module):
    """p(x | z) = N(decoder(z), scale^2 I): a decoder's mean [*batch, *event] to a distribution over x.

    Args:
        scale: standard deviation of every pixel or feature (the paper's likelihood variance 0.02 is scale 0.1414).
        learned: makes log scale a parameter; its optimum is the root mean squared error. With a deterministic guide on a
            flexible decoder it diverges (scale -> 0), so keep an entropy term beside it.
        event_shape: one learned scale for every pixel, N(decoder(z), diag scale^2); None: one for all. A pixel that hardly varies
            (the border of MNIST) would be learned without limit, and such pixels would come to dominate: give a floor.
        floor: noise that a learned scale is added to, scale^2 = floor^2 + exp(2 log_scale); 1/255 suits 8-bit images.
    """

    def __init__(
        self, scale: float, learned: bool = False, event_shape: Sequence[int] | None = None, floor: float = 0.0
    ) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise SettingsError(f"Gaussian: scale = {scale}, expected a positive standard deviation")
        if not learned and (event_shape is not None or floor):
            raise SettingsError("Gaussian: event_shape and floor are for a learned scale; give learned=True")
        if not 0 <= floor < scale:
            raise SettingsError(f"Gaussian: floor = {floor}, expected at least 0 and below scale = {scale}")
        self._fixed, self.floor = None if learned else float(scale), float(floor)
        start = torch.full(() if event_shape is None else tuple(event_shape), 0.5 * math.log(scale**2 - floor**2))
        self.log_scale = nn.Parameter(start) if learned else None

    @property
    def scale(self) -> float | Tensor:
        """The standard deviation: a number when fixed, a tensor [] or [*event] when learned."""
        if self.log_scale is None:
            return self._fixed  # type: ignore[return-value]
        if not self.floor:
            return self.log_scale.exp()
        return ((2 * self.log_scale).exp() + self.floor**2).sqrt()

    def forward(self, output: Tensor, event_dim: int) -> dist.TorchDistribution:
        scale = self.scale
        if isinstance(scale, Tensor) and scale.dim() > 0:
            event = list(output.shape[output.dim() - event_dim :])
            if list(scale.shape) != event:
                raise ShapeError(
                    f"Gaussian: made for event_shape {list(scale.shape)}, but the decoder gives {event}; give that shape"
                )
            return dist.Normal(at_least_float32(output), scale).to_event(event_dim)
        return IsotropicNormal(at_least_float32(output), scale, event_dim)

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

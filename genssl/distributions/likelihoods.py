"""Likelihoods p(x | z): modules from a decoder's output to a distribution over one view."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Size, Tensor, nn
from torch.distributions import constraints

from genssl.errors import SettingsError


class IsotropicNormal(dist.TorchDistribution):
    r"""N(loc, scale^2 I) over an event of `event_dim` dimensions with ONE standard deviation.

        log p(x) = -||x - loc||^2 / 2 scale^2 - n log scale - (n/2) log 2 pi,     n = event size, nats

    What `Normal(loc, scale).to_event(event_dim)` gives, without a tensor of the event's size for every term of the formula.
    loc [*batch, *event]; scale: number > 0, or a tensor that broadcasts against the batch shape.
    """

    has_rsample = True

    def __init__(self, loc: Tensor, scale: float | Tensor, event_dim: int, validate_args: bool | None = None) -> None:
        self.loc, self.scale = loc, scale
        cut = loc.dim() - event_dim
        super().__init__(loc.shape[:cut], loc.shape[cut:], validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:  # type: ignore[override]
        given: dict[str, constraints.Constraint] = {"loc": constraints.real}
        return {**given, "scale": constraints.positive} if isinstance(self.scale, Tensor) else given

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return (self._full_scale() ** 2).expand_as(self.loc)

    def expand(self, batch_shape: Any, _instance: IsotropicNormal | None = None) -> IsotropicNormal:
        """The same distribution with a larger batch shape."""
        batch_shape = Size(batch_shape)
        scale = self.scale.expand(batch_shape) if isinstance(self.scale, Tensor) else self.scale
        new = self._get_checked_instance(IsotropicNormal, _instance)
        IsotropicNormal.__init__(
            new, self.loc.expand(batch_shape + self.event_shape), scale, len(self.event_shape), validate_args=False
        )
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """[..., *event] -> [...], nats."""
        if self._validate_args:
            self._validate_sample(value)
        dims = tuple(range(-len(self.event_shape), 0))
        difference = value - self.loc
        squares = difference.square().sum(dims) if dims else difference.square()
        log_scale = self.scale.log() if isinstance(self.scale, Tensor) else math.log(self.scale)
        size = self.event_shape.numel()
        return -squares / (2 * self.scale**2) - size * (log_scale + 0.5 * math.log(2 * math.pi))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        loc = self.loc.expand(Size(sample_shape) + self.loc.shape)
        return loc + self._full_scale() * torch.randn_like(loc)

    def entropy(self) -> Tensor:
        log_scale = self.scale.log() if isinstance(self.scale, Tensor) else math.log(self.scale)
        size = self.event_shape.numel()
        return self.loc.new_zeros(self.batch_shape) + size * (log_scale + 0.5 * math.log(2 * math.pi * math.e))

    def _full_scale(self) -> Tensor:
        if not isinstance(self.scale, Tensor):
            return self.loc.new_full((), self.scale)
        return self.scale.reshape(self.scale.shape + (1,) * len(self.event_shape))


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
        return IsotropicNormal(output, self.scale, event_dim)

    def mean(self, output: Tensor) -> Tensor:
        """E[x | z] from the decoder's output."""
        return output


class Bernoulli(nn.Module):
    """p(x | z) = prod Bernoulli(x; sigmoid(decoder(z))), x in {0, 1}; decoder output: logits.

    Grey values in [0, 1] are accepted as the cross-entropy is defined for them, but then the sum over x is not 1: the value is
    not a log probability of anything. Use ContinuousBernoulli for grey images, or threshold them.
    """

    def forward(self, output: Tensor, event_dim: int) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=output, validate_args=False).to_event(event_dim)

    def mean(self, output: Tensor) -> Tensor:
        """E[x | z] from the decoder's output."""
        return output.sigmoid()


class ContinuousBernoulli(nn.Module):
    """p(x | z) = prod C(p) p^x (1 - p)^(1 - x), p = sigmoid(decoder(z)), x in [0, 1]; decoder output: logits.

    The normalised form of the cross-entropy on grey values (Loaiza-Ganem and Cunningham 2019, arXiv:1907.06845).
    """

    def forward(self, output: Tensor, event_dim: int) -> dist.TorchDistribution:
        return dist.ContinuousBernoulli(logits=output).to_event(event_dim)

    def mean(self, output: Tensor) -> Tensor:
        """E[x | z] from the decoder's output."""
        return dist.ContinuousBernoulli(logits=output).mean

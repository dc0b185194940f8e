"""Distributions of an event of many pixels, where speed and range matter."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Size, Tensor
from torch.distributions import constraints

from genssl.errors import ShapeError


class IsotropicNormal(dist.TorchDistribution):
    r"""N(loc, scale^2 I) over an event of `event_dim` dimensions with ONE standard deviation.

        log p(x) = -||x - loc||^2 / 2 scale^2 - n log scale - (n/2) log 2 pi,     n = event size, nats

    What `Normal(loc, scale).to_event(event_dim)` gives, without a tensor of the event's size for every term of the formula.
    loc [*batch, *event]; scale: number > 0, or a tensor that broadcasts against the batch shape.
    """

    has_rsample = True

    def __init__(self, loc: Tensor, scale: float | Tensor, event_dim: int, validate_args: bool | None = None) -> None:
        cut = loc.dim() - event_dim
        if isinstance(scale, Tensor) and torch.broadcast_shapes(scale.shape, loc.shape[:cut]) != loc.shape[:cut]:
            raise ShapeError(
                f"IsotropicNormal: scale has shape {list(scale.shape)}, expected one that broadcasts to the batch {list(loc.shape[:cut])}; "
                "for a scale of every pixel use Normal(loc, scale).to_event()"
            )
        self.loc, self.scale = loc, scale
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
        difference = self.loc - value  # in this order the gradient of loc needs no pass that changes its sign
        squares = difference.square().sum(dims) if dims else difference.square()
        log_scale = self.scale.log() if isinstance(self.scale, Tensor) else math.log(self.scale)
        size = math.prod(self.event_shape)
        return -squares / (2 * self.scale**2) - size * (log_scale + 0.5 * math.log(2 * math.pi))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        loc = self.loc.expand(Size(sample_shape) + self.loc.shape)
        return loc + self._full_scale() * torch.randn_like(loc)

    def entropy(self) -> Tensor:
        log_scale = self.scale.log() if isinstance(self.scale, Tensor) else math.log(self.scale)
        size = math.prod(self.event_shape)
        return self.loc.new_zeros(self.batch_shape) + size * (log_scale + 0.5 * math.log(2 * math.pi * math.e))

    def _full_scale(self) -> Tensor:
        if not isinstance(self.scale, Tensor):
            return self.loc.new_full((), self.scale)
        return self.scale.reshape(self.scale.shape + (1,) * len(self.event_shape))


class LogitsContinuousBernoulli(dist.TorchDistribution):
    r"""The continuous Bernoulli on [0, 1] by its logits l, without a limit on them; batch shape that of l.

        log p(x) = x l - log((e^l - 1) / l),     E x = 1 / (1 - e^-l) - 1 / l,     nats

    (Loaiza-Ganem and Cunningham 2019, arXiv:1907.06845, Eq. 6 and 8, in logits.) torch's own clamps its probabilities, so that
    beyond |l| = 15.9 in float32 its gradient is 0 and its mean stays between 0.063 and 0.937.
    """

    arg_constraints = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: LogitsContinuousBernoulli | None = None) -> LogitsContinuousBernoulli:
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(LogitsContinuousBernoulli, _instance)
        LogitsContinuousBernoulli.__init__(new, self.logits.expand(Size(batch_shape)), validate_args=False)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        # log((e^l - 1) / l) = l / 2 + log(sinh(l / 2) / (l / 2)), the latter even and smooth: its series near 0, and a form without
        # overflow elsewhere, kept away from 0 where its gradient is 0 / 0.
        near = self.logits.abs() < 0.1
        series = self.logits.square() / 24 - self.logits**4 / 2880
        away = torch.where(near, 1.0, self.logits.abs())
        even = torch.where(near, series, away / 2 + torch.log(-torch.expm1(-away) / away))
        return (value - 0.5) * self.logits - even

    @property
    def mean(self) -> Tensor:
        near = self.logits.abs() < 0.1
        away = torch.where(near, 1.0, self.logits)
        return torch.where(near, 0.5 + self.logits / 12 - self.logits**3 / 720, -1 / torch.expm1(-away) - 1 / away)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """By the inverse of the distribution function, log(1 + u (e^l - 1)) / l."""
        logits = self.logits.expand(Size(sample_shape) + self.logits.shape)
        u = torch.rand_like(logits)
        sign = torch.where(logits > 0, 1.0, -1.0)  # by symmetry with l <= 0, where nothing overflows
        low = -(logits.abs().clamp(min=1e-4))
        x = torch.log1p(u * torch.expm1(low)) / low
        return torch.where(sign > 0, 1 - x, x)

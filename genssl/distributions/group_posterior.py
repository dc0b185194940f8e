"""The posterior of all views of a group at once: a Gaussian expert of each view, times the prior that ties them together."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Size, Tensor
from torch.distributions import constraints

from genssl.distributions.group_normal import GroupNormal
from genssl.errors import ShapeError
from genssl.precision import at_least_float32


class GroupPosterior(dist.TorchDistribution):
    r"""q(z_1..z_J) proportional to p(z_1..z_J) prod_j N(z_j; loc_j, diag scale_j^2), p a GroupNormal: exactly normalised.

    A product of experts with the joint prior, so that every z_j is drawn to the others of its group. In a dimension, with s the
    view_scale of p, c its content_scale, n views, a_j = 1 / scale_j^2 + 1 / s^2 and b = c^2 / (s^2 (s^2 + n c^2)), flat p(y): 1 / (n s^2),

        precision  P = diag(a) - b 1 1^T,      covariance  diag(v) + k v v^T,   v_j = 1 / a_j,   k = b / (1 - b sum_j v_j)
        mean       m = P^-1 (loc / scale^2),   log det P = sum_j log a_j + log(1 - b sum_j v_j)

    (Sherman and Morrison.) A draw is m_j + sqrt(v_j) e_j + sqrt(k) v_j e_0: own noise, and one that all views share. It costs as
    much as a factorised Normal. With linear decoders and Gaussian noise it is the exact posterior if the experts are the
    likelihoods; elsewhere it is a joint Gaussian made of messages of one view each. At J = 1 and flat p(y) it is the expert.

    event_shape is (J, D), batch_shape that of loc [..., J, D]. Padded views (the mask of p) are 0 in draws and enter nothing.
    Collapses where its experts do; as scale grows, q becomes the prior, and with flat p(y) the common shift of all views is then free.

    Args:
        loc, scale: [..., J, D] of the experts, scale > 0 a STANDARD DEVIATION.
        prior: the GroupNormal, batch [] or [...] .
    """

    arg_constraints = {
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, prior: GroupNormal, validate_args: bool | None = None) -> None:
        if loc.shape != scale.shape or loc.shape[-2:] != prior.event_shape:
            raise ShapeError(
                f"GroupPosterior: loc and scale have shapes {list(loc.shape)} and {list(scale.shape)}, expected [..., "
                f"{prior.num_views}, {prior.dim}] for this prior"
            )
        self.loc, self.scale = at_least_float32(loc), at_least_float32(scale)
        self.prior = prior.expand(loc.shape[:-2])
        super().__init__(loc.shape[:-2], loc.shape[-2:], validate_args=validate_args)
        mask = self.prior.view_mask
        self._valid = None if mask is None else mask.unsqueeze(-1)
        view = 1 / self._of(self.prior.view_scale).square()  # [..., 1, 1] or []
        evidence = 1 / self.scale.square()
        self._variance = self._masked(1 / (evidence + view))  # v
        count = prior.num_views if mask is None else mask.sum(-1)[..., None, None].clamp(min=1).to(self.loc)
        # tie s^2 = 1/n - remainder/n. What is left of 1 - tie sum v comes without the difference, which float32 loses where experts are
        # unsure: v / s^2 = 1 - v / scale^2.
        if self.prior.content_scale is None:
            share, remainder = 1 / count * torch.ones_like(view), torch.zeros_like(view)
        else:
            content = self._of(self.prior.content_scale).square()
            whole = 1 / view + count * content
            share, remainder = content / whole, 1 / (view * whole)
        tie = share * view
        self._left = remainder + share * (evidence * self._variance).sum(
            -2, keepdim=True
        )  # 1 - tie sum v > 0, [..., 1, D]
        self._shared = tie / self._left  # k
        pull = self._masked(self.loc) * evidence * self._variance
        self._mean = pull + self._shared * self._variance * pull.sum(-2, keepdim=True)
        self._view, self._count, self._remainder = view, count, remainder

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, 2)

    @property
    def mean(self) -> Tensor:
        """m [..., J, D]; 0 for padded views."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """The diagonal of the covariance, [..., J, D]; 0 for padded views."""
        return self._variance + self._shared * self._variance.square()

    @property
    def covariance(self) -> Tensor:
        """diag(v) + k v v^T of every dimension, [..., D, J, J]; 0 for padded views."""
        own = self._variance.transpose(-1, -2)
        return own.diag_embed() + self._shared.transpose(-1, -2)[..., None] * own[..., None] * own[..., None, :]

    def expand(self, batch_shape: Any, _instance: GroupPosterior | None = None) -> GroupPosterior:
        """The same distribution with a larger batch shape."""
        shape = Size(batch_shape)
        new = self._get_checked_instance(GroupPosterior, _instance)
        GroupPosterior.__init__(
            new, self.loc.expand(shape + self.event_shape), self.scale.expand(shape + self.event_shape), self.prior.expand(shape),
            validate_args=False,
        )  # fmt: skip
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """[*sample_shape, *batch, J, D]; padded views are 0."""
        shape = Size(sample_shape) + self.batch_shape
        own = torch.randn(shape + self.event_shape, dtype=self.loc.dtype, device=self.loc.device)
        common = torch.randn((*shape, 1, self.event_shape[1]), dtype=self.loc.dtype, device=self.loc.device)
        return self.from_noise(own, common)

    def from_noise(self, own: Tensor, common: Tensor) -> Tensor:
        """The draw that standard normal noise gives: m + sqrt(v) own + sqrt(k) v common, own [..., J, D] and common [..., 1, D]."""
        return self._mean + self._variance.sqrt() * own + self._shared.sqrt() * self._variance * common

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z_1..z_J), z [..., J, D] -> [...], nats; padded views count nothing."""
        if self._validate_args:
            self._validate_sample(value)
        deviation = self._masked(at_least_float32(value) - self._mean)
        # Of 1/v = 1/scale^2 + 1/s^2 the second part is split into the views' spread and their mean, of which p(y) holds the remainder.
        own = (deviation.square() / self.scale.square()).sum(-2, keepdim=True)
        mean = deviation.sum(-2, keepdim=True) / self._count
        spread = self._masked(deviation - mean).square().sum(-2, keepdim=True)
        quadratic = own + self._view * (spread + self._count * self._remainder * mean.square())
        return 0.5 * (self._log_precision - quadratic).sum((-2, -1)) - self._half_log_tau

    def entropy(self) -> Tensor:
        """H[q] = (nD/2) log 2 pi e - log det P / 2, [...], nats."""
        numbers = self._numbers
        return self._half_log_tau + 0.5 * numbers - 0.5 * self._log_precision.sum((-2, -1))

    def expected_log_prob(self, p: GroupNormal) -> Tensor:
        """E_q log p(z_1..z_J) of a GroupNormal over the same views, in closed form, [...], nats."""
        total = self._variance.sum(-2)
        whole = total + self._shared.squeeze(-2) * total.square()  # 1^T Cov 1, [..., D]
        mean, count, _ = p._mean(self._mean)
        safe = count.clamp(min=1) if isinstance(count, Tensor) else count
        per = safe[..., None] if isinstance(safe, Tensor) else safe
        deviation = self._masked(self._mean - mean.unsqueeze(-2))
        middle = (
            self._masked(self._variance - (total / per).unsqueeze(-2)).square().sum(-2)
        )  # no difference of large sums
        spread = deviation.square().sum((-2, -1)) + (total - total / per + self._shared.squeeze(-2) * middle).sum(-1)
        return p._density(spread, mean.square().sum(-1) + (whole / per**2).sum(-1), count, self._mean)

    def content(self) -> dist.Independent:
        r"""q(y) = E_q p(y | z_1..z_J): batch [...], event [D].

        Its precision is sum_j 1 / (scale_j^2 + s^2), and 1 / c^2 more where p(y) is not flat, its mean the weighted mean of loc.
        Views count by how sure their experts are: this is the exact p(y | experts).
        """
        spread = self.scale.square() + self._of(self.prior.view_scale).square()
        weight = self._masked(1 / spread)
        precision = weight.sum(-2)
        if self.prior.content_scale is not None:
            precision = precision + self._of(self.prior.content_scale).square().squeeze(-2).reciprocal()
        loc = (weight * self._masked(self.loc)).sum(-2) / precision
        return dist.Normal(loc, precision.rsqrt()).to_event(1)

    # ------------------------------------------------------------------ inside

    @property
    def _safe(self) -> Tensor:
        """v, with 1 where a view is padded: for quotients whose value is masked."""
        return self._variance if self._valid is None else torch.where(self._valid, self._variance, 1.0)

    @property
    def _log_precision(self) -> Tensor:
        """log det P of every dimension, [..., 1, D]."""
        return -self._safe.log().sum(-2, keepdim=True) + self._left.log()

    @property
    def _numbers(self) -> Any:
        """n D."""
        if self._valid is None:
            return self.event_shape.numel()
        return self._valid.sum((-2, -1)).to(self.loc) * self.event_shape[1]

    @property
    def _half_log_tau(self) -> Any:
        return 0.5 * math.log(2 * math.pi) * self._numbers

    def _of(self, scale: Any) -> Tensor:
        """A scale of the prior against [..., J, D]; filling a tensor costs no host synchronisation, copying a number would."""
        return scale[..., None, None] if isinstance(scale, Tensor) else self.loc.new_full((1, 1), float(scale))

    def _masked(self, value: Tensor) -> Tensor:
        return value if self._valid is None else torch.where(self._valid, value, 0.0)

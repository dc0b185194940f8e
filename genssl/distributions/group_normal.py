"""The joint prior over the views of a group with the shared content integrated out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Size, Tensor
from torch.distributions import constraints

from genssl.errors import SettingsError, ShapeError
from genssl.precision import at_least_float32


class GroupNormal(dist.TorchDistribution):
    r"""p(z_1..z_J) = integral p(y) prod_j N(z_j; y, s^2 I) dy, s = view_scale, with p(y) = N(0, c^2 I), c = content_scale, or flat.

    With n views, zbar their mean and S = sum_j ||z_j - zbar||^2, in nats and exactly normalised:

        content_scale c:  -(nD/2) log 2 pi - ((n-1)D/2) log s^2 - (D/2) log(s^2 + n c^2) - S / 2s^2 - n ||zbar||^2 / 2(s^2 + n c^2)
        flat p(y) = 1:    -(D/2) log n - ((n-1)D/2) log(2 pi s^2) - S / 2s^2

    (Bizeul, Schoelkopf, Allen 2024, arXiv:2402.01399: the flat form is their Eq. 9, the Gaussian one their A.4.) It depends on z
    through zbar and S only, so it is invariant to permutations of the views and rotations of z.

    event_shape is (J, D). batch_shape is [] for scalar scales without a mask, [G] with mask [G, J]: a padded view is integrated out
    and n is the number of views that exist. A location m is applied by evaluating at z - m.

    Flat p(y) is improper: log_prob is 0 at n = 1, the scale of zbar is free, and there is nothing to sample from. As a prior it
    pinches the views of a group together and leaves groups free to spread; without a likelihood or an entropy term it collapses.

    Args:
        view_scale: s > 0, the STANDARD DEVIATION of z_j around y (the paper's 0.15 is a variance); number, or tensor of batch shape.
        num_views: J.  dim: D.
        content_scale: c > 0, standard deviation of y; None for flat p(y).
        mask: [..., J] bool, True where a view exists.
    """

    has_rsample = True

    def __init__(
        self,
        view_scale: float | Tensor,
        num_views: int,
        dim: int,
        content_scale: float | Tensor | None = None,
        mask: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if num_views < 1 or dim < 1:
            raise ShapeError(f"GroupNormal: num_views = {num_views} and dim = {dim}, expected at least 1 each")
        for name, scale in (("view_scale", view_scale), ("content_scale", content_scale)):
            if scale is None or isinstance(scale, Tensor):
                continue
            if not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
                raise SettingsError(f"GroupNormal: {name} = {scale}, expected a positive standard deviation")
        if mask is not None and mask.shape[-1:] != (num_views,):
            raise ShapeError(f"GroupNormal: mask has shape {list(mask.shape)}, expected [..., {num_views}]")
        self.view_scale, self.content_scale, self.view_mask = view_scale, content_scale, mask
        batch = [scale.shape for scale in (view_scale, content_scale) if isinstance(scale, Tensor)]
        if mask is not None:
            batch.append(mask.shape[:-1])
        shape = torch.broadcast_shapes(*batch) if batch else Size()
        super().__init__(shape, Size((num_views, dim)), validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:  # type: ignore[override]
        # Numbers are checked above, without a device; torch checks those that are tensors.
        given = {"view_scale": self.view_scale, "content_scale": self.content_scale}
        return {name: constraints.positive for name, scale in given.items() if isinstance(scale, Tensor)}

    @property
    def num_views(self) -> int:
        return self.event_shape[0]

    @property
    def dim(self) -> int:
        return self.event_shape[1]

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, 2)

    def expand(self, batch_shape: Any, _instance: GroupNormal | None = None) -> GroupNormal:
        """The same distribution with a larger batch shape."""
        batch_shape = Size(batch_shape)
        new = self._get_checked_instance(GroupNormal, _instance)
        new.view_scale, new.content_scale, new.view_mask = self.view_scale, self.content_scale, self.view_mask
        if isinstance(self.view_scale, Tensor):
            new.view_scale = self.view_scale.expand(batch_shape)
        if isinstance(self.content_scale, Tensor):
            new.content_scale = self.content_scale.expand(batch_shape)
        if self.view_mask is not None:
            new.view_mask = self.view_mask.expand(*batch_shape, self.num_views)
        super(GroupNormal, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    # ------------------------------------------------------------------ densities

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z_1..z_J), z [..., J, D] -> [...], nats; float16 and bfloat16 are computed in float32."""
        if self._validate_args:
            self._validate_sample(value)
        value = at_least_float32(value)
        mean, count, valid = self._mean(value)
        deviation = value - mean.unsqueeze(-2)
        if valid is not None:
            deviation = torch.where(valid, deviation, 0.0)
        spread = deviation.square().sum((-2, -1))
        return self._density(spread, mean.square().sum(-1), count, value)

    def expected_log_prob(self, loc: Tensor, scale: Tensor) -> Tensor:
        r"""E_q log p(z) in closed form for q = prod_j N(loc_j, diag scale_j^2); loc, scale [..., J, D] -> [...], nats.

        E S = sum_j ||loc_j - locbar||^2 + (1 - 1/n) sum_j ||scale_j||^2 and E ||zbar||^2 = ||locbar||^2 + sum_j ||scale_j||^2 / n^2.
        Without a decoder, entropy + this term is greatest at scale^2 = s^2 n / (n - 1) for flat p(y).
        """
        loc, scale = at_least_float32(loc), at_least_float32(scale)
        mean, count, valid = self._mean(loc)
        deviation, variance = loc - mean.unsqueeze(-2), scale.square()
        if valid is not None:
            deviation, variance = torch.where(valid, deviation, 0.0), torch.where(valid, variance, 0.0)
        variance = variance.sum((-2, -1))
        safe = count.clamp(min=1) if isinstance(count, Tensor) else count
        spread = deviation.square().sum((-2, -1)) + (1 - 1 / safe) * variance
        return self._density(spread, mean.square().sum(-1) + variance / safe**2, count, loc)

    def _density(self, spread: Tensor, mean_square: Tensor, count: Any, like: Tensor) -> Tensor:
        """The log density from its sufficient statistics S [...] and ||zbar||^2 [...]."""
        view = self._scale(self.view_scale, like)
        log_view = _log(self.view_scale)
        if self.content_scale is None and isinstance(count, Tensor):
            count = count.clamp(min=1)  # no view at all: density 1, as for one
        out = -(count - 1) * self.dim * (log_view + 0.5 * math.log(2 * math.pi)) - spread / (2 * view**2)
        if self.content_scale is None:
            return out - 0.5 * self.dim * _log(count)
        total = view**2 + count * self._scale(self.content_scale, like) ** 2
        return out - 0.5 * self.dim * (math.log(2 * math.pi) + _log(total)) - count * mean_square / (2 * total)

    # ------------------------------------------------------------------ conditionals

    def content_posterior(self, z: Tensor) -> dist.Independent:
        r"""p(y | z_1..z_J) = N(n c^2 zbar / (s^2 + n c^2), s^2 c^2 / (s^2 + n c^2) I); flat: N(zbar, s^2 / n I). Batch [...], event [D]."""
        mean, variance = self._content(at_least_float32(z))
        return dist.Normal(mean, variance.sqrt().expand_as(mean)).to_event(1)

    def next_view(self, z: Tensor) -> dist.Independent:
        """p(z_{J+1} | z_1..z_J): the content posterior widened by s^2. Batch [...], event [D]; another view of the same group."""
        z = at_least_float32(z)
        mean, variance = self._content(z)
        variance = variance + self._scale(self.view_scale, z).unsqueeze(-1) ** 2
        return dist.Normal(mean, variance.sqrt().expand_as(mean)).to_event(1)

    def _content(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, count, _ = self._mean(z)
        count = count.unsqueeze(-1) if isinstance(count, Tensor) else z.new_full((1,), float(count))
        view = self._scale(self.view_scale, z).unsqueeze(-1) ** 2
        if self.content_scale is None:
            return mean, view / count.clamp(min=1)
        content = self._scale(self.content_scale, z).unsqueeze(-1) ** 2
        total = view + count * content
        return mean * (count * content / total), view * content / total

    # ------------------------------------------------------------------ sampling

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """z_j = y + s e_j, y = c e_0; [*sample_shape, *batch, J, D] in torch's default dtype; padded views are 0."""
        if self.content_scale is None:
            raise SettingsError(
                "GroupNormal: cannot sample, p(y) is flat (content_scale=None) and so improper; give content_scale, a standard deviation"
            )
        shape = Size(sample_shape) + self.batch_shape
        device = self.view_mask.device if self.view_mask is not None else None
        for scale in (self.view_scale, self.content_scale):
            device = scale.device if isinstance(scale, Tensor) else device
        content = torch.randn(*shape, 1, self.dim, device=device)
        noise = torch.randn(*shape, *self.event_shape, device=device)
        view = self._scale(self.view_scale, noise)[..., None, None]
        z = self._scale(self.content_scale, noise)[..., None, None] * content + view * noise
        return z if self.view_mask is None else z * self.view_mask.unsqueeze(-1)

    # ------------------------------------------------------------------ inside

    def _mean(self, z: Tensor) -> tuple[Tensor, Any, Tensor | None]:
        """Mean over the views that exist [..., D], their number (an int, or [...]), and the mask [..., J, 1] or None."""
        if z.shape[-2:] != self.event_shape:
            raise ShapeError(f"GroupNormal: z has shape {list(z.shape)}, expected [..., {self.num_views}, {self.dim}]")
        if self.view_mask is None:
            return z.mean(-2), self.num_views, None
        valid = self.view_mask.unsqueeze(-1)
        count = self.view_mask.sum(-1).to(z.dtype)
        total = torch.where(valid, z, z.new_zeros(())).sum(-2)
        return total / count.clamp(min=1).unsqueeze(-1), count, valid

    def _scale(self, scale: Any, like: Tensor) -> Tensor:
        """A scale as a tensor in the precision of z; filling a tensor costs no host synchronisation, copying a number would."""
        return scale if isinstance(scale, Tensor) else like.new_full((), float(scale))


def _log(value: Any) -> Any:
    fn: Callable[[Any], Any] = torch.log if isinstance(value, Tensor) else math.log
    return fn(value)

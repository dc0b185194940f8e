"""The joint prior over the views of a group whose content comes from a mixture, both integrated out."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Size, Tensor
from torch.distributions import constraints

from genssl.distributions.group_normal import GroupNormal
from genssl.errors import SettingsError, ShapeError
from genssl.precision import at_least_float32


class GroupMixture(dist.TorchDistribution):
    r"""p(z_1..z_J) = sum_k pi_k integral N(y; m_k, diag c_k^2) prod_j N(z_j; y, s^2 I) dy, s = view_scale.

    For any p(y) the integral is the flat one of GroupNormal times that of p(y) against N(y; zbar, s^2 / n I), so that with n views

        log p(z) = log flat(z) + logsumexp_k [log pi_k + log N(zbar; m_k, diag(c_k^2 + s^2 / n))]

    in nats, exactly normalised. K = 1 with m = 0 is GroupNormal(content_scale=c). event_shape (J, D); batch_shape [] or, with a
    mask [G, J], [G]. Draws are not reparameterised in pi (`sample` only), which a prior does not need.

    A component that no group is near gets no gradient and stays empty; several may settle on one cluster.

    Args:
        view_scale: s > 0, STANDARD DEVIATION of z_j around y, a number.  num_views: J.
        logits: [K], pi = softmax(logits).  loc: m [K, D].  content_scale: c > 0 [K, D], standard deviations.
        mask: [..., J] bool, True where a view exists.
    """

    def __init__(
        self,
        view_scale: float,
        num_views: int,
        logits: Tensor,
        loc: Tensor,
        content_scale: Tensor,
        mask: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if loc.dim() != 2 or content_scale.shape != loc.shape or logits.shape != loc.shape[:1]:
            raise ShapeError(
                f"GroupMixture: logits {list(logits.shape)}, loc {list(loc.shape)} and content_scale {list(content_scale.shape)}, "
                "expected [K], [K, D] and [K, D]"
            )
        if isinstance(view_scale, Tensor):
            raise SettingsError("GroupMixture: view_scale is a tensor, expected one number for all groups")
        self.flat = GroupNormal(view_scale, num_views, loc.shape[1], mask=mask)
        self.logits, self.loc, self.content_scale = logits, loc, content_scale
        super().__init__(self.flat.batch_shape, self.flat.event_shape, validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:  # type: ignore[override]
        # Of shapes that do not broadcast against the batch, so checked one by one.
        return {"logits": constraints.real, "loc": constraints.real, "content_scale": constraints.positive}

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, 2)

    def expand(self, batch_shape: Any, _instance: GroupMixture | None = None) -> GroupMixture:
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(GroupMixture, _instance)
        new.flat, new.logits, new.loc, new.content_scale = (
            self.flat.expand(batch_shape),
            self.logits,
            self.loc,
            self.content_scale,
        )
        super(GroupMixture, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z_1..z_J), z [..., J, D] -> [...], nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self.flat.log_prob(value) + self._joint(value).logsumexp(-1)

    def component(self, z: Tensor) -> dist.Categorical:
        """p(k | z_1..z_J), which component the content came from: z [..., J, D] -> batch [...], K values."""
        return dist.Categorical(logits=self._joint(z))

    def content_posterior(self, z: Tensor, spread: Tensor | float = 0.0) -> dist.MixtureSameFamily:
        r"""p(y | z_1..z_J) = sum_k p(k | z) N(m_k + a_k (zbar - m_k), diag(a_k s^2 / n)); batch [...], event [D].

        a_k = c_k^2 / (c_k^2 + s^2 / n) shrinks towards the mean of the component.

        spread [..., D]: a variance of zbar that each component carries along (a_k^2 spread), for a z that is itself uncertain.
        """
        mean, noise = self._mean(z)
        gain = self.content_scale.square() / (self.content_scale.square() + noise)
        loc = self.loc + gain * (mean.unsqueeze(-2) - self.loc)
        carried = spread.unsqueeze(-2) if isinstance(spread, Tensor) else spread
        variance = gain * noise + gain.square() * carried
        components = torch.distributions.Normal(loc, variance.sqrt().expand_as(loc))
        return dist.MixtureSameFamily(self.component(z), torch.distributions.Independent(components, 1))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """k ~ pi, y ~ N(m_k, diag c_k^2), z_j = y + s e_j; [*sample_shape, *batch, J, D], padded views 0; no gradient."""
        with torch.no_grad():
            k = dist.Categorical(logits=self.logits).sample(Size(sample_shape) + self.batch_shape)
            y = self.loc[k] + self.content_scale[k] * torch.randn_like(self.loc[k])
            noise = torch.randn(*k.shape, *self.event_shape, device=y.device, dtype=y.dtype)
            z = y.unsqueeze(-2) + self.flat.view_scale * noise
            return z if self.flat.view_mask is None else z * self.flat.view_mask.unsqueeze(-1)

    def _joint(self, z: Tensor) -> Tensor:
        """[..., K] log pi_k + log N(zbar; m_k, diag(c_k^2 + s^2 / n))."""
        mean, noise = self._mean(z)
        total = (self.content_scale.square() + noise).sqrt()
        density = torch.distributions.Normal(self.loc, total, validate_args=False).log_prob(mean.unsqueeze(-2))
        return self.logits.log_softmax(-1) + density.sum(-1)

    def _mean(self, z: Tensor) -> tuple[Tensor, Any]:
        """zbar [..., D] and s^2 / n, a number or [..., 1, 1]."""
        mean, count, _ = self.flat._mean(at_least_float32(z))
        if isinstance(count, Tensor):
            return mean, (self.flat.view_scale**2 / count.clamp(min=1))[..., None, None]
        return mean, self.flat.view_scale**2 / count

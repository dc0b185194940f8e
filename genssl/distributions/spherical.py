"""Distributions on the unit sphere that are symmetric about a mean direction: what they share."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints as pyro_constraints
from torch import Size, Tensor
from torch.distributions import constraints
from torch.nn.functional import normalize, pad

from genssl.errors import ShapeError
from genssl.precision import at_least_float32


def uniform_entropy(dim: int) -> float:
    """log(2 pi^(D/2) / Gamma(D/2)), the log area of S^(D-1), in nats: the entropy of the uniform distribution, the most there is."""
    if dim < 2:
        raise ShapeError(
            f"uniform_entropy: dim = {dim}, expected at least 2; the sphere in one dimension is two points"
        )
    return math.log(2) + 0.5 * dim * math.log(math.pi) - math.lgamma(dim / 2)


def unit(x: Tensor) -> Tensor:
    """x / ||x|| over the last dimension; a zero vector, as a padded view has, becomes the first axis, with gradient 0."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    axis = pad(torch.ones_like(x[..., :1]), (0, x.shape[-1] - 1))
    return torch.where(norm == 0, axis, x / norm.clamp(min=torch.finfo(x.dtype).tiny))


class Spherical(dist.TorchDistribution):
    r"""A density of m . z alone on the unit sphere S^(D-1), m = loc, whose spread is one number kappa = concentration.

    A subclass says how m . z is distributed (`_cosine_and_sine`), and its mean and divergence; by symmetry the rest follows:

        E z = rho m, rho = E m . z,     H = log area - KL(q || uniform),     z = cos t m + sin t v, v uniform on m's orthogonal sphere

    (Mardia and Jupp 2000, Section 9.3.) Densities are with respect to the area of the sphere, so that the entropy is negative where
    q is concentrated. v is drawn in coordinates that a Householder reflection turns to m; the gradient in m is that of the rotation
    which carries m along a great circle and the draw with it, so that it has no pole.

    Shapes: loc [*batch, D], D >= 2, divided by its norm here (a zero vector counts as the first axis); concentration: number, or
    tensor that broadcasts with loc's batch. event_shape is (D,). float16 and bfloat16 become float32.

    `rsample` draws from torch's default generator, a number of values known beforehand, without rejection and without waiting for
    the device; it has first derivatives only.
    """

    arg_constraints = {"loc": constraints.real_vector, "concentration": constraints.nonnegative}
    support = pyro_constraints.sphere
    has_rsample = True

    def __init__(self, loc: Tensor, concentration: float | Tensor, validate_args: bool | None = None) -> None:
        name = type(self).__name__
        if loc.dim() == 0 or loc.shape[-1] < 2:
            raise ShapeError(f"{name}: loc has shape {list(loc.shape)}, expected [..., D] with D at least 2")
        loc = at_least_float32(loc)
        kappa = concentration if isinstance(concentration, Tensor) else loc.new_full((), concentration)
        try:
            batch = torch.broadcast_shapes(loc.shape[:-1], kappa.shape)
        except RuntimeError:
            raise ShapeError(
                f"{name}: concentration has shape {list(kappa.shape)}, expected one that broadcasts to the batch {list(loc.shape[:-1])} "
                "of loc; give one number for a vector"
            ) from None
        dtype = torch.promote_types(loc.dtype, kappa.dtype)
        self.loc = unit(loc.to(dtype)).expand(*batch, -1)
        self.concentration = kappa.to(dtype).expand(batch)
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    @property
    def dim(self) -> int:
        return self.event_shape[0]

    @property
    def resultant_length(self) -> Tensor:
        """rho = ||E z|| = E m . z, batch shape, in [0, 1)."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        """E z = rho m, inside the sphere."""
        return self.resultant_length.unsqueeze(-1) * self.loc

    @property
    def along(self) -> Tensor:
        """Var m . z, batch shape: the variance along the mean direction."""
        raise NotImplementedError

    @property
    def variance(self) -> Tensor:
        """Of each coordinate, [*batch, D]: Var(m . z) m_d^2 + E|tangent|^2 (1 - m_d^2) / (D - 1)."""
        share = self.loc.square()
        across = (1 - self.along - self.resultant_length.square()).clamp(min=0) / (self.dim - 1)
        return self.along.unsqueeze(-1) * share + across.unsqueeze(-1) * (1 - share)

    def kl_to_uniform(self) -> Tensor:
        """KL(q || uniform on the sphere) = log area - H[q], batch shape, nats."""
        raise NotImplementedError

    def entropy(self) -> Tensor:
        """H[q], batch shape, nats, in closed form."""
        return uniform_entropy(self.dim) - self.kl_to_uniform()

    def expand(self, batch_shape: Any, _instance: Spherical | None = None) -> Spherical:
        """The same distribution with a larger batch shape."""
        batch_shape = Size(batch_shape)
        new = self._get_checked_instance(Spherical, _instance)
        new.loc = self.loc.expand(batch_shape + self.event_shape)
        new.concentration = self.concentration.expand(batch_shape)
        super(Spherical, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """[*sample_shape, *batch, D], reparameterised in loc and concentration."""
        mean = self.loc.detach()
        cos, sin = self._cosine_and_sine(Size(sample_shape))
        z = cos.unsqueeze(-1) * mean + sin.unsqueeze(-1) * _tangent(mean, cos.shape)
        if not (self.loc.requires_grad and torch.is_grad_enabled()):
            return z
        # 0 in value; its derivative is that of the rotation in the plane of m and its change d: (m . z) d - (d . z) m.
        turn, fixed = self.loc - mean, z.detach()
        return z + cos.detach().unsqueeze(-1) * turn - (turn * fixed).sum(-1, keepdim=True) * mean

    def _cosine_and_sine(self, sample_shape: Size) -> tuple[Tensor, Tensor]:
        """Draws of m . z and of sqrt(1 - (m . z)^2), [*sample_shape, *batch]."""
        raise NotImplementedError

    def _gap(self, value: Tensor) -> Tensor:
        """1 - m . z, as ||z - m||^2 / 2: near m the difference itself would lose all digits that matter under a large kappa."""
        return 0.5 * (value - self.loc).square().sum(-1)


def _tangent(mean: Tensor, shape: Size) -> Tensor:
    """Uniform unit vectors orthogonal to mean [*batch, D], for draws of `shape` [*sample, *batch]; no gradient."""
    noise = torch.randn(*shape, mean.shape[-1] - 1, dtype=mean.dtype, device=mean.device)
    flat = pad(normalize(noise, dim=-1), (1, 0))
    first = mean[..., :1]
    # Reflecting the first axis to the farther of m and -m: no mean direction makes the mirror degenerate.
    mirror = torch.cat([first + torch.where(first < 0, -1.0, 1.0), mean[..., 1:]], -1)
    return flat - (mirror * flat).sum(-1, keepdim=True) / (1 + first.abs()) * mirror

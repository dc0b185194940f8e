"""CLIP: two modalities, an encoder each, and a contrast between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from genssl.models.discriminative import HEAD, mlp_head
from genssl.models.method import Method, latent_dim, widths_of
from torch import Tensor, nn

from genssl.distributions import at_least_float32
from genssl.errors import DataError, SettingsError, ShapeError
from genssl.groups import Groups
from genssl.networks import make_encoder
from genssl.objective import Objective
from genssl.terms import Constant, ProductAttraction, ProductNormaliser, unit

LARGEST = math.log(100.0)


class CLIP(Method):
    r"""Which caption belongs to which image: cosines of two encoders' outputs, with a learned scale, against the rest of the batch.

        objective = - sum_i log sum_g' exp(z_i . z_j(g'))  + 0  + sum_i z_i . z_j,     z_i = exp(log_scale / 2) unit(head_i(encoder_i(x_i)))

    Source: Radford et al. 2021 (ICML, arXiv:2103.00020), Figure 3. c = J = 2: -mean(elbo) is twice the published mean of the two
    cross-entropies. log_scale starts at log 1 / 0.07 and is held below log 100. What one modality alone knows is dropped.

    x is a tuple of two modalities [G, *event_j] or, for images, two views [G, 2, C, H, W] of which the left half of the first and
    the right half of the second are the modalities (`split`). `encode(x, view=j)` takes one modality; for split images `encode(x)` takes
    whole images and gives both halves' representations, one after the other.

    Args:
        encoders, heads: two of each, [N, *event_j] -> [N, D] and [N, D] -> [N, D']; heads None for the identity.
        split: whether images are to be halved.
    """

    guide_family = "delta"
    networks = ("encoders", "heads")
    source = "Radford et al. 2021, ICML, arXiv:2103.00020, Figure 3"
    collapses = "not while the batch has other groups; what the modalities do not share is lost"
    defaults = {
        "digits": {"num_views": 2, "batch_size": 256, "lr": 1e-3, "epochs": 200},
        "": {"num_views": 2, "batch_size": 256, "lr": 1e-3, "epochs": 100},
    }

    def __init__(
        self,
        encoders: Sequence[nn.Module],
        heads: Sequence[nn.Module] | None = None,
        *,
        temperature: float = 0.07,
        split: bool = False,
    ) -> None:
        super().__init__()
        if len(encoders) != 2 or (heads is not None and len(heads) != 2):
            raise SettingsError("CLIP: expected two encoders, and two heads or None")
        if not temperature > 0:
            raise SettingsError(f"CLIP: temperature = {temperature}, expected a positive number")
        self.encoders = nn.ModuleList(encoders)
        self.heads = nn.ModuleList([nn.Identity(), nn.Identity()] if heads is None else heads)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.split = split
        self._event_dims: list[int | None] = [None, None]
        self.objective = Objective(ProductNormaliser(), Constant(), ProductAttraction())

    def guide(self, groups: Groups) -> None:
        """JOINT layout: z [G, 2, D'], of length exp(log_scale / 2)."""
        length = (self.log_scale / 2).exp()
        parts = self.modalities(groups)
        self._event_dims = [x.dim() - 1 for x in parts]
        both = [self._run(x, j, head=True) for j, x in enumerate(parts)]
        z = length * unit(at_least_float32(torch.stack(both, 1)))
        with groups.plate:
            pyro.sample("z", dist.Delta(z).to_event(2))

    @torch.no_grad()
    def update(self) -> None:
        """Hold the scale below 100, after the optimiser step: a limit inside the loss would have no gradient back."""
        self.log_scale.clamp_(max=LARGEST)

    def modalities(self, groups: Groups) -> tuple[Tensor, Tensor]:
        """[G, *event_j] of each modality."""
        if groups.num_views != 2 or groups.mask is not None:
            ragged = ", some missing" if groups.mask is not None else ""
            raise DataError(
                f"CLIP: groups have {groups.num_views} views{ragged}, expected two modalities or two views; use --views 2"
            )
        first, second = groups.x.unbind(1) if isinstance(groups.x, Tensor) else groups.x
        return (first.chunk(2, -1)[0], second.chunk(2, -1)[1]) if self.split else (first, second)

    def encode(self, x: Tensor, view: int | None = None) -> Any:
        """x [..., *event_j] of modality `view`, or whole images to be split -> a Delta over z, batch [...]; before the heads."""
        if view is None and not self.split:
            raise SettingsError("CLIP.encode: expected view=0 or view=1, the modality that x is of")
        if view is not None:
            return dist.Delta(at_least_float32(self._run(x, view, head=False))).to_event(1)
        halves = [self._run(half, j, head=False) for j, half in enumerate(x.chunk(2, -1))]
        return dist.Delta(at_least_float32(torch.cat(halves, -1))).to_event(1)

    def project(self, x: Tensor, view: int) -> Tensor:
        """x [..., *event_j] of modality `view` -> [..., D'], after its head."""
        return at_least_float32(self._run(x, view, head=True))

    def _run(self, x: Tensor, view: int, head: bool) -> Tensor:
        """A modality's network on x [..., *event_j]."""
        encoder, last = self.encoders[view], self.heads[view]
        self._event_dim = self._event_dims[view]
        return self._leading(nn.Sequential(encoder, last) if head else encoder, x)

    @classmethod
    def build(
        cls,
        example: Groups,
        *,
        dim: int = 10,
        network: str | None = None,
        hidden: Sequence[int] | None = None,
        head: Sequence[int] = HEAD,
        **settings: Any,
    ) -> CLIP:
        """An mlp encoder (or `network`) and a head for each modality; images of one modality are split into halves."""
        shapes = example.event_shape
        split = isinstance(example.x, Tensor)
        if split:
            if len(shapes) != 3 or shapes[-1] % 2:
                raise ShapeError(
                    f"CLIP.build: one modality of shape {list(shapes)}, expected images of even width, to be split, or a tuple of two"
                )
            shapes = ((*shapes[:-1], shapes[-1] // 2),) * 2
        dim = latent_dim(dim, network or "mlp")
        encoders = [make_encoder(network or "mlp", shape, dim, hidden) for shape in shapes]
        heads = [mlp_head(dim, tuple(head)) or nn.Identity() for _ in shapes]
        method = cls(encoders, heads, split=split, **settings)
        method._event_dims = [len(shape) for shape in shapes]
        method.built_with = widths_of(network or "mlp", shapes[0], hidden)
        return method

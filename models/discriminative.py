"""What the discriminative methods share: a deterministic guide through an encoder and a head, and no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import pyro
import pyro.distributions as dist
from genssl.models.method import Method, event_shape_of, latent_dim, widths_of
from torch import Tensor, nn

from genssl.distributions import at_least_float32
from genssl.errors import SettingsError
from genssl.groups import Groups
from genssl.networks import default_network, make_encoder

HEAD = (256, 64)
"""Widths of the default head: its hidden layer and its output."""


class DiscriminativeMethod(Method):
    """A guide-only method: z_j = head(encoder(x_j)), a point mass, and an objective without likelihood.

    The head is part of the guide: the terms compare views after it, `encode` is before it (the representation), `project` after it.

    Args:
        encoder: [N, *event] -> [N, D].  head: [N, D] -> [N, D'], None for the identity.
    """

    guide_family = "delta"
    networks: ClassVar[tuple[str, ...] | None] = (
        "encoder", "head", "predictor", "target", "decoder", "scale_network",
    )  # fmt: skip
    defaults = {
        "digits": {"num_views": 2, "batch_size": 256, "lr": 1e-3, "epochs": 200},
        "": {"num_views": 2, "batch_size": 256, "lr": 1e-3, "epochs": 100},
    }
    default_head: ClassVar[tuple[int, ...]] = HEAD
    extra_outputs: ClassVar[int] = 0
    """What the guide needs of encoder and head beyond a vector of the representation."""
    head: nn.Module

    def __init__(self, encoder: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Identity() if head is None else head

    def guide(self, groups: Groups) -> None:
        """JOINT layout: z [G, J, D'] after the head, a Delta."""
        with groups.plate:
            pyro.sample("z", self.delta(self.views(groups)))

    def views(self, groups: Groups) -> Tensor:
        """[G, J, D'] head(encoder(x)) of every view that exists, zeros elsewhere."""
        self._event_dim = len(groups.event_shape)
        return groups.map(lambda x: self.head(self.encoder(x)))

    def delta(self, value: Tensor) -> Any:
        """A point mass at value [G, J, D], event (J, D)."""
        return dist.Delta(at_least_float32(value)).to_event(2)

    def encode(self, x: Tensor) -> Any:
        return dist.Delta(at_least_float32(self._leading(self.encoder, x))).to_event(1)

    def project(self, x: Tensor) -> Tensor:
        """x [..., *event] -> [..., D'], after the head, where the terms compare."""
        return at_least_float32(self._leading(lambda x: self.head(self.encoder(x)), x))

    @classmethod
    def build(
        cls,
        example: Groups,
        *,
        dim: int | None = None,
        network: str | None = None,
        hidden: Sequence[int] | None = None,
        head: Sequence[int] | None = None,
        **settings: Any,
    ) -> Self:
        """The method with default networks for data like `example`: dim, network and hidden as in GenerativeMethod.build.

        head: widths of the head's layers, BatchNorm and ReLU between them; () for none; None for the method's default.
        """
        shape = event_shape_of(example, cls)
        network = default_network(shape) if network is None else network
        dim = latent_dim(dim, network)
        if isinstance(head, int):
            raise SettingsError(f"{cls.__name__}: head = {head}, expected widths such as ({head},), or () for none")
        widths = cls.default_head if head is None else tuple(head)
        if widths:
            widths = (*widths[:-1], widths[-1] + cls.extra_outputs)
        encoder = make_encoder(network, shape, dim if widths else dim + cls.extra_outputs, hidden)
        method = cls._assemble(encoder, dim, widths, example, **settings)
        method._event_dim = len(shape)
        method.built_with = widths_of(network, shape, hidden) | {
            "dim": dim,
            "head": list(cls.default_head if head is None else head),
        }
        return method

    @classmethod
    def _assemble(cls, encoder: nn.Module, dim: int, head: tuple[int, ...], example: Groups, **settings: Any) -> Self:
        """The method around a default encoder [N, *event] -> [N, dim]; methods with more parts make them here."""
        return cls(encoder, mlp_head(dim, head), **settings)


def mlp_head(inputs: int, widths: Sequence[int], final_norm: bool = False) -> nn.Module | None:
    """Linear layers of these widths with BatchNorm and ReLU between them; final_norm: BatchNorm without scale and shift at the end.

    None for no widths. The statistics of BatchNorm are those of all views of the batch: each view's output depends on the others.
    """
    if not widths:
        return None
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        inputs = width
    layers.append(nn.Linear(inputs, widths[-1], bias=not final_norm))  # BatchNorm has a bias of its own
    return nn.Sequential(*layers, nn.BatchNorm1d(widths[-1], affine=False)) if final_norm else nn.Sequential(*layers)

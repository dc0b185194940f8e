"""Networks by name (stand-in until the convolutional ones are here)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from genssl.networks.mlp import default_hidden, mlp_decoder, mlp_encoder


def default_network(event_shape: Sequence[int]) -> str:
    return "mlp"


def make_encoder(network: str, event_shape: Sequence[int], outputs: int, hidden: Sequence[int] | None = None) -> nn.Module:
    return mlp_encoder(event_shape, outputs, tuple(default_hidden(event_shape) if hidden is None else hidden))


def make_decoder(
    network: str, dim: int, event_shape: Sequence[int], hidden: Sequence[int] | None = None, sigmoid: bool = False
) -> nn.Module:
    return mlp_decoder(dim, event_shape, tuple(default_hidden(event_shape) if hidden is None else hidden)[::-1], sigmoid=sigmoid)

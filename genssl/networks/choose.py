"""Networks by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from genssl.errors import SettingsError, did_you_mean
from genssl.networks.conv import conv_decoder, conv_encoder
from genssl.networks.library import resnet18_encoder, timm_encoder
from genssl.networks.mlp import default_hidden, mlp_decoder, mlp_encoder
from genssl.networks.released import released_conv_decoder, released_conv_encoder

NETWORKS = ("mlp", "conv", "released_conv", "resnet18", "timm:NAME")
"""The paper's Table 3 and Table 4, the pair that its authors released, torchvision's ResNet-18, a model of timm."""


def default_network(event_shape: Sequence[int]) -> str:
    """The paper's choice: "conv" for colour images of 32x32 and 64x64, "mlp" for everything else."""
    return "conv" if tuple(event_shape) in ((3, 32, 32), (3, 64, 64)) else "mlp"


def make_encoder(
    network: str, event_shape: Sequence[int], outputs: int, hidden: Sequence[int] | None = None
) -> nn.Module:
    """The encoder [N, *event] -> [N, outputs] of a name in NETWORKS; hidden: widths of the mlp."""
    _check(network, hidden)
    if network.startswith("timm:"):
        return timm_encoder(network.removeprefix("timm:"), event_shape, outputs)
    if network == "mlp":
        return mlp_encoder(event_shape, outputs, default_hidden(event_shape) if hidden is None else hidden)
    encoders = {"conv": conv_encoder, "released_conv": released_conv_encoder, "resnet18": resnet18_encoder}
    return encoders[network](event_shape, outputs)


def make_decoder(
    network: str, dim: int, event_shape: Sequence[int], hidden: Sequence[int] | None = None, sigmoid: bool = False
) -> nn.Module:
    """The decoder [N, dim] -> [N, *event] beside `make_encoder`; hidden: widths of the mlp encoder, reversed here.

    resnet18 and timm have none of their own: they get the paper's convolutional one for images of 32x32 and 64x64, else the mlp.
    """
    _check(network, hidden)
    if network == "released_conv":
        return released_conv_decoder(dim, event_shape, sigmoid)
    if network == "conv" or (network != "mlp" and tuple(event_shape)[1:] in ((32, 32), (64, 64))):
        return conv_decoder(dim, event_shape, sigmoid)
    widths = default_hidden(event_shape) if hidden is None else hidden
    return mlp_decoder(dim, event_shape, widths[::-1], sigmoid)


def output_size(*networks: nn.Module, dim: int | None = None) -> int:
    """The number of outputs of networks in a row: `dim`, else read off the last layer that says."""
    if dim is not None:
        return dim
    sizes = [
        int(part.out_features) for network in networks for part in network.modules() if isinstance(part, nn.Linear)
    ]
    if not sizes:
        raise SettingsError("the size of what the head gives cannot be read off encoder and head; give dim=")
    return sizes[-1]


def _check(network: str, hidden: Sequence[int] | None) -> None:
    name = str(network)
    if name not in NETWORKS[:-1] and not (name.startswith("timm:") and name not in ("timm:", "timm:NAME")):
        raise SettingsError(f"there is no network {name!r}; {did_you_mean(name, NETWORKS, cutoff=0.5)}")
    if isinstance(hidden, int):
        raise SettingsError(f"hidden = {hidden}, expected widths such as ({hidden}, {hidden})")
    if hidden is not None and name != "mlp":
        raise SettingsError(
            f"hidden = {tuple(hidden)} is for the mlp, and the network is {name}; leave it out, or take network = 'mlp'"
        )

"""Encoders [N, *event] -> [N, D or 2D] and decoders [N, D] -> [N, *event]; any nn.Module of these shapes will do."""

from genssl.networks.choose import NETWORKS, default_network, make_decoder, make_encoder, output_size
from genssl.networks.conv import conv_decoder, conv_encoder
from genssl.networks.library import resnet18_encoder, timm_encoder
from genssl.networks.mlp import PAPER_HIDDEN, default_hidden, mlp_decoder, mlp_encoder
from genssl.networks.released import released_conv_decoder, released_conv_encoder

__all__ = [
    "NETWORKS",
    "PAPER_HIDDEN",
    "conv_decoder",
    "conv_encoder",
    "default_hidden",
    "default_network",
    "make_decoder",
    "make_encoder",
    "mlp_decoder",
    "mlp_encoder",
    "output_size",
    "released_conv_decoder",
    "released_conv_encoder",
    "resnet18_encoder",
    "timm_encoder",
]

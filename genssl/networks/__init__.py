"""Encoders [N, *event] -> [N, D or 2D] and decoders [N, D] -> [N, *event]; any nn.Module of these shapes will do."""

from genssl.networks.choose import default_network, make_decoder, make_encoder
from genssl.networks.mlp import PAPER_HIDDEN, default_hidden, mlp_decoder, mlp_encoder

__all__ = ["PAPER_HIDDEN", "default_hidden", "default_network", "make_decoder", "make_encoder", "mlp_decoder", "mlp_encoder"]

"""Fully connected encoders and decoders (the paper's Table 3)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import nn

PAPER_HIDDEN = (500, 500, 2000)
"""Hidden widths of the paper's encoder; its decoder has them reversed. (The released code reverses both.)"""


def default_hidden(event_shape: Sequence[int]) -> tuple[int, ...]:
    """The paper's widths for images of MNIST's size and above, two layers of 256 for events of fewer than 256 values."""
    return PAPER_HIDDEN if math.prod(event_shape) >= 256 else (256, 256)


def mlp(sizes: Sequence[int]) -> list[nn.Module]:
    """Linear layers of these sizes with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return layers[:-1]


def mlp_encoder(event_shape: Sequence[int], outputs: int, hidden: Sequence[int] = PAPER_HIDDEN) -> nn.Sequential:
    """[N, *event] -> [N, outputs]: 784-500-500-2000-outputs on MNIST. outputs = 2D (loc, log scale) for a Normal guide."""
    return nn.Sequential(nn.Flatten(), *mlp([math.prod(event_shape), *hidden, outputs]))


def mlp_decoder(
    dim: int, event_shape: Sequence[int], hidden: Sequence[int] = PAPER_HIDDEN[::-1], sigmoid: bool = False
) -> nn.Sequential:
    """[N, dim] -> [N, *event]: D-2000-500-500-784 on MNIST; `sigmoid` keeps a mean in [0, 1] (no sigmoid for logits)."""
    squash = [nn.Sigmoid()] if sigmoid else []
    return nn.Sequential(*mlp([dim, *hidden, math.prod(event_shape)]), *squash, nn.Unflatten(-1, tuple(event_shape)))

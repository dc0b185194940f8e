"""The convolutional encoder and decoder that the paper's authors released, which differ from its Table 4."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from genssl.networks.blocks import MemoryFormat, ResidualBlock, image_shape, stages, two_convolutions

DECODER_WIDTHS = (512, 256, 128, 64)


def released_conv_encoder(event_shape: Sequence[int], outputs: int) -> nn.Sequential:
    """[N, C, S, S] -> [N, outputs], S = 64 or 32: a narrow ResNet-18 without its last stage.

    Stem of 64 channels (3x3 where S = 32, 4x4 without bias where S = 64; no padding), BatchNorm, ReLU, 3x3 max-pool of stride 2; two
    residual blocks a stage of 32, 64 and 128 channels; the 4x4 (8x8) grid goes into one fully connected layer.
    969,920 parameters for 3x32x32 and 128 outputs, 1,757,632 for 3x64x64. BatchNorm: see `conv_encoder`.
    """
    channels, side = image_shape(event_shape, "released_conv")
    stem = nn.Conv2d(channels, 64, 3) if side == 32 else nn.Conv2d(channels, 64, 4, bias=False)
    return nn.Sequential(
        stem,
        MemoryFormat(),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        *stages((64, 32, 64, 128), (1, 2, 2), blocks=2),
        nn.Flatten(),
        nn.Linear(128 * (side // 8) ** 2, outputs),
    )


def released_conv_decoder(dim: int, event_shape: Sequence[int], sigmoid: bool = False) -> nn.Sequential:
    """[N, dim] -> [N, C, S, S], S = 64 or 32, an order of magnitude larger than Table 4b; the released code always has the sigmoid.

    fc to 512 x 2x2 (4x4 where S = 64); three times two plain convolutions and a residual block that doubles the sides, down to 64
    channels; four plain convolutions; a 7x7 transposed convolution of stride 2 with bias and BatchNorm.
    8,984,393 parameters from 64 dimensions to 3x32x32, 9,383,753 to 3x64x64.
    """
    channels, side = image_shape(event_shape, "released_conv")
    grid, first, last = side // 16, DECODER_WIDTHS[0], DECODER_WIDTHS[-1]
    doubling = [
        layer
        for inputs, outputs in itertools.pairwise(DECODER_WIDTHS)
        for layer in (_plain(inputs), ResidualBlock(inputs, outputs, 2, transposed=True))
    ]
    squash = [nn.Sigmoid()] if sigmoid else []
    return nn.Sequential(
        nn.Linear(dim, first * grid**2),
        nn.Unflatten(-1, (first, grid, grid)),
        MemoryFormat(),
        *doubling,
        _plain(last),
        _plain(last),
        nn.ConvTranspose2d(last, channels, 7, stride=2, padding=3, output_padding=1),
        nn.BatchNorm2d(channels),
        MemoryFormat(torch.contiguous_format),
        *squash,
    )


def _plain(width: int) -> nn.Sequential:
    """Two transposed convolutions without a skip connection."""
    return nn.Sequential(*two_convolutions(width, width, transposed=True), nn.ReLU())

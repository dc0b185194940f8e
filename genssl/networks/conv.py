"""The paper's convolutional encoder and decoder (Table 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from genssl.networks.blocks import MemoryFormat, SmallLinear, image_shape, stages

WIDTHS = (16, 32, 64, 128, 256)
"""Channels of the stem and the four stages of the encoder; the decoder has them reversed."""


def conv_encoder(event_shape: Sequence[int], outputs: int, blocks: int = 1) -> nn.Sequential:
    """[N, C, S, S] -> [N, outputs], S = 64 or 32 (Bizeul et al. 2024, Table 4a). outputs = 2D (loc, log scale) for a Normal guide.

    | layer         | S = 64     | parameters                                             |
    |---------------|------------|--------------------------------------------------------|
    | conv1         | 16 x 32x32 | 4x4, BatchNorm, ReLU, 3x3 max-pool of stride 2         |
    | conv2_x       | 32 x 32x32 | residual block, 3x3 of stride 1, 3x3 of stride 1       |
    | conv3_x to 5_x| 256 x 4x4  | the same with strides 2 and 1, 64, 128, 256 channels   |
    | fc            | outputs    | 4096 x outputs                                         |

    S = 32 (CIFAR-10): the table's sizes fit 64x64 only. No convolution changes; each grid has half the side, so that 2x2 is left and
    fc has 1024 inputs. (A stem without max-pool would keep 4x4, at four times the cost.)

    The table prints BatchNorm in the stem only, and rows of two convolutions; the text calls the network a ResNet-18 (He et al. 2016).
    Its basic block is taken: BatchNorm behind every convolution and a skip connection. blocks: blocks a stage, 1 as printed; 2 make
    the 18 layers of the name.

    BatchNorm couples the views of a batch while training: q(z_j | x_j) then depends, a little, on the other views and groups, those of
    other processes too (`genssl.distributed`). In eval() running averages make every view independent of the others.
    """
    channels, side = image_shape(event_shape, "conv")
    return nn.Sequential(
        nn.Conv2d(channels, WIDTHS[0], 4, padding=1, bias=False),
        MemoryFormat(),
        nn.BatchNorm2d(WIDTHS[0]),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        *stages(WIDTHS, (1, 2, 2, 2), blocks),
        nn.Flatten(),
        SmallLinear(WIDTHS[-1] * (side // 16) ** 2, outputs),
    )


def conv_decoder(dim: int, event_shape: Sequence[int], sigmoid: bool = False, blocks: int = 1) -> nn.Sequential:
    """[N, dim] -> [N, C, S, S], S = 64 or 32 (Bizeul et al. 2024, Table 4b); `sigmoid` keeps a mean in [0, 1] (none for logits).

    fc to 256 x 4x4 (2x2 where S = 32: see `conv_encoder`), four stages of a residual block that doubles the sides, 128, 64, 32, 16
    channels, and a 5x5 convolution. The table prints only sizes: the blocks are the encoder's with transposed convolutions.
    """
    channels, side = image_shape(event_shape, "conv")
    grid = side // 16
    squash = [nn.Sigmoid()] if sigmoid else []
    return nn.Sequential(
        nn.Linear(dim, WIDTHS[-1] * grid**2),
        nn.Unflatten(-1, (WIDTHS[-1], grid, grid)),
        MemoryFormat(),
        *stages(WIDTHS[::-1], (2, 2, 2, 2), blocks, transposed=True),
        nn.Conv2d(WIDTHS[0], channels, 5, padding=2),
        MemoryFormat(torch.contiguous_format),
        *squash,
    )

"""What convolutional encoders and decoders are made of: blocks of two convolutions, and the layout of images in memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genssl.errors import ShapeError


class MemoryFormat(nn.Module):
    """The same numbers in another order in memory; every layer from here on keeps it.

    Channels-last images take the paper's pair 20 to 38 % less time on a CPU than channels-first ones (forward and backward), a
    ResNet-18 about 20 %. Channels-last weights would add at most 10 % to that; contiguous ones stay what Pyro's parameter store and
    safetensors expect. A layout is told by strides, which are ambiguous where there is one channel, so the convolutional pairs
    change it behind their first convolution.
    """

    def __init__(self, memory_format: torch.memory_format = torch.channels_last) -> None:
        super().__init__()
        self.memory_format = memory_format

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self.memory_format)

    def extra_repr(self) -> str:
        return str(self.memory_format).removeprefix("torch.")


def convolution(inputs: int, outputs: int, size: int, stride: int = 1, transposed: bool = False) -> nn.Module:
    """A convolution of odd size under BatchNorm, hence without bias: stride 2 halves the sides (rounded up), transposed doubles them."""
    if transposed:
        return nn.ConvTranspose2d(inputs, outputs, size, stride, size // 2, output_padding=stride - 1, bias=False)
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


def two_convolutions(inputs: int, outputs: int, stride: int = 1, transposed: bool = False) -> list[nn.Module]:
    """3x3 with the stride, BatchNorm, ReLU, 3x3, BatchNorm."""
    return [
        convolution(inputs, outputs, 3, stride, transposed),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        convolution(outputs, outputs, 3, 1, transposed),
        nn.BatchNorm2d(outputs),
    ]


class ResidualBlock(nn.Module):
    """relu(body(x) + skip(x)), [N, inputs, H, W] -> [N, outputs, H', W']: the basic block of ResNet-18 (He et al. 2016).

    skip is the identity, or a 1x1 convolution and BatchNorm where the shape changes. With `transposed` it is the decoder's mirror
    image: transposed convolutions, and a stride of 2 doubles the sides.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, transposed: bool = False) -> None:
        super().__init__()
        same = inputs == outputs and stride == 1
        skip = [] if same else [convolution(inputs, outputs, 1, stride, transposed), nn.BatchNorm2d(outputs)]
        self.body = nn.Sequential(*two_convolutions(inputs, outputs, stride, transposed))
        self.skip = nn.Sequential(*skip)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def stages(widths: Sequence[int], strides: Sequence[int], blocks: int = 1, transposed: bool = False) -> list[nn.Module]:
    """Stages of residual blocks from width to width; the first block of a stage has the stride and the new width."""
    layers: list[nn.Module] = []
    for (inputs, outputs), stride in zip(itertools.pairwise(widths), strides, strict=True):
        layers.append(ResidualBlock(inputs, outputs, stride, transposed))
        layers += [ResidualBlock(outputs, outputs, 1, transposed) for _ in range(blocks - 1)]
    return layers


def image_shape(event_shape: Sequence[int], network: str) -> tuple[int, int]:
    """(channels, side) of the square images that the convolutional pairs are made for."""
    shape = tuple(event_shape)
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] not in (32, 64):
        raise ShapeError(
            f"{network}: views of shape {shape}, expected [channels, 32, 32] or [channels, 64, 64]; "
            "take network = 'mlp' (or 'resnet18' to encode images of any size), or resize the images"
        )
    return shape[0], shape[1]


class SmallLinear(nn.Linear):
    """A linear layer whose weights start at a tenth of the usual size: for an encoder's last layer, half of whose outputs are log scales.

    Over convolutional features the usual start gives log scales of up to 4, so that single views dominate the first gradients (seen
    with SimVAE on CIFAR-10: log scales of 16 and a prior of -1e12 nats at the second step; with this start 6 and -1e4).
    """

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            self.weight.mul_(0.1)

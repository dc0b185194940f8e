"""Encoders of other packages: torchvision's ResNet-18, and whatever timm has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from genssl.datasets.torchvision_shim import ensure_torchvision
from genssl.errors import SettingsError, ShapeError, did_you_mean


class LibraryNetwork(nn.Module):
    """A network that another package makes, with that package's own initial weights.

    Args:
        make: () -> the network, [N, C, H, W] -> [N, outputs]; called again for `reset_parameters`.

    `reset_parameters` gives it the weights of a second one made: initialised by the package, or pretrained again.
    Images are handed over channels-last, which the layers behind keep; a single channel leaves them as they are.
    """

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self._make = make
        self.network = make()

    def reset_parameters(self) -> None:
        self.network.load_state_dict(self._make().state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.contiguous(memory_format=torch.channels_last))


def resnet18_encoder(event_shape: Sequence[int], outputs: int) -> LibraryNetwork:
    """[N, C, H, W] -> [N, outputs]: torchvision's ResNet-18 (He et al. 2016) with a linear output of its 512 averaged features.

    Images of at most 64x64 get the CIFAR stem that self-supervised learning uses (Chen et al. 2020, B.9): 3x3 of stride 1 and no
    max-pool; larger ones the 7x7 stem. Any number of channels. BatchNorm: see `conv_encoder`.
    """
    channels, height, width = _image(event_shape, "resnet18")
    return LibraryNetwork(partial(_resnet18, channels, max(height, width) <= 64, outputs))


def _resnet18(channels: int, small: bool, outputs: int) -> nn.Module:
    ensure_torchvision()
    from torchvision.models import resnet18

    network = resnet18(num_classes=outputs)
    if small or channels != 3:
        size, stride = (3, 1) if small else (7, 2)
        network.conv1 = nn.Conv2d(channels, 64, size, stride, size // 2, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as its other ones
    if small:
        network.maxpool = nn.Identity()
    return network


def timm_encoder(
    name: str, event_shape: Sequence[int], outputs: int, pretrained: bool = False, **settings: Any
) -> LibraryNetwork:
    """[N, C, H, W] -> [N, outputs]: a model of timm (Wightman 2019) with a linear output; needs `pip install genssl[timm]`.

    name: one of timm.list_models(). The image size is given to models that take one (vision transformers); convolutional ones take
    any, but their strides are those of 224x224, which leave little of a small image. settings: of timm.create_model, such as
    patch_size=4. pretrained: timm downloads the weights; the views are then expected in timm's normalisation, not in [0, 1].

    Raises SettingsError where timm or the name is missing, ShapeError where the model cannot take the images.
    """
    shape = _image(event_shape, f"timm:{name}")
    timm = _timm()
    if not timm.is_model(name.split(".")[0]):  # what follows the dot names pretrained weights
        hint = did_you_mean(name, timm.list_models(), "timm.list_models() has them all")
        raise SettingsError(f"timm has no model {name!r}; {hint}")
    settings = {"in_chans": shape[0], "num_classes": outputs, "pretrained": pretrained} | settings
    network = _made(partial(timm.create_model, name, **settings), shape[1:])
    _check_outputs(network, name, shape, outputs)
    return network


def _timm() -> Any:
    ensure_torchvision()  # timm imports torchvision
    try:
        import timm
    except ImportError as error:
        raise SettingsError(f"timm cannot be imported ({error}); pip install genssl[timm]") from error
    return timm


def _made(make: Callable[..., nn.Module], size: tuple[int, int]) -> LibraryNetwork:
    """With the size of the images, where the model has a setting for it."""
    try:
        return LibraryNetwork(partial(make, img_size=size))
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return LibraryNetwork(make)


def _check_outputs(network: LibraryNetwork, name: str, shape: tuple[int, int, int], outputs: int) -> None:
    """Try one image: what strides, windows and patches leave of a small one is known to the model alone."""
    weight = next(network.parameters())
    try:
        with torch.no_grad():
            found = tuple(network.eval()(torch.zeros(1, *shape, dtype=weight.dtype, device=weight.device)).shape)
    except (RuntimeError, ValueError, AssertionError) as error:
        why = " ".join(str(error).split())
        raise ShapeError(
            f"timm:{name}: cannot take images of shape {shape} ({why}); take another model or resize the images"
        ) from error
    finally:
        network.train()
    if found != (1, outputs):
        raise ShapeError(f"timm:{name}: gives {list(found)} for one image, expected [1, {outputs}]; take another model")


def _image(event_shape: Sequence[int], network: str) -> tuple[int, int, int]:
    shape = tuple(event_shape)
    if len(shape) != 3:
        raise ShapeError(
            f"{network}: views of shape {shape}, expected images [channels, height, width]; take network = 'mlp'"
        )
    return shape[0], shape[1], shape[2]

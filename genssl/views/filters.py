"""Batched filters with a strength of its own for every image: Gaussian blur, solarisation and noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from genssl.distributed import drawn_for_all
from genssl.errors import ShapeError
from genssl.views.style import CATEGORICAL, CONTINUOUS, Styled

SHARP = 1e-3  # pixels: a Gaussian this narrow is one pixel wide, exactly


@dataclass(frozen=True)
class GaussianBlur(Styled):
    """Convolution with a Gaussian of `kernel_size` pixels, its standard deviation uniform in `scale` (SimCLR, Chen et al. 2020).

    kernel_size   odd; SimCLR takes a tenth of the image's side. Weights exp(-t^2 / (2 scale^2)) at whole t, normalised
    scale         (low, high), or one number: standard deviation in pixels, uniform
    probability   of being applied to an image

    Outside the image is its reflection without the edge pixel, so a side has more than kernel_size / 2 pixels. With
    equal settings this is torchvision's GaussianBlur inside RandomApply.

    Style holds what varies: `blur` (categorical) and `blur_scale` (pixels, 0 where not applied).

    SettingsError: a setting outside its range. ShapeError, DataError: x is not a batch of large enough floating-point images.
    """

    kernel_size: int
    scale: tuple[float, float] = (0.1, 2.0)
    probability: float = 1.0

    def __post_init__(self) -> None:
        self._ranges("scale")
        self._check_settings(
            {
                "kernel_size": (self.kernel_size >= 1 and self.kernel_size % 2 == 1, "an odd number"),
                "scale": (0 < self.scale[0] <= self.scale[1], "0 < low <= high"),
                "probability": (0 <= self.probability <= 1, "a probability"),
            }
        )

    @property
    def _factors(self) -> list[tuple[str, str, bool]]:
        return [
            ("blur", CATEGORICAL, 0 < self.probability < 1),
            ("blur_scale", CONTINUOUS, self.probability > 0 and self.scale[0] < self.scale[1]),
        ]

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        return _draw_strength(self, "blur", batch, generator)

    def apply(self, x: Tensor, style: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        radius = self.kernel_size // 2
        if radius >= min(height, width):
            seen = f"GaussianBlur: x has shape {list(x.shape)}, kernel_size is {self.kernel_size}"
            raise ShapeError(f"{seen}, expected sides of more than {radius} pixels; take a smaller kernel_size")
        scale = _strength(self, "blur", x, style)
        step = torch.arange(-radius, radius + 1, dtype=scale.dtype, device=x.device)
        weight = (-0.5 * (step / scale.clamp(min=SHARP)[:, None]).square()).exp()
        kernel = (weight / weight.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]  # [B C, 1, kernel_size]
        views = F.pad(x.to(scale.dtype), (radius, radius, radius, radius), mode="reflect").flatten(0, 1)[None]
        views = F.conv2d(views, kernel[:, :, :, None], groups=batch * channels)
        views = F.conv2d(views, kernel[:, :, None, :], groups=batch * channels)
        return views.view(x.shape).to(x.dtype)


@dataclass(frozen=True)
class Solarise(Styled):
    """x -> 1 - x at pixels of at least `threshold` (BYOL, Grill et al. 2020), channel by channel, with a probability.

    Style holds `solarise` (categorical) where that varies. SettingsError: a setting outside its range.
    """

    threshold: float = 0.5
    probability: float = 1.0

    def __post_init__(self) -> None:
        self._check_settings(
            {
                "threshold": (0 <= self.threshold <= 1, "a value in [0, 1]"),
                "probability": (0 <= self.probability <= 1, "a probability"),
            }
        )

    @property
    def _factors(self) -> list[tuple[str, str, bool]]:
        return [("solarise", CATEGORICAL, 0 < self.probability < 1)]

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        u = torch.rand(batch, generator=generator, device=generator.device)
        return self._pack({"solarise": (u < self.probability).float()})

    def apply(self, x: Tensor, style: Tensor) -> Tensor:
        applied = self._unpack(x, style, solarise=float(self.probability == 1))["solarise"]
        limit = torch.where(applied > 0, self.threshold, torch.inf)[:, None, None, None]
        return torch.where(x >= limit, 1 - x, x)


@dataclass(frozen=True)
class Noise(Styled):
    """x + s e with e standard normal at every pixel and channel, s uniform in `scale`, then clamped to [0, 1].

    scale         (low, high), or one number: standard deviation, uniform
    probability   of being applied to an image
    clamp         False leaves values outside [0, 1], so that the noise stays Gaussian

    Style holds what varies: `noise` (categorical) and `noise_scale` (0 where not applied). It does not hold e, so there is
    no `apply`; e is drawn after the style of the whole batch, so a batch in parts is not the batch whole.

    SettingsError: a setting outside its range. ShapeError, DataError: x is not a batch of floating-point images.
    """

    scale: tuple[float, float] = (0.0, 0.1)
    probability: float = 1.0
    clamp: bool = True

    def __post_init__(self) -> None:
        self._ranges("scale")
        self._check_settings(
            {
                "scale": (0 <= self.scale[0] <= self.scale[1], "0 <= low <= high"),
                "probability": (0 <= self.probability <= 1, "a probability"),
            }
        )

    @property
    def _factors(self) -> list[tuple[str, str, bool]]:
        return [
            ("noise", CATEGORICAL, 0 < self.probability < 1),
            ("noise_scale", CONTINUOUS, self.probability > 0 and self.scale[0] < self.scale[1]),
        ]

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        return _draw_strength(self, "noise", batch, generator)

    def __call__(self, x: Tensor, index: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        self._check_images(x)
        style = self._draw_for(x, generator)
        scale = _strength(self, "noise", x, style)[:, None, None, None]
        noise = drawn_for_all(
            lambda batch: torch.randn(batch, *x.shape[1:], generator=generator, device=generator.device), len(x)
        ).to(x.device)
        views = torch.addcmul(x.to(scale.dtype), noise.to(scale.dtype), scale)
        return (views.clamp_(0, 1) if self.clamp else views).to(x.dtype), style


def _draw_strength(transform: GaussianBlur | Noise, name: str, batch: int, generator: torch.Generator) -> Tensor:
    u = torch.rand(batch, 2, generator=generator, device=generator.device)
    applied, (low, high) = (u[:, 1] < transform.probability).float(), transform.scale
    return transform._pack({name: applied, f"{name}_scale": applied * (low + (high - low) * u[:, 0])})


def _strength(transform: GaussianBlur | Noise, name: str, x: Tensor, style: Tensor) -> Tensor:
    """[B] the standard deviation, 0 where not applied."""
    given = transform._unpack(x, style, **{name: float(transform.probability == 1)})
    return given[f"{name}_scale"] if f"{name}_scale" in given else transform.scale[0] * given[name]

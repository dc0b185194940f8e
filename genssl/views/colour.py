"""Batched colour augmentation: brightness, contrast, saturation, hue and grayscale as one affine map of each image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genssl.errors import ShapeError
from genssl.views.style import CATEGORICAL, CIRCULAR, CONTINUOUS, Styled

LUMA = (0.299, 0.587, 0.114)  # of R, G, B: the Y of YIQ (ITU-R BT.601)


def _quarter() -> list[list[float]]:
    """The map of R, G, B that keeps Y and turns the plane of I and Q by a quarter, red towards green.

    I and Q are U = 0.492 (B - Y) and V = 0.877 (R - Y) in axes turned by 33 degrees: a turn in one plane is a turn in
    the other, and a quarter sends R - Y to (0.492 / 0.877) (B - Y).
    """
    ratio = (0.436 / (1 - LUMA[2])) / (0.615 / (1 - LUMA[0]))
    red = [ratio * ((j == 2) - LUMA[j]) for j in range(3)]
    blue = [((j == 0) - LUMA[j]) / -ratio for j in range(3)]
    green = [-(LUMA[0] * r + LUMA[2] * b) / LUMA[1] for r, b in zip(red, blue, strict=True)]
    return [red, green, blue]


QUARTER = _quarter()


@dataclass(frozen=True)
class ColourJitter(Styled):
    """Brightness, contrast, saturation, hue and random grayscale, drawn anew for every image: x -> clamp(A x + b, 0, 1).

    With Y = 0.299 R + 0.587 G + 0.114 B, in this order:

        brightness   x -> f x                        f uniform in [max(0, 1 - brightness), 1 + brightness]
        contrast     x -> f x + (1 - f) mean(Y)      likewise; the mean is over the pixels of the image
        saturation   x -> f x + (1 - f) Y            likewise
        hue          a rotation of I and Q in YIQ    by 2 pi times a uniform number in [-hue, hue]; positive from red
                                                     towards green
        grayscale    x -> Y                          with this probability, whether or not the four were applied

    A setting may also be a range (low, high) of factors (for hue: of turns). The first four are applied together, with
    the given probability. Hue and saturation keep Y, so before the clamp any order of these maps gives the same image.

    Images have 3 channels, or 1, which is then its own Y and allows no saturation, hue or grayscale.

    Style [B, S] holds what these settings vary: `jitter` (whether the first four were applied, categorical),
    `brightness`, `contrast`, `saturation` (factors, 1 where not applied), `hue` (radians, circular, 0 where not applied)
    and `grayscale` (categorical). A grey image has saturation 0 and hue 0, whatever was drawn.

    Against torchvision's ColorJitter and RandomGrayscale (and the SimCLR recipe in PIL, Chen et al. 2020):
    - those clamp to [0, 1] after each map, and PIL rounds to 1/255; here there is one clamp, at the end: 0.5 times (2 x) is
      x here, and min(x, 0.5) there
    - their order is random, which only matters through those clamps and their hue
    - their hue moves the H of HSV, which keeps the largest and smallest channel but not Y
    - PIL rounds the mean of Y for contrast to 1/255; torchvision's weights of Y sum to 0.9999
    With (0.8, 0.8, 0.8, 0.2) on 40 images of CIFAR-10, mean and standard deviation of a channel over draws differ from
    torchvision's by 0.01 (median image) and at most 0.07.

    >>> views, style = ColourJitter(0.8, 0.8, 0.8, 0.2, probability=0.8, grayscale=0.2)(images, None, generator)

    SettingsError: a setting outside its range. ShapeError, DataError: x is not a batch of floating-point images of 3
    channels, or of 1 where that is enough.
    """

    brightness: float | tuple[float, float] = 0.0
    contrast: float | tuple[float, float] = 0.0
    saturation: float | tuple[float, float] = 0.0
    hue: float | tuple[float, float] = 0.0
    probability: float = 1.0
    grayscale: float = 0.0

    def __post_init__(self) -> None:
        factors = {name: (0 <= low <= high, "at least 0, or 0 <= low <= high") for name, (low, high) in self._gains}
        low, high = self._turns
        self._check_settings(
            {
                **factors,
                "hue": (-0.5 <= low <= high <= 0.5, "turns in [0, 0.5], or -0.5 <= low <= high <= 0.5"),
                "probability": (0 <= self.probability <= 1, "a probability"),
                "grayscale": (0 <= self.grayscale <= 1, "a probability"),
            }
        )

    # ------------------------------------------------------------------ style

    @property
    def _gains(self) -> list[tuple[str, tuple[float, float]]]:
        """(name, (low, high)) of the three factors. A number v is the range [max(0, 1 - v), 1 + v]; below 0 it has none."""
        gains = {"brightness": self.brightness, "contrast": self.contrast, "saturation": self.saturation}
        return [(k, v if isinstance(v, tuple) else (max(0.0, 1 - v), 1 + v)) for k, v in gains.items()]

    @property
    def _turns(self) -> tuple[float, float]:
        return self.hue if isinstance(self.hue, tuple) else (-self.hue, self.hue)

    @property
    def _factors(self) -> list[tuple[str, str, bool]]:
        sometimes = self.probability > 0
        return [
            ("jitter", CATEGORICAL, 0 < self.probability < 1),
            *((name, CONTINUOUS, sometimes and low < high) for name, (low, high) in self._gains),
            ("hue", CIRCULAR, sometimes and self._turns[0] < self._turns[1]),
            ("grayscale", CATEGORICAL, 0 < self.grayscale < 1),
        ]

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        u = torch.rand(batch, 6, generator=generator, device=generator.device)
        jitter, grey = (u[:, 4] < self.probability).float(), (u[:, 5] < self.grayscale).float()
        columns = {"jitter": jitter, "grayscale": grey}
        for column, (name, (low, high)) in enumerate(self._gains):
            columns[name] = 1 + jitter * (low - 1 + (high - low) * u[:, column])
        columns["saturation"] = (1 - grey) * columns["saturation"]
        low, high = self._turns
        columns["hue"] = 2 * math.pi * (1 - grey) * jitter * (low + (high - low) * u[:, 3])
        return self._pack(columns)

    # ------------------------------------------------------------------ colours

    def apply(self, x: Tensor, style: Tensor) -> Tensor:
        given = self._unpack(x, style, jitter=float(self.probability == 1), grayscale=float(self.grayscale == 1))
        jitter = given["jitter"]
        brightness, contrast, saturation = (
            given[name] if name in given else 1 + jitter * (low - 1) for name, (low, _) in self._gains
        )
        colours = x.to(jitter.dtype).flatten(2)
        mean = colours.mean(2)
        if x.shape[1] == 3:
            red, green, blue = mean.unbind(1)
            mean = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]
        gain, offset = brightness * contrast, (brightness * (1 - contrast))[:, None, None] * mean[:, :, None]
        if x.shape[1] == 1:
            views = torch.addcmul(offset, gain[:, None, None], colours)
        else:
            hue = given["hue"] if "hue" in given else 2 * math.pi * self._turns[0] * jitter
            chroma = gain * saturation * (1 - given["grayscale"])
            matrix = _matrix(gain, chroma * hue.cos(), chroma * hue.sin())
            views = torch.baddbmm(offset, matrix, colours)
        return views.clamp_(0, 1).to(x.dtype).view(x.shape)

    def _check_images(self, x: Tensor) -> None:
        super()._check_images(x)
        if x.shape[1] == 3:
            return
        colour = {
            "saturation": self._gains[2][1] != (1, 1),
            "hue": self._turns != (0, 0),
            "grayscale": self.grayscale > 0,
        }
        asked = [name for name, is_set in colour.items() if is_set]
        seen = f"ColourJitter: x has shape {list(x.shape)}, {x.shape[1]} channels"
        if asked and x.shape[1] == 1:
            raise ShapeError(
                f"{seen}, expected 3 (red, green, blue); leave out {', '.join(asked)} (views.simclr_grey does)"
            )
        if x.shape[1] != 1:
            raise ShapeError(f"{seen}, expected 3 (red, green, blue) or 1; choose the channels to augment")


def _matrix(gain: Tensor, kept: Tensor, turned: Tensor) -> Tensor:
    """[B, 3, 3] which scales Y by gain [B], I and Q by kept [B], and adds turned [B] times I and Q turned by a quarter.

    Entry by entry from Python numbers: a constant tensor would have to be copied to the device in every step.
    """
    grey = gain - kept
    entries = [LUMA[j] * grey + QUARTER[i][j] * turned + (kept if i == j else 0) for i in range(3) for j in range(3)]
    return torch.stack(entries, 1).unflatten(1, (3, 3))

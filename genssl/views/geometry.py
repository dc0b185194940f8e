"""Batched geometric augmentation: random resized crop, flips, translation and rotation, resampled once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from genssl.errors import DataError, SettingsError, ShapeError

CONTINUOUS, CIRCULAR, CATEGORICAL = "continuous", "circular", "categorical"

TRIES = 10  # candidates for a crop before the central fallback, as torchvision
CROP = 2 * TRIES + 2  # uniform numbers that a crop takes: areas, ratios, corner y and x
DRAWS = CROP + 5  # and every image: also two flips, translation y and x, rotation


@dataclass(frozen=True)
class Geometric:
    """One independently augmented view for each image, with the drawn parameters as its style.

    In this order: rotate about the centre and translate, crop and resize, flip, threshold; the image is interpolated
    once (bilinear, align_corners=False). Outside the image is zero; a crop repeats its own border, as resizing
    a cut-out does.

    crop_scale       (low, high): area of the crop as a fraction of the image's, uniform; (1, 1) is no crop
    crop_ratio       (low, high): width / height of the crop in pixels, log-uniform
    horizontal_flip  probability of exchanging left and right
    vertical_flip    probability of exchanging top and bottom
    translate        (x, y): largest shift as a fraction of width and height, uniform both ways, in parts of pixels
    rotate           largest angle in degrees, uniform both ways; positive is counter-clockwise
    threshold        None, or the value above which a pixel becomes 1 and at or below which it becomes 0
    size             None (as the images), an int, or (height, width) of the views; shrinking does not smooth first

    The crop has the law of torchvision's RandomResizedCrop: sides rounded to whole pixels, the corner uniform over
    whole pixels, the first of ten drawn sizes that fits, else the largest central crop of an allowed ratio (the whole
    image, where its own ratio is allowed). Where no side shrinks, its `antialias` makes no difference.

    Style [B, S] holds only what these settings vary: `crop_x`, `crop_y` (its centre), `crop_width`, `crop_height` and
    `translate_x`, `translate_y` as fractions of width and height; flips 0 or 1 (categorical); `rotate` in radians
    (circular).

    Every image takes the same count of random numbers whatever the settings and their outcome: one setting does not
    shift the draws of another, and with a generator on the CPU a batch augmented in parts is the batch augmented whole.

    >>> views, style = Geometric(crop_scale=(0.4, 1.0), vertical_flip=0.5)(images, None, generator)

    SettingsError: a setting outside its range. ShapeError, DataError: x is not a batch of floating-point images.
    """

    crop_scale: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    translate: tuple[float, float] = (0.0, 0.0)
    rotate: float = 0.0
    threshold: float | None = None
    size: int | tuple[int, int] | None = None

    def __post_init__(self) -> None:
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        checks = {
            "crop_scale": (0 < self.crop_scale[0] <= self.crop_scale[1] <= 1, "0 < low <= high <= 1"),
            "crop_ratio": (0 < self.crop_ratio[0] <= self.crop_ratio[1], "0 < low <= high"),
            "horizontal_flip": (0 <= self.horizontal_flip <= 1, "a probability"),
            "vertical_flip": (0 <= self.vertical_flip <= 1, "a probability"),
            "translate": (0 <= min(self.translate) <= max(self.translate) <= 1, "two fractions in [0, 1]"),
            "rotate": (0 <= self.rotate <= 180, "degrees in [0, 180]"),
            "size": (size is None or min(size) >= 1, "None or at least 1"),
        }
        for name, (fits, expected) in checks.items():
            if not fits:
                raise SettingsError(f"Geometric: {name} is {getattr(self, name)}, expected {expected}")

    def __call__(self, x: Tensor, index: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x [B, C, H, W] in [0, 1] -> (views [B, C, h, w], style [B, S]), on the device of x; `index` is not used."""
        _check_images(x)
        style = self.draw(len(x), x.shape[-2], x.shape[-1], generator).to(x.device)
        return self.apply(x, style), style

    # ------------------------------------------------------------------ style

    @property
    def style_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self._factors)

    @property
    def style_kinds(self) -> tuple[str, ...]:
        return tuple(kind for _, kind in self._factors)

    @property
    def _crops(self) -> bool:
        return self.crop_scale[0] < 1

    @property
    def _moves(self) -> bool:
        return self._crops or max(self.horizontal_flip, self.vertical_flip, self.rotate, *self.translate) > 0

    @property
    def _factors(self) -> list[tuple[str, str]]:
        """(name, kind) of what varies, in the order of the columns of style."""
        sizes_vary = self.crop_scale[0] < self.crop_scale[1] or self.crop_ratio[0] < self.crop_ratio[1]
        factors = [
            ("crop_x", CONTINUOUS, self._crops),
            ("crop_y", CONTINUOUS, self._crops),
            ("crop_width", CONTINUOUS, self._crops and sizes_vary),
            ("crop_height", CONTINUOUS, self._crops and sizes_vary),
            ("horizontal_flip", CATEGORICAL, 0 < self.horizontal_flip < 1),
            ("vertical_flip", CATEGORICAL, 0 < self.vertical_flip < 1),
            ("translate_x", CONTINUOUS, self.translate[0] > 0),
            ("translate_y", CONTINUOUS, self.translate[1] > 0),
            ("rotate", CIRCULAR, self.rotate > 0),
        ]
        return [(name, kind) for name, kind, varies in factors if varies]

    # ------------------------------------------------------------------ drawing

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """[batch, S] the style of `batch` views of images height x width, on the generator's device."""
        u = torch.rand(batch, DRAWS, generator=generator, device=generator.device)
        horizontal, vertical, shift_y, shift_x, angle = u[:, CROP:].unbind(1)
        columns = {
            "horizontal_flip": (horizontal < self.horizontal_flip).float(),
            "vertical_flip": (vertical < self.vertical_flip).float(),
            "translate_x": self.translate[0] * (2 * shift_x - 1),
            "translate_y": self.translate[1] * (2 * shift_y - 1),
            "rotate": math.radians(self.rotate) * (2 * angle - 1),
        }
        if self._crops:
            top, left, h, w = self._crop_boxes(u[:, :CROP], height, width)
            columns["crop_x"], columns["crop_width"] = (left + w / 2) / width, w / width
            columns["crop_y"], columns["crop_height"] = (top + h / 2) / height, h / height
        names = self.style_names
        return torch.stack([columns[name] for name in names], 1) if names else u.new_zeros(batch, 0)

    def _crop_boxes(self, u: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Uniform numbers u [B, CROP] -> top, left, height and width [B] of the crops, in whole pixels."""
        log_low, log_high = (math.log(ratio) for ratio in self.crop_ratio)
        area = height * width * (self.crop_scale[0] + (self.crop_scale[1] - self.crop_scale[0]) * u[:, :TRIES])
        ratio = (log_low + (log_high - log_low) * u[:, TRIES : 2 * TRIES]).exp()
        h, w = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
        fits = (h >= 1) & (h <= height) & (w >= 1) & (w <= width)
        first = fits.byte().argmax(1, keepdim=True)  # the first maximum: the first candidate that fits, if any does
        found = fits.gather(1, first)[:, 0]
        central_h, central_w = self._central_crop(height, width)
        h = torch.where(found, h.gather(1, first)[:, 0], central_h)
        w = torch.where(found, w.gather(1, first)[:, 0], central_w)
        # u < 1, but u * n may round up to n
        top = (u[:, 2 * TRIES] * (height - h + 1)).floor().minimum(height - h)
        left = (u[:, 2 * TRIES + 1] * (width - w + 1)).floor().minimum(width - w)
        return (
            torch.where(found, top, (height - central_h) // 2),
            torch.where(found, left, (width - central_w) // 2),
            h,
            w,
        )

    def _central_crop(self, height: int, width: int) -> tuple[int, int]:
        low, high = self.crop_ratio
        if width < low * height:
            return max(1, round(width / low)), width
        if width > high * height:
            return height, max(1, round(height * high))
        return height, width

    # ------------------------------------------------------------------ resampling

    def apply(self, x: Tensor, style: Tensor) -> Tensor:
        """The views [B, C, h, w] of x [B, C, H, W] that have this style [B, S], as `draw` and a call return it."""
        _check_images(x)
        if style.shape != (len(x), len(self.style_names)):
            expected = f"[{len(x)}, {len(self.style_names)}] ({', '.join(self.style_names)})"
            raise ShapeError(f"Geometric: style has shape {list(style.shape)}, expected {expected}")
        height, width = x.shape[-2:]
        size = (height, width) if self.size is None else self.size
        h, w = (size, size) if isinstance(size, int) else size
        views = x
        if self._moves or (h, w) != (height, width):
            dtype = torch.promote_types(x.dtype, torch.float32)  # half cannot hold positions
            grid = self._grid(style.to(x.device, dtype), height, width, h, w)
            views = F.grid_sample(x.to(dtype), grid, align_corners=False).to(x.dtype)
        if self.threshold is None:
            return views
        return (views.clone() if views is x else views).gt_(self.threshold)

    def _grid(self, style: Tensor, height: int, width: int, h: int, w: int) -> Tensor:
        """[B, h, w, 2] where in the image each pixel of the view lies; the image's outer edges are at -1 and 1."""
        given = dict(zip(self.style_names, style.unbind(1), strict=True))
        if self._crops and "crop_width" not in given:  # one size for all, whatever the random numbers
            _, _, crop_h, crop_w = self._crop_boxes(style.new_zeros(len(style), CROP), height, width)
            given |= {"crop_height": crop_h / height, "crop_width": crop_w / width}

        def factor(name: str, constant: float) -> Tensor:
            return (given[name] if name in given else style.new_full((len(style),), constant))[:, None]

        # Pixels from the centre of the image after rotation and translation ...
        flip_y, flip_x = factor("vertical_flip", self.vertical_flip), factor("horizontal_flip", self.horizontal_flip)
        shift_y, shift_x = factor("translate_y", 0), factor("translate_x", 0)
        y = _positions(h, height, factor("crop_y", 0.5) - shift_y, factor("crop_height", 1), flip_y)
        x = _positions(w, width, factor("crop_x", 0.5) - shift_x, factor("crop_width", 1), flip_x)
        # ... times where a step down and a step right lead in the image itself. A place is then a part from its row
        # plus a part from its column: as complex numbers x + iy one pass over the grid, several times faster than
        # `affine_grid`, which could not hold positions inside the crop either.
        cos, sin = factor("rotate", 0).cos(), factor("rotate", 0).sin()
        down, right = (
            torch.complex(-2 / width * sin, 2 / height * cos),
            torch.complex(2 / width * cos, 2 / height * sin),
        )
        return torch.view_as_real((y * down)[:, :, None] + (x * right)[:, None, :])


def _positions(count: int, length: int, centre: Tensor, extent: Tensor, flip: Tensor) -> Tensor:
    """[B, count] positions of a view's pixels along a side of `length` pixels, in pixels from its middle.

    centre, extent [B, 1]: of the crop, as fractions of the side; flip [B, 1]: 0 or 1.
    """
    step = (torch.arange(count, dtype=centre.dtype, device=centre.device) + 0.5) / count - 0.5
    last = (extent * length - 1) / 2  # the middle of the crop's last pixel
    offset = (step * (extent * length)).clamp(-last, last)
    return torch.addcmul(length * (centre - 0.5), 1 - 2 * flip, offset)


def _check_images(x: Tensor) -> None:
    if x.dim() != 4:
        raise ShapeError(f"Geometric: x has shape {list(x.shape)}, expected [B, C, H, W]; for one image use x[None]")
    if not x.is_floating_point():
        raise DataError(f"Geometric: x has dtype {x.dtype}, expected floats in [0, 1]; use x.float() / 255")

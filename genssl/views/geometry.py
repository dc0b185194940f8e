"""Batched geometric augmentation: random resized crop, flips, translation and rotation, resampled once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from genssl.views.style import CATEGORICAL, CIRCULAR, CONTINUOUS, Styled

TRIES = 10  # candidates for a crop before the central fallback, as torchvision
CROP = 2 * TRIES + 2  # uniform numbers that a crop takes: areas, ratios, corner y and x
DRAWS = CROP + 5  # and every image: also two flips, translation y and x, rotation
WHOLE = {
    "crop_x": 0.5,
    "crop_y": 0.5,
    "crop_width": 1,
    "crop_height": 1,
    "translate_x": 0,
    "translate_y": 0,
    "rotate": 0,
}


@dataclass(frozen=True)
class Geometric(Styled):
    """One independently augmented view for each image, with the drawn parameters as its style.

    In this order: rotate about the centre and translate, crop and resize, flip, threshold; the image is interpolated
    once (bilinear, align_corners=False). Outside the image is zero; a crop repeats its own border, as resizing
    a cut-out does.

    crop_scale       (low, high), or one number: area of the crop as a fraction of the image's, uniform; (1, 1) is no crop
    crop_ratio       (low, high), or one number: width / height of the crop in pixels, log-uniform
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
        self._ranges("crop_scale", "crop_ratio", "translate")
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        self._check_settings(
            {
                "crop_scale": (0 < self.crop_scale[0] <= self.crop_scale[1] <= 1, "0 < low <= high <= 1"),
                "crop_ratio": (0 < self.crop_ratio[0] <= self.crop_ratio[1], "0 < low <= high"),
                "horizontal_flip": (0 <= self.horizontal_flip <= 1, "a probability"),
                "vertical_flip": (0 <= self.vertical_flip <= 1, "a probability"),
                "translate": (0 <= min(self.translate) <= max(self.translate) <= 1, "two fractions in [0, 1]"),
                "rotate": (0 <= self.rotate <= 180, "degrees in [0, 180]"),
                "size": (size is None or min(size) >= 1, "None or at least 1"),
            }
        )

    # ------------------------------------------------------------------ style

    @property
    def _crops(self) -> bool:
        return self.crop_scale[0] < 1

    @property
    def _moves(self) -> bool:
        return self._crops or max(self.horizontal_flip, self.vertical_flip, self.rotate, *self.translate) > 0

    @property
    def _factors(self) -> list[tuple[str, str, bool]]:
        sizes_vary = self.crop_scale[0] < self.crop_scale[1] or self.crop_ratio[0] < self.crop_ratio[1]
        return [
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

    # ------------------------------------------------------------------ drawing

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
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
        return self._pack(columns)

    def _crop_boxes(self, u: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Uniform numbers u [B, CROP] -> top, left, height and width [B] of the crops, in whole pixels."""
        h, w, found = first_fit(u[:, : 2 * TRIES], self.crop_scale, self.crop_ratio, height, width)
        central_h, central_w = self._central_crop(height, width)
        h = torch.where(found, h, central_h)
        w = torch.where(found, w, central_w)
        top, left = corner(u[:, 2 * TRIES], height - h), corner(u[:, 2 * TRIES + 1], width - w)
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
        flips = {"horizontal_flip": self.horizontal_flip, "vertical_flip": self.vertical_flip}
        given = self._unpack(x, style, **flips, **WHOLE)
        height, width = x.shape[-2:]
        size = (height, width) if self.size is None else self.size
        h, w = (size, size) if isinstance(size, int) else size
        views = x
        if self._moves or (h, w) != (height, width):
            grid = self._grid(given, height, width, h, w)
            views = F.grid_sample(x.to(grid.dtype), grid, align_corners=False).to(x.dtype)
        if self.threshold is None:
            return views
        return (views.clone() if views is x else views).gt_(self.threshold)

    def _grid(self, given: dict[str, Tensor], height: int, width: int, h: int, w: int) -> Tensor:
        """[B, h, w, 2] where in the image each pixel of the view lies; the image's outer edges are at -1 and 1."""
        if self._crops and "crop_width" not in self.style_names:  # one size for all, whatever the random numbers
            zeros = torch.zeros_like(given["rotate"])[:, None].expand(-1, CROP)
            _, _, crop_h, crop_w = self._crop_boxes(zeros, height, width)
            given |= {"crop_height": crop_h / height, "crop_width": crop_w / width}
        given = {name: value[:, None] for name, value in given.items()}

        # Pixels from the centre of the image after rotation and translation ...
        y_centre, x_centre = given["crop_y"] - given["translate_y"], given["crop_x"] - given["translate_x"]
        y = _positions(h, height, y_centre, given["crop_height"], given["vertical_flip"])
        x = _positions(w, width, x_centre, given["crop_width"], given["horizontal_flip"])
        # ... times where a step down and a step right lead in the image itself. A place is then a part from its row
        # plus a part from its column: as complex numbers x + iy one pass over the grid, several times faster than
        # `affine_grid`, which could not hold positions inside the crop either.
        cos, sin = given["rotate"].cos(), given["rotate"].sin()
        down, right = (
            torch.complex(-2 / width * sin, 2 / height * cos),
            torch.complex(2 / width * cos, 2 / height * sin),
        )
        return torch.view_as_real((y * down)[:, :, None] + (x * right)[:, None, :])


def first_fit(
    u: Tensor, scale: tuple[float, float], ratio: tuple[float, float], height: int, width: int, margin: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Uniform numbers u [B, 2 TRIES] -> height and width [B] of the first of TRIES rectangles that fits, and found [B].

    scale: area as a fraction of height x width, uniform; ratio: width / height, log-uniform; sides are whole pixels, at
    least 1 and at most the image's less margin.
    """
    log_low, log_high = (math.log(limit) for limit in ratio)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[:, :TRIES])
    ratios = (log_low + (log_high - log_low) * u[:, TRIES:]).exp()
    h, w = (area / ratios).sqrt().round(), (area * ratios).sqrt().round()
    fits = (h >= 1) & (h <= height - margin) & (w >= 1) & (w <= width - margin)
    first = fits.byte().argmax(1, keepdim=True)  # the first maximum: the first candidate that fits, if any does
    return h.gather(1, first)[:, 0], w.gather(1, first)[:, 0], fits.gather(1, first)[:, 0]


def corner(u: Tensor, room: Tensor) -> Tensor:
    """Uniform numbers u [B] -> whole numbers in 0 ... room [B], all alike likely."""
    return (u * (room + 1)).floor().minimum(room)  # u < 1, but u * n may round up to n


def _positions(count: int, length: int, centre: Tensor, extent: Tensor, flip: Tensor) -> Tensor:
    """[B, count] positions of a view's pixels along a side of `length` pixels, in pixels from its middle.

    centre, extent [B, 1]: of the crop, as fractions of the side; flip [B, 1]: 0 or 1.
    """
    step = (torch.arange(count, dtype=centre.dtype, device=centre.device) + 0.5) / count - 0.5
    last = (extent * length - 1) / 2  # the middle of the crop's last pixel
    offset = (step * (extent * length)).clamp(-last, last)
    return torch.addcmul(length * (centre - 0.5), 1 - 2 * flip, offset)

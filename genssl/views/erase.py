"""Batched random erasing: a rectangle of each image is overwritten."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genssl.views.geometry import TRIES, corner, first_fit
from genssl.views.style import CATEGORICAL, CONTINUOUS, Styled


@dataclass(frozen=True)
class Erase(Styled):
    """A random rectangle of each image becomes `value` (random erasing, Zhong et al. 2020).

    area         (low, high), or one number: of the rectangle as a fraction of the image's, uniform
    ratio        (low, high), or one number: width / height in pixels, log-uniform; torchvision's is height / width
    value        of the erased pixels
    probability  of being applied to an image

    The rectangle has the law of torchvision's RandomErasing: sides rounded to whole pixels, the first of ten drawn sizes
    that is smaller than the image both ways, its corner uniform over whole pixels; where none of the ten fits, nothing is
    erased. One difference: there a side may round to 0, here it has at least a pixel.

    Style holds what varies: `erase` (whether there is a rectangle, categorical), `erase_x`, `erase_y` (its centre),
    `erase_width` and `erase_height` as fractions of width and height; 0.5, 0.5, 0 and 0 where there is none.

    SettingsError: a setting outside its range. ShapeError, DataError: x is not a batch of floating-point images.
    """

    area: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: float = 0.0
    probability: float = 0.5

    def __post_init__(self) -> None:
        self._ranges("area", "ratio")
        self._check_settings(
            {
                "area": (0 < self.area[0] <= self.area[1] <= 1, "0 < low <= high <= 1"),
                "ratio": (0 < self.ratio[0] <= self.ratio[1], "0 < low <= high"),
                "probability": (0 <= self.probability <= 1, "a probability"),
            }
        )

    @property
    def _factors(self) -> list[tuple[str, str, bool]]:
        sometimes = self.probability > 0
        sizes_vary = self.probability < 1 or self.area[0] < self.area[1] or self.ratio[0] < self.ratio[1]
        return [
            ("erase", CATEGORICAL, 0 < self.probability < 1),
            ("erase_x", CONTINUOUS, sometimes),
            ("erase_y", CONTINUOUS, sometimes),
            ("erase_width", CONTINUOUS, sometimes and sizes_vary),
            ("erase_height", CONTINUOUS, sometimes and sizes_vary),
        ]

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        u = torch.rand(batch, 2 * TRIES + 3, generator=generator, device=generator.device)
        h, w, found = first_fit(u[:, : 2 * TRIES], self.area, self.ratio, height, width, margin=1)
        erased = found & (u[:, 2 * TRIES + 2] < self.probability)
        top, left = corner(u[:, 2 * TRIES], height - h), corner(u[:, 2 * TRIES + 1], width - w)
        columns = {
            "erase": erased.float(),
            "erase_x": torch.where(erased, (left + w / 2) / width, 0.5),
            "erase_y": torch.where(erased, (top + h / 2) / height, 0.5),
            "erase_width": erased * w / width,
            "erase_height": erased * h / height,
        }
        return self._pack(columns)

    def apply(self, x: Tensor, style: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        given = self._unpack(x, style, erase_x=0.5, erase_y=0.5, erase_width=0, erase_height=0)
        if (
            self.probability == 1 and "erase_width" not in self.style_names
        ):  # one size for all, whatever the random numbers
            zeros = torch.zeros_like(given["erase_x"])[:, None].expand(-1, 2 * TRIES)
            h, w, found = first_fit(zeros, self.area, self.ratio, height, width, margin=1)
            given |= {"erase_width": found * w / width, "erase_height": found * h / height}
        rows = _inside(height, given["erase_y"], given["erase_height"])
        columns = _inside(width, given["erase_x"], given["erase_width"])
        return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], self.value)


def _inside(length: int, centre: Tensor, extent: Tensor) -> Tensor:
    """[B, length] which pixels of a side lie within extent / 2 [B] of centre [B], fractions of the side."""
    middle = torch.arange(length, dtype=centre.dtype, device=centre.device) + 0.5
    return (middle - length * centre[:, None]).abs() < length * extent[:, None] / 2

"""Sprites: one shape an image, at a place, size, angle and colour that are known and can be drawn anew."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from genssl.datasets.data import SHARE, Data
from genssl.datasets.items import Items
from genssl.datasets.shapes import EXTENT, FIELD, SHAPES, fields
from genssl.distributed import drawn_for_all
from genssl.errors import SettingsError, ShapeError

LEAST_SIZE = 16  # pixels: the largest sprite just stays inside such an image, the smallest is hard to tell already
SATURATION, VALUE = 0.8, 1.0

Factors = dict[str, tuple[str, float, float]]  # name: kind, lowest and highest value

POSE: Factors = {
    "position_x": ("continuous", 0.34, 0.66),
    "position_y": ("continuous", 0.34, 0.66),
    "scale": ("continuous", 0.4, 0.6),
    "orientation": ("circular", 0.0, 2 * math.pi),
}
GREY: Factors = POSE | {"brightness": ("continuous", 0.5, 1.0)}
COLOUR: Factors = POSE | {"hue": ("circular", 0.0, 2 * math.pi)}


def sprites(num: int = 10000, size: int = 32, colour: bool = False, correlation: float = 0.0, seed: int = 0) -> Data:
    """Rendered shapes on black, uint8 [1, size, size] or [3, size, size], with the five style factors of each known.

    Content is the shape, of K = 10, all equally frequent. None is like itself after a turn, so the
    orientation is defined on the full circle. Style, all in Items.style, independent and uniform at correlation 0:

    position_x, position_y   0.34 to 0.66: of the centre of area, in fractions of the image from its left and top
    scale                    0.4 to 0.6: diameter of the circle about that centre through the farthest corner, in fractions
    orientation              0 to 2 pi radians, counter-clockwise from upright
    brightness               0.5 to 1, grey images only
    hue                      0 to 2 pi radians, colour images only, at saturation 0.8 and value 1

    correlation r in [0, 1] makes style depend on content. Factor f = 1..5 of class k = 0..K-1 has the law

        low + (high - low) ((1 - r) u + r c),   u uniform on [0, 1),   c = ((f (k + 1) mod (K + 1)) - 1/2) / K

    so r = 0 is independence and at r = 1 style is a function of the class. c takes K evenly spaced values, for each factor in
    another order. Between, a class has a share 1 - r of the range, and the correlation ratio of every factor with the class,
    the part of its variance that lies between the classes, is s / (s + (1 - r)^2) with s = r^2 (1 - K^-2).

    num    images in all: a tenth for test, a tenth for validation, the rest for training
    seed   what all of them are drawn from, the test images too

    SettingsError: num below K, or a setting of SpriteViews outside its range.
    """
    views = SpriteViews(size, colour, correlation)
    if not isinstance(num, int) or num < len(SHAPES):
        raise SettingsError(f"sprites: num is {num!r}, expected a whole number from {len(SHAPES)}, one image a shape")
    generator = torch.Generator().manual_seed(seed)
    held = round(SHARE * num)
    test, validation, train = (_items(count, views, generator) for count in (held, held, num - 2 * held))
    return Data("sprites", train, validation, test, SHAPES, views, NOTES)


NOTES = (
    "rendered, style factors known; its views are other drawings of the same shape, so that the label is part of what is fitted and the "
    "accuracy is not that of a method without labels"
)


def _items(count: int, views: SpriteViews, generator: torch.Generator) -> Items:
    shape = torch.arange(count) % len(SHAPES)
    style = views.draw(shape, generator)
    blocks = zip(shape.split(1024), style.split(1024), strict=True)
    x = torch.cat([(255 * render(*block, views.size, views.colour)).round().byte() for block in blocks])
    return Items(x, shape, style, views.style_names, views.style_kinds)


@dataclass(frozen=True)
class SpriteViews:
    """Each view is the sprite of the same shape with another style, drawn by the law of `sprites`: y -> z_j -> x_j.

    The shape is the item's label, which is therefore part of what is fitted (that images show the same shape), as in any
    natural groups.

    Style [B, 5]: the factors that `sprites` lists. Views are not rounded to 8 bits, as the stored images are.

    SettingsError: size below 16, colour no bool, correlation outside [0, 1], or no label. ShapeError: x are not images of
    this size.
    """

    size: int = 32
    colour: bool = False
    correlation: float = 0.0
    uses_label: ClassVar[bool] = True
    by_row: ClassVar[bool] = True

    def __post_init__(self) -> None:
        number = isinstance(self.correlation, (int, float))
        checks = {
            "size": (isinstance(self.size, int) and self.size >= LEAST_SIZE, f"a whole number from {LEAST_SIZE}"),
            "colour": (isinstance(self.colour, bool), "True or False"),
            "correlation": (number and 0 <= self.correlation <= 1, "a number in [0, 1]"),
        }
        for name, (fits, expected) in checks.items():
            if not fits:
                raise SettingsError(f"sprites: {name} is {getattr(self, name)!r}, expected {expected}")

    @property
    def factors(self) -> Factors:
        return COLOUR if self.colour else GREY

    @property
    def style_names(self) -> tuple[str, ...]:
        return tuple(self.factors)

    @property
    def style_kinds(self) -> tuple[str, ...]:
        return tuple(kind for kind, _, _ in self.factors.values())

    def __call__(
        self, x: Tensor, index: Tensor | None, generator: torch.Generator, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [B, C, size, size] and the shape of each, label [B] -> (views of the same shape, style [B, 5]), on the device of x."""
        if label is None:
            raise SettingsError(
                "SpriteViews: label is None, expected the shape [B] of each image; use the data of `sprites`"
            )
        expected = (len(label), 3 if self.colour else 1, self.size, self.size)
        if x.shape != expected:
            raise ShapeError(
                f"SpriteViews: x has shape {list(x.shape)}, expected {list(expected)}; use the views of the same data"
            )
        style = self.draw(label.to(x.device), generator)
        return render(label.to(x.device), style, self.size, self.colour).to(x.dtype), style

    def draw(self, shape: Tensor, generator: torch.Generator) -> Tensor:
        """[B, 5] a style for each shape [B], on the device of `shape`."""
        place, width = generator.device, len(self.factors)
        u = drawn_for_all(
            lambda batch: torch.rand(batch, width, generator=generator, device=place, dtype=torch.float32), len(shape)
        )
        u, columns = u.to(shape.device), []
        for f, (_, low, high) in enumerate(self.factors.values()):
            centre = ((f + 1) * (shape + 1) % (len(SHAPES) + 1) - 0.5) / len(SHAPES)
            columns.append(low + (high - low) * torch.lerp(u[:, f], centre.float(), self.correlation))
        return torch.stack(columns, 1)


def render(shape: Tensor, style: Tensor, size: int, colour: bool) -> Tensor:
    """Images [B, 1, size, size], or [B, 3, size, size] where colour, of shapes [B] in a style [B, 5]: float32 in [0, 1].

    Antialiased by the signed distance d to the outline in pixels: a pixel is covered by clamp(1/2 - d, 0, 1), which is exact
    for a straight edge along the pixels. Style is as `sprites` lists it. Beyond its ranges: sprites that leave the image
    are cut, and scale * size must be at least 5 pixels.

    ShapeError: style is not [B, 5].
    """
    if style.shape != (len(shape), len(GREY)):
        names = ", ".join(COLOUR if colour else GREY)
        raise ShapeError(f"render: style has shape {list(style.shape)}, expected [{len(shape)}, {len(GREY)}] ({names})")
    x, y, scale, orientation, paint = style.float().unbind(1)
    radius = 0.5 * size * scale  # in pixels
    pixels = torch.arange(size, dtype=torch.float32, device=style.device) + 0.5
    # Where in its field a pixel lies, as complex numbers: a part from its column plus a part from its row.
    turn = torch.polar(1 / (EXTENT * radius), orientation)[:, None]
    right, down = (pixels - size * x[:, None]) * turn, (pixels - size * y[:, None]) * (1j * turn)
    # The fields lie one below the other, each of a part of the height, at whose edge a pixel beyond it stays.
    right, down = (torch.complex(part.real, part.imag / len(SHAPES)) for part in (right, down))
    grid = torch.view_as_real(down[:, :, None] + right[:, None, :])
    edge, middle = (1 - 1 / FIELD) / len(SHAPES), (2 * shape + 1) / len(SHAPES) - 1
    grid[..., 1].clamp_(-edge, edge).add_(middle[:, None, None])
    field = fields(style.device).expand(len(style), 1, -1, -1)
    distance = F.grid_sample(field, grid, padding_mode="border", align_corners=False)
    cover = (0.5 - distance * radius[:, None, None, None]).clamp_(0, 1)
    return cover * (_rgb(paint) if colour else paint[:, None])[:, :, None, None]


def _rgb(hue: Tensor) -> Tensor:
    """[B, 3] red, green and blue of hues [B] in radians (Smith 1978, HSV)."""
    sector = torch.stack([hue * (3 / math.pi) + n for n in (5, 3, 1)], 1).remainder(6)
    return VALUE - VALUE * SATURATION * torch.minimum(sector, 4 - sector).clamp(0, 1)

"""What the batched transforms share: style is drawn, then applied; it has a column for each factor that varies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from genssl.distributed import drawn_for_all
from genssl.errors import DataError, SettingsError, ShapeError

CONTINUOUS, CIRCULAR, CATEGORICAL = "continuous", "circular", "categorical"


class Styled:
    """A transform of images whose views are a function of the image and its style: `draw`, then `apply`.

    Subclasses are frozen dataclasses of settings with `_factors`, `draw` and `apply`. Every image takes the same count
    of random numbers whatever the settings and their outcome: one setting does not shift the draws of another, and with
    a generator on the CPU a batch augmented in parts is the batch augmented whole. (`Noise`, whose views hold more than
    their style, has no `apply`, and only the first of these laws.)
    """

    by_row: ClassVar[bool] = True

    def __call__(self, x: Tensor, index: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x [B, C, H, W] in [0, 1] -> (views [B, C, h, w], style [B, S]), on the device of x; `index` is not used."""
        self._check_images(x)
        style = self._draw_for(x, generator)
        return self.apply(x, style), style

    def _draw_for(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """[B, S] the style of views of x, which may be one process's part of a batch."""
        height, width = x.shape[-2:]
        return drawn_for_all(lambda batch: self.draw(batch, height, width, generator), len(x)).to(x.device)

    def draw(self, batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """[batch, S] the style of `batch` views of images height x width, on the generator's device."""
        raise NotImplementedError

    def apply(self, x: Tensor, style: Tensor) -> Tensor:
        """The views [B, C, h, w] of x [B, C, H, W] that have this style [B, S], as `draw` and a call return it."""
        raise NotImplementedError

    # ------------------------------------------------------------------ the columns of style

    @property
    def _factors(self) -> list[tuple[str, str, bool]]:
        """(name, kind, whether these settings vary it), in the order of the columns of style."""
        raise NotImplementedError

    @property
    def style_names(self) -> tuple[str, ...]:
        return tuple(name for name, _, varies in self._factors if varies)

    @property
    def style_kinds(self) -> tuple[str, ...]:
        return tuple(kind for _, kind, varies in self._factors if varies)

    def _pack(self, columns: dict[str, Tensor]) -> Tensor:
        """Factors [B] by name, at least one -> style [B, S], of those that vary."""
        some, names = next(iter(columns.values())), self.style_names
        return torch.stack([columns[name] for name in names], 1) if names else some.new_zeros(len(some), 0)

    def _unpack(self, x: Tensor, style: Tensor, **constants: float) -> dict[str, Tensor]:
        """Style [B, S] -> factors [B] by name, on the device of x and in at least its precision and float32.

        constants: what the factors are that may not vary.
        """
        self._check_images(x)
        if style.shape != (len(x), len(self.style_names)):
            expected = f"[{len(x)}, {len(self.style_names)}] ({', '.join(self.style_names)})"
            raise ShapeError(f"{type(self).__name__}: style has shape {list(style.shape)}, expected {expected}")
        style = style.to(x.device, torch.promote_types(x.dtype, torch.float32))  # half cannot hold positions
        given = dict(zip(self.style_names, style.unbind(1), strict=True))
        missing = {name: value for name, value in constants.items() if name not in given}
        return given | {name: style.new_full((len(x),), value) for name, value in missing.items()}

    # ------------------------------------------------------------------ checks

    def _ranges(self, *names: str) -> None:
        """A number v in place of (low, high) is (v, v)."""
        for name in names:
            value = getattr(self, name)
            pair = (value, value) if isinstance(value, (int, float)) else value
            if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(v, (int, float)) for v in pair):
                raise SettingsError(
                    f"{type(self).__name__}: {name} is {value!r}, expected a number or a pair (low, high)"
                )
            object.__setattr__(self, name, (pair[0], pair[1]))

    def _check_settings(self, checks: dict[str, tuple[bool, str]]) -> None:
        """checks: by setting, whether it fits and what was expected."""
        for name, (fits, expected) in checks.items():
            if not fits:
                raise SettingsError(f"{type(self).__name__}: {name} is {getattr(self, name)}, expected {expected}")

    def _check_images(self, x: Tensor) -> None:
        name = type(self).__name__
        if x.dim() != 4:
            raise ShapeError(f"{name}: x has shape {list(x.shape)}, expected [B, C, H, W]; for one image use x[None]")
        if not x.is_floating_point():
            raise DataError(f"{name}: x has dtype {x.dtype}, expected floats in [0, 1]; use x.float() / 255")

"""Transforms in a row, per-image transforms of other libraries, and the transform that changes nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from genssl.distributed import drawn_for_all
from genssl.errors import SettingsError, ShapeError


class Transform(Protocol):
    """What makes a transform ours: (x [B, *event], index [B] or None, generator) -> (views [B, *event'], style [B, S]),
    row by row independently, and a name and kind ("continuous", "circular" or "categorical") for each of the S factors.
    One that has `uses_label` True is given label=[B] besides. One that has `by_row` True makes the same views of a part of a batch
    as of the whole, by drawing through `genssl.distributed.drawn_for_all`; of others, several processes make the whole batch.
    """

    @property
    def style_names(self) -> tuple[str, ...]: ...

    @property
    def style_kinds(self) -> tuple[str, ...]: ...

    def __call__(self, x: Tensor, index: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]: ...


class Identity:
    """Returns x as it is, with no style: the views are copies."""

    style_names: tuple[str, ...] = ()
    style_kinds: tuple[str, ...] = ()
    by_row = True

    def __call__(self, x: Tensor, index: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return x, x.new_zeros(len(x), 0)

    def __repr__(self) -> str:
        return "Identity()"


class Compose:
    """Transforms one after the other, each on the views of the one before; the style is all of theirs, in that order.

    A name that comes again gets a number: `rotate`, `rotate_2`.

    SettingsError: for something without `style_names`.
    """

    def __init__(self, *transforms: Transform) -> None:
        for position, transform in enumerate(transforms):
            if not hasattr(transform, "style_names"):
                raise SettingsError(
                    f"Compose: transform {position} is a {type(transform).__name__} without style_names, expected"
                    " a transform of genssl.views; wrap a transform of single images in PerImage"
                )
        self.transforms = transforms
        names = [name for transform in transforms for name in transform.style_names]
        earlier = [names[:position].count(name) for position, name in enumerate(names)]
        self.style_names = tuple(f"{name}_{n + 1}" if n else name for name, n in zip(names, earlier, strict=True))
        self.style_kinds = tuple(kind for transform in transforms for kind in transform.style_kinds)
        self.uses_label = any(getattr(transform, "uses_label", False) for transform in transforms)
        self.by_row = all(getattr(transform, "by_row", False) for transform in transforms)

    def __call__(
        self, x: Tensor, index: Tensor | None, generator: torch.Generator, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        styles = []
        for transform in self.transforms:
            extra = {"label": label} if getattr(transform, "uses_label", False) else {}
            x, style = transform(x, index, generator, **extra)
            styles.append(style)
        return x, torch.cat(styles, -1) if styles else x.new_zeros(len(x), 0)

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.transforms))})"


class PerImage:
    """A transform of single images [C, H, W], such as torchvision's, called image by image on the CPU; no style.

    Slow: tens of times slower than `Geometric` for the same crop and flip (benchmarks/augmentation.py), and a GPU waits
    meanwhile. For what the batched transforms lack.

    Such transforms draw from the global generators of torch, numpy and Python. Those are seeded for every image from
    the given generator and restored afterwards, so the views are a function of that generator and nothing else moves.

    SettingsError: not a callable. ShapeError: the transform returns anything but tensors of one shape.
    """

    style_names: tuple[str, ...] = ()
    style_kinds: tuple[str, ...] = ()
    by_row = True

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        if not callable(transform):
            raise SettingsError(
                f"PerImage: transform is a {type(transform).__name__}, expected a callable of one image"
            )
        self.transform = transform

    def __call__(self, x: Tensor, index: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        seeds = drawn_for_all(
            lambda batch: torch.randint(2**32, (batch,), generator=generator, device=generator.device), len(x)
        ).tolist()
        of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            with torch.random.fork_rng(devices=[]):
                views = [self._view(image, seed) for image, seed in zip(x.cpu(), seeds, strict=True)]
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002
        shapes = sorted({tuple(view.shape) for view in views})
        if len(shapes) > 1:
            raise ShapeError(f"PerImage: the views have shapes {shapes}, expected one; end the transform with a resize")
        return torch.stack(views).to(x.device), x.new_zeros(len(x), 0)

    def _view(self, image: Tensor, seed: int) -> Tensor:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed every GPU
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        view = self.transform(image)
        if not isinstance(view, Tensor):
            raise ShapeError(
                f"PerImage: the transform returned a {type(view).__name__}, expected a tensor [C, h, w];"
                " end it with torchvision's ToTensor"
            )
        return view

    def __repr__(self) -> str:
        return f"PerImage({self.transform!r})"

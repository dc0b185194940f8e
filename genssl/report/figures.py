"""The figures of a report: each a function of numbers that returns a matplotlib Figure, with no global state."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from genssl.errors import ShapeError
from genssl.kinds import is_number

BLUE, ORANGE, GREY = "#2a6f97", "#d1691d", "#777777"
DPI = 200
FEW = 20
"""Points below which a curve shows each."""


def curve(metrics: Sequence[Mapping[str, Any]], names: Mapping[str, str], unit: str, markers: bool = False) -> Figure:
    """The fields `names` ({field: label}) of metrics.jsonl against the step; lines where a field is null are left out.

    The axis fits what comes after the first 15 % of the steps, since the first steps often dwarf all others; where the
    curve starts outside, the figure says in words where.
    """
    figure, axes = _panel()
    every: list[float] = []
    settled: list[float] = []
    last = max((line["step"] for line in metrics), default=0)
    for (name, label), colour in zip(names.items(), (BLUE, ORANGE, GREY), strict=False):
        points = [(line["step"], line[name]) for line in metrics if is_number(line.get(name))]
        if points:
            steps, values = zip(*points, strict=True)
            style = {"marker": "o", "markersize": 3} if markers or len(steps) < FEW else {}
            axes.plot(steps, values, color=colour, linewidth=1.2, label=plain(label), **style)
            every += values
            settled += [value for step, value in points if step > 0.15 * last] or list(values)
    if every and _span(settled) < 0.3 * _span(every):
        margin = 0.15 * (_span(settled) or 1.0)
        axes.set_ylim(min(settled) - margin, max(settled) + margin)
        told = f"cut: from {min(every):.4g} to {max(every):.4g}, starts at {every[0]:.4g}"
        axes.text(0.97, 0.06, told, transform=axes.transAxes, ha="right", fontsize=8, color=GREY)
    axes.set_xlabel("step")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel(unit)
    if len(names) > 1:
        axes.legend(frameon=False, fontsize=8)
    return figure


def reconstructions(images: Tensor, decoded: Tensor, columns: int = 10) -> Figure:
    """Images [N, *event] in rows, each row over the row of their reconstructions [N, *event]."""
    rows = math.ceil(len(images) / columns)
    pairs = [part for row in range(rows) for part in _rows(images, decoded, row, columns)]
    names = ["test", "decoded"] * rows
    return _montage(pairs, names, columns)


def samples(images: Tensor, columns: int = 10) -> Figure:
    """Images [N, *event] in rows."""
    rows = math.ceil(len(images) / columns)
    parts = [_pictures(images[row * columns : (row + 1) * columns]) for row in range(rows)]
    return _montage(parts, [""] * rows, columns)


def rows_of_images(rows: Sequence[Tensor], names: Sequence[str]) -> Figure:
    """Rows of images [n, *event], each with its name; n is the same in all."""
    return _montage([_pictures(row) for row in rows], names, len(rows[0]))


def latent_map(z: Tensor, label: Tensor | None = None, classes: Sequence[str] | None = None) -> Figure:
    """z [N, D], D >= 2, on its two principal components, coloured by label [N]; axes tell the explained variance."""
    if z.dim() != 2 or z.shape[1] < 2:
        raise ShapeError(f"latent_map: z has shape {list(z.shape)}, expected [N, D] with D >= 2")
    centred = z.double().cpu()
    centred = centred - centred.mean(0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    share = values.square() / values.square().sum().clamp(min=1e-300)
    if len(directions) < 2:
        raise ShapeError(f"latent_map: {len(z)} items, expected at least 2; a map of fewer shows nothing")
    figure, axes = scattered((centred @ directions[:2].T).numpy(), label, classes)
    axes.set_xlabel(f"first principal component ({share[0]:.0%} of variance)")
    axes.set_ylabel(f"second ({share[1]:.0%} of variance)")
    return figure


def neighbour_map(points: np.ndarray, label: Tensor | None = None, classes: Sequence[str] | None = None) -> Figure:
    """Points [N, 2] of a t-SNE, coloured by label [N]; its axes have no unit."""
    figure, axes = scattered(points, label, classes)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("t-SNE, no unit")
    axes.set_ylabel("t-SNE, no unit")
    return figure


def scattered(points: np.ndarray, label: Tensor | None, classes: Sequence[str] | None) -> tuple[Figure, Axes]:
    """Points [N, 2] as dots, coloured by label [N], with a legend of at most 20 classes."""
    figure, axes = _panel(height=4.4)
    size = 3 * min(4.0, max(1.0, (5000 / len(points)) ** 0.5))
    found = None if label is None else np.unique(label.cpu().numpy())
    if found is None or len(found) > 20:
        colour = GREY if found is None or label is None else label.cpu().numpy()
        axes.scatter(*points.T, c=colour, s=size, linewidths=0, alpha=0.6)
    else:
        palette = matplotlib.colormaps["tab10" if len(found) <= 10 else "tab20"]
        for number, value in enumerate(found):
            known = classes is not None and 0 <= value < len(classes)
            name = str(classes[value]) if known and classes is not None else str(value)
            chosen = points[(label == int(value)).cpu().numpy()]  # type: ignore[union-attr]
            axes.scatter(*chosen.T, color=palette(number), s=size, linewidths=0, alpha=0.6, label=plain(name))
        rows = {
            "markerscale": 4 * (3 / size) ** 0.5,
            "handletextpad": 0.1,
            "columnspacing": 0.8,
            "frameon": False,
            "fontsize": 8,
        }
        figure.legend(loc="outside lower center", ncols=4 if len(found) > 4 else len(found), **rows)
    axes.set_aspect("equal", adjustable="datalim")
    return figure, axes


def spectrum(parts: Mapping[str, Sequence[float]]) -> Figure:
    """Eigenvalues of the covariance, descending, a line a part, on a logarithmic axis; those that are 0 are left out."""
    figure, axes = _panel()
    for (name, values), colour in zip(parts.items(), (BLUE, ORANGE, GREY), strict=False):
        above = [(i + 1, value) for i, value in enumerate(values) if value > 0]
        if above:
            axes.plot(
                *zip(*above, strict=True), color=colour, marker="o", markersize=3, linewidth=1.2, label=plain(name)
            )
    axes.set_yscale("log")
    axes.set_xlabel("eigenvalue, largest first")
    axes.set_ylabel("variance, in units of z squared")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(parts) > 1:
        axes.legend(frameon=False, fontsize=8)
    return figure


def posterior_scales(stddev: Tensor, view_scale: float | None = None, bins: int = 60) -> Figure:
    """stddev [N, D] > 0: how the standard deviations of q(z|x) spread over items, one column a latent dimension.

    view_scale: the standard deviation of z around y, as a line: a posterior near it carries no style.
    """
    values = stddev.double().cpu().clamp(min=1e-12)
    low, high = float(values.min()), float(values.max())
    if view_scale is not None:
        low, high = min(low, view_scale), max(high, view_scale)
    edges = np.geomspace(low / 1.2, high * 1.2, bins + 1)
    counts = np.stack([np.histogram(column.numpy(), edges)[0] for column in values.T], 1) / len(values)
    figure, axes = _panel(height=3.2)
    columns = np.arange(values.shape[1] + 1) - 0.5
    mesh = axes.pcolormesh(columns, edges, np.ma.masked_equal(counts, 0), cmap="Blues", vmin=0)
    figure.colorbar(mesh, ax=axes, label="share of test items")
    if view_scale is not None:
        axes.axhline(view_scale, color=ORANGE, linewidth=1.2, label=f"view_scale = {view_scale:.3g}")
        axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")  # 0.2 in place of 2 x 10^-1
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("latent dimension, from 0")
    axes.set_ylabel("standard deviation of q(z|x)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as PNG at 200 dpi; the same figure gives the same bytes."""
    with io.BytesIO() as buffer, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)  # class names in any script
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
        return buffer.getvalue()


def plain(text: str) -> str:
    r"""Text that matplotlib draws as it stands: no $mathematics$, no half surrogate pair, no leading underscore, which would hide it."""
    text = text.encode(errors="backslashreplace").decode().replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def is_image(event_shape: Sequence[int]) -> bool:
    """Whether one item can be shown: [H, W], or [C, H, W] with 1, 3 or 4 channels."""
    return len(event_shape) == 2 or (len(event_shape) == 3 and event_shape[0] in (1, 3, 4))


def _panel(height: float = 2.9) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _montage(rows: Sequence[np.ndarray], names: Sequence[str], columns: int) -> Figure:
    """Rows of [n, H, W, C] pictures, with a name at each row."""
    height, width, channels = rows[0].shape[1:]
    gap = max(1, width // 14)
    page = np.ones((len(rows) * (height + gap), columns * (width + gap), channels))
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            page[top : top + height, left : left + width] = picture
    # The share of the width that the names take: 7 points a letter and a half.
    margin = min(0.45, max(0.1, 0.0125 * max(map(len, names)))) if any(names) else 0.0
    figure = Figure(figsize=(4.6, 4.6 * (1 - margin) * page.shape[0] / page.shape[1]), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((margin, 0, 1 - margin, 1))
    axes.imshow(page.squeeze(-1) if channels == 1 else page, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([i * (height + gap) + height / 2 for i in range(len(rows))], [plain(n) for n in names], fontsize=7)
    axes.tick_params(length=0)
    return figure


def _rows(images: Tensor, decoded: Tensor, row: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    part = slice(row * columns, (row + 1) * columns)
    return _pictures(images[part]), _pictures(decoded[part])


def _pictures(x: Tensor) -> np.ndarray:
    """[N, H, W, C] in [0, 1] from [N, C, H, W] or [N, H, W]."""
    if not is_image(x.shape[1:]):
        raise ShapeError(
            f"figures: items of shape {list(x.shape[1:])}, expected images [C, H, W] with 1, 3 or 4 channels"
        )
    x = x[:, None] if x.dim() == 3 else x
    return x.detach().float().nan_to_num().clamp(0, 1).movedim(1, -1).cpu().numpy()


def _span(values: Sequence[float]) -> float:
    return max(values) - min(values)

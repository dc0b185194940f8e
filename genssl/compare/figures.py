"""The figures of a comparison: each a function of numbers that returns a matplotlib Figure, with no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from genssl.report.figures import GREY, plain

LINES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D", "v", "P", "X", "*")
SLOT_NAMES = ("reconstruction", "entropy", "prior")


class Panel(NamedTuple):
    """One small map: z [N, D] (None: `told` says why), label [N], and what is told in its corner."""

    z: Tensor | None = None
    label: Tensor | None = None
    told: str = ""


class Path2(NamedTuple):
    """A way over a plane: the words of its three slots, and its points [N, 2] in the order of steps."""

    slots: tuple[str, str, str]
    points: np.ndarray


def slot_maps(panels: Mapping[tuple[str, str, str], Panel], classes: Sequence[str] | None = None) -> Figure:
    """Small maps of z by (reconstruction, entropy, prior): a row a reconstruction, a column an entropy and prior.

    Every map has its own two principal components and its own scale, the standard deviation on the first of which it tells in units
    of z. Slots that are the same for all maps are told in words above, and a combination without a panel stays empty.
    """
    rows = list(dict.fromkeys(slots[0] for slots in panels))
    columns = [
        (entropy, prior)
        for entropy in dict.fromkeys(slots[1] for slots in panels)
        for prior in dict.fromkeys(slots[2] for slots in panels)
        if any(slots[1:] == (entropy, prior) for slots in panels)
    ]
    figure, axes = _grid(len(rows), len(columns), 1.7)
    values = np.array(sorted({int(v) for p in panels.values() if p.label is not None for v in p.label.unique()}))
    few = 0 < len(values) <= 20
    palette = matplotlib.colormaps["tab10" if len(values) <= 10 else "tab20" if few else "viridis"]
    colours = {int(v): palette(i if few else i / max(1, len(values) - 1)) for i, v in enumerate(values)}
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            _map(axes[i, j], panels.get((row, *column), Panel(told="not in the comparison")), colours)
            if j == 0:
                axes[i, j].set_ylabel(_broken(row), fontsize=8)
            if i == 0:
                axes[i, j].set_title("\n".join(_broken(word) for word in column), fontsize=8)
    if few:
        names = [classes[int(v)] if classes is not None and 0 <= v < len(classes) else str(int(v)) for v in values]
        wide = 0.3 + 0.065 * max(map(len, map(str, names)))  # inches of an entry
        dots = [Line2D([], [], color=colours[int(v)], marker="o", markersize=4, linestyle="") for v in values]
        figure.legend(
            dots, [plain(str(name)) for name in names], loc="outside lower center", frameon=False, fontsize=8,
            ncols=max(1, min(len(values), int(figure.get_figwidth() / wide))), handletextpad=0.1, columnspacing=0.8,
        )  # fmt: skip
    return figure


def principal(z: Tensor) -> tuple[np.ndarray, float]:
    """z [N, D], D >= 2, on its two principal components [N, 2], and the standard deviation on the first."""
    centred = z.double().cpu() - z.double().cpu().mean(0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    return (centred @ directions[:2].T).numpy(), abs(float(values[0])) / len(z) ** 0.5


def trajectories(paths: Sequence[Path2], names: tuple[str, str]) -> Figure:
    """Ways over one plane, on axes of these names: colour a reconstruction, line an entropy, marker (at the end) a prior."""
    figure, axes = _grid(1, 1, 4.4)
    kinds = [list(dict.fromkeys(path.slots[slot] for path in paths)) for slot in range(3)]
    palette = matplotlib.colormaps["tab10"]
    for path in paths:
        colour, line, marker = (kinds[slot].index(path.slots[slot]) for slot in range(3))
        _way(axes[0, 0], path.points, palette(colour % 10), LINES[line % 4], MARKERS[marker % 8])
    axes[0, 0].set_xlabel(plain(names[0]))
    axes[0, 0].set_ylabel(plain(names[1]))
    handles: list[Any] = []
    for slot, known in enumerate(kinds):
        if len(known) > 1:
            handles += [Line2D([], [], linestyle="", label=f"{SLOT_NAMES[slot]}:")]
        for i, word in enumerate(known if len(known) > 1 else ()):
            style: dict[str, Any] = {"color": palette(i % 10)} if slot == 0 else {"color": GREY}
            style |= {"linestyle": LINES[i % 4]} if slot == 1 else {}
            style |= {"linestyle": "", "marker": MARKERS[i % 8]} if slot == 2 else {}
            handles.append(Line2D([], [], label=plain(word), **style))
    if handles:
        figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=7.5)
    return figure


def slot_trajectories(paths: Sequence[Path2], names: tuple[str, str]) -> Figure:
    """Ways of terms whose scales differ: a panel a reconstruction (row) and prior (column) with axes of its own, a colour an entropy."""
    rows = list(dict.fromkeys(path.slots[0] for path in paths))
    columns = list(dict.fromkeys(path.slots[2] for path in paths))
    entropies = list(dict.fromkeys(path.slots[1] for path in paths))
    palette = matplotlib.colormaps["tab10"]
    figure, axes = _grid(len(rows), len(columns), 2.4)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            here = [path for path in paths if (path.slots[0], path.slots[2]) == (row, column)]
            for path in here:
                _way(axes[i, j], path.points, palette(entropies.index(path.slots[1]) % 10), "-", "o")
            if not here:
                _empty(axes[i, j], "not in the comparison")
            axes[i, j].tick_params(labelsize=7)
            axes[i, j].locator_params(nbins=4)
            if i == 0:
                axes[i, j].set_title(_broken(column), fontsize=8)
            if j == 0:
                axes[i, j].set_ylabel(f"{_broken(row)}\n{plain(names[1])}", fontsize=8)
            if i == len(rows) - 1:
                axes[i, j].set_xlabel(plain(names[0]), fontsize=8)
    if len(entropies) > 1:
        lines = [Line2D([], [], color=palette(i % 10), label=plain(word)) for i, word in enumerate(entropies)]
        figure.legend(handles=lines, loc="outside lower center", frameon=False, fontsize=8, ncols=2)
    return figure


def _grid(rows: int, columns: int, size: float) -> tuple[Figure, np.ndarray]:
    width, height = max(4.6, size * columns + 0.6), size * rows + 0.9
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _map(axes: Axes, panel: Panel, colours: Mapping[int, Any]) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#cccccc")
    if panel.z is None:
        _empty(axes, panel.told)
        return
    points, deviation = principal(panel.z)
    order = np.random.default_rng(0).permutation(len(points))  # no class lies on top of all others
    colour = [colours[int(v)] for v in panel.label.cpu().numpy()[order]] if panel.label is not None else GREY
    size = 3 * min(4.0, max(1.0, (1000 / len(points)) ** 0.5))
    axes.scatter(*points[order].T, c=colour, s=size, linewidths=0, alpha=0.7)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.12)
    corner = {
        "transform": axes.transAxes,
        "fontsize": 7,
        "bbox": {"facecolor": "white", "alpha": 0.75, "pad": 0.8, "linewidth": 0},
    }
    axes.text(0.97, 0.97, plain(panel.told), ha="right", va="top", **corner)
    axes.text(0.03, 0.03, f"sd {deviation:.2g}", ha="left", va="bottom", **corner)


def _empty(axes: Axes, told: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(
        0.5, 0.5, plain(told), transform=axes.transAxes, ha="center", va="center", fontsize=7, color=GREY, wrap=True
    )


def _way(axes: Axes, points: np.ndarray, colour: Any, line: str, marker: str) -> None:
    axes.plot(*points.T, color=colour, linestyle=line, linewidth=1.1, alpha=0.85)
    axes.plot(*points[-1:].T, color=colour, marker=marker, markersize=4.5, linestyle="")
    axes.spines[["top", "right"]].set_visible(False)


def _broken(word: str) -> str:
    """A term on two lines where it is long."""
    return plain(word if len(word) < 24 else word.replace("(", "\n(", 1))

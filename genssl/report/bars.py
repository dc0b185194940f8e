"""Bars in groups, dots against a setting, intervals of items: functions of numbers that return a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from genssl.report.figures import plain

MANY = 12  # names, from which on bars and gaps are thinner


def grouped(
    names: Sequence[str],
    values: Mapping[str, Sequence[float | None]],
    unit: str,
    marks: Sequence[float | None] = (),
    mark: str = "",
) -> Figure:
    """A group of horizontal bars for each of `names`, a bar a key of values, labelled; None has none, below 0 is 0.

    marks: for each name a value that all its bars are to be held against, drawn as a line across them; mark: what it is.
    """
    bar, gap = (0.16, 0.28) if len(names) <= MANY else (0.11, 0.14)
    height = len(names) * (bar * len(values) + gap) + 0.9
    figure = Figure(figsize=(5.6, max(1.8, height)), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    palette = matplotlib.colormaps["tab10"]
    width, at = 0.8 / len(values), np.arange(len(names))
    known = np.array([[value is not None for value in row] for row in values.values()]).reshape(len(values), len(names))
    before = known.cumsum(0) - known  # bars above this one in its group
    for i, (label, row) in enumerate(values.items()):
        places = (at + (before[i] - (known.sum(0) - 1) / 2) * width)[known[i]]
        shown = [value for value in row if value is not None]
        axes.barh(
            places, [max(0.0, value) for value in shown], height=0.9 * width, color=palette(i % 10), label=plain(label)
        )
        for place, value in zip(places, shown, strict=True):
            axes.text(max(0.0, value) + 0.008, place, f"{round(value, 2) + 0.0:.2f}", va="center", fontsize=6)
    lines = [(place, value) for place, value in zip(at, marks, strict=False) if value is not None]
    if lines:
        places, ends = np.array(lines).T
        axes.vlines(ends, places - 0.45, places + 0.45, colors="black", linewidth=1.0, label=plain(mark))
    axes.set_yticks(at, [plain(str(name)) for name in names], fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.08)
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    labels = [*values, *([mark] if lines else [])]
    if len(labels) > 1:
        figure.legend(
            loc="outside lower center", frameon=False, fontsize=8, ncols=2 if max(map(len, labels)) > 24 else 3
        )
    return figure


def against(lines: Mapping[str, Sequence[tuple[float, float]]], setting: str, unit: str, share: bool = False) -> Figure:
    """Dots (setting, value) a run, with a line through the means of each key.

    The axis is logarithmic where the values span a decade, and from 0 to 1 where they are shares.
    """
    figure = Figure(figsize=(4.6, 2.9), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    palette = matplotlib.colormaps["tab10"]
    for i, (label, points) in enumerate(lines.items()):
        at = sorted({x for x, _ in points})
        means = [float(np.mean([y for x, y in points if x == place])) for place in at]
        axes.plot(at, means, color=palette(i % 10), linewidth=1.2, label=plain(label))
        axes.plot(*zip(*points, strict=True), color=palette(i % 10), marker="o", markersize=3.5, linestyle="")
    every = [x for points in lines.values() for x, _ in points]
    if share:
        axes.set_xlim(0, 1)
    elif min(every) > 0 and max(every) / min(every) >= 10:
        axes.set_xscale("log")
    elif all(float(x).is_integer() for x in every):
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(plain(setting))
    axes.set_ylabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        figure.legend(
            loc="outside lower center", frameon=False, fontsize=8, ncols=1 if max(map(len, lines)) > 24 else 3
        )
    return figure


def intervals(
    centre: Tensor, half: Tensor, label: Tensor | None, classes: Sequence[str] | None, name: str, unit: str = "item"
) -> Figure:
    """Intervals centre -+ half [N], one an item from left to right, coloured by label [N]."""
    figure = Figure(figsize=(5.6, 2.9), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    palette = matplotlib.colormaps["tab10"]
    at, values, widths = np.arange(len(centre)), centre.double().cpu().numpy(), half.double().cpu().numpy()
    group = np.zeros(len(at), dtype=int) if label is None else label.cpu().numpy()
    for value in np.unique(group):
        rows = group == value
        told = (
            None
            if label is None
            else str(classes[value])
            if classes is not None and value < len(classes)
            else str(value)
        )
        axes.errorbar(
            at[rows], values[rows], widths[rows], fmt="o", markersize=2.5, linewidth=1.0, color=palette(int(value) % 10),
            label=None if told is None else plain(told),
        )  # fmt: skip
    axes.set_xlabel(f"{unit}, sorted by the mean")
    axes.set_ylabel(plain(name))
    axes.set_xticks([])
    axes.spines[["top", "right"]].set_visible(False)
    if label is not None and len(np.unique(group)) <= 10:
        figure.legend(loc="outside lower center", frameon=False, fontsize=8, ncols=5)
    return figure

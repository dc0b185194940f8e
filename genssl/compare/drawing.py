"""From a comparison to its figures: what is read and measured for them, their captions, and why one does not apply."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genssl.compare import figures
from genssl.compare.columns import short_words
from genssl.compare.comparison import Comparison
from genssl.compare.figures import Panel, Path2
from genssl.compare.rows import Row, flat
from genssl.compare.table import differing
from genssl.errors import GensslError
from genssl.evaluation.decoding import not_finite
from genssl.evaluation.items import batches, count, several_modalities
from genssl.fit import metrics
from genssl.fit.run import load
from genssl.kinds import is_number
from genssl.report.drawing import Drawing
from genssl.terms import SLOTS

MAP_ITEMS, MOST_MAPS = 1000, 4
PLANE = ("uniformity", "alignment")
"""Words in the names of two measures on one scale for all terms: how evenly all z spread, how far those of a group are apart."""

Slots = tuple[str, str, str]


def maps(comparison: Comparison) -> list[Drawing]:
    """Small maps of z with slots as rows and columns: one figure for each choice of the other settings, the first few of them."""
    names = differing(comparison.rows)
    short, out, data = short_words(comparison.rows), [], _Data()
    choices: dict[str, list[int]] = {}
    for i, row in enumerate(comparison.rows):
        choices.setdefault(", ".join(f"{name} {row.get(name)}" for name in names), []).append(i)
    for told, found in list(choices.items())[:MOST_MAPS]:
        panels: dict[Slots, Panel] = {}
        seeds: dict[Slots, int] = {}
        # The first seed of each cell, finished where there is one.
        for i in sorted(found, key=lambda i: (not comparison.rows[i]["finished"], comparison.rows[i]["seed"])):
            row = comparison.rows[i]
            slots = _slots(row, short)
            if slots not in panels:
                panels[slots], seeds[slots] = data.panel(row, comparison.folders[i], comparison.method), row["seed"]
        panels = {_slots(row, short): panels[_slots(row, short)] for row in (comparison.rows[i] for i in found)}
        title = "Maps of z" + (f": {told}" if told else "")
        if all(panel.z is None for panel in panels.values()):
            out.append(Drawing(title, " ".join(dict.fromkeys(panel.told for panel in panels.values()))))
            continue
        which = "seed " + ", ".join(str(seed) for seed in sorted(set(seeds.values())))
        caption = (
            f"Rows are reconstruction terms, columns entropy over prior. Means of q(z|x) of at most {MAP_ITEMS} test items of {which}, "
            "each map on its own two principal components and scale: sd is the standard deviation on the first, in units of z. "
            "In the corner the accuracy of the k nearest neighbours on test."
        )
        out.append(Drawing(title, caption, figures.slot_maps(panels, data.classes)))
    if len(choices) > MOST_MAPS:
        out[-1].caption += f" {len(choices) - MOST_MAPS} other choices of settings are not drawn."
    return out


def trajectories(comparison: Comparison) -> Drawing:
    """How far prior and reconstruction came over the steps: by measures of one scale where they were written, else by the terms."""
    title = "Prior against reconstruction over the steps"
    across, up = (_named(comparison, word) for word in PLANE)
    paths = _paths(comparison, "measures.jsonl", (across, up)) if across and up else []
    if paths and across and up:
        caption = (
            "Means over seeds of what was measured during the fits, a line a cell; the marker is the end. These measures are on one scale "
            "for all terms."
        )
        return Drawing(title, caption, figures.trajectories(paths, (across, up)))
    paths = _paths(comparison, "metrics.jsonl", ("reconstruction", "prior"))
    if not paths:
        return Drawing(title, "No run has written two lines of metrics.")
    caption = (
        "The terms themselves, means over training batches and seeds, without the first 5 % of the steps; the dot is the end. Terms of "
        "different kinds are on different scales, so every panel has axes of its own."
    )
    names = ("reconstruction, nats a group", "prior, nats a group")
    return Drawing(title, caption, figures.slot_trajectories(paths, names))


class _Data:
    """Data sets as they are read, each once."""

    def __init__(self) -> None:
        self.read: dict[str, Any] = {}
        self.classes: Sequence[str] | None = None

    def panel(self, row: Row, folder: Path | None, method: Any) -> Panel:
        if folder is None:
            return Panel(told="left out")
        try:
            run = load(folder, method=method)
            key = repr([run.config.get(name) for name in ("data", "seed", "limit", "validation", "data_root")])
            if key in self.read:
                run.data = self.read[key]
            data = self.read[key] = run.data
        except (GensslError, OSError) as error:
            return Panel(told=f"No map: {error}.")
        if several_modalities(data.train) or count(data.test) < 2:
            return Panel(told="No map: one encoder and two test items are needed for it.")
        if not_finite(run.method):
            return Panel(told="diverged")
        self.classes = data.classes
        parts = [(run.represent(x).flatten(1).float().cpu(), label) for x, label in batches(data.test, MAP_ITEMS)]
        z, labels = torch.cat([z for z, _ in parts]), [label for _, label in parts if label is not None]
        if z.shape[1] < 2 or not bool(torch.isfinite(z).all()):
            return Panel(told="z has one dimension" if z.shape[1] < 2 else "diverged")
        label = torch.cat(labels) if len(labels) == len(parts) and labels[0].dim() == 1 else None
        knn = row.get("content.knn")
        return Panel(z, label, "" if knn is None else f"{knn:.0%}")


def _slots(row: Row, short: dict[str, dict[str, str]]) -> Slots:
    return tuple(short[slot][row[slot]] for slot in SLOTS)  # type: ignore[return-value]


def _named(comparison: Comparison, word: str) -> str | None:
    """The shortest name of a measure with this word in it."""
    names = {name for row in comparison.rows for name in row if name.startswith("measures.") and word in name.lower()}
    return min((name.removeprefix("measures.") for name in names), key=lambda name: (len(name), name), default=None)


def _paths(comparison: Comparison, file: str, names: tuple[str, str]) -> list[Path2]:
    """A way a line of the table, the mean over its seeds at the steps that all of them have; lines of fewer than two steps have none."""
    short, out = short_words(comparison.rows), []
    folder_of = {row["run"]: folder for row, folder in zip(comparison.rows, comparison.folders, strict=True)}
    for line in comparison.lines:
        ways = []
        for row in line.runs:
            folder = folder_of[row["run"]]
            found = [] if folder is None else [dict(flat(each)) for each in metrics.read(folder / file)]
            late = 0.05 * max((each["step"] for each in found), default=0) if file == "metrics.jsonl" else -1
            known = [each for each in found if each["step"] > late and all(is_number(each.get(name)) for name in names)]
            ways.append({each["step"]: [each[name] for name in names] for each in known})
        steps = sorted(set.intersection(*(set(way) for way in ways)))
        if len(steps) > 1:
            points = np.array([[way[step] for step in steps] for way in ways]).mean(0)
            out.append(Path2(_slots(line.runs[0], short), points))
    return out

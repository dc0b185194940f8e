"""run_grid: cell after cell, each fitted and evaluated; stopped at any point, it goes on from there."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from genssl.compare.checks import OWN
from genssl.compare.comparison import Comparison
from genssl.compare.grid import Cell, cells_of, check_builds, read_spec
from genssl.compare.rows import Row, left_out_row, row_of
from genssl.errors import CheckpointError, NonFiniteError, SettingsError, ShapeError, SiteError
from genssl.evaluation import CORE
from genssl.files import is_empty, make_folder, read_json, write_json
from genssl.fit.api import fit
from genssl.fit.build import find_class
from genssl.terms import SLOTS

SPEC, CELLS, LEFT_OUT = "grid.json", "cells", "left_out.json"
UNFIT = (SettingsError, ShapeError, SiteError, NonFiniteError)
"""What is the fault of one cell: its method and terms do not go together, or it diverged. Anything else stops the grid."""


def run_grid(
    spec: str | os.PathLike[str] | Mapping[str, Any], out: str | os.PathLike[str], progress: bool = True
) -> Comparison:
    """Fit and evaluate every cell of a grid into OUT/cells/NAME; what is there already is not touched again.

    spec is a TOML file or a dict (genssl.compare.grid.read_spec); as resolved it is kept in OUT/grid.json. All randomness of a fit is a
    function of (seed, stream, step) and weights of (seed, name of the part), so that the cells of a seed see the same batches and
    start from the same weights.

    A cell whose method and terms do not go together, or which diverged, does not stop the others: it is kept in OUT/left_out.json with
    the reason (remove that file to try again). Ctrl-C saves and raises KeyboardInterrupt; the same call goes on.

    Raises SettingsError for a wrong spec, before anything is fitted; CheckpointError where OUT holds something else.
    """
    resolved, place = read_spec(spec), Path(out)
    cells = cells_of(resolved)
    _check_place(place, resolved)
    reasons = _left_out(place)
    todo = [cell for cell in cells if cell.name not in reasons and not _is_done(place / CELLS / cell.name)]
    check_builds(todo)
    if not (place / SPEC).exists():
        make_folder(place)
        write_json(place / SPEC, resolved)
    if progress and reasons:
        print(f"genssl: {len(reasons)} cells were left out before ({place / LEFT_OUT})", file=sys.stderr)
    with _Shown(len(cells), len(cells) - len(todo), progress) as shown:
        for cell in todo:
            reason = _run_cell(cell, place / CELLS / cell.name, shown)
            if reason:
                reasons[cell.name] = reason
                write_json(place / LEFT_OUT, reasons)
            shown.finished(cell.name, None if reason else row_of(place / CELLS / cell.name), reason)
    own = [cell.arguments["method"] for cell in cells if ":" in cell.arguments["method"]]
    found = of_grid(place)
    found.method = find_class(own[0]) if len(set(own)) == 1 else None
    return found


def of_grid(place: Path) -> Comparison:
    """What there is of a grid in its folder; cells that were not begun are missing."""
    resolved = read_json(place / SPEC)
    cells, reasons = cells_of(resolved), _left_out(place)
    own: dict[str, str] = {}  # what fills a slot of a method by itself is told by the cells that were fitted
    for cell in cells:
        if (place / CELLS / cell.name / "config.json").exists():
            row = row_of(place / CELLS / cell.name)
            own |= {_kind(cell, slot): row[slot] for slot in SLOTS if slot not in cell.arguments["replace"]}
    rows: list[Row] = []
    folders: list[Path | None] = []
    for cell in cells:
        folder, reason = place / CELLS / cell.name, reasons.get(cell.name, "")
        if (folder / "config.json").exists():
            row = row_of(folder)
            rows.append(row | {"note": reason or row["note"]})
            folders.append(folder)
        elif reason:
            words = {slot: own.get(_kind(cell, slot), OWN) for slot in SLOTS}
            rows.append(left_out_row(cell.name, cell.arguments, words, reason))
            folders.append(None)
    return Comparison(rows, folders, resolved, len(cells))


def _kind(cell: Cell, slot: str) -> str:
    return repr((slot, cell.arguments["method"], cell.arguments["settings"]))


def is_grid(place: Path) -> bool:
    """Whether a folder holds a grid."""
    return (place / SPEC).is_file()


def _run_cell(cell: Cell, folder: Path, shown: _Shown) -> str:
    """Fit and evaluate; why it could not be, or nothing."""
    with shown.cell(cell.name):
        try:
            run = fit(out=folder, resume=True, progress=False, callbacks=[shown.line], **cell.arguments)
            run.evaluate(CORE)
        except UNFIT as error:
            return " ".join(str(error).split())
    return ""


def _is_done(folder: Path) -> bool:
    """Whether a cell is fitted and evaluated."""
    return (folder / "evaluation.json").exists() and (folder / "config.json").exists() and row_of(folder)["finished"]


def _left_out(place: Path) -> dict[str, str]:
    return read_json(place / LEFT_OUT) if (place / LEFT_OUT).exists() else {}


def _check_place(place: Path, resolved: Mapping[str, Any]) -> None:
    """Refuse a folder of something else, or of another grid."""
    if is_grid(place):
        before = read_json(place / SPEC)
        for part in ("base", "grid"):
            for key in {**before[part], **resolved[part]}:
                old, new = (spec[part].get(key, "nothing") for spec in (before, resolved))
                if old != new:
                    raise CheckpointError(
                        f"{place / SPEC}: is of another grid, with [{part}] {key} = {old}, not {new}; "
                        "give another --out, or the grid that it was started with"
                    )
    elif place.exists() and not (place.is_dir() and is_empty(place)):
        raise CheckpointError(f"{place}: exists, is not empty and holds no grid; give another --out")


class _Shown:
    """Progress on stderr: a bar in a terminal, and one line a finished cell."""

    def __init__(self, total: int, done: int, shown: bool) -> None:
        self.shown, self.total, self.done = shown, total, done
        self.bar = tqdm(
            total=total, initial=done, disable=not (shown and sys.stderr.isatty()), unit="cell", dynamic_ncols=True,
            file=sys.stderr, smoothing=0,
        )  # fmt: skip
        self.began, self.before, self.cell_began = time.monotonic(), done, time.monotonic()

    def __enter__(self) -> _Shown:
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.close()

    @contextmanager
    def cell(self, name: str) -> Iterator[None]:
        """While a cell is fitted: its name at the bar, and warnings (what theory foretells) as lines above it."""
        self.bar.set_description_str(name)
        self.cell_began = time.monotonic()
        if not self.shown:
            yield
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("always", category=UserWarning)
            show = warnings.showwarning

            def write(message: Any, category: type[Warning], *where: Any) -> None:
                if category is UserWarning:
                    self.write(f"{name}: {message}")
                else:
                    show(message, category, *where)

            warnings.showwarning = write  # type: ignore[assignment]
            yield

    def line(self, line: Mapping[str, Any]) -> None:
        """A line of metrics."""
        self.bar.set_postfix_str(f"step {line['step']}")

    def finished(self, name: str, row: Row | None, reason: str) -> None:
        """A cell more: its line."""
        self.done += 1
        self.bar.set_postfix_str("", refresh=False)
        self.bar.update()
        if row is None:
            told = f"left out: {reason}"
        else:
            content = {probe: row.get(f"content.{probe}") for probe in ("knn", "linear", "mlp")}
            words = [f"{probe} {value:.1%}" for probe, value in content.items() if value is not None]
            told = ", ".join([*words, f"{time.monotonic() - self.cell_began:.0f} s"])
        left, gone = self.total - self.done, time.monotonic() - self.began
        if left and self.bar.disable:  # the bar tells it
            told += f"; about {_time(gone / (self.done - self.before) * left)} left"
        self.write(f"[{self.done}/{self.total}] {name}: {told}")

    def write(self, text: str) -> None:
        if self.shown:
            tqdm.write(text, file=sys.stderr)


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )

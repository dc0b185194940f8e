"""Comparing runs: grids over the slots of the objective, tables with intervals over seeds, one page. (genssl.compare, the function, hides
this package: import from genssl.compare.x.)"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genssl.compare.comparison import Comparison, of_runs
from genssl.compare.run import is_grid, of_grid, run_grid

__all__ = ["Comparison", "compare"]


def compare(runs_or_spec: Any, out: str | os.PathLike[str] | None = None, progress: bool = True) -> Comparison:
    """Runs side by side: a table with intervals over seeds, and with `out` table.csv, table.json, table.md and index.html there.

    runs_or_spec   runs (of genssl.fit or genssl.load) or their folders, finished or not, evaluated or not; the folder of a grid; or a
                   grid to run or to go on with: a TOML file, or a dict {"base": {...}, "grid": {...}} (genssl.compare.grid.read_spec)
    out            default: nothing is written of runs; of a grid runs/grid-STEM (runs/grid of a dict), where its cells go too

    print(compare([...])) prints the table; .rows is one dict a run, .lines the means over seeds. Raises SettingsError, CheckpointError.
    """
    if isinstance(runs_or_spec, Mapping) or (_is_place(runs_or_spec) and Path(runs_or_spec).suffix == ".toml"):
        name = "grid" if isinstance(runs_or_spec, Mapping) else f"grid-{Path(runs_or_spec).stem}"
        place = Path("runs") / name if out is None else Path(out)
        found = run_grid(runs_or_spec, place, progress)
        found.write(place)
        return found
    given = [runs_or_spec] if _is_place(runs_or_spec) or hasattr(runs_or_spec, "path") else list(runs_or_spec)
    folders = [Path(getattr(run, "path", run)) for run in given]
    found = of_grid(folders[0]) if len(folders) == 1 and is_grid(folders[0]) else of_runs(folders)
    if out is not None:
        found.write(out)
    return found


def _is_place(given: Any) -> bool:
    return isinstance(given, (str, os.PathLike))

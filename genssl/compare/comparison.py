"""What a comparison is: its rows, the folders that they came from, and the files that are written of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genssl.compare import writers
from genssl.compare.rows import Row, row_of
from genssl.compare.table import Line, aggregate
from genssl.errors import SettingsError
from genssl.files import make_folder, write_json, write_text


@dataclass
class Comparison:
    """Runs side by side.

    rows      one flat dict a run (genssl.compare.rows.row_of), cells that were left out too
    folders   the folder of every row; None where a cell was never begun
    spec      of the grid that the runs are cells of, or None; cells: how many it has
    out       where `write` wrote to, or None
    method    the class of the user that the runs are of, for the maps; a run folder never makes code run

    print(comparison) is the table: means over seeds, with 95 % intervals.
    """

    rows: list[Row]
    folders: list[Path | None]
    spec: dict[str, Any] | None = None
    cells: int = 0
    out: Path | None = None
    method: Any = field(default=None, repr=False)

    @property
    def lines(self) -> list[Line]:
        """The rows with those that differ in nothing but the seed as one."""
        return aggregate(self.rows)

    def as_dict(self) -> dict[str, Any]:
        """All of it, as table.json holds it."""
        return {"runs": self.rows, "table": [line.as_dict() for line in self.lines], "spec": self.spec}

    def __str__(self) -> str:
        return writers.text(self.rows)

    def write(self, out: str | os.PathLike[str]) -> Path:
        """Write table.csv (one row a run), table.json, table.md and index.html into a folder; returns the page."""
        from genssl.compare.page import page  # figures are slow to import

        self.out = Path(out)
        make_folder(self.out)
        write_text(self.out / "table.csv", writers.csv_of(self.rows))
        write_json(self.out / "table.json", self.as_dict())
        write_text(self.out / "table.md", writers.markdown(self.rows))
        write_text(self.out / "index.html", page(self))
        return self.out / "index.html"


def of_runs(folders: Sequence[Path]) -> Comparison:
    """Finished or unfinished runs side by side; the same folder twice counts once."""
    if not folders:
        raise SettingsError("compare: no runs given, expected at least one; name a run folder")
    known = list({folder.resolve(): folder for folder in folders}.values())
    names = [folder.resolve().name for folder in known]
    unique = len(set(names)) == len(names)
    rows = [row_of(folder, name if unique else str(folder)) for folder, name in zip(known, names, strict=True)]
    return Comparison(rows, list(known))

"""Tables as CSV, Markdown and text of a terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from genssl.compare.columns import (
    NATS,
    OTHERS,
    Column,
    heads,
    known,
    main_columns,
    measured_columns,
    short_words,
    with_any,
    written,
)
from genssl.compare.rows import Row
from genssl.compare.table import Line, aggregate
from genssl.terms import SLOTS

EMPTY = "No runs yet."
INTERVALS = "Means over seeds, ± half the width of the 95 % t-interval where there are at least two seeds (n)."
LOOKED_AT = (
    "rankme, uniformity, alignment, variance within: of what the terms compare (behind a head), on held-out groups, at the last look of "
    "the fit; rankme without centring."
)


def csv_of(rows: Sequence[Row]) -> str:
    """One row a run, in full precision; a list is told as JSON, what is missing is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with io.StringIO(newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_plain(row.get(name)) for name in names] for row in rows)
        return file.getvalue()


def markdown(rows: Sequence[Row]) -> str:
    """The aggregated table, that of the terms and of what was measured during the fits, and what was left out."""
    if not rows:
        return f"{EMPTY}\n"
    lines = aggregate(rows)
    out = [_markdown_table(rows, lines, main_columns(lines)), INTERVALS]
    for title, columns in (
        ("Coordinates of z, and samples", known(OTHERS, lines)),
        ("Terms at the end of the fit, nats a group", known(NATS, lines)),
        ("Measured during the fit, last", measured_columns(lines)),
    ):
        if columns:
            out += [f"### {title}", _markdown_table(rows, with_any(columns, lines), columns)]
    notes = [f"- {_cell(note)} ({_cell(', '.join(runs))})" for note, runs in notes_of(rows).items()]
    return "\n\n".join([*out, *(["### Notes", "\n".join(notes)] if notes else [])]) + "\n"


def text(rows: Sequence[Row]) -> str:
    """The aggregated table for a terminal: slots, what else differs, the main measures; below it the others that are known."""
    if not rows:
        return EMPTY
    lines = aggregate(rows)
    out = _text_table(rows, lines, main_columns(lines))
    if others := known(OTHERS, lines):
        out += ["", *_text_table(rows, with_any(others, lines), others)]
    notes = [
        f"{', '.join(runs[:3])}{f' and {len(runs) - 3} more' if len(runs) > 3 else ''}: {note}"
        for note, runs in notes_of(rows).items()
    ]
    legend = [INTERVALS] if any(len(line.seeds) > 1 for line in lines) else []
    legend += [LOOKED_AT] if measured_columns(lines) else []
    return "\n".join(line.rstrip() for line in [*out, *legend, *notes])


def table_of(rows: Sequence[Row], lines: Sequence[Line], columns: Sequence[Column]) -> list[list[str]]:
    """Rows of cells, the headings first: slots, what differs, state where not all are finished, n, the columns."""
    names, short = heads(rows), short_words(rows)
    told = any(line.state != "finished" for line in lines)
    table = [[*names, *(["state"] if told else []), "n", *(column.heading for column in columns)]]
    for line in lines:
        words = [
            short[name][line.settings[name]] if name in SLOTS else setting_text(line.settings.get(name))
            for name in names
        ]
        measures = [written(line.measures.get(column.name), column.form, len(line.seeds)) for column in columns]
        table.append([*words, *([line.state] if told else []), str(len(line.seeds)), *measures])
    return table


def notes_of(rows: Sequence[Row]) -> dict[str, list[str]]:
    """{note: the runs that it is about}."""
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row["note"]:
            notes.setdefault(row["note"], []).append(row["run"])
    return notes


def setting_text(value: Any) -> str:
    """A setting as the command line takes it; nothing where it is not set."""
    return "" if value is None else str(value)


def _text_table(rows: Sequence[Row], lines: Sequence[Line], columns: Sequence[Column]) -> list[str]:
    table = table_of(rows, lines, columns)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    words = len(table[0]) - len(columns) - 1  # those go left, numbers right
    return [
        "  ".join(c.ljust(w) if i < words else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in table
    ]


def _markdown_table(rows: Sequence[Row], lines: Sequence[Line], columns: Sequence[Column]) -> str:
    table = [[_cell(cell) for cell in row] for row in table_of(rows, lines, columns)]
    widths = [max(3, *map(len, column)) for column in zip(*table, strict=True)]
    words = len(table[0]) - len(columns) - 1
    rule = ["-" * w if i < words else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    padded = [
        [c.ljust(w) if i < words else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))] for r in table
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [padded[0], rule, *padded[1:]])


def _cell(text: str) -> str:
    """Text that stays in its cell of a Markdown table and is no markup."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value) if isinstance(value, (list, dict)) else value

"""The page of a comparison: one self-contained HTML file that asks nothing of the network and escapes every text of a run."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from importlib.resources import files
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
)
from genssl.compare.comparison import Comparison
from genssl.compare.distrust import distrust
from genssl.compare.drawing import maps, trajectories
from genssl.compare.rows import Row
from genssl.compare.table import Line, aggregate, measure_names, shared
from genssl.compare.writers import EMPTY, INTERVALS, LOOKED_AT, notes_of, setting_text, table_of
from genssl.report.drawing import Drawing
from genssl.report.figures import png
from genssl.terms import SLOTS

STYLE = """
.scroll { max-width: 100%; margin: .6rem 0; }
.scroll table { font-size: .85rem; }
.scroll td, .scroll th { white-space: nowrap; }
figure { margin: 0; }
.facts { max-width: 46rem; }
"""
EXPLAINED = (
    "Accuracy in % with which labels are read off z on test, by nearest neighbours, a linear probe and an MLP. R2 of known factors of "
    "style predicted linearly, the mean over factors that are no categories: from z of items, and of views from z, from the content "
    "of their group and from the residual, z less the mean of z over the group. mse of reconstructed test items, a pixel; ad-hoc by a "
    "decoder fitted to frozen z. Seconds of the steps alone."
)
OTHERS_EXPLAINED = (
    "Whether single coordinates of z stand for single factors of style, of items and of views: disentanglement (DCI D, and that of the "
    "encoder before learning), completeness (DCI C) and the mutual information gap; a rotation of z moves them and loses nothing. "
    "Samples of each class, decoded from Gaussians fitted to z, against test items in features of a classifier: Frechet and kernel "
    "distance, precision (samples that lie where test items do) and recall (test items that lie where samples do). All of them, and of "
    "other sets, are in table.csv."
)


def page(comparison: Comparison) -> str:
    """The table, the figures, what was the same for all, what theory foretold, what was left out and what to distrust."""
    rows, lines = comparison.rows, comparison.lines
    title = _title(comparison)
    body = [f"<h1>{escape(title)}</h1>", _state(comparison)]
    body += _tables(rows, lines) if rows else [f"<p>{EMPTY}</p>"]
    if rows:
        body += ["<h2>What z looks like</h2>", *(_picture(drawing) for drawing in maps(comparison))]
        body += ["<h2>How they came there</h2>", _picture(trajectories(comparison))]
        body += ["<h2>The same for all</h2>", _pairs(shared(rows))]
        body += [_foretold(rows), _notes(rows)]
        body += ["<h2>What to distrust</h2>", _list(distrust(comparison))]
        body += ["<h2>Every run, every measure</h2>", _details("Runs", _runs(rows)), _all_measures(rows, lines)]
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{files('genssl.report').joinpath('style.css').read_text()}{STYLE}</style></head>",
            '<body class="several">',
            *body,
            "</body></html>\n",
        ]
    )


def _title(comparison: Comparison) -> str:
    same = shared(comparison.rows)
    what = " on ".join(str(same[name]) for name in ("method", "data") if name in same)
    kind = "Grid" if comparison.spec is not None else "Comparison"
    return f"{kind}: {what}" if what else kind


def _state(comparison: Comparison) -> str:
    """How much of it there is."""
    rows = comparison.rows
    done, left_out = sum(row["finished"] for row in rows), sum(row["steps"] is None for row in rows)
    total = comparison.cells if comparison.spec is not None else len(rows)
    word = "cells" if comparison.spec is not None else "runs"
    rest = f", {left_out} left out" if left_out else ""
    return f'<p class="soft">{done} of {total} {word} finished{rest}.</p>'


def _tables(rows: Sequence[Row], lines: Sequence[Line]) -> list[str]:
    parts = [_table(rows, lines, main_columns(lines)), f"<p><small>{INTERVALS} {EXPLAINED} {LOOKED_AT}</small></p>"]
    if others := known(OTHERS, lines):
        parts += ["<h3>Coordinates of z, and samples</h3>", _table(rows, with_any(others, lines), others)]
        parts.append(f"<p><small>{OTHERS_EXPLAINED}</small></p>")
    if nats := known(NATS, lines):
        parts += ["<h3>Terms at the end, nats a group</h3>", _table(rows, with_any(nats, lines), nats)]
        parts.append(
            "<p><small>Means over the last training batches; read them along a column of one kind of term.</small></p>"
        )
    if measured := measured_columns(lines):
        parts += ["<h3>Measured during the fits, last</h3>", _table(rows, with_any(measured, lines), measured)]
    return parts


def _all_measures(rows: Sequence[Row], lines: Sequence[Line]) -> str:
    groups = {
        "Style by factor": ("style.",),
        "Content, and that of the random encoder": ("content.", "random."),
    }
    out = ""
    for title, starts in groups.items():
        names = [name for name in measure_names(rows) if name.startswith(starts)]
        form = "percent" if "random." in starts else "fixed"
        columns = [Column(name, f"{name} %" if form == "percent" else name, form) for name in names]
        out += _details(title, _table(rows, with_any(columns, lines), columns)) if columns else ""
    return out


def _table(rows: Sequence[Row], lines: Sequence[Line], columns: Sequence[Column]) -> str:
    table = table_of(rows, lines, columns)
    slots, words = len(SLOTS), len(table[0]) - len(columns) - 1
    return _html_table(table, [("code" if i < slots else "") if i < words else "number" for i in range(len(table[0]))])


def _runs(rows: Sequence[Row]) -> str:
    names = [*heads(rows)[len(SLOTS) :], "seed"]
    short = short_words(rows)
    lines = [aggregate([row])[0] for row in rows]
    table = [["run", *SLOTS, *names, "state"]]
    for row, line in zip(rows, lines, strict=True):
        words = [short[slot][row[slot]] for slot in SLOTS]
        table.append([row["run"], *words, *(setting_text(row.get(name)) for name in names), line.state])
    return _html_table(table, ["code"] * 4 + ["number"] * len(names) + [""])


def _html_table(table: Sequence[Sequence[str]], kinds: Sequence[str]) -> str:
    """The first row is the headings; kinds: the class of every column."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f'<{tag} class="{kind if tag == "td" or kind == "number" else ""}">{escape(text) or "-"}</{tag}>'
            for text, kind in zip(row, kinds, strict=True)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in table[1:])
    return (
        f'<div class="scroll"><table><thead><tr>{cells(table[0], "th")}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _picture(drawing: Drawing) -> str:
    """A figure at its own size, in a box that scrolls where the page is narrower; where it does not apply, the reason."""
    heading = f"<h3>{escape(drawing.title)}</h3>"
    if drawing.figure is None:
        return f'<div>{heading}<p class="soft">{escape(drawing.caption)}</p></div>'
    source = base64.b64encode(png(drawing.figure)).decode()
    width = round(96 * drawing.figure.get_figwidth())  # inches to the pixels of a page
    return (
        f'<figure>{heading}<div class="scroll"><img alt="{escape(drawing.title)}" style="width: {width}px" '
        f'src="data:image/png;base64,{source}"></div><figcaption>{escape(drawing.caption)}</figcaption></figure>'
    )


def _foretold(rows: Sequence[Row]) -> str:
    """What theory said before the fits, with the combinations that it said it of."""
    short = short_words(rows)
    told: dict[str, dict[str, None]] = {}
    for row in rows:
        for sentence in row["foretold"]:
            words = " + ".join(short[slot][row[slot]] for slot in SLOTS)
            told.setdefault(sentence, {})[words] = None
    if not told:
        return ""
    lines = [f"{sentence} ({'; '.join(words)})" for sentence, words in told.items()]
    return f"<h2>What theory foretold</h2>{_list(lines)}"


def _notes(rows: Sequence[Row]) -> str:
    lines = [f"{note} ({', '.join(runs)})" for note, runs in notes_of(rows).items()]
    return f"<h2>What was left out, and other notes</h2>{_list(lines)}" if lines else ""


def _pairs(values: dict[str, Any]) -> str:
    return (
        '<dl class="facts">'
        + "".join(f"<dt>{escape(name)}</dt><dd>{escape(setting_text(value))}</dd>" for name, value in values.items())
        + "</dl>"
    )


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _details(title: str, inside: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"

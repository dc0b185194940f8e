"""The columns of the tables: which measures, under which heading, written how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from genssl.compare.rows import TERMS, Row
from genssl.compare.table import Line, Spread, differing
from genssl.terms import SLOTS


class Column(NamedTuple):
    """A measure of a row, its heading, and how it is written: percent, fixed (two decimals), figures (four) or short (three)."""

    name: str
    heading: str
    form: str = "figures"


MAIN = (
    Column("content.knn", "knn %", "percent"),
    Column("random.knn", "random knn %", "percent"),
    Column("content.linear", "linear %", "percent"),
    Column("content.mlp", "mlp %", "percent"),
    Column("style.items.z.linear", "style R2 z", "fixed"),
    Column("style.views.z.linear", "views R2 z", "fixed"),
    Column("style.views.content.linear", "R2 content", "fixed"),
    Column("style.views.residual.linear", "R2 residual", "fixed"),
    Column("mse", "mse"),
    Column("adhoc.mse", "ad-hoc mse"),
)
AXES = (("disentanglement", "DCI D"), ("random.disentanglement", "random D"), ("completeness", "DCI C"), ("mig", "MIG"))
OTHERS = (
    *(Column(f"axes.{of}.{name}", f"{word} {of}", "fixed") for of in ("items", "views") for name, word in AXES),
    Column("frechet.samples", "Frechet"),
    Column("kernel.samples", "kernel"),
    Column("precision.samples", "precision %", "percent"),
    Column("recall.samples", "recall %", "percent"),
)
"""Whether coordinates of z stand for factors of style, and how far samples of each class are from test items: a table of their own."""
NATS = tuple(Column(f"terms.{name}", f"{'sum of slots' if name == 'elbo' else name}, nats") for name in TERMS)
"""The sum of the slots is an ELBO where the reconstruction slot holds a likelihood and the guide has a density."""
SECONDS = Column("seconds", "seconds", "short")
COLLAPSE = ("rankme", "uniformity", "alignment", "within")
"""Words in the names of measures that tell a collapse: the first measure with each is in the main table."""


def main_columns(lines: Sequence[Line]) -> list[Column]:
    """Content, style, reconstruction, collapse and time, as far as any line has them."""
    return known([*MAIN, *_collapse(lines), SECONDS], lines)


def measured_columns(lines: Sequence[Line]) -> list[Column]:
    """All that was measured during the fits."""
    names = dict.fromkeys(name for line in lines for name in line.measures if name.startswith("measures."))
    return [Column(name, name.removeprefix("measures.").replace("terms.elbo", "terms.sum of slots")) for name in names]


def with_any(columns: Sequence[Column], lines: Sequence[Line]) -> list[Line]:
    """The lines that have a value for any of the columns."""
    return [line for line in lines if any(column.name in line.measures for column in columns)]


def known(columns: Sequence[Column], lines: Sequence[Line]) -> list[Column]:
    """The columns that any line has a value for."""
    return [column for column in columns if any(column.name in line.measures for line in lines)]


def heads(rows: Sequence[Row]) -> list[str]:
    """What stands before the measures: the slots, and what else is not the same for all."""
    return [*SLOTS, *differing(rows)]


def short_words(rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    """{slot: {words: short words}}: the settings of a term are left out where its name alone tells which one it is."""
    out: dict[str, dict[str, str]] = {}
    for slot in SLOTS:
        words = dict.fromkeys(row[slot] for row in rows)
        names = [word.partition("(")[0].strip() for word in words]
        single = {word: name for word, name in zip(words, names, strict=True) if " + " not in word}
        out[slot] = {w: single[w] if w in single and names.count(single[w]) == 1 else w for w in words}
    return out


def written(spread: Spread | None, form: str, seeds: int | None = None) -> str:
    """A mean with the half-width of its interval, rounded alike; nothing where there is no value. Of fewer than `seeds`, their number."""
    if spread is None:
        return ""
    few = "" if seeds is None or spread.n == seeds else f" (n {spread.n})"
    return f"{_written(spread, form)}{few}"


def _written(spread: Spread, form: str) -> str:
    scale, decimals = (100, 1) if form == "percent" else (1, 2)
    if form in ("figures", "short"):
        decimals = _decimals(spread.mean, 3 if form == "short" else 4)
    half = "" if spread.half is None else f" ±{scale * spread.half:.{decimals}f}"
    if decimals > 6:  # of what is almost nothing
        half = "" if spread.half is None else f" ±{spread.half:.1e}"
        return f"{spread.mean:.3g}{half}"
    return f"{scale * spread.mean:.{decimals}f}{half}"


def _decimals(value: float, figures: int) -> int:
    """Those that leave so many figures."""
    return max(0, figures - 1 - math.floor(math.log10(abs(value)))) if value else 1


def _collapse(lines: Sequence[Line]) -> list[Column]:
    found = []
    for word in COLLAPSE:
        fitting = [column for column in measured_columns(lines) if word in column.heading.lower()]
        if fitting:
            chosen = min(fitting, key=lambda column: len(column.name))
            found.append(chosen._replace(heading=chosen.heading.rpartition(".")[2].replace("_", " ")))
    return found

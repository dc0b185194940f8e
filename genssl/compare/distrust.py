"""What a reader of a comparison should distrust."""

from __future__ import annotations

from genssl.compare.columns import heads
from genssl.compare.comparison import Comparison
from genssl.compare.table import Line
from genssl.terms import SLOTS

FEW = 5


def distrust(comparison: Comparison) -> list[str]:
    """One sentence or two for each reason for doubt, the particular ones first."""
    lines = [line for line in comparison.lines if line.state != "left out"]
    return [*_seen(comparison, lines), *_general(comparison, lines)]


def _seen(comparison: Comparison, lines: list[Line]) -> list[str]:
    """Doubts that these runs give."""
    rows, out = comparison.rows, []
    missing = comparison.cells - len(rows)
    if comparison.spec is not None and missing > 0:
        out.append(f"{missing} of {comparison.cells} cells were not begun: the table is not that of the whole grid.")
    under_way = sum(not row["finished"] and row["steps"] is not None for row in rows)
    if under_way:
        out.append(f"{under_way} runs are not finished; they have lines of their own in the table.")
    numbers = sorted({len(line.seeds) for line in lines})
    if numbers and numbers[0] == 1:
        out.append(
            "Where n is 1 there is no interval: a difference smaller than the spread over seeds, which is not known there, means nothing."
        )
    if numbers and 1 < numbers[-1] < FEW:
        out.append(
            f"At most {numbers[-1]} seeds: the intervals hold for seeds that spread normally, which so few cannot show, and are themselves "
            "uncertain."
        )
    if len({tuple(line.seeds) for line in lines}) > 1:
        out.append("Not all lines have the same seeds, so differences between lines are also those between seeds.")
    if any(len(line.runs) > len(line.seeds) for line in lines):
        out.append("Some seeds were run more than once with the same settings; their runs count as one, by their mean.")
    steps = sorted({row["steps"] for row in rows if row["finished"]})
    if len(steps) > 1:
        out.append(
            f"The runs took {steps[0]} to {steps[-1]} steps: what costs less time a step had more of them, or more epochs."
        )
    for whose in ("items", "views"):
        start = f"style.{whose}.z.linear."
        factors = {
            tuple(sorted(name.removeprefix(start) for name in row if name.startswith(start))) for row in rows
        } - {()}
        if len(factors) > 1:
            out.append(
                f"Style of {whose} is a mean over factors, which are not the same in all runs: set single factors side by side (table.csv)."
            )
    for what in dict.fromkeys(what for row in rows for what in row.get("untold", ())):
        without = sum(what in row.get("untold", ()) for row in rows)
        out.append(f"{without} runs do not tell {what}: those that share a line may differ in it.")
    if len(heads(rows)) > len(SLOTS):
        out.append(f"More than the slots differs: {', '.join(heads(rows)[len(SLOTS) :])}.")
    return out


def _general(comparison: Comparison, lines: list[Line]) -> list[str]:
    """Doubts that every comparison shares."""
    out = [
        "Terms of different kinds are on different scales: their values, and their sum, are not to be compared across kinds.",
        "The settings (rate, batch, scales, temperatures) were not tuned for each cell, so a cell may be behind for want of tuning.",
        "The intervals are of one line each. Whether two lines of the same seeds differ is better told by their differences seed by seed "
        "(table.csv), since lines share batches and initial weights of a seed.",
    ]
    if len(lines) > 2:
        out.append(
            f"The best of {len(lines)} lines is partly luck: fit the chosen one again with new seeds before believing its figure."
        )
    out.append(
        "R2 of style is of linear predictors (by a kernel in table.csv); small R2 may be style that they do not find. Views are drawn anew "
        "for it, so it holds for these augmentations."
    )
    out.append(
        "A map shows two directions of z at a scale of its own: classes that overlap in it may be apart in others."
    )
    return out

"""From rows to a table: what is the same for all, what differs, and means over seeds with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from genssl.compare.rows import RENAMED, SET_BY_NAME, Row
from genssl.kinds import is_number
from genssl.terms import SLOTS

SETTINGS = (
    "method", "code", "data", "data_path", "data_digest", *SLOTS, *(RENAMED.get(key, key) for key in SET_BY_NAME), "transform",
)  # fmt: skip
"""What tells rows apart, beside set.NAME; the seed does not."""
NO_MEASURE = ("run", "seed", "steps", "step", "finished", "foretold", "note", "untold", *SETTINGS)
LEVEL = 0.95


class Spread(NamedTuple):
    """mean over seeds; half: half the width of its 95 % t-interval, None of one seed; n: the number of seeds."""

    mean: float
    half: float | None
    n: int


class Line(NamedTuple):
    """Runs that differ in nothing but the seed: their settings, and the Spread of every measure that any of them has."""

    settings: Row
    measures: dict[str, Spread]
    runs: list[Row]

    @property
    def seeds(self) -> list[int]:
        return sorted({run["seed"] for run in self.runs})

    @property
    def state(self) -> str:
        """finished, or how far: runs that are not share no line with those that are."""
        if self.runs[0]["finished"]:
            return "finished"
        if self.runs[0]["steps"] is None:
            return "left out"
        done = sorted({f"{run['step']}/{run['steps']}" for run in self.runs})
        return f"at step {', '.join(done)}"

    def as_dict(self) -> dict[str, Any]:
        told = {name: spread._asdict() for name, spread in self.measures.items()}
        return self.settings | {
            "state": self.state,
            "seeds": self.seeds,
            "runs": [run["run"] for run in self.runs],
            "measures": told,
        }


def aggregate(rows: Sequence[Row]) -> list[Line]:
    """A line for the runs of equal settings, in the order of their first ones.

    The interval of n seeds with standard deviation s (n - 1 in its denominator) is mean -+ t s / sqrt(n), t the 97.5 % point of
    Student's law with n - 1 degrees of freedom: it holds for seeds that spread normally. Runs of one seed count as one: their mean.
    """
    lines: dict[str, list[Row]] = {}
    for row in rows:
        state = "finished" if row["finished"] else "left out" if row["steps"] is None else "under way"
        key = repr((state, [(name, row.get(name)) for name in setting_names([row])]))
        lines.setdefault(key, []).append(row)
    return [
        Line({name: same[0].get(name) for name in setting_names(same)}, _measures(same), same)
        for same in lines.values()
    ]


def setting_names(rows: Sequence[Row]) -> list[str]:
    """The settings that any of the rows has, in reading order."""
    own = sorted({name for row in rows for name in row if name.startswith("set.")})
    return [*(name for name in SETTINGS if any(name in row for row in rows)), *own]


def differing(rows: Sequence[Row]) -> list[str]:
    """The settings, slots aside, that are not the same for all; cells left out do not know their defaults."""
    rows = [row for row in rows if row["steps"] is not None] or rows
    names = [name for name in setting_names(rows) if name not in SLOTS]
    return [name for name in names if any(row.get(name) != rows[0].get(name) for row in rows[1:])]


def shared(rows: Sequence[Row]) -> Row:
    """The settings, slots too, that are the same for all and set at all."""
    rows = [row for row in rows if row["steps"] is not None] or rows
    if not rows:
        return {}
    found = {name: rows[0].get(name) for name in setting_names(rows)}
    return {
        name: value
        for name, value in found.items()
        if value is not None and all(row.get(name) == value for row in rows)
    }


def measure_names(rows: Sequence[Row]) -> list[str]:
    """The measures that any row has a number of, in the order of the rows."""
    names = dict.fromkeys(name for row in rows for name in row if name not in NO_MEASURE and name[:4] != "set.")
    return [name for name in names if any(is_number(row.get(name)) for row in rows)]


def spread_of(values: Sequence[float]) -> Spread:
    """Mean and half-width of the interval of independent values."""
    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return Spread(mean, None, n)
    from scipy.stats import t  # slow to import

    deviation = math.dist(values, [mean] * n) / math.sqrt(n - 1)  # its squares cannot overflow
    return Spread(mean, float(t.ppf((1 + LEVEL) / 2, n - 1)) * deviation / math.sqrt(n), n)


def _measures(rows: Sequence[Row]) -> dict[str, Spread]:
    found = {}
    for name in measure_names(rows):
        seeds: dict[Any, list[float]] = {}
        for row in rows:
            if is_number(row.get(name)):
                seeds.setdefault(row["seed"], []).append(row[name])
        found[name] = spread_of([math.fsum(values) / len(values) for values in seeds.values()])
    return found

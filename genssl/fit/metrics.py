"""metrics.jsonl: one line every few steps, written at once."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from genssl.distributed import average, is_first
from genssl.files import cannot_write, write_bytes
from genssl.kinds import is_number

SLOTS = ("reconstruction", "entropy", "prior", "elbo", "objective")
NUMBERS = {"metrics.jsonl": (*SLOTS, "views_per_second", "knn")}
"""What the lines of a file hold as numbers, where they have it; measures nest theirs under the same names."""

LARGEST = 2**53
"""A step that a float can hold."""


class Line(dict[str, Any]):
    """A line of metrics as a callback gets it: a dict of its own, equal to the line in metrics.jsonl, and beside it

    folder     the run's
    measures   the lines of measures.jsonl that were written since the line before
    """

    def __init__(self, line: Mapping[str, Any], folder: Path, measures: Iterable[dict[str, Any]] = ()) -> None:
        super().__init__(line)
        self.folder, self.measures = folder, tuple(measures)


class Metrics:
    """Means of the slots since the last line, of sums [slots] that the steps add to on the device, read in one transfer.

    Lines after `step` are dropped: what a killed run wrote after its last checkpoint is done again. gathered: what a run that was
    stopped between two lines had summed up to there, and over how many steps.
    """

    def __init__(self, path: Path, step: int, sums: Tensor, gathered: tuple[Tensor | None, int] = (None, 0)) -> None:
        self.path, self.sums = path, sums
        if is_first():
            keep_until(path, step)
            append(path, None)
        before, self.count = gathered
        if before is not None:
            self.sums.copy_(before)

    def share(self) -> None:
        """Make the sums those of all processes, as the one that saves them keeps them."""
        if self.count:
            average([self.sums])

    def write(self, step: int, epoch: int, views_per_second: float, **extra: Any) -> dict[str, Any]:
        """Write the line of this step, means over the groups of all processes."""
        average([self.sums])
        means = dict(zip(SLOTS, (self.sums / self.count).tolist(), strict=True))
        line = {"step": step, "epoch": epoch, **means, "views_per_second": views_per_second, **extra}
        self.sums.zero_()
        self.count = 0
        if is_first():
            append(self.path, line)
        return line


def append(path: Path, line: dict[str, Any] | None) -> None:
    """Write a line at once; None only tries whether one could be written."""
    try:
        with open(path, "a") as file:
            file.write("" if line is None else json.dumps(line) + "\n")
    except OSError as error:
        raise cannot_write(path, error, "", ", then go on with --resume") from error


def keep_until(path: Path, step: int) -> None:
    """Drop the lines after a step, and damaged ones; those of them that no one does again are told."""
    if not path.exists():
        return
    text = path.read_text(errors="replace")
    texts = text.splitlines()
    lines = [(number, _line(each, path)) for number, each in enumerate(texts, 1)]
    kept = [(number, line) for number, line in lines if line is not None and line["step"] <= step]
    last, torn = max((number for number, _ in kept), default=0), 0 if text.endswith("\n") else len(texts)
    lost = [n for n, line in lines if line is None and (n < last or _least_step(texts[n - 1], n == torn) <= step)]
    if lost:
        where = f"line {lost[0]}" + (f" and {len(lost) - 1} more are" if len(lost) > 1 else " is")
        warnings.warn(f"{path}: {where} damaged and left out; the run goes on and loses nothing else", stacklevel=2)
    whole = "".join(json.dumps(line) + "\n" for _, line in kept).encode()
    if path.read_bytes() != whole:
        write_bytes(path, whole)


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; torn and damaged ones are left out."""
    return [line for line in (_line(text, path) for text in _text(path).splitlines()) if line is not None]


def damaged(path: Path) -> str:
    """Which lines `read` leaves out, but for a torn last one, which a run that was killed leaves; "" where it leaves out none."""
    whole = _text(path).rpartition("\n")[0].splitlines()
    lost = [number for number, text in enumerate(whole, 1) if _line(text, path) is None]
    if not lost:
        return ""
    where = f"line {lost[0]}" + (f" and {len(lost) - 1} more are" if len(lost) > 1 else " is")
    return f"{path}: {where} damaged and left out; restore the file, or delete what is damaged"


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _line(text: str, path: Path) -> dict[str, Any] | None:
    """A line as it was written, or None."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or type(line.get("step")) is not int or not 0 <= line["step"] <= LARGEST:
        return None
    values = [line.get(name) for name in NUMBERS.get(path.name, ())]
    return line if all(value is None or isinstance(value, float) or is_number(value) for value in values) else None


def _least_step(text: str, torn: bool) -> float:
    """The first step that a damaged line can be of; a torn last line is done again unless it tells a whole number."""
    found = re.search(r'"step": (\d+)' + ("," if torn else ""), text)
    return int(found[1]) if found else math.inf if torn else 0

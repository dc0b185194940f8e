"""metrics.jsonl: one line every few steps, written at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genssl.files import DiskError, write_bytes
from genssl.objective import Terms

SLOTS = ("reconstruction", "entropy", "prior", "elbo", "objective")


class Line(dict[str, Any]):
    """A line of metrics as a callback gets it: a dict of its own, equal to the line in metrics.jsonl, and beside it

    folder     the run's
    measures   the lines of measures.jsonl that were written since the line before
    """

    def __init__(self, line: Mapping[str, Any], folder: Path, measures: Iterable[dict[str, Any]] = ()) -> None:
        super().__init__(line)
        self.folder, self.measures = folder, tuple(measures)


class Metrics:
    """Means of the slots since the last line, gathered on the device and read in one transfer.

    Lines after `step` are dropped: what a killed run wrote after its last checkpoint is done again.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        keep_until(path, step)
        self.sums: Tensor | None = None
        self.count = 0

    def add(self, terms: Terms) -> None:
        """Add the slots of one step; no transfer."""
        values = torch.stack([getattr(terms, name).mean() for name in SLOTS])
        self.sums = values if self.sums is None else self.sums + values
        self.count += 1

    def write(self, step: int, epoch: int, views_per_second: float, **extra: Any) -> dict[str, Any]:
        """Write the line of this step."""
        assert self.sums is not None
        means = dict(zip(SLOTS, (self.sums / self.count).tolist(), strict=True))
        line = {"step": step, "epoch": epoch, **means, "views_per_second": views_per_second, **extra}
        self.sums, self.count = None, 0
        append(self.path, line)
        return line


def append(path: Path, line: dict[str, Any]) -> None:
    """Write a line at once."""
    try:
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise DiskError(f"{path}: cannot write ({why}); make room, then go on with --resume") from error


def keep_until(path: Path, step: int) -> None:
    """Drop the lines after a step, and a torn last one."""
    whole = "".join(json.dumps(line) + "\n" for line in read(path) if line["step"] <= step).encode()
    if path.exists() and path.read_bytes() != whole:
        write_bytes(path, whole)


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; a torn line, and what follows it, is left out."""
    lines = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            break
        lines.append(line)
    return lines

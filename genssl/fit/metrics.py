"""metrics.jsonl: one line every few steps, flushed at once, and what the progress bar shows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genssl.files import DiskError
from genssl.objective import Terms

SLOTS = ("reconstruction", "entropy", "prior", "elbo", "objective")


class Metrics:
    """Means of the slots since the last line, gathered on the device and read in one transfer."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.lines = read(path)
        kept = [line for line in self.lines if line["step"] <= step]
        if kept != self.lines or _torn(path):  # what a killed run wrote after its last checkpoint is done again
            path.write_text("".join(json.dumps(line) + "\n" for line in kept))
            self.lines = kept
        self.file = open(path, "a")  # noqa: SIM115  (open for the whole run)
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
        try:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
        except OSError as error:
            raise DiskError(f"{self.path}: cannot write ({os.strerror(error.errno or 0)}); make room, then go on with --resume") from error
        self.lines.append(line)
        return line

    def close(self) -> None:
        self.file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; a torn last line is left out."""
    lines = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _torn(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")

"""What is shown while a run goes on: a bar in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

EVERY = 10.0
"""Seconds between two plain lines."""


class Progress:
    """Shows the lines of metrics as they come, on stderr."""

    def __init__(self, first: int, total: int, shown: bool = True) -> None:
        self.total, self.shown, self.told_at = total, shown, time.monotonic()
        self.terminal = shown and sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=first, disable=not self.terminal, unit="step", dynamic_ncols=True)

    def step(self) -> None:
        """One step more."""
        self.bar.update()

    def line(self, line: dict[str, Any], last: bool) -> None:
        """The metrics of the last steps."""
        shown = {name: f"{line[name]:.1f}" for name in ("reconstruction", "entropy", "prior")}
        shown["views/s"] = f"{line['views_per_second']:.0f}"
        if line.get("knn") is not None:
            shown["knn"] = f"{line['knn']:.3f}"
        if self.terminal:
            self.bar.set_postfix(shown)
        elif self.shown and (last or time.monotonic() - self.told_at > EVERY):
            rest = "  ".join(f"{name} {value}" for name, value in shown.items())
            print(f"step {line['step']}/{self.total}  epoch {line['epoch']}  {rest}", file=sys.stderr, flush=True)
            self.told_at = time.monotonic()

    def close(self) -> None:
        self.bar.close()

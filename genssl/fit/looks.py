"""Looks at every slot during a fit: measures of held-out groups at chosen steps, one line each in measures.jsonl."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from genssl.datasets import Stream
from genssl.distributed import is_first
from genssl.errors import SettingsError
from genssl.evaluation.slots import slot_measures
from genssl.fit.batches import first_groups
from genssl.fit.metrics import append, keep_until
from genssl.fit.randomness import stream_seed
from genssl.groups import Groups

GROUPS = 256
LEAST, HALVINGS = 10, 8


class Looks:
    """`slot_measures` of 256 held-out groups, the same at every look, after the step named; the run goes on as if nobody had looked.

    steps: True for the last step and its halves (8 of them, none before step 10), False for none, or the steps themselves. Groups are
    the first of validation (test, training where there is none); items get at least two views, so that a VAE's views can be
    compared too, while its own terms are measured with as many as it trains on. Data read from disk, and groups in which the method
    cannot be measured, have no looks.
    """

    path: Path

    def __init__(self, method: nn.Module, data: Any, views: Any, config: dict[str, Any]) -> None:
        self.method, self.seed = method, config["seed"]
        self.device, self.num_views = torch.device(config["device"]), config["num_views"]
        self.views, self.steps = views, frozenset[int]()
        self.split = next((name for name in ("validation", "test", "train") if getattr(data, name, None)), "train")
        self.part = getattr(data, self.split)

    def choose(self, path: Path, steps: bool | Iterable[int], last: int) -> None:
        """Look after these steps of a run of `last` steps, and write to this file."""
        self.path = path
        if isinstance(self.part, Stream) or steps is False:
            return
        halves = (last >> i for i in range(HALVINGS + 1))
        chosen = {step for step in halves if step >= LEAST} | {last} if steps is True else set(steps)  # type: ignore[arg-type]
        if any(isinstance(step, bool) or not isinstance(step, int) or step < 1 for step in chosen - {last}):
            raise SettingsError(f"measure = {steps!r}, expected True, False or steps, whole numbers from 1")
        self.steps = frozenset(chosen)

    def start(self, first: int) -> None:
        """Drop what a killed run wrote after the checkpoint that it goes on from."""
        if is_first():
            keep_until(self.path, first)

    def take(self, step: int) -> dict[str, Any]:
        """Look, write the line of this step, and return it."""
        line = {"step": step, "split": self.split, **self._measure()}
        append(self.path, line)
        return line

    def seconds(self) -> float:
        """What the looks of a whole run take, about."""
        if isinstance(self.part, Stream):
            return 0.0
        began = time.perf_counter()
        self._measure()
        return (HALVINGS + 1) * (time.perf_counter() - began)

    def _measure(self) -> dict[str, Any]:
        try:
            return slot_measures(self.method, self._groups(2), self._groups(1), stream_seed(self.seed, "looks"))
        except (
            Exception
        ) as error:  # a run is not stopped by what it is not asked for, such as a guide that takes one view alone
            return {"note": f"{type(error).__name__}: {' '.join(str(error).split())}"}

    def _groups(self, least: int) -> Groups:
        seed, size = stream_seed(self.seed, "looks"), min(GROUPS, len(self.part))
        num_views = max(least, self.num_views)
        return first_groups(self.part, size, self.views, num_views, seed, self.device)

"""The loop: steps, epochs, metrics, checkpoints, and an orderly stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from genssl.fit import checkpoint
from genssl.fit.batches import Batches
from genssl.fit.metrics import Metrics
from genssl.fit.step import Stepper
from genssl.objective import ObjectiveModule

LOG_EVERY = 10
"""Steps between two lines of metrics."""
SAVE_EVERY = 20.0
"""Seconds between two checkpoints."""


def state_of(method: nn.Module, module: ObjectiveModule, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """All that a run is, beside its settings: randomness is a function of (seed, step) and has no state."""
    state = {"method": method.state_dict(), "optimizer": optimiser.state_dict()}
    if all(part is not module.objective for part in method.modules()):
        state["objective"] = module.objective.state_dict()
    return state


def restore(state: dict[str, Any], method: nn.Module, module: ObjectiveModule, optimiser: torch.optim.Optimizer) -> int:
    """Put a state back; the step it was taken at."""
    method.load_state_dict(state["method"])
    optimiser.load_state_dict(state["optimizer"])
    if "objective" in state:
        module.objective.load_state_dict(state["objective"])
    return state.get("step", 0)


def run_steps(
    step_fn: Stepper,
    batches: Batches,
    folder: Path,
    first: int,
    last: int,
    state: Callable[[], dict[str, Any]],
    epoch_end: Callable[[], dict[str, Any]],
    callbacks: Sequence[Callable[[dict[str, Any]], None]] = (),
    progress: bool = True,
) -> int:
    """Take the steps first..last-1; the number of steps that the run has behind it. KeyboardInterrupt saves first."""
    metrics, per_epoch = Metrics(folder / "metrics.jsonl", first), batches.steps_per_epoch
    total, per_step = step_fn.steps, batches.batch_size * batches.num_views
    saved_at, since, done = time.monotonic(), time.perf_counter(), 0
    step = first
    with _interruptible() as interrupted, tqdm(
        total=total, initial=first, disable=not progress, unit="step", dynamic_ncols=True
    ) as bar:
        try:
            for step, groups in batches.run(first, last):
                step_fn(step, groups)
                terms = step_fn.module.terms
                assert terms is not None
                metrics.add(terms)
                done, step = done + 1, step + 1
                at_end = step % per_epoch == 0 or step in (total, last)
                if step % LOG_EVERY == 0 or at_end:
                    step_fn.check()
                    speed = done * per_step / (time.perf_counter() - since)
                    extra = epoch_end() if at_end else {}
                    line = metrics.write(step, -(-step // per_epoch), speed, **{"knn": None, **extra})
                    for callback in callbacks:
                        callback(line)
                    _show(bar, step, line)
                    since, done = time.perf_counter(), 0
                if step < last and time.monotonic() - saved_at > SAVE_EVERY:
                    step_fn.check()
                    checkpoint.save(folder / "checkpoint", step, state())
                    saved_at = time.monotonic()
                if interrupted():
                    step_fn.check()
                    checkpoint.save(folder / "checkpoint", step, state())
                    raise KeyboardInterrupt
            if last > first:
                checkpoint.save(folder / "checkpoint", step, state())
        finally:
            metrics.close()
    return step


def _show(bar: tqdm, step: int, line: dict[str, Any]) -> None:
    bar.update(step - bar.n)
    shown = {name[:5]: f"{line[name]:.1f}" for name in ("reconstruction", "entropy", "prior")}
    shown["views/s"] = f"{line['views_per_second']:.0f}"
    if line.get("knn") is not None:
        shown["knn"] = f"{line['knn']:.3f}"
    bar.set_postfix(shown)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C (and SIGTERM) wait for the end of the step, so that no half-taken step is saved; a second Ctrl-C does not wait."""
    seen: list[int] = []

    def note(number: int, _frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

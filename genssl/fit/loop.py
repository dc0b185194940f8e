"""The loop: steps, epochs, metrics, checkpoints, and an orderly stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genssl import distributed
from genssl.datasets.reading import reader_died
from genssl.errors import CheckpointError, DataError, NonFiniteError, OutOfMemoryError
from genssl.files import to_disk
from genssl.fit import checkpoint
from genssl.fit.folder import is_run
from genssl.fit.follow import Follow
from genssl.fit.looks import Looks
from genssl.fit.metrics import Line, Metrics
from genssl.fit.progress import Progress
from genssl.fit.step import Stepper
from genssl.objective_module import ObjectiveModule

LOG_EVERY = 10
"""Steps between two lines of metrics, and between two looks at the guard."""
SAVE_EVERY = 20.0
"""Seconds between two checkpoints, which are written where a line of metrics is."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: saved in `folder` at the step where it came, or, after a second one, what was saved there before.

    begun: whether there is a run in `folder`, to go on with; before its first step there may be none yet.
    """

    def __init__(self, folder: Path, step: int | None = None) -> None:
        self.folder, self.begun = folder, is_run(folder)
        if step is not None:
            self.told = f"stopped and saved at step {step} in {folder}"
        elif self.begun:
            self.told = f"stopped at once; {kept_in(folder)}"
        else:
            self.told = f"stopped before the first step: nothing was fitted yet, and nothing is kept in {folder}"
        super().__init__(self.told + (f"; go on with resume=True, out={str(folder)!r}" if self.begun else ""))


@contextmanager
def stop_is_told(place: Callable[[], Path]) -> Iterator[None]:
    """Ctrl-C outside the steps: what of the run in that place is kept."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        raise Interrupted(place()) from error


def kept_in(folder: Path) -> str:
    """What a run that stops early leaves."""
    kept = checkpoint.steps(folder / "checkpoint")
    return (
        f"the checkpoint of step {checkpoint.step_of(kept[-1])} is kept in {folder}"
        if kept
        else f"no checkpoint yet in {folder}"
    )


def state_of(
    method: nn.Module, module: ObjectiveModule, optimiser: torch.optim.Optimizer, config: dict[str, Any]
) -> dict[str, Any]:
    """All that a run is: randomness is a function of (seed, step) and has no state. config: in case that its file is lost."""
    state = {"method": method.state_dict(), "optimizer": optimiser.state_dict(), "config": config}
    if all(part is not module.objective for part in method.modules()):
        state["objective"] = module.objective.state_dict()
    return state


def restore(
    state: dict[str, Any], method: nn.Module, module: ObjectiveModule, optimiser: torch.optim.Optimizer, folder: Path
) -> int:
    """Put a state back; the step it was taken at."""
    load_weights(method, state.get("method"), folder)
    try:
        optimiser.load_state_dict(state["optimizer"])
        if "objective" in state:
            module.objective.load_state_dict(state["objective"])
    except (ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}: its optimiser state does not fit ({' '.join(str(error).split())}); was the class changed?"
        ) from error
    return state["step"]


def load_weights(method: nn.Module, weights: Any, folder: Path) -> None:
    """method.load_state_dict, or an error that names the run."""
    try:
        method.load_state_dict(weights)
    except (RuntimeError, AttributeError, TypeError, ValueError, KeyError) as error:
        message = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder}: its weights do not fit {type(method).__name__} ({message:.300}); was the class changed?"
        ) from error


def run_steps(
    stepper: Stepper,
    folder: Path,
    first: int,
    last: int,
    state: Callable[[], dict[str, Any]],
    follow: Follow,
    looks: Looks,
    callbacks: Sequence[Callable[[Line], None]] = (),
    progress: bool = True,
    gathered: tuple[Tensor | None, int] = (None, 0),
) -> None:
    """Take the steps first..last-1. Saves at the end, now and then, and before Interrupted. gathered: as of `Metrics`.

    Of several processes the first writes, looks and calls back, while the others wait in their next step.
    """
    batches, total, saves = stepper.batches, stepper.steps, folder / "checkpoint"
    writes = distributed.is_first()
    looks.start(first)
    stepper.start()
    metrics, shown = Metrics(folder / "metrics.jsonl", first, stepper.sums, gathered), Progress(first, total, progress)
    saved_at, since, since_step = time.monotonic(), time.perf_counter(), first
    looked: list[dict[str, Any]] = []  # since the last line

    def save(step: int) -> None:
        metrics.share()
        if writes:
            for lines in (metrics.path, looks.path):  # a power cut must not take lines that the checkpoint lies behind
                to_disk(lines)
            checkpoint.save(
                saves, step, {**state(), "gathered": (metrics.sums if metrics.count else None, metrics.count)}
            )

    with _kept_is_told(folder), batches.memory_told(), _interruptible() as interrupted, _closed_at_the_end(callbacks):
        try:
            for before in stepper.run(first, last):
                step = before + 1
                shown.step()
                metrics.count += 1
                if step in looks.steps:  # before the checkpoint of this step, so that none is lost
                    began = time.perf_counter()
                    stepper.check()
                    if writes:
                        looked.append(looks.take(step))
                    since += time.perf_counter() - began
                epoch, ends = -(-step // batches.steps_per_epoch), step % batches.steps_per_epoch == 0
                if step % LOG_EVERY == 0 or ends or step == last:
                    stepper.check()
                    taken = time.perf_counter() - since
                    speed = (step - since_step) * batches.batch_size * batches.num_views / taken
                    knn = follow.knn() if writes and follow.due(epoch, ends, step == total) else None
                    line = metrics.write(step, epoch, speed, knn=knn)
                    shown.line(line, last=step == last)
                    for callback in callbacks if writes else ():
                        callback(Line(line, folder, looked))
                    looked.clear()
                    stepper.module.train()  # whatever a callback left it in
                    if step == last or time.monotonic() - saved_at > SAVE_EVERY:
                        save(step)
                        saved_at = time.monotonic()
                    since, since_step = time.perf_counter(), step  # measuring and saving are no part of the speed
                if distributed.anywhere(interrupted()):
                    stepper.check()
                    save(step)
                    raise Interrupted(folder, step)
        finally:
            shown.close()


@contextmanager
def _closed_at_the_end(callbacks: Sequence[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for callback in callbacks:
            stack.callback(getattr(callback, "close", lambda: None))
        yield


@contextmanager
def _kept_is_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        raise Interrupted(folder) from error
    except (NonFiniteError, DataError, OutOfMemoryError) as error:
        raise type(error)(f"{error}; {kept_in(folder)}") from error.__cause__
    except RuntimeError as error:  # raised wherever the program was when the signal of its end came
        if "DataLoader worker (pid" not in str(error):
            raise
        raise DataError(f"{reader_died(error)}; {kept_in(folder)}") from error


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
            signal.signal(number, handler or signal.SIG_DFL)  # None: it was not set from Python

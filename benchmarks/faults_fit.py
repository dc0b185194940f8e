"""A small `genssl fit` in a process of its own, to which a fault is done, and what is left of it (for benchmarks/faults.py)."""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sklearn.datasets  # noqa: F401
import torch
import torch._dynamo

import genssl.cli
import genssl.fit.api
from genssl.fit import checkpoint, loop, metrics

# What a fit imports late is imported here once, for all the processes that are forked.

STEPS, PER_EPOCH = 200, 20
SETTINGS = ["--limit", "320", "--batch-size", "16", "--no-report", "--set", "hidden=(16,16)"]
LENGTH = ["--epochs", str(STEPS // PER_EPOCH)]
DIGITS = ["SimVAE", "--data", "digits", "--views", "2", *SETTINGS, *LENGTH]
PARTS = ("step", "method", "optimizer", "metrics", "measures")
SELDOM = 20.0
"""Seconds between checkpoints where a fault is to fall between two of them."""
Row = dict[str, Any]


class Fit:
    """`genssl fit ARGUMENTS MORE --out FOLDER` in a forked process; what it says goes to a file elsewhere.

    every: seconds between checkpoints; 0: with every line of metrics. before: called in the new process, to do it a fault.
    """

    logs = Path(tempfile.gettempdir())

    def __init__(
        self,
        folder: Path,
        *more: str,
        arguments: Sequence[str] = DIGITS,
        every: float = 0.0,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        self.folder, self.arguments, self.log = folder, arguments, self.logs / f"{folder.name}-{time.monotonic_ns()}"
        command = ["fit", *arguments, *more, "--out", str(folder)]
        self.process = multiprocessing.get_context("fork").Process(target=self._run, args=(command, every, before))
        self.process.start()

    def _run(self, command: list[str], every: float, before: Callable[[], object]) -> None:
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT)
        for stream in (1, 2):
            os.dup2(log, stream)
        torch.set_num_threads(1)
        loop.SAVE_EVERY = every
        before()
        sys.exit(genssl.cli.main(command))

    def until(self, step: int) -> Fit:
        """Wait until it has told that step, or is over."""
        while self.process.is_alive() and steps_of(self.folder) < step:
            time.sleep(0.002)
        return self

    def wait(self) -> Fit:
        """Until it is over; join would also wait for reading processes that outlive it."""
        ends = time.monotonic() + 150
        while self.process.is_alive() and time.monotonic() < ends:
            time.sleep(0.005)
        return self

    def kill(self) -> Fit:
        """SIGKILL."""
        self.process.kill()
        return self.wait()

    def signal(self, number: int) -> None:
        if self.process.pid is not None:
            os.kill(self.process.pid, number)

    def limit(self, what: int, size: int) -> None:
        """Set a limit of the system on the process while it runs."""
        resource.prlimit(self.process.pid or 0, what, (size, size))

    @property
    def status(self) -> int | None:
        return self.process.exitcode

    @property
    def messages(self) -> list[str]:
        """What genssl said, progress aside, without the folders of this machine."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("genssl: ")]
        lines = [line.removeprefix("genssl: ").replace(f"{self.folder.parent}/", "") for line in lines]
        return [line for line in lines if not line.startswith("no run to go on with")]


def steps_of(folder: Path) -> int:
    """The step of the last line of metrics."""
    return max((line["step"] for line in metrics.read(folder / "metrics.jsonl")), default=0)


def saved(folder: Path) -> int | None:
    """The step of the newest checkpoint."""
    found = checkpoint.steps(folder / "checkpoint")
    return checkpoint.step_of(found[-1]) if found else None


def state(folder: Path) -> Row:
    """All that a run is at its end: the newest checkpoint, metrics without their speed, measures."""
    lines = [{**line, "views_per_second": None} for line in metrics.read(folder / "metrics.jsonl")]
    measures = metrics.read(folder / "measures.jsonl")
    return {**(checkpoint.load(folder / "checkpoint") or {}), "metrics": lines, "measures": measures}


def undisturbed(folder: Path, arguments: Sequence[str] = DIGITS) -> Row:
    """The state of a run that nothing happened to."""
    fit = Fit(folder, arguments=arguments).wait()
    if fit.status != 0:
        raise RuntimeError(f"exit {fit.status}: {fit.log.read_text()}")
    return state(folder)


def same(a: Any, b: Any) -> bool:
    """Bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def differing(folder: Path, whole: Row) -> list[str]:
    """The parts in which a run is not, bit for bit, as one that nothing happened to."""
    found = state(folder)
    return [part for part in PARTS if not same(found.get(part), whole[part])]


def outcome(fault: str, fit: Fit, whole: Row | None, status: int = 2, says: Sequence[str] = (), lines: int = 0) -> Row:
    """The row of a fault: exit status, its one line, and whether --resume, the fault gone, ends as if nothing had happened.

    says: words of the message. whole: the state of a fit that nothing happened to; None where there is nothing to go on with.
    lines: of metrics that are lost for good, and told.
    """
    fit.wait()
    seen, kept, messages, wrong = steps_of(fit.folder), saved(fit.folder) or 0, fit.messages, []
    if fit.status != status:
        wrong.append(f"exit {fit.status}, expected {status}")
    if "Traceback" in fit.log.read_text():
        wrong.append(f"a traceback: {fit.log.read_text().splitlines()[-1]}")
    if status and len([line for line in messages if not line.startswith("warning: ")]) != 1:
        wrong.append(f"expected one line, seen {messages}")
    wrong += [f"does not say {word!r}" for word in says if word not in " / ".join(messages)]
    happens, lost = f"exit {fit.status}", "nothing"
    if status:
        happens += f", the checkpoint of step {kept} is kept" if kept else ", no checkpoint yet"
    if whole is not None:
        again = Fit(fit.folder, "--resume", arguments=fit.arguments).wait() if status else fit
        parts = differing(fit.folder, whole)
        if lines and parts in (["metrics"], ["measures"]):
            left = state(fit.folder)[parts[0]]
            lost = f"{len(whole[parts[0]]) - len(left)} line of {parts[0]}, named"
            parts = (
                []
                if all(line in whole[parts[0]] for line in left) and len(left) + lines == len(whole[parts[0]])
                else parts
            )
        elif status and seen > kept:
            lost = f"nothing; {seen - kept} steps are done again"
        if again.status or parts:
            wrong.append(f"gone on: exit {again.status}, {parts} differ, {again.messages}")
            lost = "?"
    return row(fault, happens, " / ".join(messages), lost, wrong)


def row(fault: str, happens: str, message: str, lost: str, wrong: Sequence[str] = ()) -> Row:
    return {
        "fault": fault,
        "happens": happens,
        "message": message,
        "lost": lost,
        "passed": not wrong,
        "wrong": list(wrong),
    }


def not_done(fault: str) -> Row:
    return row(fault, "not done: mounting needs root", "", "", ["not done"])


def system(*command: object) -> bool:
    return subprocess.run([str(part) for part in command], capture_output=True).returncode == 0


@contextmanager
def mounted(folder: Path, *options: object) -> Iterator[Path | None]:
    """`mount OPTIONS FOLDER` while it is needed; None where that is not allowed."""
    folder.mkdir(exist_ok=True)
    done = system("mount", *options, folder)
    try:
        yield folder if done else None
    finally:
        if done:
            system("umount", folder)

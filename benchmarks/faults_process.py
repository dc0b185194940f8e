"""Faults of processes, memory, clocks and numbers (for benchmarks/faults.py)."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
from faults_fit import DIGITS, LENGTH, SELDOM, SETTINGS, Fit, Row, differing, outcome, row, undisturbed
from sklearn.datasets import load_digits

from genssl.fit import folder as fit_folder


def two_at_once(place: Path, whole: Row) -> list[Row]:
    """A second process on the run of a first is told, and changes nothing; a dead one is in nobody's way."""
    first = Fit(place / "shared").until(50)
    second, third = Fit(place / "shared", "--resume").wait(), Fit(place / "shared").wait()
    first.wait()
    rows = [
        outcome("a second process that goes on with a run being fitted", second, whole, says=["another process", "wait for it"]),
        outcome("a second process that starts a run in its folder", third, whole, says=["exists and is not empty"]),
    ]  # fmt: skip
    both = [Fit(place / "both", before=_slow_to_make).wait for _ in range(2)]
    ended = sorted((wait() for wait in both), key=lambda fit: fit.status or 0)
    wrong = [f"{part} differ" for part in differing(place / "both", whole)]
    wrong += [] if [fit.status for fit in ended] == [0, 2] else ["expected one of them to be refused"]
    happens = " and ".join(f"exit {fit.status}" for fit in ended)
    rows.append(
        row(
            "two runs started in one folder at the same moment",
            happens,
            " / ".join(ended[1].messages),
            "nothing",
            wrong,
        )
    )

    short = [part for part in DIGITS if part not in LENGTH]
    Fit(place / "longer", "--max-steps", "100").wait()
    first = Fit(place / "longer", "--resume", "--epochs", str(2 * int(LENGTH[1])), arguments=short).until(120)
    second = Fit(place / "longer", "--resume", arguments=short).wait()
    first.wait()
    rows.append(outcome("a second process on a run that is being made longer", second, None, says=["another process"]))

    Fit(place / "dead").until(60).kill()
    rows.append(outcome("the lock of a killed process", Fit(place / "dead", "--resume"), whole, 0))
    return rows


def _slow_to_make() -> None:
    """Hold the moment open in which a folder is there and nothing in it yet."""
    make = fit_folder.make

    def slow(*arguments: object) -> Path:
        place = make(*arguments)  # type: ignore[arg-type]
        time.sleep(0.5)
        return place

    fit_folder.make = slow  # type: ignore[assignment]


READ = """
import os
import torch
from sklearn.datasets import load_digits

class Read(torch.utils.data.Dataset):
    transform = "read one by one"
    x = torch.tensor(load_digits().images[:400] / 16, dtype=torch.float32)[:, None]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        if os.path.exists({flag!r}):
            {fault}
        return self.x[index]

def items():
    return Read()
"""


def reading(place: Path, _: Row) -> list[Row]:
    """Items that are read while the fit runs: one turns NaN, the reading process is killed, or outlives its parent."""
    cases = {
        "an item that is NaN, read in the middle of an epoch": (
            "return torch.full((1, 8, 8), torch.nan)",
            ["row", "NaN"],
        ),
        "a reading process is killed (by the system, for want of memory)": (
            "os.kill(os.getpid(), 9)",
            ["--num-workers"],
        ),
    }
    rows, flag = [], place / "flag"
    for number, (fault, (code, says)) in enumerate(cases.items()):
        file = place / f"items_{number}.py"
        file.write_text(READ.format(flag=str(flag), fault=code))
        arguments = ["SimVAE", "--data", f"{file}:items", "--views", "2", "--num-workers", "1", *SETTINGS, *LENGTH]
        whole = undisturbed(place / f"whole-{number}", arguments)
        fit = Fit(place / f"run-{number}", arguments=arguments).until(50)
        flag.touch()
        fit.wait()
        flag.unlink()
        rows.append(outcome(fault, fit, whole, says=says))
    fit = Fit(place / "orphan", arguments=arguments).until(50)
    readers = Path(f"/proc/{fit.process.pid}/task/{fit.process.pid}/children").read_text().split()
    for reader in readers:
        os.kill(int(reader), signal.SIGSTOP)
    fit.kill()
    again = Fit(place / "orphan", "--resume", arguments=arguments)
    fault = "the lock of a killed process whose reading process hangs on a slow disk"
    rows.append(outcome(fault, again, whole, 0))
    for reader in readers:
        os.kill(int(reader), signal.SIGKILL)
    return rows


def keys(place: Path, whole: Row) -> list[Row]:
    """Ctrl-C, SIGTERM, and Ctrl-C twice."""
    rows = []
    for name, number in ("Ctrl-C", signal.SIGINT), ("SIGTERM", signal.SIGTERM):
        fit = Fit(place / name, every=SELDOM).until(50)
        time.sleep(0.02)
        fit.signal(number)
        rows.append(outcome(name, fit, whole, 130, ["saved at step", "go on with"]))
    fit = Fit(place / "twice", before=_slow_disk).until(50)
    fit.signal(signal.SIGINT)
    time.sleep(0.4)
    fit.signal(signal.SIGINT)
    rows.append(outcome("Ctrl-C twice, on a slow disk", fit, whole, 130, ["the checkpoint of step", "go on with"]))
    return rows


def _slow_disk() -> None:
    fsync = os.fsync

    def slow(file: int) -> None:
        time.sleep(0.3)
        fsync(file)

    os.fsync = slow


def clock(place: Path, whole: Row) -> list[Row]:
    """The clock steps back a day at every look at it, and the files of the run are dated a year ahead."""

    def back() -> None:
        now, days = time.time(), iter(range(10**9))
        time.time = lambda: now - 86_400 * next(days)

    Fit(place / "run", before=back).until(100).kill()
    ahead = time.time() + 365 * 86_400
    for path in (place / "run").rglob("*"):
        os.utime(path, (ahead, ahead))
    return [outcome("a clock that goes backwards", Fit(place / "run", "--resume", before=back), whole, 0)]


def memory(place: Path, _: Row) -> list[Row]:
    """Memory that is not there: when the run starts, and later, another program having taken it."""
    views = ["--data", "digits", "--no-report", "--batch-size", "320", "--limit", "320", "--views"]
    big = ["SimVAE", *views, "2048", "--epochs", "1", "--set", "hidden=(256,256)"]
    fit = Fit(place / "start", arguments=big, before=lambda: resource.setrlimit(resource.RLIMIT_AS, (_taken(1.5),) * 2))
    rows = [
        outcome("out of memory in the first step", fit, None, says=["out of memory", "lower --batch-size or --views"])
    ]
    some = ["SimVAE", *views, "32", "--epochs", "20", "--set", "hidden=(1024,16)"]
    whole = undisturbed(place / "roomy", some)
    fit = Fit(place / "later", arguments=some).until(10)
    fit.limit(resource.RLIMIT_AS, _taken(0.9, str(fit.process.pid)))
    rows.append(outcome("out of memory later on", fit, whole, says=["out of memory", "lower --batch-size or --views"]))
    return rows


def _taken(share: float, process: str = "self") -> int:
    """A share of the bytes of address space that a process has now."""
    return int(share * resource.getpagesize() * int(Path(f"/proc/{process}/statm").read_text().split()[0]))


NAN_LOSS = """
import torch
from genssl.models import SimVAE

class Bursting(SimVAE):
    calls = 0

    def guide(self, groups):
        type(self).calls += self.training
        if self.calls > 55:
            groups.x = groups.x * 1e30
        super().guide(groups)
"""


def numbers(place: Path, _: Row) -> list[Row]:
    """NaN in one image of a file; losses that overflow, at once and later."""
    x = (load_digits().images[:400] / 16).astype(np.float32)[:, None]
    x[123, 0, 4, 4] = np.nan
    np.savez(place / "spoiled.npz", x=x)
    fit = Fit(place / "nan", arguments=["SimVAE", "--data", str(place / "spoiled.npz"), *SETTINGS, *LENGTH])
    rows = [outcome("NaN in one image of an npz", fit, None, says=["spoiled.npz", "row 123", "repair"])]
    rows.append(
        outcome(
            "an infinite loss in the first epoch",
            Fit(place / "inf", "--lr", "1e6"),
            None,
            says=["step", "learning rate"],
        )
    )
    (place / "bursting.py").write_text(NAN_LOSS)
    fit = Fit(place / "later", arguments=[f"{place / 'bursting.py'}:Bursting", *DIGITS[1:]])
    rows.append(
        outcome("an infinite loss in the middle of an epoch", fit, None, says=["step", "the checkpoint of step"])
    )
    return rows

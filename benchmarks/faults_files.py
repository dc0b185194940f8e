"""Faults of disks and files: full, read-only, cut off from power; cut short, flipped, edited, missing (for benchmarks/faults.py)."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from faults_fit import SELDOM, Fit, Row, differing, mounted, not_done, outcome, row, saved, steps_of, system

CUTS = 10
NEWEST = "checkpoint/step-000000100.pt"
Change = Callable[[Path], object]


def full_disk(place: Path, whole: Row) -> list[Row]:
    """A file system of 2 MB that is filled while the fit stands still; a limit of the system on the size of a file."""
    rows = []
    cases = (
        ("writing a checkpoint", 24_576, 0.0, 100),
        ("writing a line of metrics", 0, SELDOM, 110),
        ("at the start", 0, 0.0, 0),
    )
    with mounted(place / "small", "-t", "tmpfs", "-o", "size=2M", "tmpfs") as disk:
        for what, left, every, step in cases:
            fault = f"a full disk (ENOSPC), {what}"
            if disk is None:
                rows.append(not_done(fault))
                continue
            if step == 0:
                _fill(disk / "ballast", left)
            fit = Fit(disk / "run", every=every)
            if step:
                with _standing(fit.until(step)):
                    _fill(disk / "ballast", left)
            fit.wait()
            (disk / "ballast").unlink()
            rows.append(_with_torn_line(fit, fault, whole, ["the disk is full", "make room"]))
            shutil.rmtree(fit.folder)
    for what, size, every, step in ("a checkpoint", 8_000, 0.0, 100), ("a line of metrics", 4_000, SELDOM, 110):
        fit = Fit(place / f"limited-{size}", every=every).until(step)
        fit.limit(resource.RLIMIT_FSIZE, size)
        fault = f"a file above its largest size (EFBIG), writing {what}"
        rows.append(_with_torn_line(fit.wait(), fault, whole, ["File too large", "raise the limit"]))
    return rows


def _with_torn_line(fit: Fit, fault: str, whole: Row, says: list[str]) -> Row:
    lines = fit.folder / "metrics.jsonl"
    torn = lines.exists() and not lines.read_text().endswith("\n") and lines.stat().st_size > 0
    found = outcome(fault, fit, whole, says=says)
    return found | ({"happens": f"{found['happens']}, a line is torn"} if torn else {})


@contextmanager
def _standing(fit: Fit) -> Iterator[None]:
    """Hold the process still (SIGSTOP) while it is writing no checkpoint."""
    for _ in range(100):
        fit.signal(signal.SIGSTOP)
        time.sleep(0.05)
        files = list((fit.folder / "checkpoint").glob("*"))  # also those whose name starts with a dot
        if len(files) <= 2 and not any(path.suffix == ".tmp" for path in files):
            break
        fit.signal(signal.SIGCONT)
        time.sleep(0.003)
    yield
    fit.signal(signal.SIGCONT)


def _fill(ballast: Path, left: int) -> None:
    """Take all that is free, but for `left` bytes."""
    with open(ballast, "ab", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            os.truncate(ballast, max(0, ballast.stat().st_size - left))


def power_cut(place: Path, whole: Row) -> list[Row]:
    """A file system on a file that is copied while the fit stands still: the copy holds what had reached the disk, and no more."""
    fault, disk, draw, rows = (
        "a power cut (what had not reached the disk is gone)",
        place / "disk",
        random.Random(0),
        [],
    )
    with open(disk, "wb") as file:
        file.truncate(16 << 20)
    if not system("mkfs.ext4", "-q", disk):
        return [not_done(fault)]
    with mounted(place / "on", "-o", "loop", disk) as on:
        if on is None:
            return [not_done(fault)]
        fit = Fit(on / "run")
        for cut in range(CUTS):
            fit.until(10 + 17 * cut)
            time.sleep(draw.uniform(0, 0.02))
            fit.signal(signal.SIGSTOP)
            time.sleep(0.05)
            shutil.copyfile(disk, place / f"copy-{cut}")
            fit.signal(signal.SIGCONT)
        fit.wait()
    wrong, redone = [], 0
    for cut in range(CUTS):
        with mounted(place / f"after-{cut}", "-o", "loop", place / f"copy-{cut}") as after:
            assert after is not None
            kept, seen = saved(after / "run") or 0, steps_of(after / "run")
            again = Fit(after / "run", "--resume").wait()
            if again.status or (parts := differing(after / "run", whole)):
                wrong.append(
                    f"checkpoint {kept}, metrics until {seen}, gone on: exit {again.status}, {parts} differ, {again.messages}"
                )
            redone = max(redone, 10 + 17 * cut + 9 - kept)
    happens = f"{CUTS - len(wrong)} of {CUTS} resumed bit-identical"
    rows.append(row(f"{fault}, {CUTS} times", happens, "", f"nothing; at most {redone} steps are done again", wrong))
    return rows


def _cut(bytes_: int) -> Change:
    return lambda path: os.truncate(path, bytes_ if bytes_ >= 0 else path.stat().st_size + bytes_)


def _flip(at: float) -> Change:
    """Flip one bit: of byte `at`, or at that fraction of the file."""

    def do(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(at) if at >= 1 else int(at * len(data))] ^= 1
        path.write_bytes(data)

    return do


def _edit(**changes: object) -> Change:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _add(text: str) -> Change:
    return lambda path: path.write_text(path.read_text() + text)


def _line(number: int, text: str) -> Change:
    def do(path: Path) -> None:
        lines = path.read_text().splitlines(keepends=True)
        lines[number] = text
        path.write_text("".join(lines))

    return do


def _every(change: Change) -> Change:
    return lambda path: [change(each) for each in path.parent.glob("step-*.pt")]


def _alone(change: Change) -> Change:
    """The change, where there is no checkpoint before this one."""

    def do(path: Path) -> None:
        for each in set(path.parent.glob("step-*.pt")) - {path}:
            each.unlink()
        change(path)

    return do


BEFORE, FROM = "using the checkpoint before it, of step 90", "the settings are taken from the checkpoint"
DAMAGE: dict[str, tuple[str, Change, int, list[str], int]] = {
    "a checkpoint cut short": (NEWEST, _cut(-1000), 0, ["damaged", BEFORE], 0),
    "a checkpoint of no bytes": (NEWEST, _cut(0), 0, ["damaged", BEFORE], 0),
    "one bit flipped in the weights of a checkpoint": (NEWEST, _flip(0.5), 0, ["damaged", BEFORE], 0),
    "one bit flipped in the header of a checkpoint": (NEWEST, _flip(40), 0, ["damaged", BEFORE], 0),
    "one bit flipped in the checksum of a checkpoint": (NEWEST, _flip(3), 0, ["damaged", BEFORE], 0),
    "one bit flipped in every checkpoint": (NEWEST, _every(_flip(0.5)), 2, ["every checkpoint is damaged", "restore one"], 0),
    "one bit flipped in the only checkpoint": (NEWEST, _alone(_flip(0.5)), 2, ["every checkpoint is damaged", "restore one"], 0),
    "a torn last line of metrics.jsonl": ("metrics.jsonl", _add('{"step": 110, "epoch": 6, "recon'), 0, [], 0),
    "a torn last line of measures.jsonl": ("measures.jsonl", _add('{"step": 110, "split": "va'), 0, [], 0),
    "a damaged line in the middle of metrics.jsonl": ("metrics.jsonl", _line(2, "\0\0\0\n"), 0, ["line 3 is damaged"], 1),
    "a damaged line in the middle of measures.jsonl": ("measures.jsonl", _line(1, '{"step": 25, "spl\n'), 0, ["line 2 is damaged"], 1),
    "config.json edited: another seed": ("config.json", _edit(seed=1), 2, ["seed is 1", "written with 0"], 0),
    "config.json edited: fewer steps": ("config.json", _edit(steps=150), 2, ["steps is 150", "written with 200"], 0),
    "config.json edited: a word for a number": ("config.json", _edit(steps="many"), 2, ["its steps is 'many'", "restore it"], 0),
    "config.json cut short": ("config.json", _cut(200), 0, ["damaged", FROM], 0),
    "config.json missing": ("config.json", Path.unlink, 0, ["no such file", FROM], 0),
}  # fmt: skip
"""The file, what is done to it, exit status of --resume, words of its message, lines of metrics that are lost."""


def damaged(place: Path, whole: Row) -> list[Row]:
    """A run with checkpoints of steps 90 and 100 whose files are damaged while it rests; a refusal must change none of them."""
    half, rows = Fit(place / "half", "--max-steps", "100").wait().folder, []
    for number, (fault, (name, change, status, says, lines)) in enumerate(DAMAGE.items()):
        folder = place / f"run-{number}"
        shutil.copytree(half, folder)
        change(folder / name)
        spoiled = _contents(folder)
        fit = Fit(folder, "--resume").wait()
        untouched = _contents(folder) == spoiled
        if status:
            shutil.copytree(half, folder, dirs_exist_ok=True)
        found = outcome(fault, fit, whole, status, says, lines)
        if status and not untouched:
            found |= {"passed": False, "wrong": [*found["wrong"], "a refusal that changed files"]}
        if BEFORE in found["message"] and found["passed"]:
            found["lost"] = "nothing; 10 steps are done again"
        rows.append(found)
    return rows


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_only(place: Path, whole: Row) -> list[Row]:
    """A file system that is mounted read-only, with a run and without."""
    faults, rows = ("a run folder that is read-only", "a new run where nothing can be written"), []
    with mounted(place / "disk", "-t", "tmpfs", "-o", "size=8M", "tmpfs") as disk:
        if disk is None:
            return [not_done(fault) for fault in faults]
        Fit(disk / "run", "--max-steps", "100").wait()
        for fault, name in zip(faults, ("run", "new"), strict=True):
            system("mount", "-o", "remount,ro", disk)
            fit = Fit(disk / name, "--resume").wait()
            system("mount", "-o", "remount,rw", disk)
            rows.append(outcome(fault, fit, whole, says=["Read-only file system", "make it writable"]))
    return rows

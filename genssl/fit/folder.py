"""Where runs live: the folder of a new run, and the one to go on with."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from genssl.errors import CheckpointError, SettingsError
from genssl.files import LOCK, is_empty, make_folder, read_json
from genssl.fit import checkpoint
from genssl.fit.config import check

RUNS = Path("runs")
NONE, NUMBER = type(None), (int, float)
NEEDED: dict[str, Any] = {
    "method": str, "data": (str, NONE), "settings": dict, "replaced": dict, "seed": int, "num_views": int, "epochs": int,
    "batch_size": int, "lr": NUMBER, "optimizer": str, "schedule": str, "clip": (*NUMBER, NONE), "precision": str, "device": str,
    "threads": int, "versions": dict, "steps": int, "event_shape": list, "data_description": dict,
}  # fmt: skip
"""What config.json holds at least, and of which kind: a run folder may come from anywhere."""
LENGTH = ("steps", "epochs", "max_seconds")
MEANT = (
    "method", "settings", "replaced", "seed", "limit", "validation", "num_views", "batch_size", "lr", "optimizer", "schedule", "clip",
    "precision", "views", "event_shape", "num_classes", "steps_per_epoch",
)  # fmt: skip
"""What a run cannot change on its way; data and files may have moved, and machines differ."""


def is_run(folder: Path) -> bool:
    """Whether a run was started there: it has settings or, where those were lost, checkpoints."""
    return (folder / "config.json").exists() or bool(checkpoint.steps(folder / "checkpoint"))


def check_free(out: str | os.PathLike[str] | None) -> None:
    """Refuse a folder that holds something: nothing is ever overwritten."""
    if out is not None and Path(out).exists() and not (Path(out).is_dir() and is_empty(Path(out))):
        remedy = "or --resume to go on with that run" if is_run(Path(out)) else "or empty it"
        raise CheckpointError(f"{Path(out)}: exists and is not empty; give another --out, {remedy}")


def make(out: str | os.PathLike[str] | None, method: str, data: str, seed: int) -> Path:
    """Make the folder of a new run: `out`, or runs/METHOD-DATA-SEED, numbered from the second on."""
    if out is not None:
        make_folder(Path(out))
        return Path(out)
    number = max(_numbered(method, data, seed), default=0) + 1
    while not make_folder(folder := RUNS / (_name(method, data, seed) + (f"-{number}" if number > 1 else ""))):
        number += 1
    return folder


def to_resume(out: str | os.PathLike[str] | None, method: str, data: str, seed: int) -> Path | None:
    """The folder to go on with: `out`, or the last of runs/METHOD-DATA-SEED*; None where no run was started yet."""
    if out is not None:
        return Path(out) if is_run(Path(out)) else None
    runs = {number: path for number, path in _numbered(method, data, seed).items() if is_run(path)}
    return runs[max(runs)] if runs else None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time fits in a folder. The lock is the system's, and goes with the process, however that ends.

    The file stays, since one that is replaced or removed would let a second process lock another of that name.
    """
    try:
        import fcntl

        file = open(folder / LOCK, "ab")  # noqa: SIM115
    except (ImportError, OSError):  # Windows; a folder that cannot be written, which is told where it is
        yield
        return
    _locks.add(file)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CheckpointError(
                f"{folder}: another process is fitting this run; wait for it, or give another --out"
            ) from error
        except OSError:
            pass  # some network file systems have no locks
        yield
    finally:
        _locks.discard(file)
        file.close()


_locks: set[IO[bytes]] = set()
if hasattr(os, "register_at_fork"):  # a reading process would hold its parent's lock, also when that one is gone
    os.register_at_fork(after_in_child=lambda: [file.close() for file in _locks])


def read_config(folder: Path, kept: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """config.json of a run folder. kept: the config in its checkpoint, which it is held against, and which replaces one that is lost."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such run folder; name one that genssl fit made")
    path = folder / "config.json"
    try:
        config = read_json(path)
        lacking = [key for key in NEEDED if not isinstance(config, dict) or key not in config]
        if lacking:
            raise CheckpointError(f"{path}: is not the config of a run (it lacks {lacking[0]!r}); restore it")
    except CheckpointError as error:
        if kept is None:
            raise
        seen = str(error).rpartition("; ")[0]  # without its remedy
        warnings.warn(f"{seen}; the settings are taken from the checkpoint", stacklevel=2)
        _check_kinds(kept, path.with_name("checkpoint"))
        return dict(kept)
    _check_kinds(config, path)
    _check_unedited(config, kept, path)
    return config


def _check_kinds(config: Any, path: Path) -> None:
    """Refuse settings of kinds that no run has: files that others made are taken for what they are."""
    kinds = {**NEEDED, "lengthened": (list, NONE)}
    wrong = [key for key, kind in kinds.items() if not isinstance(config.get(key), kind)]
    wrong += ["lengthened"] * any(not isinstance(each, Mapping) for each in config.get("lengthened") or ())
    if wrong:
        raise CheckpointError(
            f"{path}: is not the config of a run (its {wrong[0]} is {config.get(wrong[0])!r:.60}); restore it"
        )


def _check_unedited(config: Mapping[str, Any], kept: Mapping[str, Any] | None, path: Path) -> None:
    """Refuse settings that no run can have, and those that are not the ones its checkpoint was written with."""
    named = {key: value for key, value in config.items() if key not in ("optimizer", "schedule")}  # may be the user's
    try:
        check(named)
    except SettingsError as error:
        raise CheckpointError(f"{path}: {error}; restore it") from error
    if kept is None:
        return
    lengths = [{key: each.get(key) for key in LENGTH} for each in (*(config.get("lengthened") or ()), config)]
    length = [] if {key: kept[key] for key in LENGTH} in lengths else LENGTH
    for key in (*MEANT, *length):
        if config.get(key) != kept.get(key):
            raise CheckpointError(
                f"{path}: {key} is {config.get(key)!r}, but its checkpoint was written with {kept.get(key)!r}; put that back"
            )


def _numbered(method: str, data: str, seed: int) -> dict[int, Path]:
    """The folders runs/METHOD-DATA-SEED (1) and -2, -3, ... there are; by number, since a clock may go back."""
    pattern = re.compile(re.escape(_name(method, data, seed)) + r"(?:-(\d+))?")
    found = {path: pattern.fullmatch(path.name) for path in RUNS.glob("*")}
    return {int(match[1] or 1): path for path, match in found.items() if match}


def _name(method: str, data: str, seed: int) -> str:
    safe = "".join(c if c.isalnum() or c in "_." else "_" for c in Path(data).name)
    return f"{method}-{safe or 'data'}-{seed}"

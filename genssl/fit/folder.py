"""Where runs live: the folder of a new run, and the one to go on with."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genssl.errors import CheckpointError
from genssl.files import is_empty, make_folder, read_json, sweep

RUNS = Path("runs")
NONE, NUMBER = type(None), (int, float)
NEEDED: dict[str, Any] = {
    "method": str, "data": (str, NONE), "settings": dict, "replaced": dict, "seed": int, "num_views": int, "epochs": int,
    "batch_size": int, "lr": NUMBER, "optimizer": str, "schedule": str, "clip": (*NUMBER, NONE), "precision": str, "device": str,
    "threads": int, "versions": dict, "steps": int, "event_shape": list, "data_description": dict,
}  # fmt: skip
"""What config.json holds at least, and of which kind: a run folder may come from anywhere."""


def check_free(out: str | os.PathLike[str] | None) -> None:
    """Refuse a folder that holds something: nothing is ever overwritten."""
    if out is not None and Path(out).exists() and not (Path(out).is_dir() and is_empty(Path(out))):
        remedy = "or --resume to go on with that run" if (Path(out) / "config.json").exists() else "or empty it"
        raise CheckpointError(f"{Path(out)}: exists and is not empty; give another --out, {remedy}")


def make(out: str | os.PathLike[str] | None, method: str, data: str, seed: int) -> Path:
    """Make the folder of a new run: `out`, or runs/METHOD-DATA-SEED, numbered if taken."""
    check_free(out)
    if out is not None:
        folder = Path(out)
        make_folder(folder)
        sweep(folder)
        return folder
    number, name = 1, _name(method, data, seed)
    while not make_folder(folder := RUNS / (name if number == 1 else f"{name}-{number}")):
        number += 1
    return folder


def to_resume(out: str | os.PathLike[str] | None, method: str, data: str, seed: int) -> Path | None:
    """The folder to go on with: `out`, or the newest runs/METHOD-DATA-SEED*; None where no run was started yet."""
    if out is not None:
        folder = Path(out)
        return folder if (folder / "config.json").exists() else None
    pattern = re.compile(re.escape(_name(method, data, seed)) + r"(-\d+)?")
    configs = [path for path in RUNS.glob("*/config.json") if pattern.fullmatch(path.parent.name)]
    newest = max(configs, key=lambda path: path.stat().st_mtime_ns, default=None)
    return None if newest is None else newest.parent


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time goes on with a run. The lock is the system's, and goes with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(folder / "config.json") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CheckpointError(
                f"{folder}: another process is fitting this run; wait for it, or give another --out"
            ) from error
        except OSError:
            pass  # some network file systems have no locks
        yield


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a run folder."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such run folder; name one that genssl fit made")
    config = read_json(folder / "config.json")
    missing = [key for key in NEEDED if not isinstance(config, dict) or key not in config]
    if missing:
        raise CheckpointError(
            f"{folder / 'config.json'}: is not the config of a run (it lacks {missing[0]!r}); restore it"
        )
    for key, kind in NEEDED.items():
        if not isinstance(config[key], kind):
            raise CheckpointError(
                f"{folder / 'config.json'}: is not the config of a run (its {key} is {config[key]!r:.60}); restore it"
            )
    return config


def _name(method: str, data: str, seed: int) -> str:
    safe = "".join(c if c.isalnum() or c in "_." else "_" for c in Path(data).name)
    return f"{method}-{safe or 'data'}-{seed}"

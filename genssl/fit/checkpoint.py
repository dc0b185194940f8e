"""Checkpoints: the last two, each whole, with a checksum; a damaged one is named and the one before is used."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from genssl.errors import CheckpointError
from genssl.files import read_tensors, write_tensors
from genssl.memory import of_memory

KEPT = 2


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state after `step` steps, then drop all but the last two."""
    path = folder / f"step-{step:09d}.pt"
    write_tensors(path, {"step": step, **state})
    # Those of later steps than this were found damaged when the run went on, or this one would not be written.
    kept = [old for old in steps(folder) if step_of(old) <= step][-KEPT:]
    for old in steps(folder):
        if old not in kept:
            old.unlink(missing_ok=True)
    return path


def load(folder: Path) -> dict[str, Any] | None:
    """The newest state that is whole, with a warning about those after it; None if there is none at all; CheckpointError if all are
    damaged.
    """
    damaged: list[str] = []
    for path in reversed(steps(folder)):
        try:
            state = read_tensors(path)
            if not isinstance(state, dict) or state.get("step") != step_of(path):
                raise CheckpointError(f"{path}: damaged (it is not the state of step {step_of(path)})")
        except Exception as error:  # a torn file can fail anywhere in the reader
            if of_memory(error):
                raise
            told = " ".join(str(error).split())
            damaged.append(told if isinstance(error, CheckpointError) else f"{path}: damaged ({told:.300})")
            continue
        for each in damaged:
            warnings.warn(f"{each}; using the checkpoint before it, of step {step_of(path)}", stacklevel=2)
        return state
    if damaged:
        raise CheckpointError(f"every checkpoint is damaged: {'; '.join(damaged)}; restore one, or give another --out")
    return None


def steps(folder: Path) -> list[Path]:
    """The checkpoint files, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if path.stem[5:].isdigit())


def step_of(path: Path) -> int:
    """The step that a checkpoint file was written after."""
    return int(path.stem[5:])

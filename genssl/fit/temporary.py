"""Folders for runs that nobody named: side by side without meeting, and gone when they are not wanted."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genssl.files import is_empty, make_folder


@contextmanager
def free_folder(out: Path) -> Iterator[Path]:
    """`out`, or the first of out-2, out-3, ... that is empty and that nobody fits to: fits side by side never share a folder.

    The claim lies beside the folder, since genssl.fit sweeps what lies in it. One that a killed process left costs its number.
    """
    make_folder(out.parent)
    for number in itertools.count(1):
        place = out if number == 1 else out.with_name(f"{out.name}-{number}")
        claim = place.with_name(f".{place.name}.claimed")
        try:
            claim.touch(exist_ok=False)
        except FileExistsError:
            continue
        try:
            if not place.exists() or (place.is_dir() and is_empty(place)):
                yield place
                return
        finally:
            claim.unlink(missing_ok=True)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that goes where the fit fails; else with its run."""
    place = Path(tempfile.mkdtemp(prefix="genssl-"))
    try:
        yield place
    except BaseException as error:
        shutil.rmtree(place, ignore_errors=True)
        if str(place) in str(error):
            error.add_note(f"{place} was temporary and is gone; give Representation(out=...) to keep the run")
        raise


def remove_own(folder: Path, process: int) -> None:
    """Remove a temporary run; a forked process leaves its parent's alone."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)

"""Files written whole or not at all, and read without executing code."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import numbers
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from genssl.errors import CheckpointError, GensslError
from genssl.memory import of_memory

LOCK = ".lock"


class DiskError(GensslError, OSError):
    """A file could not be written; what was there before is untouched."""


def write_bytes(path: Path, *parts: bytes | memoryview) -> None:
    """Write through a temporary file in the same folder: a reader, or a crash, sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _told(path):
        try:
            make_folder(path.parent)
            with open(temporary, "wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def check_writable(folder: Path) -> None:
    """DiskError where nothing can be written in a folder, which is made: better said before long work than after it."""
    probe = folder / f".probe.{os.getpid()}.tmp"
    write_bytes(probe, b"")
    probe.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file."""
    with _told(path):
        path.unlink()


def make_folder(path: Path) -> bool:
    """Make a folder and those above it; False if it was there already."""
    with _told(path):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if path.is_dir():
                return False
            raise
        return True


def sweep(folder: Path) -> None:
    """Remove temporary files that a killed process left."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing, a lock and temporary files of a killed process aside."""
    return all(path.name == LOCK or path.match(".*.tmp") for path in folder.iterdir())


def to_disk(path: Path) -> None:
    """Wait until what was appended to a file, if there is one, outlives a power cut."""
    with _told(path), suppress(FileNotFoundError), open(path, "rb+") as file:
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """A page or table; what is no text (half of a surrogate pair, from other bytes in a name or a forged file) goes in as its escape."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Pretty JSON; NaN and infinities become null, which every reader accepts."""
    write_bytes(path, (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """A JSON file, or an error that names it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; is {path.parent} a run folder?") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); restore it, or start again with another --out") from error


def write_tensors(path: Path, value: Any) -> None:
    """Tensors and plain containers, with their SHA-256 in front: torch's own format does not notice a flipped bit."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    data = buffer.getbuffer()
    write_bytes(path, hashlib.sha256(data).digest(), data)


def read_tensors(path: Path) -> Any:
    """What `write_tensors` wrote, on the CPU; CheckpointError if one bit differs, or if it is anything but tensors and plain containers.

    A checksum tells accidents from files, not friends from strangers: whoever forges a file forges its checksum too.
    """
    with open(path, "rb") as file:
        digest, data = file.read(32), file.read()
    found = hashlib.sha256(data).digest()
    if found != digest:
        seen = f"checksum {found.hex()[:8]} of {len(data)} bytes, expected {digest.hex()[:8] or 'one'}"
        raise CheckpointError(f"{path}: damaged ({seen})")
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own words recommend to load it all the same
        if of_memory(error):
            raise
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks for {named[1]}" if named else "cannot be read"
        raise CheckpointError(
            f"{path}: {what}, expected tensors and plain containers alone; nothing in it was run, and it should not be trusted"
        ) from error


def plain(value: Any) -> Any:
    """A value as JSON holds it: tuples become lists, numbers that are not finite None, anything else its text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, numbers.Integral):  # numpy's too
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return str(value)


def cannot_write(path: Path, error: OSError, kept: str, otherwise: str) -> DiskError:
    """What stands in the way of writing a file, and what to do about it."""
    if isinstance(error, DiskError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        why, remedy = "the disk is full", "make room"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        why, remedy = str(error.strerror), "make it writable"
    elif error.errno == errno.EFBIG:
        why, remedy = str(error.strerror), "raise the limit on the size of a file"
    else:
        why, remedy = str(error.strerror or error), "mend that"
    return DiskError(f"{path}: cannot write ({why}); {kept}{remedy}{otherwise}")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error, "what was there is untouched; ", " or move to another folder") from error

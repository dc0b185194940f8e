"""Files written whole or not at all, and read without executing code."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import torch

from genssl.errors import CheckpointError, GensslError


class DiskError(GensslError, OSError):
    """A file could not be written; what was there before is untouched."""


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write through a temporary file in the same folder: a reader, or a crash, sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        why = "the disk is full" if error.errno == errno.ENOSPC else str(error.strerror)
        raise DiskError(f"{path}: cannot write ({why}); what was there is untouched; make room or give another --out") from error


def write_json(path: Path, value: Any) -> None:
    """Pretty JSON; NaN and infinities become null, which every reader accepts."""
    write_bytes(path, (json.dumps(_plain(value), indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """A JSON file, or an error that names it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; is {path.parent} a run folder?") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); restore it, or start again with another --out") from error


def write_tensors(path: Path, value: Any) -> None:
    """Tensors and plain containers, with their SHA-256 in front: torch's own format does not notice a flipped bit."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    data = buffer.getvalue()
    write_bytes(path, hashlib.sha256(data).digest() + data)


def read_tensors(path: Path) -> Any:
    """What `write_tensors` wrote, on the CPU; CheckpointError if one bit differs."""
    data = path.read_bytes()
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise CheckpointError(f"{path}: damaged (its checksum does not match)")
    return torch.load(io.BytesIO(data[32:]), map_location="cpu", weights_only=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)

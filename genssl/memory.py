"""Out of memory: what was asked for, and what to lower."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from genssl.errors import GensslError, OutOfMemoryError

SAYS = re.compile(r"can't allocate memory|not enough memory|out of memory", re.IGNORECASE)
ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) (bytes|\w+)", re.IGNORECASE)


@contextmanager
def memory_told(where: str, remedy: str) -> Iterator[None]:
    """Failed allocations of Python, numpy and torch (on the CPU a bare RuntimeError) as OutOfMemoryError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, GensslError) or not of_memory(error):
            raise
        raise OutOfMemoryError(f"{where}: out of memory{_asked(str(error))}; {remedy}") from error


def of_memory(error: Exception) -> bool:
    """Whether it says that an allocation failed."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(SAYS.search(str(error))))


def _asked(message: str) -> str:
    found = ASKED.search(message)
    if found is None:
        return ""
    size = f"{float(found[1]) / 2**20:.0f} MiB" if found[2] == "bytes" else f"{found[1]} {found[2]}"
    return f" (it asked for {size} more)"

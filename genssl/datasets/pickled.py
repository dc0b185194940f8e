"""Reads pickles of plain values without running what they ask for: numbers, text, lists, dicts and uint8 arrays of numpy."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from genssl.errors import DataError


def read_pickle(path: Path) -> dict[str, Any]:
    """The dict in a pickle of Python 2 or 3, with text keys and uint8 arrays as numpy arrays (read-only).

    Byte strings of Python 2 stay bytes. Nothing is imported or called that the file names: numpy's two constructors, of
    which forged ones could reach into memory, are replaced by classes that only keep the bytes of an array.

    Errors: DataError naming the file and what it asks for where that is anything else, or how it is damaged.
    """
    try:
        with path.open("rb") as file:
            content = _Reader(file, path).load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"holds a {type(content).__name__}, expected a dict")
        return {_text(key): value.array if isinstance(value, _Array) else value for key, value in content.items()}
    except DataError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: cannot be read ({reason}); check the file and its permissions") from error
    except Exception as error:  # a damaged pickle can stop in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(
            f"{path}: damaged: cannot be read ({reason:.120}); delete it and get it again with --download (download=True)"
        ) from error


class _Array:
    """What numpy's _reconstruct makes, before and after its state is set."""

    def __init__(self, *arguments: Any) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, values = state
        if not isinstance(dtype, _Bytes) or fortran or not isinstance(values, bytes) or len(values) != math.prod(shape):
            raise pickle.UnpicklingError(f"an array of shape {shape}, expected as many bytes in C order")
        self.array = np.frombuffer(values, np.uint8).reshape(shape)


class _Bytes:
    """What numpy's dtype makes; of all types only u1, unsigned bytes."""

    def __init__(self, kind: bytes | str, *arguments: Any) -> None:
        if _text(kind) != "u1":
            raise pickle.UnpicklingError(f"an array of type {_text(kind)}, expected u1")

    def __setstate__(self, state: Any) -> None:
        pass  # byte order and alignment mean nothing for bytes


ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "dtype"): _Bytes,
    ("numpy", "ndarray"): "ndarray",  # only ever an argument of _reconstruct
}


class _Reader(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="bytes")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            expected = "expected nothing but numbers, text, lists, dicts and arrays of numpy"
            remedy = "delete it and get it again with --download (download=True)"
            raise DataError(f"{self.path}: asks for {module}.{name}, {expected}; {remedy}")
        return ADMITTED[module, name]


def _text(key: Any) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)

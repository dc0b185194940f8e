"""Reads files in the idx format (MNIST's), plain or gzip-compressed, in place."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from genssl.errors import DataError

# LeCun's format: two zero bytes, the type, the number of dimensions, each size as a big-endian uint32, then the values.
TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_RATIO = 1100  # deflate cannot do better than 1032 to 1: a header that claims more is damaged


def find_idx(path: Path) -> Path | None:
    """The file itself or, where there is none, the file with .gz appended; None where there is neither."""
    return next((each for each in (path, path.with_name(path.name + ".gz")) if each.is_file()), None)


def read_idx(path: Path, dims: int | None = None, digest: Any = None) -> Tensor:
    """The tensor in an idx file, compressed if its name ends in .gz. Nothing is written.

    dims     the number of dimensions expected (None: any)
    digest   a hashlib object, updated with the uncompressed bytes

    Errors: DataError naming the file where it cannot be opened, has another magic number or number of dimensions, or is
    shorter or longer than its header says.
    """
    try:
        size = path.stat().st_size
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read(cast(IO[bytes], file), path, size, dims, digest)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, f"cannot be decompressed ({error})") from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); check the file and its permissions"
        ) from error


def _read(file: IO[bytes], path: Path, size: int, dims: int | None, digest: Any) -> Tensor:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or magic[3] == 0:
        raise _damaged(path, f"starts with {magic.hex() or 'nothing'}, expected an idx magic number such as 00000803")
    if dims is not None and magic[3] != dims:
        raise _damaged(path, f"has {magic[3]} dimensions, expected {dims}")
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise _damaged(path, "ends within its header")
    shape = [int(n) for n in np.frombuffer(header, ">u4")]
    dtype = np.dtype(TYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    if expected > size * (GZIP_RATIO if path.suffix == ".gz" else 1):  # before memory is asked for
        raise _damaged(path, f"has {size} bytes, too few for the {shape} values that its header announces")
    body = file.read(expected + 1)  # one more than there should be: it also makes gzip verify its checksum
    if len(body) != expected:
        seen = f"{len(body)} bytes" if len(body) < expected else "more bytes"
        raise _damaged(path, f"has {seen} of values, expected {expected} for the shape {shape} in its header")
    if digest is not None:
        digest.update(magic + header)
        digest.update(body)
    values = np.frombuffer(body, dtype).reshape(shape)
    return torch.from_numpy(values.astype(dtype.newbyteorder("=")))  # astype copies: torch wants writable memory


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path}: damaged: {what}; delete it and get it again with --download (download=True)")

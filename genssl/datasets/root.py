"""The folder of the named data sets, in torchvision's layout, torchvision's own download into it, and the check of files."""

from __future__ import annotations

import hashlib
import os
import tarfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genssl.datasets.torchvision_shim import ensure_torchvision
from genssl.errors import DataError


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """`root`, else $GENSSL_DATA, else ~/.cache/genssl. The folder need not exist, and is not made."""
    return Path(root or os.environ.get("GENSSL_DATA") or "~/.cache/genssl").expanduser()


def download_into(root: Path, dataset: str, **settings: Any) -> None:
    """Let torchvision.datasets.<dataset> download itself; the only function of this package that writes below the root.

    Errors: DataError where there is no network, no permission, or what came is not what torchvision expects.
    """
    ensure_torchvision()
    from torchvision import datasets

    try:
        with _contained():
            getattr(datasets, dataset)(str(root), download=True, **settings)
    except Exception as error:  # beside RuntimeError and OSError those of torchvision's helper for Google Drive
        reason = " ".join(str(error).split())
        remedy = "check network and permissions, or copy the files there"
        raise DataError(f"{dataset}: download to {root} failed ({reason}); {remedy}") from error


@contextmanager
def _contained() -> Iterator[None]:
    """No tar archive that is unpacked meanwhile writes outside its folder: the filter that Python 3.14 has by default (PEP 706).

    torchvision unpacks archives of the published MD5 alone, and zipfile contains its members by itself.
    """
    if not hasattr(tarfile, "data_filter"):  # Python 3.11.3 and before
        yield
        return
    before = vars(tarfile.TarFile)["extraction_filter"]
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)  # type: ignore[assignment]
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


def not_found(name: str, files: list[str], folder: Path, needs: str = "") -> DataError:
    """The error for files that are missing: which, where they were sought, and what gets them (`needs`: what a download needs)."""
    remedy = f"get it with --download (download=True{needs}), or name the folder that has it with --data-root or $GENSSL_DATA"
    return DataError(f"{name}: {', '.join(files)} not found in {folder}; {remedy}")


def check_published(folder: Path, md5: Mapping[str, str], verify: bool) -> list[str]:
    """The files of `folder` whose MD5 is not the published one: an error with verify, a warning without.

    Errors: DataError naming the first of them, or a file that cannot be read.
    """
    seen = {file: _md5(folder / file) for file in md5}
    others = [file for file in md5 if seen[file] != md5[file]]
    if others and verify:
        first, more = others[0], f" ({len(others)} of {len(md5)} files differ)" if len(others) > 1 else ""
        remedy = "delete it and get it again with --download, or take it as it is with --no-verify (verify=False)"
        raise DataError(
            f"{folder / first}: not the published file: MD5 {seen[first]}, expected {md5[first]}{more}; {remedy}"
        )
    if others:
        what = f"{', '.join(others)} differ from the published files (MD5) and are taken as they are"
        warnings.warn(f"{folder}: {what}", stacklevel=4)
    return others


def _md5(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); check the file and its permissions"
        ) from error

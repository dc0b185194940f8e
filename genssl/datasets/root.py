"""The folder of the named data sets, in torchvision's layout, and torchvision's own download into it."""

from __future__ import annotations

import os
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
        getattr(datasets, dataset)(str(root), download=True, **settings)
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        remedy = "check network and permissions, or copy the files there"
        raise DataError(f"{dataset}: download to {root} failed ({reason}); {remedy}") from error


def not_found(name: str, files: list[str], folder: Path) -> DataError:
    """The error for files that are missing: which, where they were sought, and what gets them."""
    remedy = "get it with --download (download=True), or name the folder that has it with --data-root or $GENSSL_DATA"
    return DataError(f"{name}: {', '.join(files)} not found in {folder}; {remedy}")

"""CIFAR-10, read in place from torchvision's layout ROOT/cifar-10-batches-py/."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genssl.datasets.data import Data, draw_splits
from genssl.datasets.items import Items
from genssl.datasets.pickled import read_pickle
from genssl.datasets.root import check_published, data_root, download_into, not_found
from genssl.errors import DataError

FOLDER = "cifar-10-batches-py"
FILES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
META = "batches.meta"
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
INEXACT = "inexact_rows.json"
MAX_VALIDATION = 5000


def cifar10(
    root: str | os.PathLike[str] | None = None, download: bool = False, verify: bool = True, seed: int = 0
) -> Data:
    """CIFAR-10 (Krizhevsky 2009): 50000 + 10000 photographs of ten classes, uint8 [3, 32, 32].

    validation: 5000 of the training images, drawn by `seed` (a tenth of the training images where there are fewer than
    50000); test: the published one.

    The files are pickles, read without running what they ask for. verify: each must have the published MD5; without
    it, other files are taken with a warning, and where ROOT/cifar-10-batches-py/inexact_rows.json lists, by file, rows
    that are no exact copies ({"test_batch": [7, 12], ...}), their number stands in `notes`, which every run keeps.

    Errors: DataError naming the file that is missing, damaged or not the published one, and what gets it.
    """
    from genssl import views

    folder = data_root(root) / FOLDER
    if download and missing_cifar10(data_root(root)):
        download_into(data_root(root), "CIFAR10")
    if missing := missing_cifar10(data_root(root)):
        raise not_found("cifar10", missing, folder)
    others = check_published(folder, MD5, verify)
    classes = _read_classes(folder / META)
    whole, test = (_read_split([folder / file for file in files], len(classes)) for files in FILES.values())
    train, drawn = draw_splits(whole, {"validation": min(0.1, MAX_VALIDATION / len(whole))}, seed, "cifar10")
    notes = "bit-exact copies of the published files (MD5)"
    if others:
        sizes = {"train": len(whole), "test": len(test)}
        notes = f"{len(others)} of {len(MD5)} files are not the published ones (MD5){_inexact(folder / INEXACT, sizes)}"
    return Data("cifar10", train, test=test, classes=classes, views=views.cifar10(), notes=notes, **drawn)


def missing_cifar10(root: Path) -> list[str]:
    """The names of the files that ROOT/cifar-10-batches-py lacks."""
    return [name for name in MD5 if not (root / FOLDER / name).is_file()]


def _read_split(paths: list[Path], num_classes: int) -> Items:
    batches = [_read_batch(path, num_classes) for path in paths]
    x = np.concatenate([images for images, _ in batches])  # a copy, so that torch gets memory that it may write to
    label = [label for _, labels in batches for label in labels]
    return Items(torch.from_numpy(x).reshape(-1, 3, 32, 32), torch.tensor(label))


def _read_batch(path: Path, num_classes: int) -> tuple[np.ndarray, list[int]]:
    batch = read_pickle(path)
    x: Any = batch.get("data")
    labels: Any = batch.get("labels")
    fits = isinstance(x, np.ndarray) and x.ndim == 2 and x.shape[1] == 3 * 32 * 32 and len(x) > 0
    fits = fits and isinstance(labels, list) and len(labels) == len(x)
    if not fits or not all(type(label) is int and 0 <= label < num_classes for label in labels):
        seen = f"data {_describe(x)} and labels {_describe(labels)}"
        expected = f"uint8 [N, 3072] and N labels from 0 to {num_classes - 1}"
        raise DataError(f"{path}: holds {seen}, expected {expected}; delete it and get it again with --download")
    return x, labels


def _read_classes(path: Path) -> tuple[str, ...]:
    names = read_pickle(path).get("label_names")
    if not isinstance(names, list) or len(names) != 10 or not all(isinstance(name, (bytes, str)) for name in names):
        seen = _describe(names)
        raise DataError(f"{path}: label_names is {seen}, expected 10 names; delete it and get it again with --download")
    return tuple(name.decode("latin1") if isinstance(name, bytes) else name for name in names)


def _inexact(path: Path, sizes: dict[str, int]) -> str:
    """What `notes` say of the rows listed as no exact copies; nothing where there is no list."""
    if not path.is_file():
        return ""
    try:
        rows = json.loads(path.read_text())
        counts = {split: sum(len(set(rows.get(file, ()))) for file in files) for split, files in FILES.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        expected = '{"data_batch_1": [rows], ...}'
        raise DataError(f"{path}: cannot be read ({error}), expected {expected}; repair or delete it") from error
    train, test = (f"{counts[split]} of {sizes[split]}" for split in FILES)
    return f"; {train} training and {test} test images are decoded JPEG copies"


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__

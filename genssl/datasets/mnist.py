"""MNIST and FashionMNIST, read in place from torchvision's layout ROOT/NAME/raw/."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genssl.datasets.data import Data, draw_splits
from genssl.datasets.idx import find_idx, read_idx
from genssl.datasets.items import Items
from genssl.datasets.root import data_root, download_into, not_found
from genssl.errors import DataError

GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CLASSES = {
    "MNIST": tuple("0123456789"),
    "FashionMNIST": GARMENTS,
}
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
PUBLISHED = {"train": 60000, "test": 10000}
# Of the uncompressed files, so that they hold for both forms.
MD5 = {
    "MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
MAX_VALIDATION = 5000


def mnist(
    root: str | os.PathLike[str] | None = None, download: bool = False, verify: bool = True, seed: int = 0
) -> Data:
    """MNIST (LeCun and Cortes 1998): 60000 + 10000 handwritten digits, uint8 [1, 28, 28].

    validation: 5000 of the training images, drawn by `seed` (a tenth of the training images where there are fewer than
    50000); test: the published one. verify: files of the published size must have the published MD5.

    Errors: DataError naming the file that is missing or damaged, where it was sought, and what gets it.
    """
    from genssl import views

    return _load("MNIST", "mnist", views.mnist(), data_root(root), download, verify, seed)


def fashion_mnist(
    root: str | os.PathLike[str] | None = None, download: bool = False, verify: bool = True, seed: int = 0
) -> Data:
    """FashionMNIST (Xiao, Rasul and Vollgraf 2017): 60000 + 10000 garments, uint8 [1, 28, 28].

    Splits, settings and errors as in mnist.
    """
    from genssl import views

    return _load("FashionMNIST", "fashion_mnist", views.fashion_mnist(), data_root(root), download, verify, seed)


def missing_files(folder: str, root: Path) -> list[str]:
    """The names of the files of ROOT/folder/raw of which neither form exists; folder: MNIST or FashionMNIST."""
    return [name for names in FILES.values() for name in names if find_idx(root / folder / "raw" / name) is None]


def _load(folder: str, name: str, views: Any, root: Path, download: bool, verify: bool, seed: int) -> Data:
    if download and missing_files(folder, root):
        download_into(root, folder)
    if missing := missing_files(folder, root):
        raise not_found(name, [f"{file}[.gz]" for file in missing], root / folder / "raw")
    whole, test = (_read_split(folder, split, root, verify) for split in FILES)
    train, drawn = draw_splits(whole, {"validation": min(0.1, MAX_VALIDATION / len(whole))}, seed, name)
    notes = "bit-exact copies of the published files (MD5)" if verify else "not verified"
    if (len(whole), len(test)) != tuple(PUBLISHED.values()):
        notes = f"{len(whole)} and {len(test)} images, not the published 60000 and 10000"
    return Data(name, train, test=test, classes=CLASSES[folder], views=views, notes=notes, **drawn)


def _read_split(folder: str, split: str, root: Path, verify: bool) -> Items:
    images, labels = (_read_file(root, folder, name, verify, PUBLISHED[split]) for name in FILES[split])
    seen = (
        f"{images.dtype} {list(images.shape)} and {len(labels)} labels up to {int(labels.max()) if len(labels) else 0}"
    )
    if images.dtype != torch.uint8 or images.shape != (len(labels), 28, 28) or len(labels) == 0 or labels.max() > 9:
        where, remedy = root / folder / "raw", "delete them and get them again with --download (download=True)"
        files = " and ".join(FILES[split])
        raise DataError(f"{where}: {files} hold {seen}, expected uint8 [N, 28, 28] and N labels up to 9; {remedy}")
    return Items(images[:, None], labels)


def _read_file(root: Path, folder: str, name: str, verify: bool, published: int) -> Tensor:
    path = find_idx(root / folder / "raw" / name) or root / folder / "raw" / name
    digest = hashlib.md5(usedforsecurity=False)
    values = read_idx(path, dims=3 if "idx3" in name else 1, digest=digest)
    if verify and len(values) == published and digest.hexdigest() != MD5[folder][name]:
        seen = f"MD5 {digest.hexdigest()} for {published} items, expected {MD5[folder][name]}"
        remedy = "delete it and get it again with --download, or take it as it is with --no-verify (verify=False)"
        raise DataError(f"{path}: damaged: {seen}; {remedy}")
    return values

"""The data sets by name: what there is, what is at hand, and loading."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from genssl.datasets.data import Data
from genssl.datasets.digits import digits
from genssl.datasets.files import image_folder, npz, python_function
from genssl.datasets.mnist import fashion_mnist, missing_files, mnist
from genssl.datasets.root import data_root
from genssl.errors import SettingsError


def names() -> tuple[str, ...]:
    """The names that `load` knows; it takes FILE.npz, FOLDER and file.py:function beside them."""
    return ("digits", "mnist", "fashion_mnist")


def load(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    verify: bool = True,
    seed: int = 0,
    limit: int | None = None,
) -> Data:
    """The data set NAME | FILE.npz | FOLDER | file.py:function.

    root       the folder of the named data sets in torchvision's layout; default $GENSSL_DATA, else ~/.cache/genssl
    download   let torchvision download what is missing into root; without it nothing is ever written
    verify     check files of known content against their MD5
    seed       draws the splits that the data set does not bring
    limit      at most so many items of each split

    A name wins over a folder of the same name: write ./mnist for the folder.
    Errors: SettingsError for a name that means none of these, DataError for files that are missing or damaged.
    """
    data = _load(os.fspath(name), root, download, verify, seed)
    return data if limit is None else data.limit(limit)


def _load(name: str, root: str | os.PathLike[str] | None, download: bool, verify: bool, seed: int) -> Data:
    if name == "digits":
        return digits(seed)
    if name == "mnist":
        return mnist(root, download, verify, seed)
    if name == "fashion_mnist":
        return fashion_mnist(root, download, verify, seed)
    if name.lower().endswith(".npz"):
        return npz(name, seed=seed)
    if ".py:" in name:
        return python_function(name, seed=seed)
    if (name and Path(name).expanduser().is_dir()) or (os.sep in name and not name.endswith(".py")):
        return image_folder(name, seed=seed)
    near = difflib.get_close_matches(name.lower().replace("-", "_"), names(), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = ", ".join(names())
    raise SettingsError(
        f"data set {name!r} is unknown, expected {known}, FILE.npz, a folder of images or file.py:function{hint}"
    )


def available(root: str | os.PathLike[str] | None = None) -> list[dict[str, Any]]:
    """For each name {name, present, location}, or {name, present, how_to_get} where it is absent. Reads no data."""
    place = data_root(root)
    rows: list[dict[str, Any]] = [{"name": "digits", "present": True, "location": "scikit-learn"}]
    for name, folder in (("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")):
        present = not missing_files(folder, place)
        how = f"genssl fit METHOD --data {name} --download (into {place}), or --data-root DIR with DIR/{folder}/raw"
        told = {"location": str(place / folder / "raw")} if present else {"how_to_get": how}
        rows.append({"name": name, "present": present, **told})
    return rows

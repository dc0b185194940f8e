"""Data in the user's files: .npz archives, folders of images, and functions in Python files."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from genssl.datasets.data import Data, Split, as_split, from_any
from genssl.datasets.pictures import read_image
from genssl.datasets.torchvision_shim import ensure_torchvision
from genssl.errors import DataError, GensslError, SettingsError

PARTS = ("train", "validation", "test")


def npz(path: str | os.PathLike[str], seed: int = 0) -> Data:
    """The arrays of an .npz archive: x [N, *event] and y [N] (optional), or x_train, y_train, x_validation to y_test.

    Splits that the archive lacks are drawn from x (or x_train) as `from_any` does. Other names are left alone, with a warning. Objects
    are never unpickled. Errors: DataError naming the file and what is wrong in it.
    """
    path = Path(path).expanduser()
    arrays = _read_npz(path)
    pairs = [("x", "y"), *((f"x_{part}", f"y_{part}") for part in PARTS)]
    unknown = [key for key in arrays if key.startswith(("x_", "y_")) and not any(key in pair for pair in pairs)]
    whole = "x" in arrays
    if unknown or whole == ("x_train" in arrays) or (whole and any(f"x_{part}" in arrays for part in PARTS)):
        expected = "x and optionally y, or x_train and optionally y_train, x_validation, y_validation, x_test, y_test"
        raise DataError(f"{path}: arrays {', '.join(arrays) or 'none'}, expected {expected}; rename them")
    if other := [key for key in arrays if not any(key in pair for pair in pairs)]:
        warnings.warn(
            f"{path}: {', '.join(other)} not read; for groups give file.py:function, which returns Groups.by_key(x, key)",
            stacklevel=2,
        )
    for key in arrays:
        if key.startswith("x") and arrays[key].ndim == 3:
            raise DataError(
                f"{path}: {key} has shape {list(arrays[key].shape)}, expected images [N, C, H, W] or features [N, D]; give x[:, None] for "
                "grey images, a file.py:function that returns Groups for groups"
            )
    labelled = [("y" if whole else f"y_{part}") in arrays for part in PARTS if whole or f"x_{part}" in arrays]
    if any(labelled) != all(labelled):
        raise DataError(
            f"{path}: labels in some splits only, expected y_ beside each x_ or nowhere; add the missing ones"
        )

    def split(x: str, y: str) -> Split | None:
        if x not in arrays:
            return None
        return as_split((arrays[x], arrays[y]) if y in arrays else arrays[x], f"{path}, {x}")

    train, *given = (split(*pair) for pair in (pairs[0] if whole else pairs[1], *pairs[2:]))
    return from_any(train, seed=seed, validation=given[0], test=given[1], name=path.stem)


def image_folder(path: str | os.PathLike[str], size: int | tuple[int, int] | None = None, seed: int = 0) -> Data:
    """Images in PATH/CLASS/, or split in PATH/train/CLASS/, PATH/validation/CLASS/ (or val), PATH/test/CLASS/.

    uint8 [C, H, W], C = 1 where the first image is grey and 3 otherwise, decoded as they are read; small folders are
    then held in memory as `from_any` does. All images must have the size of the first one, unless `size`, a height and
    width in pixels (one number for both), asks for resizing (bicubic).

    Errors: DataError naming the folder without images or the image that is damaged or of another size.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; name a folder with one subfolder of images for each class")
    folders = {"train": path}
    if (path / "train").is_dir():
        places = {"train": ["train"], "validation": ["validation", "val"], "test": ["test"]}
        folders = {part: path / name for part, names in places.items() for name in names if (path / name).is_dir()}
    sizes = (size, size) if isinstance(size, int) else size
    loader = _Loader(sizes)
    opened = {part: _open_folder(folder, loader) for part, folder in folders.items()}
    classes = tuple(opened["train"].classes)
    for part, dataset in opened.items():
        if tuple(dataset.classes) != classes:
            raise DataError(
                f"{folders[part]}: classes {dataset.classes}, expected {list(classes)} as in train; rename the folders"
            )
    data = from_any(
        opened["train"],
        seed=seed,
        validation=opened.get("validation"),
        test=opened.get("test"),
        name=path.resolve().name,
    )
    return dataclasses.replace(data, classes=classes)


def python_function(spec: str, seed: int = 0) -> Data:
    """The data that FUNCTION() in FILE.py returns, for "FILE.py:FUNCTION"; anything that `from_any` accepts.

    The file is run. Errors: DataError where it does not exist or fails, SettingsError where it has no such function.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise DataError(f"{path}: no such file; name it as file.py:function")
    module_name = f"genssl_user_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    found = importlib.util.spec_from_file_location(module_name, path)
    if found is None or found.loader is None:
        raise DataError(f"{path}: not a Python file; name it as file.py:function")
    module = importlib.util.module_from_spec(found)
    sys.modules[module_name] = (
        module  # dataclasses and the unpickling in DataLoader workers look a class's module up here
    )
    try:
        found.loader.exec_module(module)
        function = getattr(module, name, None)
        if not callable(function):
            names = ", ".join(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
            raise SettingsError(
                f"{path}: no function {name!r}, expected one of: {names or 'none'}; name it as file.py:function"
            )
        data = function()
    except GensslError:
        raise
    except Exception as error:  # whatever the user's code raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{spec}: failed with {reason}; call {name}() in Python to see where") from error
    return from_any(data, seed=seed, name=name)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:  # numpy leaves a damaged archive open
            archive = np.load(file, allow_pickle=False)
            arrays = {key: archive[key] for key in archive.files} if isinstance(archive, np.lib.npyio.NpzFile) else None
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; name an .npz archive with x and y") from error
    except Exception as error:  # zipfile, zlib and numpy's header parser each have errors of their own
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{path}: cannot be read ({reason}); write it with numpy.savez(path, x=x, y=y)") from error
    if arrays is None:
        raise DataError(f"{path}: a single array, expected an archive; write it with numpy.savez(path, x=x, y=y)")
    return arrays


def _open_folder(folder: Path, loader: _Loader) -> Any:
    ensure_torchvision()
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(str(folder), loader=loader)
    except (FileNotFoundError, PermissionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{folder}: {reason}; expected one subfolder of images for each class") from error


class _Loader:
    """Reads one image file; remembers mode and size of the first, which all others must have."""

    def __init__(self, size: tuple[int, int] | None) -> None:
        self.resize = size  # height and width
        self.first, self.mode, self.size = "", "", (0, 0)  # path, mode and size of the first image

    def __call__(self, path: str) -> Any:
        from PIL import Image

        image = read_image(path, "replace or delete it")
        if self.resize is not None:
            image = image.resize(self.resize[::-1], Image.Resampling.BICUBIC)
        seen = (image.height, image.width)
        if not self.first:
            self.first, self.mode, self.size = path, image.mode, seen
        if image.mode != self.mode and self.mode == "L":
            remedy = "convert all images to one kind"
            raise DataError(f"{path}: a colour image, expected a grey one as {self.first}; {remedy}")
        if seen != self.size:
            remedy = "ask for one size with image_folder(path, size=...)"
            raise DataError(f"{path}: {seen} pixels, expected {self.size} as {self.first}; {remedy}")
        return image.convert(self.mode)

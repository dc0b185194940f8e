"""CelebA, read in place from torchvision's layout ROOT/celeba/: one label of choice, the 40 attributes as style."""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from genssl.datasets.arrays import as_tensor
from genssl.datasets.data import Data
from genssl.datasets.items import Items, Stream
from genssl.datasets.pictures import read_image
from genssl.datasets.root import check_published, data_root, download_into, not_found
from genssl.errors import DataError, SettingsError

FOLDER, IMAGES, ATTRIBUTES, PARTITION = "celeba", "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"
MD5 = {ATTRIBUTES: "75e246fa4810816ffd6ee81facbd244c", PARTITION: "d32c9cbf5e040fd4025c592c306e6668"}
SPLITS = ("train", "validation", "test")  # 0, 1, 2 in the list
HAIR = {"black": "Black_Hair", "blond": "Blond_Hair", "brown": "Brown_Hair", "gray": "Gray_Hair", "bald": "Bald"}
BLOCK = 256  # images that one thread reads at a time


def celeba(
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    verify: bool = True,
    seed: int = 0,
    target: str = "hair",
    size: int = 64,
    crop: int | None = None,
    memory: bool = True,
    limit: int | None = None,
) -> Data:
    """CelebA (Liu et al. 2015), aligned and cropped: 162770 + 19867 + 19962 faces, uint8 [3, size, size].

    Splits are the published ones, so that `seed` draws nothing. The 40 binary attributes are the categorical style
    factors [N, 40] of every split, 0 or 1, under their names.

    target   "hair": black, blond, brown, gray, bald (0 to 4); images with none or several of these five attributes are
             left out. Or the name of an attribute: 0 or 1, and no image is left out
    size     pixels; the image of 178 x 218 is resized as a whole (bilinear, antialiased, as torchvision.transforms.Resize
             does), which changes its proportions
    crop     cut out this square in the middle first; 148 is usual elsewhere
    memory   hold the decoded images (2.5 GB at 64 pixels), read once by as many threads as there are processors;
             False: decode them anew in every epoch (a Stream)
    limit    at most so many images of each split, those that Data.limit takes; the others are not read
    verify   the two lists must have the published MD5; of single images none is published

    Against the paper (Bizeul et al. 2024), which "cropped and resized" without saying how: the fifth class is its "bald",
    where the released code takes every image without one of the four colours; images of missing or ambiguous hair colour
    are left out of training too, where the paper trains on them and leaves them out of the evaluation only.

    Errors: DataError naming what is missing, damaged or not the published file; SettingsError for a bad setting.
    """
    from genssl import views

    folder = data_root(root) / FOLDER
    _check(size, crop)
    if download and missing_celeba(data_root(root)):
        download_into(data_root(root), "CelebA")
    if missing := missing_celeba(data_root(root)):
        raise not_found("celeba", missing, folder, ", which needs pip install gdown")
    others = check_published(folder, MD5, verify)
    files, names, attributes, part = _read_lists(folder)
    label, classes = _labels(target, names, attributes)
    _check_images(folder / IMAGES, files)
    kept, splits = label >= 0, {}
    for number, name in enumerate(SPLITS):
        rows = (kept & (part == number)).nonzero()[:, 0]
        if len(rows) == 0:
            raise DataError(f"{folder}: no {name} images for target={target}; take another, or complete the lists")
        faces = Faces([folder / IMAGES / files[row] for row in rows.tolist()], label[rows], size, crop)
        splits[name] = Stream(faces, style=attributes[rows].float(), style_names=names, style_kinds=_kinds(names))
    notes = [f"target {target}", f"{size} pixels, {f'of the middle {crop}' if crop else 'whole image resized'}"]
    if not bool(kept.all()):
        dropped = [f"{int((~kept & (part == n)).sum())} of {int((part == n).sum())} {s}" for n, s in enumerate(SPLITS)]
        notes.append(f"left out without one hair colour: {', '.join(dropped)}")
    notes.append("lists not the published ones (MD5)" if others else "lists as published (MD5)")
    own = views.celeba()  # the paper augments both data sets alike (Table 2)
    data = Data("celeba", **splits, classes=classes, views=own, notes="; ".join(notes))
    data = data if limit is None else data.limit(limit)
    held: dict[str, Any] = {name: _hold(split) for name, split in data.splits()} if memory else {}
    return dataclasses.replace(data, **held)


def missing_celeba(root: Path) -> list[str]:
    """What ROOT/celeba lacks of the two lists and the folder of images; no image is looked for."""
    lists = [name for name in MD5 if not (root / FOLDER / name).is_file()]
    return lists if (root / FOLDER / IMAGES).is_dir() else [*lists, f"{IMAGES}/"]


class Faces(Dataset):
    """(uint8 [3, size, size], label) of each image file, decoded when asked for."""

    def __init__(self, paths: Sequence[Path], label: Tensor, size: int, crop: int | None) -> None:
        self.paths, self.label, self.size, self.crop = paths, label, size, crop

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.image(index), self.label[index]

    def image(self, index: int) -> Tensor:
        from PIL import Image

        path = self.paths[index]
        image = read_image(path, f"unpack {IMAGES}.zip again").convert("RGB")
        if self.crop is not None:
            left, top = round((image.width - self.crop) / 2), round((image.height - self.crop) / 2)
            if min(left, top) < 0:
                seen = f"{image.width} x {image.height} pixels"
                raise DataError(f"{path}: {seen}, fewer than crop = {self.crop}; give a smaller crop")
            image = image.crop((left, top, left + self.crop, top + self.crop))
        return as_tensor(image.resize((self.size, self.size), Image.Resampling.BILINEAR), str(path))


def _hold(split: Any) -> Items:
    """The images of a Stream of Faces in memory; threads share the work, since PIL decodes and resizes beside Python."""
    faces: Faces = split.dataset
    x = torch.empty(len(split), *split.event_shape, dtype=torch.uint8)

    def read(block: Tensor) -> int:
        for place, row in zip(block.tolist(), split.rows[block].tolist(), strict=True):
            x[place] = faces.image(row)
        return len(block)

    blocks = torch.arange(len(split)).split(BLOCK)
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(split), desc="celeba", unit="image", file=sys.stderr, leave=False, disable=None) as bar,
    ):
        for count in pool.map(read, blocks):
            bar.update(count)
    return Items(x, faces.label[split.rows], split.style, split.style_names, split.style_kinds)


def _labels(target: str, names: Sequence[str], attributes: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """([N] int64, -1 where the image has no label, names of the classes)."""
    if target == "hair" and set(HAIR.values()) <= set(names):
        hair = attributes[:, [names.index(name) for name in HAIR.values()]]
        return torch.where(hair.sum(1) == 1, hair.argmax(1), -1), tuple(HAIR)
    if target not in names:
        near = difflib.get_close_matches(str(target), names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SettingsError(f"target = {target!r}, expected hair or one of {', '.join(names)}{hint}")
    return attributes[:, names.index(target)].long(), (f"not {target}", target)


def _read_lists(folder: Path) -> tuple[list[str], tuple[str, ...], Tensor, Tensor]:
    """(file names, names of the attributes, attributes [N, S] uint8 0 or 1, part [N] 0, 1 or 2), in the order of the lists."""
    lines = _read_lines(folder / ATTRIBUTES)
    count, header, lines = *[*lines, "", ""][:2], lines[2:]
    names = tuple(header.split())
    if count.strip() != str(len(lines)) or not names or not lines:
        seen = f"{len(lines)} rows of {len(names)} attributes where the first line is {count!r:.20}"
        raise _damaged(folder / ATTRIBUTES, seen, "the number of rows, then the names, then the rows")
    files, values = [], bytearray()  # no list of lists, which would take half a gigabyte
    for line in lines:
        file, *row = line.split() or [""]
        if len(row) != len(names) or not {"1", "-1"}.issuperset(row):
            raise _damaged(folder / ATTRIBUTES, repr(f"{line:.60}"), f"FILE and {len(names)} times 1 or -1")
        files.append(file)
        values.extend(value == "1" for value in row)
    parts = [line.split() for line in _read_lines(folder / PARTITION)]
    bad = next((row for row in parts if len(row) != 2 or row[1] not in ("0", "1", "2")), None)
    if bad is not None or [row[0] for row in parts] != files:
        seen = repr(" ".join(bad)[:60]) if bad is not None else f"{len(parts)} rows of other files or in another order"
        raise _damaged(folder / PARTITION, seen, f"FILE and 0, 1 or 2 for the {len(files)} files of {ATTRIBUTES}")
    attributes = torch.frombuffer(values, dtype=torch.uint8).reshape(-1, len(names))
    return files, names, attributes, torch.tensor([int(part) for _, part in parts])


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); check the file and its permissions") from error


def _damaged(path: Path, seen: str, expected: str) -> DataError:
    return DataError(f"{path}: damaged: {seen}, expected {expected}; get it again with --download (download=True)")


def _check_images(folder: Path, files: Sequence[str]) -> None:
    there = {entry.name for entry in os.scandir(folder)}
    if missing := [name for name in files if name not in there]:
        seen = f"{len(missing)} of {len(files)} images are missing, such as {missing[0]}"
        raise DataError(f"{folder}: {seen}; unpack {IMAGES}.zip again")


def _check(size: int, crop: int | None) -> None:
    for name, value in {"size": size, "crop": crop}.items():
        if value is not None and (type(value) is not int or value < 1):
            raise SettingsError(f"celeba: {name} = {value!r}, expected a number of pixels, such as {name}=64")


def _kinds(names: Sequence[str]) -> tuple[str, ...]:
    return ("categorical",) * len(names)

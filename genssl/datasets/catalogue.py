"""The data sets by name: what there is, what is at hand, and loading."""

from __future__ import annotations

import ast
import difflib
import inspect
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from genssl.datasets.celeba import celeba, missing_celeba
from genssl.datasets.cifar10 import cifar10, missing_cifar10
from genssl.datasets.data import Data
from genssl.datasets.digest import digest_of
from genssl.datasets.digits import digits
from genssl.datasets.files import image_folder, npz, python_function
from genssl.datasets.mnist import fashion_mnist, missing_files, mnist
from genssl.datasets.root import data_root
from genssl.datasets.sprites import sprites
from genssl.errors import SettingsError

NAMED: dict[str, Callable[..., Data]] = {
    "digits": digits,
    "sprites": sprites,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "celeba": celeba,
}
BUILT_IN = {"digits": "scikit-learn", "sprites": "rendered"}
DOWNLOADED: dict[str, tuple[str, Callable[[Path], list[str]]]] = {  # folder below the root, and what it lacks
    "mnist": ("MNIST/raw", partial(missing_files, "MNIST")),
    "fashion_mnist": ("FashionMNIST/raw", partial(missing_files, "FashionMNIST")),
    "cifar10": ("cifar-10-batches-py", missing_cifar10),
    "celeba": ("celeba", missing_celeba),
}
COMMON = ("root", "download", "verify", "seed", "limit")  # of `load`; all else that a data set takes is its own


def names() -> tuple[str, ...]:
    """The names that `load` knows; it takes FILE.npz, FOLDER and file.py:function beside them."""
    return tuple(NAMED)


def load(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    verify: bool = True,
    seed: int = 0,
    limit: int | None = None,
    **settings: Any,
) -> Data:
    """The data set NAME | NAME:key=value,key=value | FILE.npz | FOLDER | file.py:function.

    root       the folder of the named data sets in torchvision's layout; default $GENSSL_DATA, else ~/.cache/genssl
    download   let torchvision download what is missing into root; without it nothing is ever written
    verify     check files of known content against their MD5
    seed       draws the splits that the data set does not bring
    limit      at most so many items of each split
    settings   of the named data set, as in its function: load("celeba", target="Male") is load("celeba:target=Male")

    A name wins over a folder of the same name: write ./mnist for the folder.
    Errors: SettingsError for a name that means none of these or a setting that the data set lacks, DataError for files
    that are missing or damaged.
    """
    text = os.fspath(name)
    known = parse(text)
    if known is None:
        if settings:
            raise SettingsError(f"data set {text!r} takes no settings, not {', '.join(settings)}; leave them out")
        data = _own(text, seed)
        return data if limit is None else data.limit(limit)
    base, settings = known[0], known[1] | settings
    _check_settings(base, settings)
    common = {"root": root, "download": download, "verify": verify, "seed": seed, "limit": limit}
    taken = inspect.signature(NAMED[base]).parameters
    data = NAMED[base](**{key: value for key, value in common.items() if key in taken}, **settings)
    if not verify and "verify" in taken and data.test is not None:
        # A name does not tell copies apart that nobody checked. Of test alone, which no seed draws.
        data.digest = digest_of([("test", data.test)])
    return data if limit is None or "limit" in taken else data.limit(limit)


def parse(text: str) -> tuple[str, dict[str, Any]] | None:
    """`NAME:key=value,key=value` -> (NAME, settings); None where it does not begin with a name of `names()`.

    Values are Python literals; a word that is none stays a string. SettingsError for anything else after the colon.
    """
    base, _, rest = text.partition(":")
    if base not in NAMED:
        return None
    settings: dict[str, Any] = {}
    for pair in re.split(r",(?=\s*\w+\s*=)", rest) if rest else ():  # commas within a value are left alone
        key, equals, value = (part.strip() for part in pair.partition("="))
        setting = _literal(value)
        torn = setting == value and "," in value  # no literal, and no word either
        if not equals or not key.isidentifier() or key in settings or torn:
            raise SettingsError(f"data set {text!r}: {pair!r}, expected {base}:key=value,key=value, each key once")
        settings[key] = setting
    return base, settings


def canonical(text: str) -> str | None:
    """A named data set with its settings in one order and spelling, for keeping; None where `text` names none."""
    known = parse(text)
    if known is None:
        return None
    base, settings = known
    told = [f"{key}={_spelled(value)}" for key, value in sorted(settings.items())]
    return f"{base}:{','.join(told)}" if told else base


def available(root: str | os.PathLike[str] | None = None) -> list[dict[str, Any]]:
    """For each name {name, present, location, settings}, or {name, present, how_to_get, settings} where it is absent.

    settings: what may follow the name as NAME:key=value, with the defaults. Reads no data.
    """
    place = data_root(root)
    rows: list[dict[str, Any]] = []
    for name in NAMED:
        folder, missing = DOWNLOADED.get(name, ("", lambda root: []))
        present = not missing(place)
        told = {"location": BUILT_IN.get(name) or str(place / folder)}
        if not present:
            how = f"genssl fit METHOD --data {name} --download (into {place}), or --data-root DIR with DIR/{folder}"
            told = {"how_to_get": how + ("; the download needs pip install gdown" if name == "celeba" else "")}
        rows.append({"name": name, "present": present, **told, "settings": _settings(name)})
    return rows


def _own(name: str, seed: int) -> Data:
    if name.lower().endswith(".npz"):
        return npz(name, seed=seed)
    if ".py:" in name:
        return python_function(name, seed=seed)
    if (name and Path(name).expanduser().is_dir()) or (os.sep in name and not name.endswith(".py")):
        return image_folder(name, seed=seed)
    near = difflib.get_close_matches(name.partition(":")[0].lower().replace("-", "_"), names(), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = ", ".join(names())
    raise SettingsError(
        f"data set {name!r} is unknown, expected {known}, FILE.npz, a folder of images or file.py:function{hint}"
    )


def _settings(name: str) -> dict[str, Any]:
    """What a named data set takes beside what `load` gives to all, with the defaults."""
    parameters = inspect.signature(NAMED[name]).parameters
    return {key: value.default for key, value in parameters.items() if key not in COMMON}


def _check_settings(name: str, settings: dict[str, Any]) -> None:
    known = _settings(name)
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            expected = f"expected {' or '.join(known)}" if known else "it has none"
            raise SettingsError(f"data set {name} has no setting {key!r}, {expected}{hint}")


def _spelled(value: Any) -> str:
    word = str(value)
    return word if re.fullmatch(r"[\w.+-]+", word) and _literal(word) == value else repr(value)


def _literal(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value

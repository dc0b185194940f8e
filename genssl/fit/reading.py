"""The data of a run: read at its start, and again in the same way when it goes on or is loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from genssl import datasets
from genssl.errors import DataError, SettingsError


def load_data(config: dict[str, Any], path: Path, given: Any = None, download: bool = False) -> Any:
    """The data set of a run as it was when the run started; `given`: the user's data where the folder does not name them."""
    name, seed, limit = config["data"], config["seed"], config.get("limit")
    if given is None and name is None:
        raise DataError(
            f"{path}: was fitted on data passed to genssl.fit, which the folder does not hold; set run.data, or load(..., data=...)"
        )
    if given is None and is_code(name):
        raise DataError(
            f"{path}: was fitted on data of the function {name}, which only you may run; pass it: load(..., data=...), --data {name}"
        )
    if isinstance(given, (str, os.PathLike)) and name != data_key(given):
        raise SettingsError(
            f"{path}: was fitted on {name or 'data in memory'}, not on {given}; give another --out, or the same data"
        )
    return read_data(
        name if name is not None else given,
        seed,
        config.get("validation"),
        limit,
        config.get("data_root"),
        download,
        config.get("verify", True),
    )


def read_data(
    data: Any, seed: int, validation: Any, limit: int | None, root: Any, download: bool = False, verify: bool = True
) -> Any:
    """A genssl.datasets.Data of whatever was given to fit, at most `limit` items a split."""
    named = isinstance(data, (str, os.PathLike))
    if named:
        if validation is None:  # limited there, so that what is left out need not be read
            return datasets.load(data, root=root, download=download, verify=verify, seed=seed, limit=limit)
        data = datasets.load(data, root=root, download=download, verify=verify, seed=seed)
    before = data.digest if named else ""
    loaded = datasets.from_any(data, seed=seed, validation=validation)
    loaded.digest = before or loaded.digest  # a file's, whose splits were drawn by the seed
    return loaded if limit is None else loaded.limit(limit)


def data_key(data: str | os.PathLike[str]) -> str:
    """What config.json calls the data: a name with its settings, or an absolute path, so that the run finds it from any folder."""
    name = os.fspath(data)
    if (named := datasets.canonical(name)) is not None:
        return named
    file, function = (name.rpartition(":")[0], name.rpartition(":")[2]) if is_code(name) else (name, None)
    place = str(Path(file).expanduser().resolve())
    return place if function is None else f"{place}:{function}"


def is_code(data: str) -> bool:
    """Whether data of this name are made by a function of the user."""
    return ".py:" in data

"""The grid: a TOML file or a dict to checked cells, each a fit with a name of its own."""

from __future__ import annotations

import itertools
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from genssl import datasets
from genssl.compare.checks import LISTED, ONCE, OWN, check_known, check_no_duplicates, check_value
from genssl.errors import SettingsError
from genssl.files import plain
from genssl.fit.build import build, find_class
from genssl.fit.config import defaults
from genssl.fit.randomness import generators_kept
from genssl.fit.reading import data_key
from genssl.groups import Groups
from genssl.terms import SLOTS

ALIASES = {"views": "num_views"}  # as the command calls it


class Cell(NamedTuple):
    """One fit of the grid: its name, what the lists gave it, and the arguments of genssl.fit."""

    name: str
    chosen: dict[str, Any]
    arguments: dict[str, Any]


def read_spec(given: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """{base: {NAME: value}, grid: {NAME: [values]}} under the names of genssl.fit, and set.NAME for settings of the method.

    given: a TOML file, or what one holds as a dict. [base] has settings of a fit under the names of genssl.fit or of the command;
    [base.set] those of the method; a slot in [base] is for all cells. [grid] has lists: of terms as on the command line
    (`CosineAttraction:temperature=0.5`, or "own") for reconstruction, entropy and prior, of seeds, and of any other setting.

    Nothing is fitted or read but the file, so that a slip costs no fit. Raises SettingsError.
    """
    spec, where = (given, "grid") if isinstance(given, Mapping) else (_toml(Path(given)), str(given))
    check_known(spec, ("base", "grid"), where)
    base = _settings(spec.get("base", {}), f"{where}, [base]", (*LISTED, *ONCE))
    grid = _settings(spec.get("grid", {}), f"{where}, [grid]", LISTED)
    if not grid:
        raise SettingsError(f"{where}: [grid] lists nothing; give at least one list, such as seed = [0, 1, 2]")
    for key, values in grid.items():
        at = f"{where}, [grid] {key}"
        if key in base:
            raise SettingsError(f"{at}: is in [base] too; keep one of them")
        if not isinstance(values, (list, tuple)):
            raise SettingsError(f"{at} = {values!r}, expected a list; a setting of all cells belongs into [base]")
        if not values:
            raise SettingsError(f"{at}: the list is empty; give it a value or leave it out")
        check_no_duplicates(key, [check_value(key, value, at) for value in values], values, at)
    for key, value in base.items():
        check_value(key, value, f"{where}, [base] {key}")
    for key in ("method", "data"):
        if key not in base and key not in grid:
            raise SettingsError(f"{where}: there is no {key}; give it in [base], as in {key} = {_EXAMPLE[key]!r}")
    return {
        "base": plain({key: _resolved(key, base[key]) for key in sorted(base)}),
        "grid": plain({key: [_resolved(key, value) for value in grid[key]] for key in grid}),
    }


def cells_of(spec: Mapping[str, Any]) -> list[Cell]:
    """The product of the lists in a fixed order, seeds outermost: what is done first is a whole table of one seed."""
    grid = spec["grid"]
    keys = sorted(grid, key=lambda key: (key != "seed", key not in SLOTS, SLOTS.index(key) if key in SLOTS else 0))
    cells: list[Cell] = []
    taken: set[str] = set()
    for values in itertools.product(*(grid[key] for key in keys)):
        chosen = dict(zip(keys, values, strict=True))
        name = _name(chosen, taken)
        taken.add(name.lower())  # some file systems do not tell cases apart
        cells.append(Cell(name, chosen, _arguments({**spec["base"], **chosen})))
    return cells


def check_builds(cells: Sequence[Cell]) -> None:
    """Read the data and build every method with its settings once, so that a misspelt one is told before the first fit.

    Whether terms go together with a method is not looked at: such a cell is told at its turn.
    """
    seen: list[Any] = []
    loaded: dict[Any, Any] = {}
    for cell in cells:
        given = cell.arguments
        key = {name: given.get(name) for name in ("method", "data", "limit", "num_views", "batch_size", "settings")}
        if key in seen:
            continue
        seen.append(key)
        source = given["data"], given.get("limit")
        if source not in loaded:
            loaded[source] = datasets.load(
                given["data"],
                root=given.get("data_root"),
                download=given.get("download", False),
                verify=given.get("verify", True),
                limit=given.get("limit"),
            )
        data, method = loaded[source], find_class(given["method"])
        if (given.get("batch_size") or 0) > len(data.train):
            raise SettingsError(
                f"batch_size = {given['batch_size']} groups, but there are {len(data.train)} to train on; give a smaller one"
            )
        views = data.train.num_views if isinstance(data.train, Groups) else given.get("num_views")
        with generators_kept():
            build(method, data.example(views or defaults(method, data.name)["num_views"]), 0, given.get("settings", {}))


_EXAMPLE = {"method": "SimVAE", "data": "digits"}


def _toml(path: Path) -> Any:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise SettingsError(f"{path}: no such file; give the TOML file of a grid") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is no TOML ({error}); repair it there") from error


def _settings(table: Any, where: str, known: Sequence[str]) -> dict[str, Any]:
    """A table under the names of genssl.fit, with [set] flattened to set.NAME."""
    if not isinstance(table, Mapping):
        raise SettingsError(f"{where}: is {table!r}, expected a table of settings")
    found: dict[str, Any] = {}
    for key, value in _flat(table, where):
        name = key.replace("-", "_") if not key.startswith("set.") else key
        name = ALIASES.get(name, name)
        if name in found:
            raise SettingsError(f"{where}: {name} is given twice, also as {key}; keep one of them")
        found[name] = value
    check_known({key: None for key in found if not key.startswith("set.")}, known, where)
    return found


def _flat(table: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if key != "set":
            yield str(key), value
        elif isinstance(value, Mapping):
            yield from ((f"set.{name}", inner) for name, inner in value.items())
        else:
            raise SettingsError(f"{where}: set = {value!r}, expected settings of the method, as in set.dim")


def _resolved(key: str, value: Any) -> Any:
    """A value that means the same from any folder."""
    if key == "precision":
        return str(value)
    if key == "data":  # a word that is neither a name nor a folder is told as it was written, when it is looked for
        known = datasets.canonical(value) is not None or re.search(r"[/.\\]", value) or Path(value).is_dir()
        return data_key(value) if known else value
    if key == "data_root":
        return str(Path(value).expanduser().resolve())
    if key == "method" and ":" in value:
        path, _, name = value.rpartition(":")
        return f"{Path(path).expanduser().resolve()}:{name}"
    return value


def _arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a cell as arguments of genssl.fit."""
    of_method = {key.removeprefix("set."): value for key, value in settings.items() if key.startswith("set.")}
    replace = {slot: settings[slot] for slot in SLOTS if settings.get(slot, OWN) != OWN}
    rest = {key: value for key, value in settings.items() if key not in SLOTS and not key.startswith("set.")}
    return {**rest, "settings": of_method, "replace": replace}


def _name(chosen: Mapping[str, Any], taken: set[str]) -> str:
    """Words of what was chosen, safe in any file system, short enough, and unlike those that are taken."""
    order = sorted(chosen, key=lambda key: key == "seed")
    words = [
        str(chosen[key]) if key in SLOTS or key in ("method", "data") else f"{key.removeprefix('set.')}{chosen[key]}"
        for key in order
    ]
    text = "-".join(re.sub(r"[^\w.]+", "_", Path(word).name if "/" in word else word).strip("_.") for word in words)
    text = text.encode("ascii", "replace").decode().replace("?", "_") or "cell"
    if len(text) > 150:
        text = f"{text[:140]}_{blake2b(text.encode(), digest_size=4).hexdigest()}"
    number, name = 1, text
    while name.lower() in taken:
        number += 1
        name = f"{text}-{number}"
    return name

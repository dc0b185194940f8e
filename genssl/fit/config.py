"""What a run is: its settings resolved once, at the first start, and written to config.json."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from genssl._version import __version__
from genssl.errors import CheckpointError, SettingsError
from genssl.files import read_json

LIBRARY_DEFAULTS: dict[str, Any] = {"num_views": 2, "batch_size": 128, "lr": 1e-3, "epochs": 50}


def defaults(method: Any, data_name: str) -> dict[str, Any]:
    """The method's defaults for this data set, over its general ones, over the library's."""
    own: Mapping[str, Mapping[str, Any]] = getattr(method, "defaults", {})
    return {**LIBRARY_DEFAULTS, **own.get("", {}), **own.get(data_name, {})}


def resolve_device(device: str | torch.device | None) -> torch.device:
    """auto: a GPU where there is one."""
    name = str(device or "auto")
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"device = {name!r}, expected auto, cpu or cuda") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device = 'cuda', but torch sees no GPU here; use --device cpu, or install a CUDA build of torch")
    return torch.device("cuda", chosen.index or 0) if chosen.type == "cuda" else chosen


def environment() -> dict[str, Any]:
    """Versions, threads and machine: bit-for-bit equality holds where these are the same."""
    found: dict[str, str] = {"genssl": __version__, "python": platform.python_version()}
    for name in ("torch", "pyro-ppl", "numpy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "?"
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {"versions": found, "threads": torch.get_num_threads(), "machine": machine}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def check_resume(config: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    """A run goes on with its own settings: those asked for explicitly must be the same."""
    for key, value in asked.items():
        old = config.get(key)
        if value is None or old is None or key == "device":
            continue
        if key == "settings":
            changed = [name for name, new in value.items() if str(old.get(name)) != str(new)]
            if changed:
                raise SettingsError(
                    f"{folder}: was started with {changed[0]} = {old.get(changed[0])}, not {value[changed[0]]}; leave it out, or give another --out"
                )
        elif str(old) != str(value):
            raise SettingsError(f"{folder}: was started with {key} = {old}, not {value}; leave it out to go on, or give another --out")


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a run folder."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such run folder")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or "method" not in config:
        raise CheckpointError(f"{folder / 'config.json'}: is not the config of a run")
    return config


def new_folder(out: str | os.PathLike[str] | None, method: str, data: str, seed: int) -> Path:
    """The folder of a new run: `out`, which must not hold one yet, or runs/METHOD-DATA-SEED, numbered if taken."""
    if out is not None:
        folder = Path(out)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CheckpointError(f"{folder}: exists and is not empty; give another --out, or --resume to go on with that run")
        return folder
    name, number = f"{method}-{_safe(data)}-{seed}", 1
    folder = Path("runs") / name
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder


def newest_folder(method: str, data: str, seed: int) -> Path | None:
    """The newest runs/METHOD-DATA-SEED*, for --resume without --out."""
    name = f"{method}-{_safe(data)}-{seed}"
    found = [path for path in Path("runs").glob(f"{name}*") if path.name[len(name) :].lstrip("-").isdigit() or path.name == name]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_." else "_" for c in Path(name).name) or "data"

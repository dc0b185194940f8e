"""What a run is: its settings, resolved once at the first start and written to config.json."""

from __future__ import annotations

import functools
import math
import numbers
import operator
import platform
import warnings
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from genssl._version import __version__
from genssl.distributed import local_rank, world
from genssl.errors import SettingsError
from genssl.files import plain
from genssl.fit.optimiser import OPTIMISERS, SCHEDULES
from genssl.fit.precision import PRECISIONS

LIBRARY_DEFAULTS: dict[str, Any] = {"num_views": 2, "batch_size": 128, "lr": 1e-3, "epochs": 50}
LEAST = {
    "num_views": 1, "batch_size": 1, "epochs": 0, "seed": 0, "limit": 1, "num_workers": 0, "max_steps": 0, "steps": 0, "threads": 1,
    "steps_per_epoch": 1,
}  # fmt: skip
KNOWN: dict[str, Collection[str]] = {"precision": (*PRECISIONS, "auto"), "optimizer": OPTIMISERS, "schedule": SCHEDULES}


def defaults(method: Any, data_name: str) -> dict[str, Any]:
    """The method's defaults for this data set, over its general ones, over the library's."""
    own: Mapping[str, Mapping[str, Any]] = getattr(method, "defaults", {})
    return {**LIBRARY_DEFAULTS, **own.get("", {}), **own.get(data_name, {})}


def check(config: Mapping[str, Any]) -> None:
    """Refuse values that no run can have; what is None or absent is not checked."""
    given = {key: value for key, value in config.items() if value is not None}
    for key in LEAST.keys() & given.keys():
        if not is_whole(given[key]) or not LEAST[key] <= given[key] < 2**62:
            raise SettingsError(f"{key} = {given[key]!r}, expected a whole number from {LEAST[key]} to 2^62")
    for key in {"lr", "max_seconds", "clip"} & given.keys():
        if not isinstance(given[key], numbers.Real) or not 0 < given[key] < math.inf:
            raise SettingsError(f"{key} = {given[key]!r}, expected a positive number")
    for key, known in KNOWN.items():
        if key in given and not callable(given[key]) and given[key] not in known:
            raise SettingsError(f"{key} = {given[key]!r}, expected {' or '.join(known)}")
    check_literal(given.get("settings", {}), "settings")


def is_whole(value: Any) -> bool:
    """Whether a value counts something: an integer of Python or numpy, no bool."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def check_literal(value: Any, where: str) -> None:
    """Settings are kept in config.json, from which the method is built again: only what JSON gives back will do."""
    if isinstance(value, dict):
        for key, part in value.items():
            check_literal(part, f"{where}, {key}")
    elif isinstance(value, (list, tuple)):
        for part in value:
            check_literal(part, where)
    elif not (value is None or isinstance(value, (str, int, float))) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise SettingsError(
            f"{where} = {value!r}: config.json cannot hold it, expected a finite literal; or pass fit an instance of the method"
        )


def resolve_device(device: str | torch.device | None) -> torch.device:
    """auto: a GPU where there is one; of several processes each takes the GPU of its number on its machine."""
    name = str(device or "auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if world() > 1 and kind == "cuda":
        number = str(local_rank())
    if kind not in ("cpu", "cuda") or not (number or "0").isdigit():
        raise SettingsError(f"device = {name!r}, expected auto, cpu or cuda")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SettingsError(
            "device = 'cuda', but torch sees no GPU here; use --device cpu, or install a CUDA build of torch"
        )
    if int(number or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"device = {name!r}, but there are {torch.cuda.device_count()} GPUs here, numbered from 0; take one of them"
        )
    return torch.device("cuda", int(number or 0))


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, threads and machine: bit-for-bit equality holds where these are the same."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"versions": _versions(), "threads": torch.get_num_threads(), "machine": machine, "processes": world()}


@functools.cache
def _versions() -> dict[str, str]:
    found: dict[str, str] = {"genssl": __version__, "python": platform.python_version()}
    for name in ("torch", "pyro-ppl", "numpy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "?"
    return found


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def check_same(config: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    """A run goes on with its own settings: those asked for explicitly (not None) must be the same."""
    for key, value in asked.items():
        if value is None:
            continue
        several = isinstance(value, dict)  # settings and replaced terms: those that are given
        for name, new in value.items() if several else [(key, value)]:
            old = config[key].get(name) if several else config.get(key)
            if plain(new) != old:
                had = f"without {name}" if several and name not in config[key] else f"with {name} = {old}"
                raise SettingsError(
                    f"{folder}: was started {had}, not {plain(new)}; leave it out to go on, or give another --out"
                )


def tell_changes(config: Mapping[str, Any], device: torch.device, folder: Path) -> None:
    """Warn where bits may differ from those of a run that was never stopped."""
    now = environment(device)
    changed = [
        f"{key} {old} (now {now['versions'].get(key)})"
        for key, old in config["versions"].items()
        if now["versions"].get(key) != old
    ]
    if config.get("machine") != now["machine"]:
        changed.append(f"machine {config.get('machine')} (now {now['machine']})")
    if config.get("processes", 1) != now["processes"]:
        changed.append(f"{config.get('processes', 1)} processes (now {now['processes']})")
    if config["device"].partition(":")[0] != device.type:
        changed.append(f"device {config['device']} (now {device})")
    if changed:
        warnings.warn(f"{folder}: was started with {', '.join(changed)}: it goes on, but bits may differ", stacklevel=4)

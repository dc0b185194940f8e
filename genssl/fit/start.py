"""The two ways into a fit: a new run, whose settings are resolved here, and one that goes on with its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genssl.datasets.root import data_root
from genssl.distributed import by_first, world
from genssl.errors import SettingsError
from genssl.files import plain
from genssl.fit.build import attributes_of, build, check_method, describe_class, resolved
from genssl.fit.config import (
    KNOWN,
    check,
    check_same,
    defaults,
    environment,
    resolve_device,
    tell_changes,
)
from genssl.fit.described import describe_callable
from genssl.fit.folder import read_config
from genssl.fit.guard import plain_name
from genssl.fit.longer import lengthen
from genssl.fit.reading import data_key, load_data, read_data
from genssl.fit.run import build_from, check_class
from genssl.fit.slots import apply_slots
from genssl.groups import Groups

Start = tuple[dict[str, Any], Any, nn.Module]
"""Settings, data, and the method with initial weights."""


def new(
    method: Any, data: Any, asked: Mapping[str, Any], validation: Any, device: Any, download: bool, verify: bool
) -> Start:
    """The settings of a new run (without those that a step on trial tells), its data, and the method with initial weights."""
    seed, named = asked["seed"] or 0, isinstance(data, (str, os.PathLike))
    chosen = resolve_device(device)
    loaded = read_data(data, seed, validation, asked["limit"], asked["data_root"], download, verify)
    fallback = defaults(method, loaded.name)
    fallback["batch_size"] = min(fallback["batch_size"], len(loaded.train))
    fallback["batch_size"] = max(fallback["batch_size"] // world(), 1) * world()
    if isinstance(loaded.train, Groups):
        fallback["num_views"] = loaded.train.num_views
        if asked["num_views"] not in (None, loaded.train.num_views):
            raise SettingsError(
                f"num_views = {asked['num_views']}, but the data are groups of {loaded.train.num_views} views; leave it out"
            )
    check(fallback)  # a user's class brings its own
    fallback |= {
        "optimizer": "adam",
        "schedule": "cosine",
        "precision": "32",
        "settings": {},
        "replaced": {},
        "seed": 0,
    }
    config: dict[str, Any] = {
        **describe_class(method),
        "built": not isinstance(method, nn.Module),
        # Splits that were passed are nowhere to be found again, so neither is the data set.
        "data": data_key(data) if named and (validation is None or asked["validation"] is not None) else None,
        "verify": verify,
        **{key: fallback.get(key) if value is None else value for key, value in asked.items()},
        "device": str(chosen),
        **environment(chosen),
        "event_shape": loaded.event_shape,
        "num_classes": _num_classes(loaded.train),
        "data_description": loaded.describe(),
    }
    if config["precision"] == "tf32" and chosen.type != "cuda":
        raise SettingsError(
            f"precision = tf32 is one of a GPU's products, but device = {chosen}; give 32, bf16 or auto"
        )
    config["data_root"] = str(data_root(asked["data_root"]).resolve()) if named else None
    config = plain(config)  # as it will be read back, so that a resumed run sees the same values
    if isinstance(method, nn.Module):
        check_method(method)
        config["attributes"] = plain(attributes_of(method))
        if config["settings"] or config["replaced"]:
            raise SettingsError(
                "settings and replace are for a method that fit builds; this one is an instance already, change it yourself"
            )
    else:
        cls = method
        method = build(cls, loaded.example(config["num_views"]), seed, config["settings"])
        config["resolved"] = plain(resolved(cls, method, config["settings"]))
        apply_slots(method, config["replaced"], seed, config["event_shape"], config["settings"])
    config["parameters"] = sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)
    return config, loaded, method


def old(
    place: Path,
    kept: Any,
    method: Any,
    data: Any,
    asked: Mapping[str, Any],
    validation: Any,
    device: Any,
    download: bool,
) -> Start:
    """The settings of the run in `place` (kept: those in its checkpoint), its data, and the method with initial weights."""
    config = by_first(lambda: read_config(place, kept))
    check_class(config, method, place)
    lengthen(config, asked, place)
    check_same(config, asked, place)
    chosen = _same_device(config, device, place)
    tell_changes(config, chosen, place)
    config["device"] = str(chosen)
    torch.set_num_threads(config["threads"])
    named = isinstance(data, (str, os.PathLike))
    if config["data"] is not None and not named:
        raise SettingsError(
            f"{place}: was fitted on {config['data']}, not on data in memory; pass that name, or give another --out"
        )
    if config["data"] is not None or (named and validation is None):
        loaded = load_data(config, place, data, download)
    else:
        split = config.get("validation") if validation is None else validation
        loaded = read_data(data, config["seed"], split, config["limit"], config["data_root"], download)
    now, then = loaded.describe(), config["data_description"]
    for key in ("event_shape", "sizes", "dtype"):
        if now[key] != then[key]:
            raise SettingsError(
                f"{place}: was fitted on data with {key} {then[key]}, these have {now[key]}; give the same data, or another --out"
            )
    if not isinstance(method, nn.Module):
        method = build_from(config, method, place, loaded)
    return config, loaded, method


def own_or_named(key: str, given: Any, config: dict[str, Any], place: Path | None) -> Any:
    """The optimiser or schedule: by name from the config, or the callable, which a config cannot hold."""
    if callable(given):
        return given
    if config[key] not in KNOWN[key]:
        raise SettingsError(f"{place}: was started with {key} {config[key]!r}, a callable of your own; pass it again")
    return config[key]


def check_views(config: dict[str, Any], views: Any, place: Path | None) -> None:
    """Note the views in the config of a new run; refuse others in one that goes on."""
    told = describe_callable(views)
    if place is not None and config.get("views") != told:
        raise SettingsError(
            f"{place}: was started with views {config.get('views')}, not {told}; pass those, or give another --out"
        )
    config["views"] = told


def check_owned(method: nn.Module, module: nn.Module) -> None:
    """Refuse parameters that are trained but belong to no part of the method: they would not be saved."""
    owned: set[int] = {id(p) for part in (method, module.objective) for p in part.parameters()}  # type: ignore[union-attr,operator]
    for name, parameter in module.named_parameters():
        if id(parameter) not in owned:
            raise SettingsError(
                f"{type(method).__name__}: {plain_name(name)} is trained but no part of it, so nothing saves it; make it an attribute"
            )


def _same_device(config: dict[str, Any], device: Any, place: Path) -> torch.device:
    """The run's device, or what there is where that one is not here."""
    if device is not None and str(device) != "auto":
        chosen = resolve_device(device)
        if chosen.type != config["device"].partition(":")[0]:
            raise SettingsError(
                f"{place}: was started with device = {config['device']}, not {device}; leave it out to go on, or give another --out"
            )
        return chosen
    try:
        return resolve_device(config["device"])
    except SettingsError:
        return resolve_device("auto")


def _num_classes(split: Any) -> int | None:
    label: Tensor | None = getattr(split, "label", None)
    return None if label is None else int(label.max()) + 1

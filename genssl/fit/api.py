"""fit: from a method and data to a run."""

from __future__ import annotations

import inspect
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import nn

from genssl import datasets
from genssl.errors import SettingsError
from genssl.evaluation import knn_accuracy, measuring
from genssl.files import write_json
from genssl.fit import checkpoint
from genssl.fit.batches import Batches
from genssl.fit.build import build, describe_class, find_class
from genssl.fit.config import check_resume, defaults, environment, new_folder, newest_folder, read_config, resolve_device
from genssl.fit.loop import restore, run_steps, state_of
from genssl.fit.optimiser import learning_rate, make_optimiser
from genssl.fit.precision import PRECISIONS, networks_in
from genssl.fit.randomness import generators_kept
from genssl.fit.run import Run, build_from, load_data
from genssl.fit.slots import apply_slots
from genssl.fit.step import Stepper
from genssl.groups import Groups


def fit(
    method: Any,
    data: Any,
    *,
    settings: dict[str, Any] | None = None,
    views: Callable[..., Any] | None = None,
    num_views: int | None = None,
    epochs: int | None = None,
    max_seconds: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: str | Callable[..., Any] = "adam",
    schedule: str | Callable[[int, int], float] = "cosine",
    clip: float | None = None,
    precision: str | None = None,
    device: str | None = None,
    seed: int | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    validation: Any = None,
    callbacks: Sequence[Callable[[dict[str, Any]], None]] = (),
    max_steps: int | None = None,
    limit: int | None = None,
    num_workers: int = 0,
    data_root: str | os.PathLike[str] | None = None,
    download: bool = False,
    verify: bool = True,
    replace: dict[str, str] | None = None,
    progress: bool = True,
) -> Run:
    """Fit a method to data; the run is in its folder, and goes on from there after any kind of stop.

    method       an instance (trained as it is), a class with `build`, a gallery name, or "path/to/file.py:Class"; `settings` go to
                 `build`, and `replace` {slot: "Term:key=value"} puts other terms into its objective
    data         Groups | tensor | (x, label) | torch Dataset | genssl.datasets.Data | the name or path of a data set
    views        transform of genssl.views, or callable (x, index, generator); default: the data set's own
    num_views, epochs, batch_size (GROUPS a step), lr   default: the method's for this data set
    max_seconds  turned into a number of steps at the first start, at most `epochs`; reaching them finishes the run
    optimizer    adam | adamw | callable (parameters, lr=);  schedule  cosine (with warm-up) | constant | callable (step, steps)
    clip         largest norm of the gradient, none by default
    precision    32 | bf16 (around networks only);  device  auto | cpu | cuda
    out          run folder, default runs/METHOD-DATA-SEED;  resume: go on there, with the settings it was started with
    max_steps    stop THIS call at that step, with a checkpoint;  limit: use the first so many items of every split
    callbacks    called with every line of metrics (a dict)

    Stopping: Ctrl-C saves and raises KeyboardInterrupt. Numbers that are not finite raise NonFiniteError, which names term and site;
    the last good checkpoint stays. Resuming is exact to the bit on the same machine type, versions and threads.
    """
    asked = {
        "settings": settings, "num_views": num_views, "epochs": epochs, "max_seconds": max_seconds, "batch_size": batch_size,
        "lr": lr, "precision": precision, "seed": seed, "limit": limit, "replaced": replace or None,
    }  # fmt: skip
    method = find_class(method) if isinstance(method, str) else method
    name = method.__name__ if inspect.isclass(method) else type(method).__name__
    data_name = data if isinstance(data, str) else getattr(data, "name", None) or "data"
    folder = _resumable(out, name, data_name, seed or 0) if resume else None
    if folder is not None:
        config = read_config(folder)
        if config["method"] != name:
            raise SettingsError(f"{folder}: is a run of {config['method']}, not of {name}; give another --out")
        if config.get("data") is not None and isinstance(data, str) and config["data"] != _data_key(data):
            raise SettingsError(f"{folder}: was fitted on {config['data']}, not on {data}; give another --out")
        check_resume(config, asked, folder)
        loaded = load_data(config) if config.get("data") is not None else _load(data, config["seed"], validation, limit, None, False, True)
        chosen = resolve_device(device or config["device"])
        torch.set_num_threads(config["threads"])
        for key, now in environment()["versions"].items():
            if config["versions"].get(key) != now:
                warnings.warn(f"{folder}: was started with {key} {config['versions'].get(key)}, now {now}: bits may differ", stacklevel=2)
        if not isinstance(method, nn.Module):
            method = build_from(config, method, folder)
    else:
        seed = 0 if seed is None else seed
        loaded = _load(data, seed, validation, limit, data_root, download, verify)
        chosen = resolve_device(device)
        fallback = defaults(method, loaded.name)
        natural = isinstance(loaded.train, Groups)
        config = {
            **describe_class(method),
            "built": not isinstance(method, nn.Module),
            "data": _data_key(data) if isinstance(data, str) else None,
            "data_root": None if data_root is None else str(Path(data_root).resolve()),
            "verify": verify,
            "settings": dict(settings or {}),
            "replaced": dict(replace or {}),
            "seed": seed,
            "num_views": loaded.train.num_views if natural else num_views or fallback["num_views"],
            "epochs": fallback["epochs"] if epochs is None else epochs,
            "max_seconds": max_seconds,
            "batch_size": min(batch_size or fallback["batch_size"], len(loaded.train)) if batch_size is None else batch_size,
            "lr": fallback["lr"] if lr is None else lr,
            "optimizer": optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", str(optimizer)),
            "schedule": schedule if isinstance(schedule, str) else getattr(schedule, "__name__", str(schedule)),
            "clip": clip,
            "precision": precision or "32",
            "device": str(chosen),
            "limit": limit,
            **environment(),
        }
        _check(config)
        if not isinstance(method, nn.Module):
            method = build(method, loaded.example(config["num_views"]), seed, config["settings"])
            apply_slots(method, config["replaced"])
        elif settings or replace:
            raise SettingsError("settings and replace are for a method that fit builds; this one is an instance already")

    loaded, method = loaded.to(chosen), method.to(chosen)
    views = views if views is not None else getattr(loaded, "views", None)
    batches = Batches(loaded.train, views, config["num_views"], config["batch_size"], config["seed"], chosen, num_workers)
    module = method.objective(method.model, method.guide).train()  # type: ignore[operator,arg-type]
    optimiser = make_optimiser(optimizer, module.parameters(), config["lr"])

    with generators_kept(), pyro.validation_enabled(False), networks_in(config["precision"], method, chosen):
        if folder is None:
            steps = config["epochs"] * batches.steps_per_epoch
            first = _first_step(method, module, optimiser, batches, config, schedule, None if max_seconds is None else steps)
            if max_seconds is not None:
                steps = max(1, min(steps, int(max_seconds / first)))
            config |= {
                "steps": steps,
                "steps_per_epoch": batches.steps_per_epoch,
                "event_shape": loaded.event_shape,
                "num_classes": None if _labels(loaded.train) is None else int(_labels(loaded.train).max()) + 1,
                "data_description": loaded.describe(),
                "slots": {slot: str(term) for slot, term in method.objective.slots.items()},  # type: ignore[operator,union-attr]
            }
            folder = new_folder(out, name, data_name, config["seed"])
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "config.json", config)
            start = 0
        else:
            state = checkpoint.load(folder / "checkpoint")
            start = 0 if state is None else restore(state, method, module, optimiser)
        run = Run(folder, config, method, loaded, views)
        stop = config["steps"] if max_steps is None else min(max_steps, config["steps"])
        if start < stop:
            stepper = Stepper(module, optimiser, batches, config, schedule)
            follow = _follow(run, batches)
            run_steps(
                stepper, batches, folder, start, stop, lambda: state_of(method, module, optimiser), follow, callbacks, progress
            )
    method.eval()
    return run


def _load(data: Any, seed: int, validation: Any, limit: int | None, root: Any, download: bool, verify: bool) -> Any:
    if isinstance(data, str):
        return datasets.load(data, root=root, download=download, verify=verify, seed=seed, limit=limit)
    loaded = datasets.from_any(data, seed=seed, validation=validation)
    return loaded if limit is None else loaded.limit(limit)


def _data_key(data: str) -> str:
    """A file's absolute path, so that the run finds it from any folder; names stay."""
    return str(Path(data).resolve()) if Path(data.rpartition(":")[0] or data).exists() and not data.isidentifier() else data


def _resumable(out: Any, name: str, data_name: str, seed: int) -> Path | None:
    folder = Path(out) if out is not None else newest_folder(name, data_name, seed)
    if folder is None or not (folder / "config.json").exists():
        return None
    return folder


def _check(config: dict[str, Any]) -> None:
    for key in ("num_views", "batch_size", "epochs"):
        if not isinstance(config[key], int) or config[key] < (0 if key == "epochs" else 1):
            raise SettingsError(f"{key} = {config[key]!r}, expected a whole number of at least {0 if key == 'epochs' else 1}")
    for key in ("lr", "max_seconds", "clip"):
        if config[key] is not None and not 0 < config[key] < float("inf"):
            raise SettingsError(f"{key} = {config[key]!r}, expected a positive number")
    if config["precision"] not in PRECISIONS:
        raise SettingsError(f"precision = {config['precision']!r}, expected one of {', '.join(PRECISIONS)}")
    learning_rate(config["schedule"] if config["schedule"] in ("cosine", "constant") else "constant", 1.0, 0, 1)


def _labels(split: Any) -> Any:
    return getattr(split, "label", None)


def _first_step(
    method: nn.Module, module: Any, optimiser: Any, batches: Batches, config: dict[str, Any], schedule: Any, timed: int | None
) -> float:
    """Take the first steps on trial and put everything back; seconds a step if `timed`.

    Pyro's checks of shapes, supports and arguments run here, with errors that name the site; in the loop they are off, since each
    of them would make every step wait for the device.
    """
    before = {name: value.clone() for name, value in method.state_dict().items()}
    optimiser_before = optimiser.state_dict()
    stepper = Stepper(module, optimiser, batches, {**config, "steps": timed or 1}, schedule)
    with pyro.validation_enabled(True):
        module(batches.at(0))
    seconds = 0.0
    if timed is not None:
        count, began, limit = 0, time.perf_counter(), min(3.0, 0.1 * config["max_seconds"])
        for step, groups in batches.run(0, min(timed, 200)):
            stepper(step, groups)
            if step == 2:  # allocators and caches are warm
                count, began = -1, time.perf_counter()
            count += 1
            seconds = (time.perf_counter() - began) / max(1, count)
            if step > 5 and time.perf_counter() - began > limit:
                break
    method.load_state_dict(before)
    optimiser.load_state_dict(optimiser_before)
    optimiser.zero_grad(set_to_none=True)
    return seconds


def _follow(run: Run, batches: Batches) -> Callable[[], dict[str, Any]]:
    """What is measured at the end of an epoch: accuracy of 15 nearest neighbours on part of the validation split."""
    train, validation = run.data.train, run.data.validation
    pairs = [_some(split, size) for split, size in ((train, 5000), (validation, 1000))]
    if any(pair is None for pair in pairs):
        return dict
    (train_x, train_y), (x, y) = pairs  # type: ignore[misc]
    every = max(1, round(run.config["epochs"] / 20)) if batches.steps_per_epoch < 50 else 1
    epochs = [0]

    def measure() -> dict[str, Any]:
        epochs[0] += 1
        if epochs[0] % every and epochs[0] != run.config["epochs"]:
            return {}
        with measuring(run.method):
            z, query = run.represent(train_x), run.represent(x)
        return {"knn": knn_accuracy(z, train_y, query, y, k=min(15, len(z)))}

    return measure


def _some(split: Any, size: int) -> tuple[Any, Any] | None:
    """Some labelled items of a split, evenly spread over it; None where there are no labels in memory."""
    if split is None or _labels(split) is None or not hasattr(split, "floats"):
        return None
    rows = torch.linspace(0, len(split) - 1, min(size, len(split))).long()
    return split.floats(rows), split.label[rows.to(split.label.device)]



"""fit: from a method and data to a run."""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Never

import pyro
import torch
from torch import nn

from genssl.distributed import agreed, by_first, first_of_machine, is_first, same_tensors, started, wait
from genssl.files import sweep, write_json, write_tensors
from genssl.fit import checkpoint, folder, longer, start
from genssl.fit.batches import Batches
from genssl.fit.build import find_class, misplaced
from genssl.fit.config import check, resolve_device
from genssl.fit.described import describe_callable
from genssl.fit.follow import Follow
from genssl.fit.graph import graphed
from genssl.fit.looks import Looks
from genssl.fit.loop import restore, run_steps, state_of, stop_is_told
from genssl.fit.metrics import Line
from genssl.fit.optimiser import make_optimiser
from genssl.fit.precision import fastest, networks_in
from genssl.fit.randomness import generators_kept, threads_kept
from genssl.fit.reading import data_key
from genssl.fit.run import INITIAL, Run, represent
from genssl.fit.step import Stepper
from genssl.fit.trial import check_first_step, seconds_per_step
from genssl.foretell import foretell_of
from genssl.groups import Groups
from genssl.memory import memory_told


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
    optimizer: str | Callable[..., Any] | None = None,
    schedule: str | Callable[[int, int], float] | None = None,
    clip: float | None = None,
    precision: str | None = None,
    device: str | None = None,
    seed: int | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    validation: Any = None,
    callbacks: Sequence[Callable[[Line], None]] = (),
    max_steps: int | None = None,
    limit: int | None = None,
    num_workers: int = 0,
    data_root: str | os.PathLike[str] | None = None,
    download: bool = False,
    verify: bool = True,
    replace: dict[str, str] | None = None,
    measure: bool | Sequence[int] = True,
    graph: bool = True,
    progress: bool = True,
    **others: Never,
) -> Run:
    """Fit a method to data; the run is in its folder, and goes on from there after any kind of stop.

    method       an instance (trained as it is), a class with `build`, a gallery name, or "path/to/file.py:Class"; `settings`
                 (literals) go to `build`, and `replace` {slot: "Term:key=value"} puts other terms into its objective
    data         Groups | tensor | (x, label) | torch Dataset | genssl.datasets.Data | the name or path of a data set
    views        transform of genssl.views, or callable (x, index, generator); default: the data set's own
    num_views, epochs, batch_size (GROUPS a step), lr   default: the method's for this data set
    max_seconds  turned into a number of steps at the first start, at most `epochs`; reaching them finishes the run
    optimizer    adam (default) | adamw | callable (parameters, lr=)
    schedule     cosine (default, with warm-up) | constant | callable (step, steps) -> factor
    clip         largest norm of the gradient, none by default
    precision    32 (default) | bf16 (around networks only) | auto (the faster of the two here) | tf32 (a GPU's products)
    device       auto (default) | cpu | cuda
    seed         0 by default; all randomness is a function of it
    out          run folder, default runs/METHOD-DATA-SEED;  resume: go on there, with the settings it was started with; more epochs or
                 max_seconds than it had lengthen it (`genssl.fit.longer`)
    validation   a fraction of the data, or data; default: the data set's own
    max_steps    stop THIS call at that step, with a checkpoint;  limit: use at most so many items of every split
    measure      True: every slot is measured on held-out groups at the last step and its halves (measures.jsonl, genssl.evaluation.slots),
                 False: never, or the steps; changes no bit of the run
    graph        True: on a GPU a step is one CUDA graph where it can be (`genssl.fit.graph`; else it says why not), False: never
    callbacks    called with every line of metrics, a dict with attributes folder and measures (genssl.fit.metrics.Line), and closed at the
                 end where they have `close`; such as genssl.callbacks.TensorBoard(). Measuring there changes no bit of the run

    Stopping: Ctrl-C saves and raises KeyboardInterrupt, which says what is kept where. Numbers that are not finite raise NonFiniteError,
    which names term and site; the last good checkpoint stays. Resuming is exact to the bit on the same machine type, versions and
    threads.

    Several processes (torchrun): every one calls fit with the same arguments and holds an equal slice of the groups of every batch; the
    first writes the folder, measures and calls back. The result is that of one process up to rounding (`genssl.distributed`).

    Raises SettingsError, DataError, ShapeError, SiteError, NonFiniteError, OutOfMemoryError, CheckpointError (a folder that is taken or
    damaged), DiskError, ProcessError (one of several processes is gone).
    """
    asked = {
        "settings": settings, "replaced": replace, "num_views": num_views, "epochs": epochs, "max_seconds": max_seconds,
        "batch_size": batch_size, "lr": lr, "optimizer": describe_callable(optimizer), "schedule": describe_callable(schedule),
        "clip": clip, "precision": None if precision is None else str(precision), "seed": seed, "limit": limit,
        "validation": validation if isinstance(validation, (int, float)) else None,
        "data_root": None if data_root is None else str(Path(data_root).expanduser().resolve()),
    }  # fmt: skip
    check({**asked, "optimizer": optimizer, "schedule": schedule, "max_steps": max_steps, "num_workers": num_workers})
    method = find_class(method) if isinstance(method, str) else method
    for key in others:  # a setting of the method, or a slip
        raise misplaced(method, key, (known for known in inspect.signature(fit).parameters if known != "others"))
    name = method.__name__ if inspect.isclass(method) else type(method).__name__
    data_name = data_key(data) if isinstance(data, (str, os.PathLike)) else getattr(data, "name", None) or "data"

    place: Path | None = None
    with ExitStack() as contexts:
        contexts.enter_context(stop_is_told(lambda: place or Path(folder.RUNS if out is None else out)))
        contexts.enter_context(started(device))
        writes, progress = is_first(), progress and is_first()
        place = by_first(lambda: folder.to_resume(out, name, data_name, seed or 0)) if resume else None
        if asked["precision"] == "auto":  # a run goes on with what it found at its start
            asked["precision"] = None if place is not None else agreed(fastest(resolve_device(device).type))
        if resume and place is None and progress and out is None:
            print(f"genssl: no run to go on with in {folder.RUNS}; starting one", file=sys.stderr)
        contexts.enter_context(generators_kept())
        contexts.enter_context(threads_kept())
        state: dict[str, Any] = {}
        remedy = "lower --limit, make the networks smaller, or give a torch Dataset, which reads its items when asked"
        starting = memory_told("reading the data and building the method", remedy)
        with first_of_machine() if download else nullcontext():
            if place is None:
                by_first(lambda: folder.check_free(out))
                with starting:
                    config, loaded, method = start.new(method, data, asked, validation, device, download, verify)
            else:
                contexts.enter_context(folder.locked(place) if writes else nullcontext())
                saves = place / "checkpoint"
                with starting:
                    last: dict[str, Any] | None = by_first(lambda: checkpoint.load(saves))
                    state = last or {}
                    kept = state.get("config")
                    config, loaded, method = start.old(place, kept, method, data, asked, validation, device, download)
        chosen = torch.device(config["device"])
        loaded, method = loaded.to(chosen), method.to(chosen)
        same_tensors(value for value in method.state_dict().values() if isinstance(value, torch.Tensor))
        views = views if views is not None else getattr(loaded, "views", None)
        start.check_views(config, views, place)
        if isinstance(loaded.train, Groups) and int(loaded.train.count.max()) < 2 < 1 + loaded.train.num_views:
            warnings.warn(f"no group of {loaded.name} has two views: nothing is compared within groups", stacklevel=2)
        if (
            progress
            and place is None
            and views is None
            and config["num_views"] > 1
            and not isinstance(loaded.train, Groups)
        ):
            print(
                "genssl: these data bring no views, so the views of a group are copies; see views= of genssl.fit",
                file=sys.stderr,
            )
        batches = Batches(
            loaded.train, views, config["num_views"], config["batch_size"], config["seed"], chosen, num_workers
        )
        module = method.objective(getattr(method, "model", None), method.guide).train()
        start.check_owned(method, module)
        optimiser = make_optimiser(
            start.own_or_named("optimizer", optimizer, config, place), module.parameters(), config["lr"]
        )
        schedule = start.own_or_named("schedule", schedule, config, place)
        looks = Looks(method, loaded, views, config)
        follow = Follow(lambda x: represent(method, x, config["precision"]), loaded, batches.steps_per_epoch)

        contexts.enter_context(pyro.validation_enabled(False))
        contexts.enter_context(networks_in(config["precision"], method, chosen))
        first, goes_on = 0, place is not None
        if place is None:
            total = config["epochs"] * batches.steps_per_epoch
            stepper = Stepper(module, optimiser, batches, {**config, "steps": max(1, total)}, schedule)
            traces = check_first_step(stepper, config["settings"] | config["replaced"])
            config["foretold"] = foretell_of(method, traces)
            stepper = _graphed(stepper, method, graph and total > 0, progress)
            for sentence in config["foretold"]:
                warnings.warn(f"{name}: {sentence}", stacklevel=2)
            config |= {
                "steps": agreed(_steps(stepper, total, config, follow, looks if measure is True else None)),
                "steps_per_epoch": batches.steps_per_epoch,
            }
            config |= {"slots": {slot: str(term) for slot, term in module.objective.slots.items()}}
            place = by_first(lambda: folder.make(out, name, data_name, config["seed"]))
            contexts.enter_context(folder.locked(place) if writes else nullcontext())
            by_first(lambda: _begin(config, place, method))
            if resume and progress and out is not None:
                print(f"genssl: {place}: nothing was there to go on with; a new run", file=sys.stderr)
        else:
            first = restore(state, method, module, optimiser, place) if state else 0
            stepper = Stepper(module, optimiser, batches, config, schedule)
            stepper = _graphed(stepper, method, graph and first < config["steps"], progress)
        stop = config["steps"] if max_steps is None else min(max_steps, config["steps"])
        if goes_on:
            by_first(lambda: _go_on(config, place, further=first < stop))
        if first < stop:
            stepper.steps = config["steps"]
            looks.choose(place / "measures.jsonl", measure, config["steps"])
            run_steps(
                stepper,
                place,
                first,
                stop,
                lambda: state_of(method, module, optimiser, config),
                follow,
                looks,
                callbacks,
                progress,
                state.get("gathered", (None, 0)),
            )
        elif writes and not checkpoint.steps(place / "checkpoint"):
            checkpoint.save(place / "checkpoint", first, state_of(method, module, optimiser, config))
        wait()
    return Run(place, config, method.eval(), loaded, views)


def _graphed(stepper: Stepper, method: Any, wanted: bool, progress: bool) -> Stepper:
    """On a GPU, a stepper with its steps in one graph where they can be; says why they cannot."""
    if stepper.device.type != "cuda" or not wanted:
        return stepper
    with stepper.batches.memory_told():
        stepper, because = graphed(stepper, method)
    if because is not None and progress:
        print(f"genssl: steps are taken one by one, not in a CUDA graph: {because}", file=sys.stderr)
    return stepper


def _begin(config: dict[str, Any], place: Path, method: nn.Module) -> None:
    """The config of a new run in its folder, which is ours by now; and the weights that an instance came with."""
    folder.check_free(place)  # another process may have been there since
    sweep(place)
    if not config["built"]:
        write_tensors(place / INITIAL, method.state_dict())
    write_json(place / "config.json", config)


def _go_on(config: dict[str, Any], place: Path, further: bool) -> None:
    """Sweep what a killed process left, keep the config of a longer run, and drop what was measured before the steps to come."""
    longer.keep(config, place)
    sweep(place / "checkpoint")
    if further:
        longer.forget(place)


def _steps(trial: Stepper, total: int, config: dict[str, Any], follow: Follow, looks: Looks | None) -> int:
    """The number of steps of a new run: those of its epochs, or as many as the time budget holds."""
    max_seconds = config["max_seconds"]
    if max_seconds is None or total == 0:
        return total
    seconds = seconds_per_step(trial, total, max_seconds) + follow.seconds_per_step()
    left = max_seconds - (0.0 if looks is None else min(looks.seconds(), 0.2 * max_seconds))
    return max(1, min(total, int(left / seconds)))

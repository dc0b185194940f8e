"""A run: a fitted method with its settings, its data and its folder."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Collection
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genssl.datasets.arrays import as_floats
from genssl.errors import CheckpointError, DataError, SettingsError, ShapeError
from genssl.evaluation import evaluate, measuring
from genssl.files import read_tensors
from genssl.fit import checkpoint, metrics
from genssl.fit.batches import first_groups
from genssl.fit.build import build, check_method, describe_class, find_class, gallery_class, is_own
from genssl.fit.config import resolve_device
from genssl.fit.described import describe_callable
from genssl.fit.folder import read_config
from genssl.fit.loop import load_weights
from genssl.fit.precision import networks_in
from genssl.fit.randomness import stream_seed
from genssl.fit.reading import is_code, load_data
from genssl.fit.slots import apply_slots
from genssl.groups import Groups


class Run:
    """What `fit` and `load` return.

    path      the run folder            config    what config.json holds
    method    the fitted method         metrics   the lines of metrics.jsonl
    step      steps taken and saved     finished  whether they are all
    data      its data set (read again when asked for; data that were passed to fit must be given: run.data = ...)
    """

    def __init__(
        self, path: Path, config: dict[str, Any], method: nn.Module, data: Any = None, views: Any = None
    ) -> None:
        self.path, self.config, self.method = path, config, method
        if data is not None:
            self.data = data
        self._views = views

    @cached_property
    def data(self) -> Any:
        return load_data(self.config, self.path).to(self.device)

    @property
    def views(self) -> Any:
        """The transform that made its views, or None for natural groups."""
        if self._views is not None:
            return self._views
        own = getattr(self.data, "views", None)
        if describe_callable(own) != self.config.get("views"):
            warnings.warn(
                f"{self.path}: was fitted with views of your own ({self.config.get('views')}), here are the data set's",
                stacklevel=3,
            )
        return own

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.method.parameters()), torch.device("cpu"))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return metrics.read(self.path / "metrics.jsonl")

    @property
    def step(self) -> int | None:
        """The steps behind the newest checkpoint; None without one."""
        found = checkpoint.steps(self.path / "checkpoint")
        return checkpoint.step_of(found[-1]) if found else None

    @property
    def finished(self) -> bool:
        """Whether the last step was reached."""
        return self.step is not None and self.step >= self.config["steps"]

    def represent(self, x: Tensor, batch_size: int = 4096) -> Tensor:
        """Means of encode(x): x [N, *event] (floats, or uint8 read as v / 255) -> [N, D], on the run's device, in blocks."""
        shape = self.config.get("event_shape")
        if shape and all(isinstance(size, int) for size in shape) and list(x.shape[1:]) != list(shape):
            raise ShapeError(
                f"represent: x has shape {list(x.shape)}, expected {['N', *shape]}; give items like those of the fit"
            )
        return represent(self.method, x, self.config.get("precision", "32"), batch_size)

    def groups(self, split: str = "test", n: int | None = None, num_views: int | None = None) -> Groups:
        """The first n groups of a split with views as in the fit (made from a fixed stream of the seed)."""
        part = getattr(self.data, split, None)
        if part is None:
            raise DataError(
                f"{self.path}: the data have no {split} split; take one of {', '.join(name for name, _ in self.data.splits())}"
            )
        size, seed = len(part) if n is None else min(n, len(part)), stream_seed(self.config["seed"], f"groups/{split}")
        views = None if isinstance(part, Groups) else self.views
        return first_groups(part, size, views, num_views or self.config["num_views"], seed, self.device)

    def random_encoder(self) -> nn.Module:
        """The method with initial weights in place of fitted ones: the baseline that every figure is held against.

        Of an instance, the weights that it came with, which the run keeps.
        """
        if self.config.get("built"):
            method = build(type(self.method), self._example(), self.config["seed"], self.config["settings"])
        else:
            method = copy.deepcopy(self.method)
            if not (self.path / INITIAL).exists():
                raise CheckpointError(
                    f"{self.path}: {INITIAL} is missing, the weights that its instance came with; fit it again"
                )
            load_weights(method, read_tensors(self.path / INITIAL), self.path)
        return method.to(self.device).train(self.method.training)

    def evaluate(self, parts: Collection[str] | None = None) -> dict[str, Any]:
        """Measure the run, or these parts of it; writes and returns evaluation.json (`genssl.evaluation.evaluate`)."""
        return evaluate(self, parts)

    def posterior(
        self, groups: Groups | None = None, samples: int = 200, log_likelihood: bool = True, **options: Any
    ) -> Any:
        """Draws of the posterior of these groups (default: of the test split) as an ArviZ data tree in posterior.nc: `genssl.posterior`."""
        from genssl.posterior import posterior  # a heavy import, and the same floor

        return posterior(self, groups, samples, log_likelihood, **options)

    def _example(self) -> Groups:
        """Groups like those that the method was built for. The gallery builds from shapes alone; a user's class may look further."""
        if is_own(type(self.method)) and "data" in self.__dict__:
            return self.data.example(self.config["num_views"])
        return example(self.config)

    def __repr__(self) -> str:
        return f"Run({self.config['method']} on {self.config['data_description'].get('name', 'data')}, {self.path})"


INITIAL = "initial.pt"
"""Beside the checkpoints of a run that was given an instance: the weights before the first step."""


def represent(method: nn.Module, x: Tensor, precision: str, batch_size: int = 4096) -> Tensor:
    """Means of method.encode(x), measured without a trace, in float32."""
    device = next((p.device for p in method.parameters()), torch.device("cpu"))
    x = torch.as_tensor(x)
    with measuring(method), networks_in(precision, method, device):
        blocks = [method.encode(as_floats(part.to(device))).mean for part in x.split(batch_size)]  # type: ignore[operator]
    if not all(isinstance(block, Tensor) for block in blocks):
        raise SettingsError(
            f"{type(method).__name__}.encode gave no distribution; return e.g. Normal(loc, scale).to_event(1), or Delta(z).to_event(1)"
        )
    return torch.cat(blocks)


def load(path: str | os.PathLike[str], method: Any = None, data: Any = None, device: str = "auto") -> Run:
    """A run from its folder, with the weights of its last step.

    Gallery methods are found by name. A user's own class must be passed (an instance, a class with `build`, or
    "path/to/file.py:Class"), and so must data of a function (`data="file.py:function"`): a folder never makes code run. A file that
    has changed since is told.
    """
    path = Path(path)
    chosen = resolve_device(device)
    state = checkpoint.load(path / "checkpoint")
    config = read_config(path, (state or {}).get("config"))
    if state is None:
        raise CheckpointError(f"{path}: has no checkpoint yet; go on with the run first (--resume)")
    method = _given_or_gallery(config, method, path)
    check_class(config, method, path)
    loaded = None if data is None else load_data(config, path, data)
    instance = method if isinstance(method, nn.Module) else build_from(config, method, path, loaded)
    load_weights(instance, state.get("method"), path)
    return Run(path, config, instance.to(chosen).eval(), None if loaded is None else loaded.to(chosen))


def _given_or_gallery(config: dict[str, Any], method: Any, path: Path) -> Any:
    if method is not None:
        return find_class(method) if isinstance(method, str) else method
    if "file" in config or not config.get("built", True):
        where = f" (it was {config['file']})" if config.get("file") else ""
        what = (
            f"{config['method']}, a method of your own{where}"
            if "file" in config
            else f"an instance of {config['method']}"
        )
        raise SettingsError(f"{path}: was fitted with {what}; pass it: method=, or --method file.py:Class")
    return gallery_class(config["method"])


def build_from(config: dict[str, Any], cls: Any, path: Path, data: Any = None) -> nn.Module:
    """The method of a config with its initial weights; a class of the gallery is built from shapes, a user's from data if they are here."""
    if data is None and is_own(cls) and config["data"] is not None and not is_code(config["data"]):
        with suppress(DataError):  # they are not here: shapes must do
            data = load_data(config, path)
    instance = build(
        cls, example(config) if data is None else data.example(config["num_views"]), config["seed"], config["settings"]
    )
    apply_slots(instance, config["replaced"], config["seed"], config["event_shape"], config["settings"])
    return instance


def check_class(config: dict[str, Any], method: Any, path: Path) -> None:
    """Refuse a class that is not the run's, and tell one whose file has changed."""
    now = describe_class(method)
    if now["method"] != config["method"] or ("file" in now) != ("file" in config):
        own = " of your own" if "file" in config else " of the gallery"
        raise SettingsError(
            f"{path}: is a run of {config['method']}{own}, not of {now['method']}; pass that, or give another --out"
        )
    if config.get("sha256") and now.get("sha256") != config["sha256"]:
        warnings.warn(f"{now['file'] or now['method']}: has changed since this run was started", stacklevel=3)
    if isinstance(method, nn.Module):
        check_method(method)


def example(config: dict[str, Any]) -> Groups:
    """Zeros of the shape that the run was fitted on, as many groups in all, and its last class: what default parts are built from."""
    described = config["data_description"]
    ids = described.get("dtype", "float32").startswith("int")
    dtype = torch.int64 if ids else torch.get_default_dtype()
    label = None if config.get("num_classes") is None else torch.tensor([0, config["num_classes"] - 1])
    shape = config["event_shape"]
    if shape and isinstance(shape[0], list):
        groups = Groups([torch.zeros(2, *part, dtype=dtype) for part in shape], label=label)
    else:
        groups = Groups(torch.zeros(2, config["num_views"], *shape, dtype=dtype), label=label)
    groups.total = described["sizes"]["train"]
    return groups

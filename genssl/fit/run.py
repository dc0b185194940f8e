"""A run: a fitted method with its settings, its data and its folder."""

from __future__ import annotations

import copy
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genssl import datasets
from genssl.errors import DataError, SettingsError
from genssl.evaluation import evaluate, measuring
from genssl.fit import checkpoint, metrics
from genssl.fit.batches import Batches
from genssl.fit.build import build, describe_class, find_class
from genssl.fit.config import read_config, resolve_device
from genssl.fit.precision import networks_in
from genssl.fit.randomness import seed_weights, stream_seed
from genssl.fit.slots import apply_slots
from genssl.groups import Groups


class Run:
    """What `fit` and `load` return.

    path      the run folder            config    what config.json holds
    method    the fitted method         metrics   the lines of metrics.jsonl
    data      its data set (read again when asked for)
    """

    def __init__(self, path: Path, config: dict[str, Any], method: nn.Module, data: Any = None, views: Any = None) -> None:
        self.path, self.config, self.method = path, config, method
        if data is not None:
            self.data = data
        self._views = views

    @cached_property
    def data(self) -> Any:
        if self.config.get("data") is None:
            raise DataError(f"{self.path}: was fitted on data passed to genssl.fit, which the folder does not hold; set run.data = ...")
        return load_data(self.config).to(self.device)

    @property
    def views(self) -> Any:
        """The transform that made its views, or None for natural groups."""
        return self._views if self._views is not None else getattr(self.data, "views", None)

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.method.parameters()), torch.device("cpu"))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return metrics.read(self.path / "metrics.jsonl")

    @property
    def finished(self) -> bool:
        """Whether the last step was reached."""
        found = checkpoint.steps(self.path / "checkpoint")
        return bool(found) and int(found[-1].stem.split("-")[1]) >= self.config["steps"]

    def represent(self, x: Tensor, batch_size: int = 4096) -> Tensor:
        """Means of encode(x): x [N, *event] -> [N, D], on the run's device, in blocks."""
        with measuring(self.method), networks_in(self.config.get("precision", "32"), self.method, self.device):
            blocks = [self.method.encode(part.to(self.device)).mean for part in x.split(batch_size)]  # type: ignore[operator]
        return torch.cat(blocks)

    def groups(self, split: str = "test", n: int | None = None, num_views: int | None = None) -> Groups:
        """The first n groups of a split with views as in the fit (made from a fixed stream of the seed)."""
        part, size = getattr(self.data, split), None
        if part is None:
            raise DataError(f"{self.path}: the data have no {split} split")
        size = len(part) if n is None else min(n, len(part))
        batches = Batches(part, self.views, num_views or self.config["num_views"], size, self.config["seed"], self.device)
        batches.order = lambda epoch: (torch.arange(size),)  # type: ignore[method-assign]
        batches.seed = stream_seed(self.config["seed"], f"groups/{split}")
        return batches.at(0)

    def random_encoder(self) -> nn.Module:
        """The method with initial weights in place of fitted ones: the baseline that every figure is held against."""
        method = copy.deepcopy(self.method)
        seed_weights(method, self.config["seed"])
        return method

    def evaluate(self) -> dict[str, Any]:
        """Measure the representation; writes and returns evaluation.json (DESIGN: fractions in [0, 1])."""
        return evaluate(self)

    def __repr__(self) -> str:
        return f"Run({self.config['method']} on {self.config['data_description'].get('name', 'data')}, {self.path})"


def load_data(config: dict[str, Any]) -> Any:
    """The data set of a run, as it was when the run started."""
    data = datasets.load(
        config["data"], root=config.get("data_root"), verify=config.get("verify", True), seed=config["seed"], limit=config.get("limit")
    )
    return data


def load(path: str | Path, method: Any = None, device: str = "auto") -> Run:
    """A run from its folder, with the weights of its last step.

    Gallery methods are found by name. A user's own class must be passed (an instance, a class with `build`, or
    "path/to/file.py:Class"): a folder never makes code run. A file that has changed since is told.
    """
    path = Path(path)
    config = read_config(path)
    state = checkpoint.load(path / "checkpoint")
    instance = method if isinstance(method, nn.Module) else build_from(config, method, path)
    if state is not None:
        instance.load_state_dict(state["method"])
    return Run(path, config, instance.to(resolve_device(device)))


def build_from(config: dict[str, Any], method: Any, path: Path) -> nn.Module:
    """The method of a config, with its initial weights."""
    if method is None:
        if config.get("file") or not config.get("built", True):
            where = f" (it was {config['file']})" if config.get("file") else ""
            raise SettingsError(f"{path}: was fitted with {config['method']}, a method of your own{where}; pass it: method=, --method file.py:Class")
        cls = find_class(config["method"])
    else:
        cls = find_class(method) if isinstance(method, str) else method
    now = describe_class(cls)
    if config.get("sha256") and now.get("sha256") != config["sha256"]:
        warnings.warn(f"{now.get('file') or cls.__name__}: has changed since this run was fitted", stacklevel=3)
    method = build(cls, _example(config), config["seed"], config.get("settings", {}))
    apply_slots(method, config.get("replaced", {}))
    return method


def _example(config: dict[str, Any]) -> Groups:
    """Groups of the shape that the run was fitted on: all that default networks are built from."""
    try:
        if config.get("data") is not None:
            return load_data(config).example(config["num_views"])
    except DataError:
        pass  # the data are not here: shapes are enough for the methods of the gallery
    shape = config["event_shape"]
    label = torch.tensor([0, max(0, (config.get("num_classes") or 1) - 1)])
    if shape and isinstance(shape[0], list):
        return Groups([torch.zeros(2, *part) for part in shape], label=label)
    return Groups(torch.zeros(2, config["num_views"], *shape), label=label)

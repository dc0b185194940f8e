"""What was measured already: a stage's figures beside the run, read again while weights, data, settings and code are the same."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genssl._version import __version__
from genssl.evaluation.inputs import SPLITS
from genssl.files import plain, write_json
from genssl.fit.build import attributes_of, describe_class
from genssl.fit.described import describe_callable
from genssl.groups import Groups

SETTINGS = ("method", "file", "sha256", "seed", "num_views", "views", "precision", "settings", "replaced", "built")
ROOMS = (
    "evaluation",
    "models",
    "terms",
    "estimators",
    "distributions",
    "views",
    "datasets",
    "networks",
    "fit",
    "posterior",
    "distributed",
)
NO_FIGURES = (
    "__main__",
    "_version",
    "callbacks",
    "cli",
    "cli_lists",
    "cli_runs",
    "errors",
    "export",
    "foretell",
    "host_sync",
)
"""Modules beside the rooms that no figure comes from."""


class Cache:
    """RUN/evaluation/STAGE.json: {key, seconds, figures}. The key is a digest of all that the figures depend on.

    That is the weights, buffers and scalar attributes of the method and its parts, the settings of the run, the items of every split
    (data that are not in memory: their description), the code of the library, torch's version and the device; views, as they are here
    now, by their name and settings. An interrupted evaluation goes on at the stage where it was cut.
    """

    def __init__(self, run: Any) -> None:
        self.folder = Path(run.path) / "evaluation"
        self.base = _digest(_run_parts(run))

    def key(self, stage: str) -> str:
        return _digest([self.base, stage])

    def read(self, stage: str) -> Any:
        """The figures of a stage as JSON holds them, or None; a damaged file counts as none."""
        try:
            kept = json.loads((self.folder / f"{stage}.json").read_text())
            return kept["figures"] if kept["key"] == self.key(stage) else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def write(self, stage: str, figures: Any, seconds: float) -> Any:
        """Keep the figures; gives them as JSON holds them, as a later call reads them."""
        found = {"key": self.key(stage), "seconds": round(seconds, 2), "figures": plain(figures)}
        write_json(self.folder / f"{stage}.json", found)
        return found["figures"]


def _run_parts(run: Any) -> Iterator[Any]:
    yield {name: run.config.get(name) for name in SETTINGS}
    yield describe_class(run.method).get("sha256")  # of the user's file as it is now
    objective = getattr(run.method, "objective", None)
    yield [str(objective), sorted(getattr(objective, "needs", ()))]
    yield attributes_of(run.method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield describe_callable(run.views)  # one that was loaded may lack its own: a reason why stages are not measured
    yield [__version__, torch.__version__, str(run.device), _code()]
    for name, value in sorted(run.method.state_dict().items()):
        yield from (name, value)
    for name in SPLITS:
        yield from (name, *_split_parts(getattr(run.data, name)))
    yield [run.data.name, run.data.classes]


def _split_parts(split: Any) -> Iterator[Any]:
    if split is None:
        yield None
    elif isinstance(split, Groups):
        tensors = split.x if isinstance(split.x, tuple) else (split.x,)
        yield from (*tensors, split.valid, split.label, split.style, split.index, split.style_names, split.style_kinds)
    elif isinstance(getattr(split, "x", None), Tensor):
        yield from (split.x, split.label, split.style, split.style_names, split.style_kinds)
    else:
        yield [repr(split), len(split)]


@cache
def _code() -> str:
    """A digest of the modules that figures come from: another version of them measures anew."""
    parts: list[Any] = []
    for path in code_files():
        parts += [path.name, path.read_text()]
    return _digest(parts)


def code_files() -> list[Any]:
    """The modules of the rooms, and those beside them."""
    found = []
    for room in ("genssl", *(f"genssl.{name}" for name in ROOMS)):
        modules = sorted(
            (path for path in files(room).iterdir() if path.name.endswith(".py")), key=lambda path: path.name
        )
        found += [path for path in modules if room != "genssl" or path.name[:-3] not in NO_FIGURES]
    return found


def _digest(parts: Iterable[Any]) -> str:
    found = hashlib.blake2b(digest_size=20)
    for part in parts:
        if isinstance(part, Tensor):
            found.update(f"{part.dtype}{list(part.shape)}".encode())
            found.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        else:
            found.update(json.dumps(plain(part), sort_keys=True).encode())
        found.update(b"\0")
    return found.hexdigest()

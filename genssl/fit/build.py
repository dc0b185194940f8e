"""From a name, class, file or instance to a method with reproducible initial weights."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import genssl.models
from genssl.errors import GensslError, SettingsError
from genssl.fit.randomness import generators_kept, seed_weights, stream_seed
from genssl.groups import Groups


def gallery() -> dict[str, type[nn.Module]]:
    """The methods of genssl.models by name."""
    abstract = {"Method", "GenerativeMethod"}
    members = {name: getattr(genssl.models, name) for name in genssl.models.__all__ if name not in abstract}
    return {name: c for name, c in members.items() if inspect.isclass(c) and issubclass(c, genssl.models.Method)}


def find_class(name: str) -> type[nn.Module]:
    """A gallery method by name, or a user's class as path/to/file.py:Class (which runs that file)."""
    if ":" in name:
        path, _, attribute = name.rpartition(":")
        return _from_file(Path(path), attribute)
    known = gallery()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}; a class of your own: path/to/file.py:Class"
        raise SettingsError(f"there is no method {name!r}; {hint}")
    return known[name]


def _from_file(path: Path, attribute: str) -> type[nn.Module]:
    if not path.is_file():
        raise SettingsError(f"{path}: no such file; a method of your own is given as path/to/file.py:Class")
    name = f"genssl_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except GensslError:
        raise
    except Exception as error:
        raise SettingsError(f"{path}: importing it failed with {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        raise SettingsError(f"{path}: has no class {attribute!r}")
    return getattr(module, attribute)


def build(cls: Any, example: Groups, seed: int, settings: dict[str, Any]) -> nn.Module:
    """cls.build(example, **settings), its weights drawn from the seed by module name."""
    if not hasattr(cls, "build"):
        raise SettingsError(f"{cls.__name__}: has no build(example, **settings); add it, or pass an instance to genssl.fit")
    accepted = _settings_of(cls)
    unknown = [key for key in settings if accepted is not None and key not in accepted]
    if unknown:
        assert accepted is not None
        raise SettingsError(f"{cls.__name__} has no setting {unknown[0]!r}; it has {', '.join(sorted(accepted))}")
    with generators_kept():
        torch.manual_seed(stream_seed(seed, "build"))
        try:
            method = cls.build(example, **settings)
        except TypeError as error:
            raise SettingsError(f"{cls.__name__}.build: {error}; settings given: {settings or 'none'}") from error
    for needed in ("guide", "objective", "encode"):
        if not hasattr(method, needed):
            raise SettingsError(f"{cls.__name__}: has no {needed}; a method has guide, objective, encode, and model where it has one")
    seed_weights(method, seed)
    return method


def _settings_of(cls: Any) -> set[str] | None:
    """Keywords that build accepts, through **rest into __init__ and the classes above; None if that cannot be told."""
    names: set[str] = set()
    for function in [*(vars(c).get("build") for c in cls.__mro__), *(vars(c).get("__init__") for c in cls.__mro__ if c is not nn.Module)]:
        function = getattr(function, "__func__", function)
        if not inspect.isfunction(function) or function.__module__.startswith("torch."):
            continue
        parameters = list(inspect.signature(function).parameters.values())[1:]
        names |= {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            if function.__name__ == "__init__":
                break
            if function.__name__ == "build" and all(vars(c).get("build") is None for c in cls.__mro__[1:]):
                return names - {"example"}
    return names - {"example", "encoder", "decoder"}


def describe_class(method: nn.Module | type) -> dict[str, Any]:
    """Name of a method's class and, for a user's own, its file and SHA-256 (told, never executed, when a run is loaded)."""
    cls = method if inspect.isclass(method) else type(method)
    if gallery().get(cls.__name__) is cls:
        return {"method": cls.__name__}
    try:
        path = Path(inspect.getfile(cls)).resolve()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, TypeError):
        return {"method": cls.__name__, "file": None, "sha256": None}
    return {"method": cls.__name__, "file": str(path), "sha256": digest}

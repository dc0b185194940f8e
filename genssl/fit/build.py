"""From a name, class, file or instance to a method with reproducible initial weights."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import math
import numbers
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import nn

import genssl.models
from genssl.errors import GensslError, SettingsError, did_you_mean, nearest
from genssl.files import plain
from genssl.fit.randomness import generators_kept, seed_weights, stream_seed
from genssl.groups import Groups
from genssl.objective import Objective
from genssl.terms import SLOTS


def gallery() -> dict[str, type[nn.Module]]:
    """The methods of genssl.models by name."""
    abstract = {"Method", "GenerativeMethod", "DiscriminativeMethod"}
    members = {name: getattr(genssl.models, name) for name in genssl.models.__all__ if name not in abstract}
    return {name: c for name, c in members.items() if isinstance(c, type) and issubclass(c, genssl.models.Method)}


def find_class(name: str) -> type[nn.Module]:
    """A gallery method by name, or a user's class as path/to/file.py:Class (which runs that file)."""
    if ":" in name:
        path, _, attribute = name.rpartition(":")
        return _from_file(Path(path).expanduser(), attribute)
    return gallery_class(name)


def gallery_class(name: str) -> type[nn.Module]:
    """A gallery method by name, and nothing else: the name may come from a file that nobody vouches for."""
    known = gallery()
    if name.endswith(".py") and name not in known:
        raise SettingsError(f"{name}: which class? give {name}:Class")
    if name not in known:
        otherwise = f"known: {', '.join(known)}; a class of your own: path/to/file.py:Class"
        raise SettingsError(f"there is no method {name!r}; {did_you_mean(name, known, otherwise)}")
    return known[name]


def _from_file(path: Path, attribute: str) -> type[nn.Module]:
    if not path.is_file():
        raise SettingsError(f"{path}: no such file; a method of your own is given as path/to/file.py:Class")
    name = f"genssl_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SettingsError(f"{path}: not a Python file; a method of your own is given as path/to/file.py:Class")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except GensslError:
        raise
    except Exception as error:
        del sys.modules[name]
        raise SettingsError(
            f"{path}: importing it failed with {told(error)}; repair it, python {path} shows where"
        ) from error
    cls = getattr(module, attribute, None)
    if not _is_method(cls):
        classes = [key for key, value in vars(module).items() if _is_method(value) and value.__module__ == name]
        raise SettingsError(
            f"{path}: {attribute!r} is no class of it that is an nn.Module; it has {', '.join(classes) or 'none'}"
        )
    return cls


def is_literal(parameter: inspect.Parameter) -> bool:
    """Whether a setting can be given in words: not a module, a term, an objective."""
    return not re.fullmatch(r"(nn\.Module|Term|Objective)( \| None)?", str(parameter.annotation))


def _is_method(value: Any) -> TypeGuard[type[nn.Module]]:
    return isinstance(value, type) and issubclass(value, nn.Module)


def build(cls: Any, example: Groups, seed: int, settings: dict[str, Any]) -> nn.Module:
    """cls.build(example, **settings), with initial weights that are a function of the seed.

    Where the library's own `build` made the networks, every part draws from its name, so that methods share what they have in
    common. A `build` of the user may have loaded weights: what it made is left as it is.
    """
    name = cls.__name__
    if not hasattr(cls, "build"):
        raise SettingsError(f"{name}: has no build(example, **settings); add it, or pass an instance to genssl.fit")
    for slot in SLOTS:
        if isinstance(settings.get(slot), str):
            raise SettingsError(
                f"{name}: {slot} = {settings[slot]!r} among the settings; give a term as --{slot} TERM, or by replace= of genssl.fit"
            )
    with generators_kept():
        torch.manual_seed(stream_seed(seed, "build"))
        try:
            method = cls.build(example, **settings)
        except GensslError:
            raise
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if unknown and unknown[1] in settings:
                raise SettingsError(f"{name} has no setting {unknown[1]!r}; {_hint(cls, unknown[1])}") from error
            made = re.search(r"multiple values for argument '(\w+)'", str(error))
            if made and made[1] in settings:
                raise SettingsError(
                    f"{name}: {made[1]} is made by build and is no setting; construct {name} in Python to give another"
                ) from error
            if not settings:
                raise  # nothing that was given can be the cause: a fault of the class, best told by its traceback
            raise SettingsError(
                f"{name}.build failed with {told(error)}; settings given: {settings}, change them"
            ) from error
    check_method(method)
    if getattr(cls.build, "__func__", cls.build).__module__.startswith("genssl.models."):
        seed_weights(method, seed)
    return method


def check_method(method: Any) -> None:
    """Whether it is a method: an nn.Module with guide, objective, encode."""
    name = type(method).__name__
    if not isinstance(method, nn.Module):
        raise SettingsError(
            f"{name}: is no method, expected an nn.Module with guide, objective and encode; see examples/custom_model.py"
        )
    for needed in ("guide", "objective", "encode"):
        if getattr(method, needed, None) is None:
            raise SettingsError(
                f"{name}: has no {needed}; a method has guide, objective, encode, and model where it has one"
            )
    if not isinstance(method.objective, Objective):
        raise SettingsError(
            f"{name}: its objective is a {type(method.objective).__name__}, expected a genssl.Objective"
        )


def is_own(cls: type) -> bool:
    """Whether a class is the user's, not the gallery's."""
    return gallery().get(cls.__name__) is not cls


def describe_class(method: nn.Module | type) -> dict[str, Any]:
    """Name of a method's class and, for a user's own, its file and SHA-256 (told, never executed, when a run is loaded)."""
    cls = method if isinstance(method, type) else type(method)
    if not is_own(cls):
        return {"method": cls.__name__}
    try:
        path = Path(inspect.getfile(cls)).resolve()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, TypeError):  # made in a notebook or at a prompt
        return {"method": cls.__name__, "file": None, "sha256": None}
    return {"method": cls.__name__, "file": str(path), "sha256": digest}


def attributes_of(method: nn.Module) -> dict[str, Any]:
    """What an instance tells of its settings: numbers, texts and tuples of them that are its attributes; of its parts a digest.

    Those that torch keeps, private ones and the seed are no settings.
    """
    found = {name: dict(_scalars(module)) for name, module in method.named_modules()}
    own = found.pop("")
    own.pop("seed", None)
    parts = json.dumps(plain(found), sort_keys=True)
    return own | {"parts": hashlib.sha256(parts.encode()).hexdigest()[:12]}


def _scalars(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if name[0] != "_" and name != "training" and _is_scalar(value):
            yield name, repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def _is_scalar(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_scalar(part) for part in value)
    return value is None or isinstance(value, (str, numbers.Number))


def settings_of(cls: type) -> dict[str, Any]:
    """What --set takes of a class, and the defaults: keywords of build and __init__, of the class and of those it extends."""
    functions = [
        vars(c)[name]
        for c in cls.__mro__
        if issubclass(c, nn.Module)
        for name in ("build", "__init__", "_assemble")
        if name in vars(c)
    ]
    functions = [getattr(f, "__func__", f) for f in functions if not getattr(f, "__module__", "").startswith("torch.")]
    found: dict[str, Any] = {}
    for function in functions:
        for parameter in inspect.signature(function).parameters.values():
            if parameter.default is not parameter.empty and is_literal(parameter):
                found.setdefault(parameter.name, parameter.default)
    return found


def resolved(cls: type, method: nn.Module, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a class by name, as given or by its default; of the gallery with what None became (`Method.built_with`)."""
    found = settings_of(cls) | dict(given)
    became: Mapping[str, Any] = getattr(method, "built_with", {})
    return found | {name: value for name, value in became.items() if found.get(name) is None}


def _hint(cls: type, key: str) -> str:
    known = settings_of(cls)
    return did_you_mean(key, known, f"it has {', '.join(sorted(known)) or 'none'}")


def misplaced(method: Any, key: str, arguments: Iterable[str]) -> SettingsError:
    """An argument that `fit` has not: where it goes, or what was meant. arguments: those that it has; method: a class, or an instance."""
    settings = settings_of(method) if isinstance(method, type) else {}
    places = {name: f"settings={{{name!r}: ...}}" for name in settings}
    places |= {slot: f"replace={{{slot!r}: 'TERM'}}" for slot in SLOTS} | {name: name for name in arguments}
    near = nearest(key, places)
    meant = (
        "see help(genssl.fit)"
        if near is None
        else f"give {places[key]}"
        if near == key
        else f"did you mean {places[near]}?"
    )
    return SettingsError(f"genssl.fit has no argument {key!r}; {meant}")


def told(error: Exception) -> str:
    """An exception on one line, with the place that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({Path(frame.filename).name}:{frame.lineno})"

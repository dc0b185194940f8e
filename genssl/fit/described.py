"""What config.json says of a callable of the user: a name, and a mark that tells it from others of that name."""

from __future__ import annotations

import functools
import hashlib
import types
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_marks: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
MOST = 4096
"""Numbers of an array, evenly spaced, that its mark is made of: arrays that differ between them have the same."""
DEEPEST = 6
"""The depth to which what holds what is followed."""


def describe_callable(given: Any) -> str | None:
    """Of an optimiser, schedule or views: a transform with its settings, a class, or NAME#MARK, the mark of what it is made of.

    Two functions, partials or objects of one name differ in their mark where constants, defaults, closures or attributes differ. An
    object's is that of when it was first asked for: what it counts afterwards does not change it.
    """
    if given is None or isinstance(given, str):
        return given
    text = getattr(given, "__qualname__", None) or repr(given)
    telling = " at 0x" not in text and "\n" not in text
    if isinstance(given, type) or (telling and not hasattr(given, "__qualname__")):
        return text
    return f"{text if telling else type(given).__qualname__}#{_mark(given)}"


def _mark(given: Any) -> str:
    try:
        if given not in _marks:
            _marks[given] = _digest(given)
        return _marks[given]
    except TypeError:  # it cannot be a key
        return _digest(given)


def _digest(given: Any) -> str:
    return hashlib.sha256(repr(_parts(given, DEEPEST)).encode(errors="replace")).hexdigest()[:8]


def _parts(value: Any, depth: int) -> Any:
    """Plain values that tell what it is made of, without places in memory."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value
    if depth == 0:
        return type(value).__qualname__
    inner = functools.partial(_parts, depth=depth - 1)
    if isinstance(value, Tensor):
        flat = value.detach().flatten()
        some = flat[:: max(1, len(flat) // MOST)].cpu()
        return ("tensor", str(value.dtype), list(value.shape), [] if value.device.type == "meta" else some.tolist())
    if isinstance(value, np.ndarray):
        every = max(1, value.size // MOST)
        return ("array", str(value.dtype), value.shape, value.ravel()[::every].tolist())
    if isinstance(value, functools.partial):
        return ("partial", inner(value.func), inner(value.args), inner(value.keywords))
    if isinstance(value, types.MethodType):
        return ("method", inner(value.__func__), _mark(value.__self__))  # the method itself is made anew each time
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_full(cell)]
        return (
            value.__qualname__,
            _code(value.__code__),
            inner(value.__defaults__),
            inner(value.__kwdefaults__),
            inner(cells),
        )
    if isinstance(value, Mapping):
        return [(str(key), inner(part)) for key, part in value.items()]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(inner(part)) for part in value)
    if isinstance(value, (list, tuple)):
        return [inner(part) for part in value]
    if isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType, torch.dtype, torch.device)):
        return getattr(value, "__qualname__", str(value))
    if isinstance(value, torch.Generator):
        return "generator"
    return (type(value).__qualname__, inner(getattr(value, "__dict__", {})))


def _code(code: types.CodeType) -> Any:
    """Names and constants, of functions inside too; the instructions themselves differ among versions of Python."""
    constants: Iterable[Any] = (_code(c) if isinstance(c, types.CodeType) else _parts(c, 3) for c in code.co_consts)
    return (code.co_names, code.co_varnames, list(constants))


def _is_full(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:  # a name that was not given a value yet
        return False
    return True

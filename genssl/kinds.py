"""Whether a value read from JSON is made as its readers expect: the files of a run may come from anywhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

NUMBER, MAYBE, TEXT = "a number", "a number or null", "text or null"


def is_number(value: Any) -> TypeGuard[float]:
    """A finite number that a float can hold; JSON has integers of any length."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


_IS: dict[str, Callable[[Any], bool]] = {
    NUMBER: is_number,
    MAYBE: lambda value: value is None or is_number(value),
    TEXT: lambda value: value is None or isinstance(value, str),
}


def fault(value: Any, kind: Any, name: str = "", optional: bool = True) -> str:
    """The first thing that is of another kind, as "content.knn.test is 'x', expected a number"; "" where nothing is.

    kind: NUMBER | MAYBE | TEXT | {name: kind} | [kind], a list of them | (kind, ...), a list of that length. Of an object, names that
    are missing count as null, and those that are not told are anything, or of the kind of "*" or "*?". Objects and lists may be null,
    but for those of "*", and where they are not `optional`.
    """
    if isinstance(kind, str):
        return "" if _IS[kind](value) else _told(name, value, kind)
    if value is None and optional:
        return ""
    expected = dict if isinstance(kind, dict) else list
    if not isinstance(value, expected) or (isinstance(kind, tuple) and len(value) != len(kind)):
        size = f" of {len(kind)}" if isinstance(kind, tuple) else ""
        return _told(name, value, "an object" if expected is dict else f"a list{size}")
    return next(
        (found for found in (fault(*part) for part in _parts(value, kind, f"{name}." if name else "")) if found), ""
    )


def _parts(value: Any, kind: Any, before: str) -> Iterator[tuple[Any, Any, str, bool]]:
    """What is in an object or a list, with its kind, its name, and whether it is optional."""
    if isinstance(kind, dict):
        yield from ((value.get(key), each, f"{before}{key}", True) for key, each in kind.items() if key[0] != "*")
        for star in kind.keys() & {"*", "*?"}:
            yield from ((value[key], kind[star], f"{before}{key}", star == "*?") for key in value if key not in kind)
    else:
        kinds = kind if isinstance(kind, tuple) else kind * len(value)
        yield from ((each, one, f"{before}{i}", True) for i, (each, one) in enumerate(zip(value, kinds, strict=True)))


def _told(name: str, value: Any, expected: str) -> str:
    shown = {dict: "an object", list: "a list", type(None): "null"}.get(type(value)) or f"{value!r:.40}"
    return f"{name or 'it'} is {shown}, expected {expected}"

"""What a grid may hold: names of settings, kinds of values, terms that fill their slots."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from genssl.errors import GensslError, SettingsError, did_you_mean
from genssl.fit.build import find_class
from genssl.fit.config import check, check_literal, resolve_device
from genssl.fit.randomness import generators_kept
from genssl.fit.slots import parse_term
from genssl.terms import SLOTS

OWN = "own"
"""In a list of a slot: the term that the method has by itself."""
TEXTS = ("method", "data", "optimizer", "schedule", "precision")
NUMBERS = ("num_views", "epochs", "max_seconds", "batch_size", "lr", "clip", "limit", "validation", "seed")
LISTED = (*SLOTS, *TEXTS, *NUMBERS)  # what [grid] may list, beside set.NAME
ONCE = {
    "data_root": str,
    "device": str,
    "download": bool,
    "verify": bool,
    "num_workers": int,
    "measure": bool,
}  # in [base] alone
NOT_HERE = {
    "max_steps": "it stops a call, not a run; give epochs or max_seconds",
    "out": "every cell has its folder below that of the grid",
    "resume": "a grid always goes on where it was",
}


def check_known(given: Any, known: Sequence[str], where: str) -> None:
    """Refuse a key that is none of the known, with a hint."""
    if not isinstance(given, Mapping):
        raise SettingsError(f"{where} = {given!r}, expected a table of {', '.join(known[:4])}, ...")
    for key in given:
        if key in NOT_HERE and key not in known:
            raise SettingsError(f"{where}: {key} has no place here: {NOT_HERE[key]}")
        if key not in known:
            raise SettingsError(f"{where}: there is no {key!r}; {did_you_mean(str(key), known)}")


def check_value(key: str, value: Any, where: str) -> Any:
    """Refuse a value that no fit can have; what tells it from others of its list."""
    if key in SLOTS:
        return _check_term(key, value, where)
    if key.startswith("set."):
        check_literal(value, where)
        return value
    kind = ONCE.get(key, str if key in TEXTS else None)
    if key == "precision" and value == 32:  # a number in TOML
        return "32"
    if kind is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        words = {str: "a text", bool: "true or false", int: "a whole number"}[kind]
        raise SettingsError(f"{where} = {value!r}, expected {words}")
    if key in NUMBERS and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise SettingsError(f"{where} = {value!r}, expected a number")
    if key == "validation" and not 0 < value < 1:
        raise SettingsError(f"{where} = {value!r}, expected a fraction of the data between 0 and 1")
    try:
        if key == "method":
            find_class(value)
        if key == "device":
            resolve_device(value)
        check({key: value})
    except GensslError as error:
        raise SettingsError(f"{where}: {error}") from error
    return value


def _check_term(slot: str, text: Any, where: str) -> Any:
    if not isinstance(text, str):
        raise SettingsError(f"{where} = {text!r}, expected a text: Term, Term:key=value or {OWN!r}")
    if text == OWN:
        return OWN
    with generators_kept():
        try:
            term = parse_term(text)
        except GensslError as error:
            raise SettingsError(f"{where}: {error}") from error
    if slot not in term.slots:
        raise SettingsError(f"{where}: {type(term).__name__} fills {', '.join(term.slots)}, not this slot")
    return words_of(str(term), text)


def words_of(told: str, text: str | None) -> tuple[str, ...]:
    """A term as its own words, and what its text set beside what the words tell (a site): equal for equal terms."""
    given = re.findall(r"(\w+)\s*=\s*([^,]+)", text or "")
    return told, *sorted(f"{key}={value.strip()}" for key, value in given if f"{key}=" not in told)


def check_no_duplicates(key: str, marks: Sequence[Any], values: Sequence[Any], where: str) -> None:
    """Refuse two values of a list that mean the same; marks: what tells them apart."""
    for i, j in itertools.combinations(range(len(marks)), 2):
        if marks[i] == marks[j] and isinstance(marks[i], bool) == isinstance(marks[j], bool):
            same = f"{values[i]!r}" if values[i] == values[j] else f"{values[i]!r} and {values[j]!r} are the same"
            raise SettingsError(f"{where}: {same}, twice in the list; leave one out")

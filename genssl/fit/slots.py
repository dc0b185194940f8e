"""Replacing a slot of a method's objective by a term given in words, as the command line does."""

from __future__ import annotations

import ast
from typing import Any

from torch import nn

from genssl import terms
from genssl.errors import SettingsError
from genssl.terms import SLOTS, Term


def parse_term(text: str) -> Term:
    """`CosineAttraction:temperature=0.5,other=1` to a term of genssl.terms; values are Python literals."""
    name, _, rest = text.partition(":")
    known = [n for n in terms.__all__ if isinstance(getattr(terms, n), type) and issubclass(getattr(terms, n), Term)]
    known = [n for n in known if getattr(terms, n).slots]
    if name not in known:
        raise SettingsError(f"there is no term {name!r}; known: {', '.join(known)}")
    settings = dict(parse_setting(part) for part in rest.split(",")) if rest else {}
    try:
        return getattr(terms, name)(**settings)
    except TypeError as error:
        raise SettingsError(f"term {name}: {error}") from error


def parse_setting(text: str) -> tuple[str, Any]:
    """`key=value` with a Python literal as value; what is no literal stays a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip().isidentifier():
        raise SettingsError(f"{text!r}: expected key=value")
    try:
        return key.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key.strip(), value


def apply_slots(method: nn.Module, replaced: dict[str, str]) -> None:
    """Put the named terms into the slots of method.objective."""
    for slot, text in replaced.items():
        if slot not in SLOTS:
            raise SettingsError(f"there is no slot {slot!r}; there are {', '.join(SLOTS)}")
        term = parse_term(text)
        if slot not in term.slots:
            raise SettingsError(f"{type(term).__name__} fills {', '.join(term.slots)}, not the slot {slot}")
        setattr(method.objective, slot, term)

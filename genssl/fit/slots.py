"""Terms and settings given in words, as the command line does."""

from __future__ import annotations

import ast
from typing import Any

from torch import nn

from genssl import terms
from genssl.errors import SettingsError
from genssl.fit.randomness import generators_kept, seed_weights
from genssl.terms import SLOTS, Term


def parse_term(text: str) -> Term:
    """`CosineAttraction:temperature=0.5,other=1` to a term of genssl.terms; values are Python literals."""
    name, _, rest = text.partition(":")
    members = {n: getattr(terms, n) for n in terms.__all__}
    known = {n: c for n, c in members.items() if isinstance(c, type) and issubclass(c, Term) and c.slots}
    if name not in known:
        raise SettingsError(f"there is no term {name!r}; known: {', '.join(known)}")
    try:
        call = ast.parse(f"term({rest})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("expected Term:key=value,key=value")
        return known[name](**{str(keyword.arg): _literal(keyword.value) for keyword in call.keywords})
    except (TypeError, ValueError, SyntaxError) as error:
        raise SettingsError(f"term {text!r}: {error}; give Term:key=value,... with literals as values") from error


def parse_setting(text: str) -> tuple[str, Any]:
    """`key=value` with a Python literal as value; what is no literal stays a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip().isidentifier():
        raise SettingsError(f"--set {text}: expected key=value, such as --set dim=16")
    try:
        return key.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return key.strip(), value.strip()


def apply_slots(method: nn.Module, replaced: dict[str, str], seed: int) -> None:
    """Put the named terms into the slots of method.objective; what they draw (a queue) is a function of the seed and the slot."""
    for slot, text in replaced.items():
        if slot not in SLOTS:
            raise SettingsError(f"there is no slot {slot!r}; there are {', '.join(SLOTS)}")
        with generators_kept():
            term = parse_term(text)
            seed_weights(term, seed, prefix=f"objective.{slot}")
        if slot not in term.slots:
            raise SettingsError(f"{type(term).__name__} fills {', '.join(term.slots)}, not the slot {slot}")
        setattr(method.objective, slot, term)


def _literal(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)

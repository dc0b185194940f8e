"""Terms and settings given in words, as the command line does."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from genssl import terms
from genssl.errors import SettingsError, did_you_mean
from genssl.fit.randomness import generators_kept, seed_weights
from genssl.models.discriminative import mlp_head
from genssl.models.method import Method
from genssl.networks import default_network, make_decoder, make_encoder, output_size
from genssl.terms import SLOTS, Term

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_PLUS = re.compile(r"\+(?=\s*(?:[-\d.eE+]+\s*\*\s*)?[A-Z])")
_WEIGHED = re.compile(r"\s*(?:([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*\*)?\s*(.*?)\s*", re.DOTALL)


def named_terms() -> dict[str, type[Term]]:
    """The terms that a name can mean: those of genssl.terms that fill a slot."""
    members = {n: getattr(terms, n) for n in terms.__all__}
    # AggregateEntropy is what three estimators have in common, and no estimator.
    return {
        n: c
        for n, c in members.items()
        if isinstance(c, type) and issubclass(c, Term) and c.slots and c is not terms.AggregateEntropy
    }


def parse_term(text: str) -> Term:
    """`CosineAttraction:temperature=0.5,other=1` to a term of genssl.terms, `LogLikelihood + 0.1 * Uniformity` to a weighted sum; values
    are Python literals."""
    total: Term | None = None
    for part in _PLUS.split(text):
        weight, name = _WEIGHED.fullmatch(part).groups()  # type: ignore[union-attr]
        term = _parse_one(name)
        term = term if weight is None else float(weight) * term
        total = term if total is None else total + term
    return total  # type: ignore[return-value]


def _parse_one(text: str) -> Term:
    name, _, rest = text.partition(":")
    known = named_terms()
    if name == "own":
        raise SettingsError("own names the method's own term in a grid; here leave the slot out")
    if name not in known:
        if name.endswith(".py"):
            raise SettingsError(
                f"{text}: terms of your own are for Python: method.swap(...), or the method's own objective"
            )
        raise SettingsError(f"there is no term {name!r}; {did_you_mean(name, known, 'see genssl terms')}")
    try:
        call = ast.parse(f"term({rest})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("expected Term:key=value,key=value")
        given = {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
        takes = inspect.signature(known[name]).parameters
        if unknown := [key for key in given if key not in takes]:
            raise ValueError(f"{name} has no setting {unknown[0]!r}; {did_you_mean(unknown[0], takes)}")
        lacking = [
            p.name for p in takes.values() if p.default is p.empty and p.kind not in VARIADIC and p.name not in given
        ]
        if "classes" in lacking:
            raise SettingsError(
                f"{name} needs the classes of a method; start from one that has them (InstanceDiscrimination, DeepCluster)"
            )
        if lacking:
            raise SettingsError(f"{name} needs {', '.join(lacking)}; give {name}:{lacking[0]}=VALUE")
        return known[name](**given)
    except SettingsError:
        raise
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


def apply_slots(
    method: nn.Module, replaced: dict[str, str], seed: int, event_shape: Sequence[int], settings: dict[str, Any]
) -> None:
    """Swap the named terms into the method's slots, with default networks for parts that it lacks (genssl.models.swap).

    What a term draws (a queue) and how a part starts are functions of the seed and the name, so that cells of a grid share them.
    A method of the user that has no `swap` gets the terms alone.
    """
    swapped = {slot: _term(slot, text, seed) for slot, text in replaced.items()}
    if swapped and isinstance(method, Method):
        method.swap(**swapped, **_parts(method, swapped, seed, event_shape, settings))
        return
    for slot, term in swapped.items():
        setattr(method.objective, slot, term)


def _term(slot: str, text: str, seed: int) -> Term:
    if slot not in SLOTS:
        raise SettingsError(f"there is no slot {slot!r}; there are {', '.join(SLOTS)}")
    with generators_kept():
        term = parse_term(text)
        seed_weights(term, seed, prefix=f"objective.{slot}")
    if slot not in term.slots:
        raise SettingsError(f"{term} fills {', '.join(term.slots)}, not the slot {slot}")
    return term


def _parts(
    method: Method, swapped: dict[str, Term], seed: int, event_shape: Sequence[int], settings: dict[str, Any]
) -> dict[str, Any]:
    """Decoder, predictor and network of log scales for a guide-only method whose new terms need them."""
    if method.guide_family == "normal" or not hasattr(method, "encoder") or not _one_shape(event_shape):
        return {}
    needs = frozenset().union(*(term.needs for term in swapped.values()))
    width = output_size(method.encoder, getattr(method, "head", nn.Identity())) - getattr(method, "extra_outputs", 0)
    network, hidden = settings.get("network") or default_network(event_shape), settings.get("hidden")
    entropy = swapped.get("entropy")
    parts: dict[str, Any] = {}
    with generators_kept():
        if "decoder" in needs and not hasattr(method, "decode"):
            squash = len(event_shape) == 3
            parts["decoder"] = make_decoder(network, width, event_shape, hidden, sigmoid=squash)
        if "predictor" in needs and getattr(method, "predictor", None) is None:
            parts["predictor"] = mlp_head(width, (256, width))
        if method.guide_family == "delta" and entropy is not None and entropy.guide_family != "delta":
            parts["scale"] = make_encoder(network, event_shape, width, hidden)
        for name, part in parts.items():
            seed_weights(part, seed, prefix="scale_network" if name == "scale" else name)
    return parts


def _one_shape(event_shape: Sequence[Any]) -> bool:
    """Whether views are of one modality."""
    return all(isinstance(size, int) for size in event_shape)


def _literal(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)

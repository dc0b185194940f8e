"""Another term in a slot of a method, and what that asks of its guide and of its parts."""

from __future__ import annotations

import inspect
from typing import Any, Never

from genssl.models.swapped import Law, put_guide, put_model
from torch import nn

from genssl.distributions import Gaussian
from genssl.errors import SettingsError, did_you_mean
from genssl.networks import output_size
from genssl.objective import Objective
from genssl.terms import SLOTS, Term


def swap(
    method: Any,
    *,
    reconstruction: Term | None = None,
    entropy: Term | None = None,
    prior: Term | None = None,
    decoder: nn.Module | None = None,
    head: nn.Module | None = None,
    predictor: nn.Module | None = None,
    scale: float | nn.Module | None = None,
    dim: int | None = None,
    likelihood: nn.Module | None = None,
    view_scale: float | None = None,
    content_scale: float | None = None,
    **others: Never,
) -> Any:
    r"""Put terms into the slots of method.objective, in place, and make guide and parts fit them; returns the method.

    The entropy slot tells the guide's family. Constant (of the family "delta"): z is a point mass at the mean of what the guide drew, or,
    with `scale`, a Normal of that standard deviation around it (a channel of fixed noise). Any other entropy: the guide's own law, where
    that is stochastic; a point mass becomes a Normal of `scale`. A term for the method's own terms changes nothing, bit for bit: what was
    swapped before comes back to how the method was written, but for the parts that were added.

    A term says what it needs (Term.needs). What the method lacks is an argument:

        model       made here of a GroupNormal over z (view_scale, content_scale) and, with a decoder, p(x_j | z_j); scales that are given
                    also go to a method that has them (SimVAE, LDM); None leaves them
        decoder     [N, D] -> [N, *event], from z (after the head); likelihood: from its output to a distribution, default Gaussian of
                    variance 0.02
        predictor   [N, D] -> [N, D]: the guide site z_predicted
        head        [N, D] -> [N, D']: z is after it, `encode` before it, `project` after it; for a point-mass guide
        scale       a standard deviation, or a network [N, *event] -> [N, D] of log standard deviations
        dim         D, where it cannot be read off the last layer

    A target of its own (MoCo, BYOL, DINO), prototypes (SwAV) and labels cannot be added: start from a method that has them. Spaces may
    differ (a cosine over z on the plane): terms normalise z themselves. What theory says of a combination is told by `foretell`.

    Raises SettingsError, with nothing changed, where a part is missing or a term does not fill its slot.
    """
    for key in others:
        hint = did_you_mean(
            key, (known for known in inspect.signature(swap).parameters if known not in ("method", "others"))
        )
        raise SettingsError(f"{type(method).__name__}.swap has no argument {key!r}; {hint}")
    given: dict[str, Any] = {"reconstruction": reconstruction, "entropy": entropy, "prior": prior}
    for slot, term in given.items():
        if isinstance(term, type) and issubclass(term, Term):
            raise SettingsError(
                f"{type(method).__name__}.swap: {slot} is the class {term.__name__}, expected a term; give {term.__name__}()"
            )
    terms = {slot: term for slot, term in given.items() if term is not None}
    name, before = type(method).__name__, method.objective
    # What the method as written meets by itself, from whatever it was swapped to since.
    own_needs, own_family = vars(method).setdefault("_own", (before.needs, _family(before.entropy)))
    probe = Objective(**{**before.slots, **terms})  # checks slots before anything is changed
    parts = {"decoder": decoder, "head": head, "predictor": predictor}
    _check_parts(method, name, probe, own_needs, {key for key, part in parts.items() if part is not None}, dim)
    if decoder is not None:
        _check_decoder(method, name, decoder, head, dim)

    law = vars(method).get("_law", Law())
    if entropy is not None:
        law = _law_for(method, name, entropy, own_family, scale, law)
    elif scale is not None:
        raise SettingsError(f"{name}.swap: scale = {scale!r} without entropy; say which entropy goes with it")
    if head is None and "head" in vars(method).get("_added", ()) and law.kind != "point":
        raise SettingsError(f"{name}.swap: the head that was added needs a point-mass guide; give entropy=Constant()")
    if head is not None:
        if getattr(method, "head", None) is not None:
            raise SettingsError(f"{name}.swap: {name} has a head already; construct it with another")
        if law.kind != "point":
            raise SettingsError(f"{name}.swap: a head needs a point-mass guide; give entropy=Constant() with it")

    _check_spread(name, probe, law)
    added = {key: part for key, part in parts.items() if part is not None}
    if (
        predictor is not None
        and getattr(method, "predictor", None) is not None
        and "predictor" not in vars(method).get("_added", ())
    ):
        raise SettingsError(f"{name}.swap: {name} has a predictor already; construct it with another")
    generates = hasattr(type(method), "decode")
    with_decoder = decoder is not None or "decoder" in vars(method).get("_added", ())
    modelled = "model" in probe.needs and not generates and (type(method).model is None or with_decoder)
    sizes = _sizes(name, method, modelled, view_scale, content_scale)
    if likelihood is not None and not (generates or with_decoder):
        raise SettingsError(f"{name}.swap: likelihood without a decoder; give decoder= too")
    width = _width(method, dim) if modelled else None
    names = vars(method).get("_added", frozenset()) | added.keys()
    if isinstance(scale, nn.Module):
        added["scale_network"] = scale
    for slot, term in terms.items():
        setattr(before, slot, term)
    for key, part in added.items():
        setattr(method, key, part)
    vars(method).update(_law=law, _added=frozenset(names))
    put_guide(method, law, frozenset(names))
    for key, value in sizes.items():
        setattr(
            method, key, getattr(method, key, None if key == "content_scale" else 0.15**0.5) if value is None else value
        )
    if likelihood is not None or (decoder is not None and not generates):
        method.likelihood = Gaussian(0.02**0.5) if likelihood is None else likelihood
    if modelled:
        put_model(method, width)
    return method


def _sizes(name: str, method: Any, modelled: bool, view_scale: Any, content_scale: Any) -> dict[str, Any]:
    """The scales of p(z_1..z_J) to set: those given, and all where a model is made here."""
    given = {"view_scale": view_scale, "content_scale": content_scale}
    for key, value in given.items():
        if value is not None and not (modelled or hasattr(method, key)):
            raise SettingsError(f"{name}.swap: {key} = {value!r}, but no term needs a model with it; leave it out")
        if value is not None and (isinstance(value, bool) or not value > 0):
            raise SettingsError(f"{name}.swap: {key} = {value!r}, expected a positive standard deviation")
    return given if modelled else {key: value for key, value in given.items() if value is not None}


def _width(method: Any, dim: int | None) -> int:
    """D of the z that the terms compare."""
    if dim is None and "latent_dim" in vars(method):
        return int(method.latent_dim)
    layers = [part for part in (getattr(method, "encoder", None), getattr(method, "head", None)) if part is not None]
    return dim if dim is not None else output_size(*layers) - getattr(method, "extra_outputs", 0)


def _law_for(method: Any, name: str, entropy: Term, own_family: str, scale: Any, now: Law) -> Law:
    if isinstance(scale, nn.Module):
        return Law("network")
    if scale is not None:
        if isinstance(scale, bool) or not scale > 0:
            raise SettingsError(f"{name}.swap: scale = {scale!r}, expected a positive standard deviation or a network")
        return Law("fixed", float(scale))
    if _family(entropy) == own_family:  # also MCInfoNCE's Constant, beside draws that its ratio averages
        return Law()
    if _family(entropy) == "delta":
        return Law("point")
    if getattr(method, "guide_family", "any") == "delta":
        if now.kind in ("fixed", "network"):  # a scale was given before
            return now
        raise SettingsError(
            f"{name}.swap: {type(entropy).__name__} has no value for a point mass, which the guide of {name} draws; give scale=, a "
            "standard deviation or a network [N, *event] -> [N, D] of log scales"
        )
    return Law()


def _family(term: Term) -> str:
    """The guide that an entropy asks for: delta where every part does."""
    return "delta" if all(part.guide_family == "delta" for _, part in term.parts) else "any"


def _check_decoder(method: Any, name: str, decoder: nn.Module, head: nn.Module | None, dim: int | None) -> None:
    """Refuse a decoder whose first layer takes another number of dimensions than z has, as far as both can be read off."""
    first = next((part for part in decoder.modules() if not list(part.children()) and list(part.parameters())), None)
    width = (
        output_size(head) if isinstance(head, nn.Linear) else None if head is not None else _known_width(method, dim)
    )
    if isinstance(first, nn.Linear) and width is not None and first.in_features != width:
        raise SettingsError(
            f"{name}.swap: the decoder takes [N, {first.in_features}], expected [N, {width}] as z has; give one of that size, or dim="
        )


def _known_width(method: Any, dim: int | None) -> int | None:
    """D of the z that the terms compare, or None where it cannot be read off the method."""
    try:
        return method.dim if dim is None and hasattr(type(method), "decode") else _width(method, dim)
    except SettingsError:
        return None


def _check_parts(
    method: Any, name: str, objective: Objective, own: frozenset[str], given: set[str], dim: int | None
) -> None:
    """Refuse terms that need a part which the method neither has nor is given."""
    size = _known_width(method, dim) or "D"
    remedies = {
        "decoder": f"give decoder=, a network [N, {size}] -> [N, *event]",
        "predictor": f"give predictor=, a network [N, {size}] -> [N, {size}]",
        "target": "start from a method with a target (MoCo, BYOL, DINO, SwAV) and swap its other slots",
        "prototypes": "start from SwAV and swap its other slots",
    }
    for slot in SLOTS:
        for _, term in getattr(objective, slot).parts:
            for need, remedy in remedies.items():
                if need in term.needs - own - given and not isinstance(getattr(method, need, None), nn.Module):
                    raise SettingsError(
                        f"{name}.swap: {type(term).__name__} needs {need}, which {name} has not; {remedy}"
                    )


def _check_spread(name: str, objective: Objective, law: Law) -> None:
    """Refuse a term that reads the spread of z beside a guide that is swapped to have none."""
    if law.kind != "point":
        return
    for slot in SLOTS:
        for _, term in getattr(objective, slot).parts:
            if term.guide_family not in ("any", "delta"):
                raise SettingsError(
                    f"{name}.swap: {type(term).__name__} reads the spread of z, and with this entropy z is a point mass; give scale=, or "
                    f"another term for the slot {slot}"
                )

"""Another term in a slot of a method, and what that asks of its guide and of its parts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from genssl.distributions import Gaussian, GroupNormal, at_least_float32
from genssl.errors import SettingsError
from genssl.groups import Groups
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

    law = vars(method).get("_law", _Law())
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
    _put_guide(method, law, frozenset(names))
    for key, value in sizes.items():
        setattr(
            method, key, getattr(method, key, None if key == "content_scale" else 0.15**0.5) if value is None else value
        )
    if likelihood is not None or (decoder is not None and not generates):
        method.likelihood = Gaussian(0.02**0.5) if likelihood is None else likelihood
    if modelled:
        _put_model(method, width)
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


class _Law:
    """What the guide draws z from: its own law, a point mass at its mean, or a Normal of a scale of its own around that."""

    def __init__(self, kind: str = "own", scale: float | None = None) -> None:
        self.kind, self.scale = kind, scale

    def around(
        self,
        fn: Any,
        mask: Tensor | None = None,
        log_scale: Tensor | None = None,
        move: Callable[[Tensor], Tensor] = lambda loc: loc,
    ) -> Any:
        """This law around the (moved) mean of a law of the guide, with the same event dimensions; mask [G, J]: the views that exist.

        A point mass needs no mask, so that guides of point masses have none: a Normal in its place does.
        """
        if self.kind == "own":
            return fn
        if isinstance(fn, torch.distributions.Independent):
            return self.around(fn.base_dist, mask, log_scale, move).to_event(fn.reinterpreted_batch_ndims)
        if isinstance(fn, dist.MaskedDistribution):
            return self.around(fn.base_dist, mask, log_scale, move)
        loc, event_dim = move(fn.mean), len(fn.event_shape)
        if self.kind == "point":
            return dist.Delta(loc, event_dim=event_dim)
        size = loc.new_full((), float(self.scale)) if log_scale is None else log_scale.exp()  # type: ignore[arg-type]
        law = dist.Normal(loc, size)  # masked inside: the event may hold the views
        return (law if mask is None else law.mask(mask.unsqueeze(-1))).to_event(event_dim)


def _law_for(method: Any, name: str, entropy: Term, own_family: str, scale: Any, now: _Law) -> _Law:
    if isinstance(scale, nn.Module):
        return _Law("network")
    if scale is not None:
        if isinstance(scale, bool) or not scale > 0:
            raise SettingsError(f"{name}.swap: scale = {scale!r}, expected a positive standard deviation or a network")
        return _Law("fixed", float(scale))
    if _family(entropy) == own_family:  # also MCInfoNCE's Constant, beside draws that its ratio averages
        return _Law()
    if _family(entropy) == "delta":
        return _Law("point")
    if getattr(method, "guide_family", "any") == "delta":
        if now.kind in ("fixed", "network"):  # a scale was given before
            return now
        raise SettingsError(
            f"{name}.swap: {type(entropy).__name__} has no value for a point mass, which the guide of {name} draws; give scale=, a "
            "standard deviation or a network [N, *event] -> [N, D] of log scales"
        )
    return _Law()


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


def _check_spread(name: str, objective: Objective, law: _Law) -> None:
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


def _put_guide(method: Any, law: _Law, added: frozenset[str]) -> None:
    """Put the swapped guide over the written one, or take it away."""
    for key, function in (("guide", _guide), ("encode", _encode), ("posterior", _posterior), ("joint", _joint)):
        vars(method).pop(key, None)
        if hasattr(type(method), key) and (law.kind != "own" or added & {"head", "predictor"}):
            # Bound methods: a deep copy binds them to the copied method.
            vars(method)[key] = MethodType(function, method)
    if "head" in added:
        vars(method)["project"] = MethodType(_project, method)
        if hasattr(type(method), "decode"):  # its z is after the head, representations are before
            vars(method)["decode"] = MethodType(_decode, method)
        vars(method)["content"] = None  # p(y | z) is of the z after the head


def _guide(self: Any, groups: Groups) -> None:
    """The guide as written, with another law at its site z, and what is drawn from that z."""
    with _Swapped(self, groups):
        type(self).guide(self, groups)


def _encode(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The representation, before the head; a scale is that of z and so only told where nothing is between the two."""
    with _scale_unchecked(self._law):
        law = type(self).encode(self, x, *args, **kwargs)
    if self._law.kind != "point" and not isinstance(getattr(self, "head", nn.Identity()), nn.Identity):
        return law
    return self._law.around(law, None, self._leading(_log_scale(self), x) if self._law.kind == "network" else None)


def _posterior(self: Any, what: Any) -> Any:
    if (
        getattr(self, "group_guide", None) is not None
    ):  # what that reads of every view: the law is put around what it makes of them
        return type(self).posterior(self, what)
    with _scale_unchecked(self._law):
        law = type(self).posterior(self, what)  # of a spherical method, no Groups come: its encode is swapped instead
    return self._law.around(law, what.mask, _log_scales(self, what)) if isinstance(what, Groups) else law


def _joint(self: Any, groups: Groups) -> Any:
    law = type(self).joint(self, groups)
    if getattr(self, "group_guide", None) is None:  # made of the swapped posteriors
        return law
    return self._law.around(law, groups.mask, _log_scales(self, groups))


def _scale_unchecked(law: _Law) -> AbstractContextManager[Any]:
    """A written scale that another takes the place of is not trained: nothing holds it in the range that Pyro checks."""
    return nullcontext() if law.kind == "own" else pyro.validation_enabled(False)


def _project(self: Any, x: Tensor) -> Tensor:
    """x [..., *event] -> [..., D'], after the head, where the terms compare."""
    z = self.encode(x).mean
    return at_least_float32(self.head(z.reshape(-1, z.shape[-1])).unflatten(0, z.shape[:-1]))


def _log_scale(self: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: at_least_float32(self.scale_network(x))


def _log_scales(self: Any, groups: Groups) -> Tensor | None:
    return groups.map(_log_scale(self)) if self._law.kind == "network" else None


class _Swapped(Messenger):
    """A handler: the law of the site z, and z_predicted behind it where a predictor was added."""

    def __init__(self, method: Any, groups: Groups) -> None:
        super().__init__()
        self.method, self.groups, self.adding = method, groups, False

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "z_predicted" and "predictor" in self.method._added and not self.adding:
            name = type(self.method).__name__
            raise SettingsError(
                f"{name}: its guide has a site z_predicted already, and predictor= would add another; leave it out"
            )
        if msg["name"] == "z" and not msg["is_observed"]:
            move = self._through(self.method.head) if "head" in self.method._added else lambda loc: loc
            msg["fn"] = self.method._law.around(
                msg["fn"], self.groups.mask, _log_scales(self.method, self.groups), move
            )

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] == "z" and "predictor" in self.method._added:
            predicted = self._through(self.method.predictor)(msg["value"])
            self.adding = True
            pyro.sample("z_predicted", dist.Delta(predicted).to_event(len(msg["fn"].event_shape)))
            self.adding = False

    def _through(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """A network [N, D] -> [N, D'] on the views [G, J, D] that exist."""
        return lambda z: at_least_float32(self.groups.unpack(network(self.groups.pack(z))))


def _put_model(method: Any, width: int | None) -> None:
    """y -> z_j (-> x_j) for a method that was written without."""
    vars(method)["latent_dim"] = width
    vars(method)["model"] = MethodType(_model, method)
    if "decoder" in method._added:
        vars(method)["decode"] = MethodType(_decode, method)


def _model(self: Any, groups: Groups) -> None:
    """JOINT layout: z [G, J, D] with y integrated out; x from z where there is a decoder."""
    with groups.plate:
        prior = GroupNormal(self.view_scale, groups.num_views, self.latent_dim, self.content_scale, groups.mask)
        z = pyro.sample("z", prior)
        if "decoder" in self._added:
            law = self.likelihood(groups.unpack(self.decoder(groups.pack(z))), event_dim=len(groups.event_shape))
            law = law if groups.mask is None else law.mask(groups.mask)
            pyro.sample("x", law.to_event(1), obs=groups.x)


def _decode(self: Any, z: Tensor) -> Tensor:
    """E[x | z] of representations z [..., D], which are before the head: [..., *event]."""
    if z.dim() == 1:
        return _decode(self, z[None])[0]
    rows = z.reshape(-1, z.shape[-1])
    rows = self.head(rows) if isinstance(getattr(self, "head", None), nn.Module) else rows
    return self.likelihood.mean(self.decoder(rows)).unflatten(0, z.shape[:-1])

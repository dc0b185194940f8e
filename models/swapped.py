"""The guide and the model of a swapped method: another law at its site z, and what was added, over what was written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from genssl.distributions import GroupNormal, at_least_float32
from genssl.errors import SettingsError
from genssl.groups import Groups


class Law:
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


class Bound:
    """A function bound to a method, as Python's own bound methods, but for pickles: those look the function up in the class.

    A copy, deep or unpickled, is bound to the copied method.
    """

    def __init__(self, function: Callable[..., Any], method: Any) -> None:
        self.__func__, self.__self__ = function, method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)


def put_guide(method: Any, law: Law, added: frozenset[str]) -> None:
    """Put the swapped guide over the written one, or take it away."""
    for key, function in (("guide", _guide), ("encode", _encode), ("posterior", _posterior), ("joint", _joint)):
        vars(method).pop(key, None)
        if hasattr(type(method), key) and (law.kind != "own" or added & {"head", "predictor"}):
            vars(method)[key] = Bound(function, method)
    if "head" in added:
        vars(method)["project"] = Bound(_project, method)
        if hasattr(type(method), "decode"):  # its z is after the head, representations are before
            vars(method)["decode"] = Bound(_decode, method)
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


def _scale_unchecked(law: Law) -> AbstractContextManager[Any]:
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


def put_model(method: Any, width: int | None) -> None:
    """y -> z_j (-> x_j) for a method that was written without."""
    vars(method)["latent_dim"] = width
    vars(method)["model"] = Bound(_model, method)
    if "decoder" in method._added:
        vars(method)["decode"] = Bound(_decode, method)


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

"""The objective: an ELBO as three slots, read off the traces of a Pyro model and guide."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from pyro.infer.enum import get_importance_trace
from torch import Tensor, nn

from genssl.errors import SettingsError, SiteError
from genssl.groups import Groups
from genssl.sites import run_guide, run_model
from genssl.terms import SLOTS, LogLikelihood, LogPrior, PosteriorEntropy, Site, Term, Traces

_names = itertools.count()


@dataclass
class Terms:
    """The three slots of an objective on one batch: [G] nats each, and what they are made of.

    `elbo` is their sum without the weights of `w * term`, `objective` the weighted sum that is maximised.
    sites: {slot: {site: [G]}}, unweighted.
    """

    reconstruction: Tensor
    entropy: Tensor
    prior: Tensor
    objective: Tensor
    sites: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    @property
    def elbo(self) -> Tensor:
        return self.reconstruction + self.entropy + self.prior

    def detach(self) -> Terms:
        """The same numbers without their graph."""
        sites = {slot: {name: value.detach() for name, value in values.items()} for slot, values in self.sites.items()}
        slots = {f.name: getattr(self, f.name).detach() for f in fields(self) if f.name != "sites"}
        return Terms(**slots, sites=sites)


class Objective(nn.Module, ELBO):
    r"""ELBO_SSL = reconstruction + entropy + prior, each a slot that holds a Term, per group and in nats:

        sum_j E_q log p(x_j | z_j)  +  sum_j H[q(z_j | x_j)]  +  E_q log p(z_1..z_J)       (Bizeul et al. 2024, Eq. 4)

    With the default terms it is a lower bound on log p(x_1..x_J). The bound is loose even for the best guide that sees one view
    at a time, since q(z_j | x_j) ignores the other views of the group.

    Three ways to use it:

        objective.terms(model, guide, groups)              # Terms, [G] a slot; measures, changes nothing
        loss = objective(model, guide); loss(groups)       # nn.Module: -mean over groups, for torch.optim and DDP
        SVI(model, guide, optim, loss=objective)           # in Trace_ELBO's place; the loss is that mean, 1 / N of Trace_ELBO's

    Any Pyro model over grouped data will do whose guide sites are reparameterised, in one of two layouts: JOINT (plate `groups`
    at dim -1, event (J, D)) or NESTED (`groups` at -2, `views` at -1). model may be None where no term needs it. Draws come
    from torch's default generator alone: guide first, then the model replayed, as in Trace_ELBO.

    After the optimiser step call `update()`; nothing else changes the state of terms and methods.
    """

    def __init__(
        self,
        reconstruction: Term | None = None,
        entropy: Term | None = None,
        prior: Term | None = None,
        num_particles: int = 1,
    ) -> None:
        nn.Module.__init__(self)
        if num_particles < 1:
            raise SettingsError(f"Objective: num_particles = {num_particles}, expected at least 1")
        ELBO.__init__(self, num_particles=num_particles)
        self.num_particles: int = num_particles
        self.reconstruction = LogLikelihood() if reconstruction is None else reconstruction
        self.entropy = PosteriorEntropy(analytic=True) if entropy is None else entropy
        self.prior = LogPrior(analytic=False) if prior is None else prior
        for slot in SLOTS:
            term = getattr(self, slot)
            if not isinstance(term, Term):
                raise SettingsError(f"Objective: {slot} is {term!r}, expected a genssl.terms.Term")
            if slot not in term.slots:
                raise SettingsError(
                    f"Objective: {type(term).__name__} fills {', '.join(term.slots)}, not the slot {slot}"
                )
        self._bound: dict[Any, ObjectiveModule] = {}

    @property
    def slots(self) -> dict[str, Term]:
        """The three terms by slot."""
        return {slot: getattr(self, slot) for slot in SLOTS}

    @property
    def needs(self) -> frozenset[str]:
        """The parts that must run for the terms: model, decoder, predictor, ..."""
        return frozenset().union(*(term.needs for term in self.slots.values()))

    # ------------------------------------------------------------------ the three ways in

    def terms(self, model: Callable[..., Any] | None, guide: Callable[..., Any], groups: Groups) -> Terms:
        """The slots on these groups. Twice under the same generator state it gives the same; BatchNorm statistics stay."""
        with _buffers_kept([owner for owner in _owners(model, guide) if owner.training]):
            return self._measure(model, guide, groups)

    def __call__(self, model: Callable[..., Any] | None, guide: Callable[..., Any]) -> ObjectiveModule:  # type: ignore[override]
        """An nn.Module of model and guide, whose forward(groups) is the loss."""
        return ObjectiveModule(self, model, guide)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """-mean over groups of the weighted objective, without gradients (SVI.evaluate_loss)."""
        with torch.no_grad():
            return -self.terms(model, guide, *args, **kwargs).objective.mean().item()

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss, with gradients left in the parameters (SVI.step); announces plain parameters to Pyro on the way."""
        key = (model, guide)
        if key not in self._bound:
            self._bound[key] = ObjectiveModule(self, model, guide)
        module = self._bound[key]
        announced = module.announce()
        with pyro.poutine.trace(param_only=True) as params:
            loss = module(*args, **kwargs)
        if not announced and not params.trace.nodes:
            raise SiteError(
                "this step captured no parameter, so SVI would train nothing; give model and guide as bound methods of an "
                "nn.Module (or as nn.Modules), or use pyro.module / pyro.param in them"
            )
        loss.backward()
        return loss.item()

    def update(self) -> None:
        """Advance queues, centres, EMA copies, prototypes: of the terms, and of every owner seen by SVI."""
        for term in self._active():
            term.update()
        for module in self._bound.values():
            module.update_owners()

    # ------------------------------------------------------------------ inside

    def _measure(self, model: Callable[..., Any] | None, guide: Callable[..., Any], groups: Groups) -> Terms:
        particles = [self._particle(model, guide, groups) for _ in range(self.num_particles)]
        if len(particles) == 1:
            return particles[0]
        count = len(particles)
        sites = {
            slot: {name: sum(p.sites[slot][name] for p in particles) / count for name in particles[0].sites[slot]}
            for slot in SLOTS
        }
        slots = {name: sum(getattr(p, name) for p in particles) / count for name in (*SLOTS, "objective")}
        return Terms(**slots, sites=sites)  # type: ignore[arg-type]

    def _particle(self, model: Callable[..., Any] | None, guide: Callable[..., Any], groups: Groups) -> Terms:
        if not isinstance(groups, Groups):
            raise SettingsError(
                f"Objective: model and guide take a genssl.Groups, not {type(groups).__name__}; wrap the data: Groups(x)"
            )
        guide_sites, guide_trace = run_guide(guide, groups)
        needs = self.needs
        model_sites: dict[str, Site] = {}
        if "model" in needs:
            if model is None:
                wanting = ", ".join(type(t).__name__ for t in self._active() if "model" in t.needs)
                raise SettingsError(
                    f"Objective: model is None, but {wanting} needs a model; give one, or replace the term"
                )
            model_sites = run_model(model, guide_trace, groups, whole="decoder" in needs)
        traces = Traces(groups, guide_sites, model_sites)
        zero = torch.zeros(groups.num_groups, device=groups.device)
        values: dict[str, Tensor] = {}
        sites: dict[str, dict[str, Tensor]] = {slot: {} for slot in SLOTS}
        weighted = zero
        for slot, combined in self.slots.items():
            for weight, term in combined.parts:
                for name, value in term(traces).items():
                    same = sum(key.split(" #")[0] == name for key in sites[slot])
                    sites[slot][f"{name} #{same + 1}" if same else name] = value
                    weighted = weighted + weight * value
            values[slot] = sum(sites[slot].values(), start=zero)
        return Terms(**values, objective=weighted, sites=sites)

    def _active(self) -> Iterator[Term]:
        return (term for combined in self.slots.values() for _, term in combined.parts)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        # What ELBO asks of its subclasses; here for tools of Pyro that want the raw pair of traces.
        return get_importance_trace("flat", math.inf, model, guide, args, kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # Modules made for SVI belong to the caller's model and guide: a copy starts without them.
        return {**self.__dict__, "_bound": {}}

    def __str__(self) -> str:
        return "\n".join(f"{slot:<14} {term}" for slot, term in self.slots.items())


class ObjectiveModule(nn.Module):
    """objective(model, guide): forward(groups) -> scalar loss, -mean over groups of the weighted objective, in nats.

    Its parameters are those of the modules that own model and guide, and of the terms, each once. Of a genssl method, parts that
    no active term needs (a decoder where there is no likelihood) are left out; a user's own module is taken whole.
    `terms` holds the detached Terms of the last forward.
    """

    def __init__(self, objective: Objective, model: Callable[..., Any] | None, guide: Callable[..., Any]) -> None:
        super().__init__()
        self.objective = objective
        self.owners = nn.ModuleList([_Owner(owner, objective.needs) for owner in _owners(model, guide)])
        self.terms: Terms | None = None
        # In a tuple, so that a model or guide that is a module is not registered a second time.
        self._functions = (model, guide)
        self._name = f"genssl.{next(_names)}"

    def forward(self, groups: Groups) -> Tensor:
        terms = self.objective._measure(*self._functions, groups)
        self.terms = terms.detach()
        return -terms.objective.mean()

    def update(self) -> None:
        """Advance the state of terms and owners, after the optimiser step."""
        for term in self.objective._active():
            term.update()
        self.update_owners()

    def update_owners(self) -> None:
        for owner in _owners(*self._functions):
            advance = getattr(owner, "update", None)
            if callable(advance):
                advance()

    def announce(self) -> int:
        """Show every trainable parameter to Pyro, under a name of this instance; the number of them.

        Plain modules have no param sites, and SVI would train none of their parameters without a word.
        """
        store, count = pyro.get_param_store(), 0
        for key, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            name = store.param_name(parameter) or f"{self._name}.{key}"
            if name not in store or store._params[name] is not parameter:
                # Written as it is: the store's own way in keeps a contiguous COPY, and of a channels-last weight only that copy
                # would be trained.
                store._constraints[name] = torch.distributions.constraints.real
                store._params[name] = parameter
                store._param_to_name[parameter] = name
            pyro.param(name)
            count += 1
        return count


class _Owner(nn.Module):
    """The view of a module that an objective trains: its own tables, without unneeded parts and without objectives.

    Tables are shared rather than copied, so that moving or loading this moves and loads the owner.
    """

    def __init__(self, owner: nn.Module, needs: frozenset[str]) -> None:
        super().__init__()
        self._parameters, self._buffers = owner._parameters, owner._buffers
        self._non_persistent_buffers_set = owner._non_persistent_buffers_set
        unneeded = set(getattr(owner, "parts", ())) - needs
        for name, child in owner.named_children():
            if name not in unneeded and not isinstance(child, Objective):
                self.add_module(name, child)
        self.__dict__["owner"] = owner

    def train(self, mode: bool = True) -> _Owner:
        self.__dict__["owner"].train(mode)
        return super().train(mode)


def _owners(*functions: Callable[..., Any] | None) -> list[nn.Module]:
    """The modules behind model and guide, each once; bound methods, modules, and both under Pyro's handlers."""
    found: list[nn.Module] = []
    for function in functions:
        inner: Any = function
        while inner is not None and not isinstance(inner, nn.Module):
            unwrapped = pyro.poutine.messenger.unwrap(inner)
            if unwrapped is inner:
                unwrapped = (
                    getattr(inner, "__self__", None)
                    or getattr(inner, "__wrapped__", None)
                    or getattr(inner, "func", None)
                )
            inner = unwrapped
        if inner is not None and all(inner is not owner for owner in found):
            found.append(inner)
    # A module inside another owner is registered by that one.
    return [m for m in found if not any(m is part for other in found if other is not m for part in other.modules())]


@contextmanager
def _buffers_kept(owners: list[nn.Module]) -> Iterator[None]:
    """Let modules write to copies of their buffers, and give the originals back: a graph may still read what was written."""
    tables = [module._buffers for owner in owners for module in owner.modules() if module._buffers]
    kept = [dict(table) for table in tables]
    for table in tables:
        table.update({name: None if buffer is None else buffer.clone() for name, buffer in table.items()})
    try:
        yield
    finally:
        for table, original in zip(tables, kept, strict=True):
            table.update(original)

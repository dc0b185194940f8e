"""The objective: an ELBO as three slots, read off the traces of a Pyro model and guide."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
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
        self._modules_made: weakref.WeakSet[ObjectiveModule] = weakref.WeakSet()
        self._svi: tuple[Any, ObjectiveModule] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SLOTS:
            if not isinstance(value, Term):
                raise SettingsError(f"Objective: {name} is {value!r}, expected a genssl.terms.Term")
            if name not in value.slots:
                raise SettingsError(
                    f"Objective: {type(value).__name__} fills {', '.join(value.slots)}, not the slot {name}"
                )
        super().__setattr__(name, value)

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
        with _buffers_kept(_owners(model, guide)):
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
        if self._svi is None or self._svi[0] != (model, guide) or self._svi[1].stale:
            self._svi = (model, guide), ObjectiveModule(self, model, guide)
        module = self._svi[1]
        announced = module.announce()
        with pyro.poutine.trace(param_only=True) as params:
            loss = module.loss(*args, **kwargs)
        captured = [node["value"].unconstrained() for node in params.trace.nodes.values()]
        if not announced and not captured:
            raise SiteError(
                "this step captured no parameter, so SVI would train nothing; give model and guide as bound methods of an "
                "nn.Module (or as nn.Modules), or use pyro.module / pyro.param in them"
            )
        module.check_trained(loss, captured)
        loss.backward()
        return loss.item()

    def update(self) -> None:
        """Advance queues, centres, EMA copies, prototypes: of the terms, and of every module that owns a model or guide, once each."""
        for term in self._active():
            term.update()
        owners = {id(owner): owner for module in self._modules_made for owner in module.whole_owners}
        for owner in owners.values():
            advance = getattr(owner, "update", None)
            if callable(advance):
                advance()

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
        needs = self.needs
        guide_sites, guide_trace = run_guide(guide, groups, alone="model" not in needs)
        model_sites: dict[str, Site] = {}
        if "model" in needs:
            if model is None:
                wanting = ", ".join(type(t).__name__ for t in self._active() if "model" in t.needs)
                raise SettingsError(
                    f"Objective: model is None, but {wanting} needs a model; give one, or replace the term"
                )
            model_sites = run_model(model, guide_sites, guide_trace, groups, whole="decoder" in needs)
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
        # The modules made of it belong to the caller's model and guide: a copy starts without them.
        return {key: value for key, value in self.__dict__.items() if key not in ("_svi", "_modules_made")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._svi, self._modules_made = None, weakref.WeakSet()

    def __str__(self) -> str:
        return "\n".join(f"{slot:<14} {term}" for slot, term in self.slots.items())


class ObjectiveModule(nn.Module):
    """objective(model, guide): forward(groups) -> scalar loss, -mean over groups of the weighted objective, in nats.

    Its parameters are those of the modules that own model and guide, and of the terms, each once. Of a genssl method, parts that
    no active term needs (a decoder where there is no likelihood) are left out; a user's own module is taken whole. A parameter that
    the loss depends on and that is not among them (of a closure, or of pyro.param) is an error at the first forward: no optimiser
    would move it. `terms` holds the detached Terms of the last forward.
    """

    def __init__(self, objective: Objective, model: Callable[..., Any] | None, guide: Callable[..., Any]) -> None:
        super().__init__()
        self.objective = objective
        self.whole_owners = tuple(_owners(model, guide))
        self.owners = nn.ModuleList([_Owner(owner, objective.needs) for owner in self.whole_owners])
        self.terms: Terms | None = None
        # In a tuple, so that a model or guide that is a module is not registered a second time.
        self._functions = (model, guide)
        self._name = f"genssl.{next(_names)}"
        self._made_of = self._structure()
        self._checked = False
        objective._modules_made.add(self)

    def forward(self, groups: Groups) -> Tensor:
        if self.stale:
            raise SettingsError(
                "the terms of the objective, or the parts of the method, have changed since objective(model, guide) was called; call it "
                "again, and make the optimiser from the new module"
            )
        loss = self.loss(groups)
        self.check_trained(loss, ())
        return loss

    def loss(self, groups: Groups) -> Tensor:
        terms = self.objective._measure(*self._functions, groups)
        self.terms = terms.detach()
        return -terms.objective.mean()

    def update(self) -> None:
        """Advance the state of terms and owners, after the optimiser step."""
        self.objective.update()

    @property
    def stale(self) -> bool:
        """Whether the objective needs other parts, or an owner has other children, than when this was made."""
        return self._structure() != self._made_of

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._made_of = self._structure()  # a copy has parts of its own
        self.objective._modules_made.add(self)

    def _structure(self) -> Any:
        children = [[(name, id(child)) for name, child in owner._modules.items()] for owner in self.whole_owners]
        return self.objective.needs, [id(term) for term in self.objective.slots.values()], children

    def check_trained(self, loss: Tensor, also: Iterable[Tensor]) -> None:
        """At the first step: every leaf that the loss depends on must be a parameter of this module (or one of `also`)."""
        if self._checked or loss.grad_fn is None:
            return
        self._checked = True
        known = {id(parameter) for parameter in itertools.chain(self.parameters(), also)}
        for leaf in _leaves(loss):
            if id(leaf) not in known:
                named = itertools.chain.from_iterable(owner.named_parameters() for owner in self.whole_owners)
                name = next((name for name, parameter in named if parameter is leaf), None)
                what = f"parameter {name!r}" if name else f"a parameter of shape {list(leaf.shape)}"
                raise SiteError(
                    f"{what} changes the loss, but would not be trained; make its module an attribute of the one that owns model or "
                    "guide (under another name than those of `optional_parts`), and pyro.param an nn.Parameter or use SVI"
                )

    def announce(self) -> int:
        """Show every trainable parameter to Pyro, under a name of this instance; the number of them.

        Plain modules have no param sites, and SVI would train none of their parameters without a word. The values are the module's:
        what pyro.get_param_store().load() brought under such a name is not used (load a state_dict instead).
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


def _leaves(loss: Tensor) -> Iterator[Tensor]:
    """The tensors in which the gradient of the loss would be left."""
    seen, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        todo.extend(following for following, _ in node.next_functions)


class _Owner(nn.Module):
    """The view of a module that an objective trains: its own tables, without unneeded parts and without objectives.

    Tables are shared rather than copied, so that moving or loading this moves and loads the owner.
    """

    def __init__(self, owner: nn.Module, needs: frozenset[str]) -> None:
        super().__init__()
        self._parameters, self._buffers = owner._parameters, owner._buffers
        self._non_persistent_buffers_set = owner._non_persistent_buffers_set
        unneeded = set(getattr(type(owner), "optional_parts", ())) - needs
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
                links = (getattr(inner, name, None) for name in ("__self__", "__wrapped__", "func"))
                unwrapped = next((link for link in links if link is not None), None)
            inner = unwrapped
        if inner is not None and all(inner is not owner for owner in found):
            found.append(inner)
    # A module inside another owner is registered by that one.
    return [m for m in found if not any(m is part for other in found if other is not m for part in other.modules())]


@contextmanager
def _buffers_kept(owners: list[nn.Module]) -> Iterator[None]:
    """Let modules write to copies of their buffers, and give the originals back: a graph may still read what was written."""
    tables = [part._buffers for owner in owners for part in owner.modules() if part.training and part._buffers]
    kept = [dict(table) for table in tables]
    for table in tables:
        table.update({name: None if buffer is None else buffer.clone() for name, buffer in table.items()})
    try:
        yield
    finally:
        for table, original in zip(tables, kept, strict=True):
            table.update(original)

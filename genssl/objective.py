"""The objective: an ELBO as three slots, read off the traces of a Pyro model and guide."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from pyro.infer.enum import get_importance_trace
from torch import Tensor, nn

from genssl import distributed
from genssl.errors import SettingsError, SiteError
from genssl.groups import Groups
from genssl.objective_module import ObjectiveModule, buffers_kept, owners_of
from genssl.precision import at_least_float32
from genssl.sites import run_guide, run_model
from genssl.terms import SLOTS, LogLikelihood, LogPrior, PosteriorEntropy, Site, Term, Traces
from genssl.whole import own_values, whole


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
        """The slots on these groups. Twice under the same generator state it gives the same; BatchNorm statistics stay.

        Modules are in the mode that they are in: after `fit` and `load` a BatchNorm in a head uses its running averages, while the
        terms of metrics.jsonl were measured in training.
        """
        with buffers_kept(owners_of(model, guide)):
            return self.run(model, guide, groups)[0]

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
        """Advance queues, centres, EMA copies, prototypes: of the terms, and of every module that owns a model or guide, once each.

        A term gets the traces of the last training forward, and none twice; an owner's `update()` takes no argument.
        """
        modules = list(self._modules_made)
        with distributed.together():
            for module in modules:
                traces, module.last = module.last, None
                if traces is not None:
                    self._update_terms(traces)
            owners = {id(owner): owner for module in modules for owner in module.whole_owners}
            for owner in owners.values():
                advance = getattr(owner, "update", None)
                if callable(advance):
                    advance()

    # ------------------------------------------------------------------ inside

    @torch.no_grad()
    def _update_terms(self, traces: Traces) -> None:
        stateful = [term for term in self._active() if type(term).update is not Term.update]
        if not stateful:
            return
        traces = whole(traces.detach())
        for term in stateful:
            term.update(traces)

    def run(self, model: Callable[..., Any] | None, guide: Callable[..., Any], groups: Groups) -> tuple[Terms, Traces]:
        """The slots with their graph, averaged over particles, and the traces of the last particle."""
        terms, traces = zip(*(self._particle(model, guide, groups) for _ in range(self.num_particles)), strict=True)
        if len(terms) == 1:
            return terms[0], traces[0]
        count = len(terms)
        sites = {
            slot: {name: sum(p.sites[slot][name] for p in terms) / count for name in terms[0].sites[slot]}
            for slot in SLOTS
        }
        slots = {name: sum(getattr(p, name) for p in terms) / count for name in (*SLOTS, "objective")}
        return Terms(**slots, sites=sites), traces[-1]

    def _particle(
        self, model: Callable[..., Any] | None, guide: Callable[..., Any], groups: Groups
    ) -> tuple[Terms, Traces]:
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
        # What couples groups is computed over those of all processes, and each keeps its own groups' values.
        everyone = whole(traces) if any(term.couples for term in self._active()) else traces
        values: dict[str, Tensor] = {}
        sites: dict[str, dict[str, Tensor]] = {slot: {} for slot in SLOTS}
        weighted: list[Tensor] = []
        with torch.autocast(
            groups.device.type, enabled=False
        ):  # densities and reductions stay in float32, whoever calls
            for slot, combined in self.slots.items():
                for weight, term in combined.parts:
                    for name, value in self._value(term, traces, everyone).items():
                        same = sum(key.split(" #")[0] == name for key in sites[slot])
                        sites[slot][f"{name} #{same + 1}" if same else name] = value
                        weighted.append(value if isinstance(weight, (int, float)) and weight == 1 else weight * value)
                values[slot] = _total(list(sites[slot].values()), groups)
            objective = _total(weighted, groups)
        return Terms(**values, objective=objective, sites=sites), traces

    @staticmethod
    def _value(term: Term, traces: Traces, everyone: Traces) -> Mapping[str, Tensor]:
        if not term.couples:
            return term(traces)
        with distributed.shared_stream():  # all draw the same, if it draws
            return own_values(term(everyone))

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


def _total(values: Sequence[Tensor], groups: Groups) -> Tensor:
    """[G], the sum of values; one value alone is that sum, and costs nothing."""
    if len(values) == 1 and values[0].shape == (groups.num_groups,):
        return at_least_float32(values[0])
    return sum(values, start=torch.zeros(groups.num_groups, device=groups.device))

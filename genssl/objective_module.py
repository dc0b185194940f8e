"""What an objective trains: the parameters behind a model and a guide, as one nn.Module whose forward is the loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from genssl import distributed
from genssl.errors import SettingsError, SiteError
from genssl.groups import Groups
from genssl.terms import Traces

_names = itertools.count()


class ObjectiveModule(nn.Module):
    """objective(model, guide): forward(groups) -> scalar loss, -mean over groups of the weighted objective, in nats.

    Its parameters are those of the modules that own model and guide, and of the terms, each once. Of a genssl method, parts that
    no active term needs (a decoder where there is no likelihood) are left out; a user's own module is taken whole. A parameter that
    the loss depends on and that is not among them (of a closure, or of pyro.param) is an error at the first forward: no optimiser
    would move it. `terms` holds the detached Terms of the last forward, `last` its traces until the next `update`.

    With several processes a training forward takes this process's own groups, as many on each, and the mean over processes of losses
    and gradients is that of the whole batch (`genssl.distributed`; DistributedDataParallel takes that mean).
    """

    def __init__(self, objective: Any, model: Callable[..., Any] | None, guide: Callable[..., Any]) -> None:
        super().__init__()
        for function in (model, guide):
            _check_current(function)
        self.objective = objective
        self.whole_owners = tuple(owners_of(model, guide))
        self.owners = nn.ModuleList([_Owner(owner, objective.needs) for owner in self.whole_owners])
        self.terms: Any = None
        self.last: Traces | None = None
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
        with self._together(groups):
            terms, traces = self.objective.run(*self._functions, groups)
        if self.training and torch.is_grad_enabled():  # a validation forward must not reach queues and banks
            self.last = traces
        self.terms = terms.detach()
        return -terms.objective.mean()

    @contextmanager
    def _together(self, groups: Groups) -> Iterator[None]:
        """A training forward is one of all processes; in eval mode each measures by itself."""
        if not self.training or not isinstance(groups, Groups):
            yield
            return
        with distributed.together(), distributed.own_streams(groups.device):
            yield

    def update(self) -> None:
        """Advance the state of terms and owners, after the optimiser step."""
        self.objective.update()

    @property
    def stale(self) -> bool:
        """Whether the objective needs other parts, or an owner has other children, than when this was made."""
        return self._structure() != self._made_of

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "last": None}  # a graph cannot be copied

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


def _check_current(function: Any) -> None:
    """Refuse a method's model or guide as it was before a swap put another in its place."""
    owner = getattr(function, "__self__", None)
    name = getattr(function, "__name__", "")
    current = vars(owner).get(name) if isinstance(owner, nn.Module) else None
    if current is not None and current != function:
        raise SettingsError(
            f"this is the {name} of {type(owner).__name__} before a swap; pass method.{name} again (a new SVI, objective(...))"
        )


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
            if name not in unneeded and not isinstance(child, ELBO):
                self.add_module(name, child)
        self.__dict__["owner"] = owner

    def train(self, mode: bool = True) -> _Owner:
        self.__dict__["owner"].train(mode)
        return super().train(mode)


def owners_of(*functions: Callable[..., Any] | None) -> list[nn.Module]:
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
def buffers_kept(owners: list[nn.Module]) -> Iterator[None]:
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

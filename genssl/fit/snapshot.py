"""What steps change in modules, kept and put back in place."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

PLAIN = (bool, int, float, str)
NOT_STATE = {"training", "_checked", "_is_full_backward_hook"}


def attributes(part: nn.Module) -> dict[str, Any]:
    """The plain attributes of a module that a step may change: numbers, words, tensors that are no buffers."""
    return {
        name: value
        for name, value in vars(part).items()
        if (isinstance(value, (*PLAIN, Tensor))) and name not in NOT_STATE
    }


class Snapshot:
    """Clones of every parameter and buffer (persistent or not) of some modules, and their extra state, except those left out; with
    `plain`, their plain attributes too.

    In place, since optimisers and CUDA graphs hold the very same tensors; a tensor that was replaced meanwhile comes back too.
    """

    def __init__(self, modules: Iterable[nn.Module], leave_out: Iterable[Tensor] = (), plain: bool = False) -> None:
        parts = [part for module in modules for part in module.modules()]
        tables: list[dict[str, Any]] = [table for part in parts for table in (part._parameters, part._buffers)]
        self.tables = list(
            {id(table): table for table in tables}.values()
        )  # the objective's view of a module shares them
        self.parts = list({id(part): part for part in parts}.values()) if plain else []
        self.left_out = {id(tensor) for tensor in leave_out}
        default = nn.Module.get_extra_state
        self.with_extra = list({id(part): part for part in parts if type(part).get_extra_state is not default}.values())
        self.take()

    def take(self) -> None:
        """Clone the tensors as they are now."""
        self.kept = [
            {name: (t, t.detach().clone()) for name, t in table.items() if t is not None and id(t) not in self.left_out}
            for table in self.tables
        ]
        self.plain: list[dict[str, tuple[Any, Any]]] = [
            {n: (v, v.detach().clone() if isinstance(v, Tensor) else v) for n, v in attributes(part).items()}
            for part in self.parts
        ]
        self.extra = [copy.deepcopy(part.get_extra_state()) for part in self.with_extra]

    @torch.no_grad()
    def restore(self) -> None:
        """Put all of it back as it was at the last `take`."""
        for table, kept in zip(self.tables, self.kept, strict=True):
            for name, (tensor, value) in kept.items():
                tensor.copy_(value)
                table[name] = tensor
        for part, plain in zip(self.parts, self.plain, strict=True):
            for name, (value, before) in plain.items():
                if isinstance(value, Tensor):
                    value.detach().copy_(before)
                vars(part)[name] = value
        for part, extra in zip(self.with_extra, self.extra, strict=True):
            part.set_extra_state(copy.deepcopy(extra))


class OptimiserSnapshot:
    """The state of an optimiser, kept and put back: in place where it has the same tensors, else as `load_state_dict` does."""

    def __init__(self, optimiser: torch.optim.Optimizer) -> None:
        self.optimiser = optimiser
        self.kept = copy.deepcopy(optimiser.state_dict())

    @torch.no_grad()
    def restore(self) -> None:
        """Put the state back as it was."""
        now, kept = self.optimiser.state_dict(), self.kept
        mine = [{name: type(value) for name, value in state.items()} for state in now["state"].values()]
        theirs = [{name: type(value) for name, value in state.items()} for state in kept["state"].values()]
        if now["state"].keys() != kept["state"].keys() or mine != theirs:
            self.optimiser.load_state_dict(copy.deepcopy(kept))
            return
        tables = [*now["state"].values(), *self.optimiser.param_groups]
        for table, values in zip(tables, [*kept["state"].values(), *kept["param_groups"]], strict=True):
            for name, value in values.items():
                if isinstance(table[name], Tensor):
                    table[name].copy_(value)
                elif name != "params":  # of a group: numbers in place of the tensors
                    table[name] = copy.deepcopy(value)

"""One step: loss, gradient, guard, optimiser, update; without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from genssl import distributed
from genssl.fit.batches import Batches
from genssl.fit.guard import explain
from genssl.fit.metrics import SLOTS
from genssl.fit.optimiser import CLEAR_EVERY, clear_vanished, learning_rate
from genssl.fit.randomness import generators_kept, seed_noise
from genssl.fit.snapshot import OptimiserSnapshot, Snapshot
from genssl.groups import Groups
from genssl.objective_module import ObjectiveModule


def parts_of(module: ObjectiveModule) -> list[nn.Module]:
    """The objective's module, and the owners of model and guide whole: also the parts that it does not train."""
    return [module, *module.whole_owners]


class Stepper:
    """Takes steps of a run. The first step that is not finite, and all after it, leave the parameters as they were.

    The flag that says so lives on the device and masks the fused optimiser there (its `found_inf`), so that no step waits; `check`
    reads it now and then. Steps are taken one after the other. An optimiser of the user knows no such flag: there it is read in every step.
    """

    def __init__(
        self,
        module: ObjectiveModule,
        optimiser: torch.optim.Optimizer,
        batches: Batches,
        config: dict[str, Any],
        schedule: str | Callable[[int, int], float],
    ) -> None:
        self.module, self.optimiser, self.batches = module, optimiser, batches
        self.seed, self.device, self.clip = config["seed"], batches.device, config["clip"]
        self.steps, self.schedule = config["steps"], schedule
        self.parameters = [p for group in optimiser.param_groups for p in group["params"]]
        ours = isinstance(optimiser, (torch.optim.Adam, torch.optim.AdamW))
        self.masks = ours and all(group.get("fused") for group in optimiser.param_groups)
        self.first: int | None = None
        # On the device, and changed in place: whether every step since the start was finite, how many were before one was not, and the
        # sums of the slots since the last line of metrics.
        self.good = torch.ones((), dtype=torch.bool, device=self.device)
        self.count = torch.zeros((), dtype=torch.long, device=self.device)
        self.sums = torch.zeros(len(SLOTS), device=self.device)
        # Forward passes and `update` change buffers, queues and EMA copies, which nothing masks: these are put back after a bad step.
        self.untrained = Snapshot(parts_of(module), leave_out=self.parameters)

    def start(self) -> None:
        """Forget the steps taken so far: the next one may be any."""
        self.first = None
        self.good.fill_(True)
        self.count.zero_()
        self.sums.zero_()

    def run(self, first: int, last: int) -> Iterator[int]:
        """Take the steps first..last-1; the number of each once it was taken."""
        for step, groups in self.batches.run(first, last):
            self(step, groups)
            yield step

    def __call__(self, step: int, groups: Groups) -> None:
        self.prepare(step)
        self.take(groups)
        if step % CLEAR_EVERY == 0 and self.device.type == "cpu":
            clear_vanished(self.optimiser)

    def prepare(self, step: int) -> None:
        """What the host gives to a step: its learning rate, and the seed of its noise."""
        for group in self.optimiser.param_groups:
            self.set_rate(group, learning_rate(self.schedule, group["initial_lr"], step, self.steps))
        seed_noise(self.seed, step, self.device)
        self.first = step if self.first is None else self.first

    def set_rate(self, group: dict[str, Any], rate: float) -> None:
        group["lr"] = rate

    def take(self, groups: Groups) -> None:
        """What the device does in a step; the host neither reads nor decides anything."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.module(groups)
        loss.backward()
        loss = loss.detach()
        distributed.average([loss, *(p.grad for p in self.parameters if p.grad is not None)])
        total = self._total([p.grad for p in self.parameters if p.grad is not None])
        if self.clip:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, total)
        self.good.logical_and_(torch.isfinite(loss) & torch.isfinite(total))
        self.count += self.good
        if self.masks:
            self.optimiser.found_inf = (~self.good).float()  # type: ignore[attr-defined]
        else:
            self._raise_if_bad()
        self.optimiser.step()
        self.module.update()
        terms = self.module.terms
        self.sums += torch.stack([getattr(terms, name).mean() for name in SLOTS])

    def _total(self, gradients: list[Tensor]) -> Tensor:
        """The norm of all gradients; where nobody clips by it, on a CPU its square, which takes half of the time. Neither is finite where
        a gradient is not, or where Adam could not hold its square."""
        if self.clip or self.device.type != "cpu" or not gradients:
            return torch.nn.utils.get_total_norm(gradients)
        flat = [gradient.flatten() for gradient in gradients]
        return torch.stack([torch.dot(gradient, gradient) for gradient in flat]).sum()

    def check(self) -> None:
        """Raise NonFiniteError if a step was not finite, naming what failed; waits for the device."""
        self._raise_if_bad()
        self.untrained.take()

    def _raise_if_bad(self) -> None:
        if bool(self.good) or self.first is None:
            return
        step = self.first + int(self.count)
        self.untrained.restore()
        groups = self.batches.at(step)
        seed_noise(self.seed, step, self.device)
        try:
            raise explain(self.module, groups, step)
        finally:
            self.optimiser.zero_grad(set_to_none=True)
            self.untrained.restore()


@contextmanager
def undone(stepper: Stepper) -> Iterator[None]:
    """Put back what steps change: parameters, buffers, the optimiser's state, generators; in place, where a graph holds the tensors."""
    tensors, optimiser = Snapshot(parts_of(stepper.module), plain=True), OptimiserSnapshot(stepper.optimiser)
    try:
        with generators_kept():
            yield
    finally:
        tensors.restore()
        optimiser.restore()
        stepper.optimiser.zero_grad(set_to_none=True)
        stepper.module.terms = None
        stepper.start()

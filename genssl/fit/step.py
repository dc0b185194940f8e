"""One step: loss, gradient, guard, optimiser, update; without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from genssl.fit.guard import explain
from genssl.fit.optimiser import learning_rate
from genssl.fit.batches import Batches
from genssl.fit.randomness import seed_noise
from genssl.groups import Groups
from genssl.objective import ObjectiveModule


class Stepper:
    """Takes steps of a run. The first step that is not finite, and all after it, leave the parameters as they were.

    Its flag lives on the device and is read now and then (`check`), so that no step waits for it.
    """

    def __init__(
        self, module: ObjectiveModule, optimiser: torch.optim.Optimizer, batches: Batches, config: dict, schedule: object
    ) -> None:
        self.module, self.optimiser, self.batches = module, optimiser, batches
        self.seed, self.device, self.clip = config["seed"], batches.device, config["clip"]
        self.lr, self.steps, self.schedule = config["lr"], config["steps"], schedule
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.fused = all(group.get("fused") for group in optimiser.param_groups)
        self.first_bad = torch.full((), -1, dtype=torch.long, device=self.device)

    def __call__(self, step: int, groups: Groups) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.schedule, self.lr, step, self.steps)  # type: ignore[arg-type]
        seed_noise(self.seed, step, self.device)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.module(groups)
        loss.backward()
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        if self.clip:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
        self._guard(step, torch.isfinite(loss.detach()) & torch.isfinite(norm))
        self.optimiser.step()
        self.module.update()

    def _guard(self, step: int, finite: Tensor) -> None:
        self.first_bad = torch.where(finite | (self.first_bad >= 0), self.first_bad, step)
        if self.device.type == "cpu" or not self.fused:
            self.check()  # costs nothing on a CPU; optimisers of the user know no flag
        else:
            self.optimiser.found_inf = (self.first_bad >= 0).float()  # type: ignore[attr-defined]

    def check(self) -> None:
        """Raise NonFiniteError if a step was not finite, naming what failed."""
        step = int(self.first_bad)
        if step >= 0:
            groups = self.batches.at(step)
            seed_noise(self.seed, step, self.device)
            raise explain(self.module, groups, step)

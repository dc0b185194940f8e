"""The fit of a cell of benchmarks/recovery.py."""

from __future__ import annotations

import copy
import time

import pyro
import torch

from genssl.fit.optimiser import learning_rate, make_optimiser
from genssl.groups import Groups


def fit(method, draw, budget, cell, lr):
    """Plain Adam on the method's own objective; steps: what the budget holds by the time of 20."""
    if not budget or cell.get("untrained"):
        return {"steps": 0, "seconds": 0.0}

    def steps(method, count):
        module = method.train().objective(method.model, method.guide)
        optimiser = make_optimiser("adam", module.parameters(), lr)
        for step in range(count):
            torch.manual_seed(1_000_003 * (cell["seed"] + 1) + step)
            optimiser.param_groups[0]["lr"] = learning_rate("cosine", lr, step, count)
            optimiser.zero_grad(set_to_none=True)
            module(Groups(draw())).backward()
            optimiser.step()
            module.update()

    with pyro.validation_enabled(False):
        trial = copy.deepcopy(method)
        steps(trial, 3)
        began = time.process_time()
        steps(trial, 20)
        count = max(100, int(20 * budget / (time.process_time() - began)))
        began = time.process_time()
        steps(method, count)
    return {"steps": count, "seconds": round(time.process_time() - began, 1)}

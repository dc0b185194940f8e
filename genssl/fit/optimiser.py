"""The optimiser and its schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from genssl.errors import SettingsError

OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
SCHEDULES = ("cosine", "constant")


def make_optimiser(
    optimizer: str | Callable[..., Any], parameters: Iterable[nn.Parameter], lr: float
) -> torch.optim.Optimizer:
    """Adam or AdamW in one fused kernel, or optimizer(parameters, lr=lr) of the user.

    Each parameter group keeps the rate it starts with as `initial_lr`, which the schedule scales.
    """
    parameters = [p for p in parameters if p.requires_grad]
    if not parameters:
        raise SettingsError(
            "there is no parameter to train; are encoder and decoder registered in the method (self.encoder = ...)?"
        )
    if callable(optimizer):
        made = optimizer(parameters, lr=lr)
        if not isinstance(made, torch.optim.Optimizer):
            raise SettingsError(
                f"optimizer gave a {type(made).__name__}, expected a torch.optim.Optimizer; return one from (parameters, lr=...)"
            )
    elif optimizer in OPTIMISERS:
        made = OPTIMISERS[optimizer](parameters, lr=lr, fused=True)
    else:
        raise SettingsError(
            f"optimizer = {optimizer!r}, expected {' or '.join(OPTIMISERS)}, or a callable (parameters, lr=...)"
        )
    for group in made.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return made


CLEAR_EVERY = 100
"""Steps between two clearings of vanished moments."""
VANISHED = {"exp_avg": 1e-30, "exp_avg_sq": 1e-36}


@torch.no_grad()
def clear_vanished(optimiser: torch.optim.Optimizer) -> None:
    """Set moments of Adam that have all but vanished to 0, before they become denormal numbers.

    The mean of a gradient that stays 0 (a dead unit, a border pixel) decays by 0.9 a step and is denormal after some 800 steps; a
    CPU then computes much slower (measured with the paper's networks: 27 ms a step in place of 14). What is cleared would have
    moved a parameter by less than 1e-22 learning rates. The processor's own flush-to-zero mode would do it too, but for the whole
    process, and for half of its threads.
    """
    for state in optimiser.state.values():
        for name, least in VANISHED.items():
            moment = state.get(name)
            if moment is not None and moment.dtype == torch.float32:
                moment.masked_fill_(moment.abs() < least, 0.0)


def learning_rate(schedule: str | Callable[[int, int], float], base: float, step: int, steps: int) -> float:
    """The rate of a step: linear warm-up over the first 2% (at most 500 steps), then a cosine to 1% of the base; or constant; or a
    factor schedule(step, steps) of the user."""
    if callable(schedule):
        return base * schedule(step, steps)
    if schedule not in SCHEDULES:
        raise SettingsError(
            f"schedule = {schedule!r}, expected {' or '.join(SCHEDULES)}, or a callable (step, steps) -> factor"
        )
    if schedule == "constant":
        return base
    warmup = max(1, min(500, steps // 50))
    if step < warmup:
        return base * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return base * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

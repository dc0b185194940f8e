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


def make_optimiser(optimizer: str | Callable[..., Any], parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adam or AdamW in one fused kernel, or optimizer(parameters, lr=lr) of the user."""
    parameters = [p for p in parameters if p.requires_grad]
    if not parameters:
        raise SettingsError("there is no parameter to train; are encoder and decoder registered in the method (self.encoder = ...)?")
    if callable(optimizer):
        return optimizer(parameters, lr=lr)
    if optimizer not in OPTIMISERS:
        raise SettingsError(f"optimizer = {optimizer!r}, expected {' or '.join(OPTIMISERS)}, or a callable (parameters, lr=...)")
    return OPTIMISERS[optimizer](parameters, lr=lr, fused=True)


def learning_rate(schedule: str | Callable[[int, int], float], base: float, step: int, steps: int) -> float:
    """The rate of a step: linear warm-up over the first 2% (at most 500 steps), then a cosine to 1% of the base; or constant; or a
    factor schedule(step, steps) of the user."""
    if callable(schedule):
        return base * schedule(step, steps)
    if schedule not in SCHEDULES:
        raise SettingsError(f"schedule = {schedule!r}, expected {' or '.join(SCHEDULES)}, or a callable (step, steps) -> factor")
    if schedule == "constant":
        return base
    warmup = max(1, min(500, steps // 50))
    if step < warmup:
        return base * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return base * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

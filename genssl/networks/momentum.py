"""A slow copy of networks: the target of MoCo, BYOL and DINO."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn

from genssl.errors import SettingsError


class Momentum(nn.Module):
    """An exponential moving average of networks in a row, without gradient: theta' <- momentum theta' + (1 - momentum) theta.

    Starts as a copy of `parts`, which are applied one after the other; `update(*parts)` moves it towards them, after the optimiser step.
    Running statistics of a BatchNorm are not averaged: the copy collects its own, since its activations differ.
    """

    def __init__(self, *parts: nn.Module, momentum: float) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise SettingsError(f"momentum = {momentum}, expected a number in [0, 1]")
        self.parts = nn.ModuleList([copy.deepcopy(part) for part in parts]).requires_grad_(False)
        self.momentum = float(momentum)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for part in self.parts:
                x = part(x)
        return x

    @torch.no_grad()
    def update(self, *parts: nn.Module) -> None:
        """Move towards the networks that this is a copy of, given in the same order."""
        ours: list[Tensor] = list(self.parts.parameters())
        theirs: list[Tensor] = list(itertools.chain.from_iterable(part.parameters() for part in parts))
        if ours:
            torch._foreach_lerp_(ours, theirs, 1 - self.momentum)

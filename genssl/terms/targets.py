"""Target transforms: how scores become target assignments, rows that sum to 1, that do not all choose one cluster."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genssl.distributed import summed
from genssl.errors import SettingsError


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, steps: int = 3, valid: Tensor | None = None) -> Tensor:
    r"""The transport plan between items and clusters that both have equal shares: scores [..., N, K] -> codes [..., N, K].

    Q = diag(u) exp(scores / epsilon) diag(v): `steps` times, columns to 1 / K and rows to 1 / N; rows then sum to 1 exactly, columns
    to N / K nearly. Source: Caron et al. 2020 (SwAV, arXiv:2006.09882), Eq. 3 and 5; Cuturi 2013. Computed in logarithms, so that a
    small epsilon does not overflow. valid [..., N]: items that do not exist have no share, and codes of 0. No gradient.
    """
    if not epsilon > 0 or steps < 1:
        raise SettingsError(
            f"sinkhorn: epsilon = {epsilon} and steps = {steps}, expected a positive number and at least 1"
        )
    plan = scores.detach() / epsilon
    if valid is not None:
        plan = plan.masked_fill(~valid.unsqueeze(-1), -torch.inf)
    for _ in range(steps):
        columns = plan.logsumexp(-2, keepdim=True)
        plan = plan - columns.masked_fill(columns == -torch.inf, 0.0)  # no item exists at all
        rows = plan.logsumexp(-1, keepdim=True)
        plan = plan - (rows if valid is None else torch.where(valid.unsqueeze(-1), rows, 0.0))
    return plan.exp()


class Centring(nn.Module):
    r"""Centred and sharpened softmax: logits [G, J, K] -> softmax((logits - centre) / temperature), without gradient.

        centre <- momentum centre + (1 - momentum) mean of the logits of the batch       (`update`, after the optimiser step)

    Source: Caron et al. 2021 (DINO, arXiv:2104.14294), Eq. 4. Centring alone makes assignments uniform, sharpening alone makes them one;
    together they hold each other. The mean of the last training forward waits in a buffer that is not saved; measuring leaves it.
    """

    centre: Tensor
    batch_mean: Tensor

    def __init__(self, dim: int, temperature: float = 0.04, momentum: float = 0.9) -> None:
        super().__init__()
        if not temperature > 0 or not 0 <= momentum <= 1:
            raise SettingsError(
                f"Centring: temperature = {temperature} and momentum = {momentum}, expected a positive number and one in [0, 1]"
            )
        self.temperature, self.momentum = float(temperature), float(momentum)
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("batch_mean", torch.zeros(dim), persistent=False)

    def forward(self, logits: Tensor, valid: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():  # a validation forward must not move the centre
            total = torch.where(valid.unsqueeze(-1), logits.detach(), 0.0).sum((0, 1))
            self.batch_mean.copy_(summed(total) / summed(valid.sum()))
        return ((logits.detach() - self.centre) / self.temperature).softmax(-1)

    @torch.no_grad()
    def update(self) -> None:
        self.centre.lerp_(self.batch_mean, 1 - self.momentum)

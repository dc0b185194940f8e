"""What the decoder of a method gives: whether it has a trained one, the mean image of an item, and its squared error."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genssl.evaluation.items import batches, count, several_modalities
from genssl.evaluation.measuring import measuring


def decodes(method: Any) -> bool:
    """Whether the method has a decoder that its objective trains; one beside a substitute term was never fitted."""
    needs = getattr(getattr(method, "objective", None), "needs", None)
    return getattr(method, "decode", None) is not None and (needs is None or "decoder" in needs)


def reconstruct(method: Any, x: Tensor) -> Tensor | None:
    """[N, *event] decode(mean of q(z|x)), the mean image, on the device of the method; None without a decoder."""
    parameter = next(method.parameters(), x)
    return method.decode(method.encode(x.to(parameter.device)).mean)


def reconstruction_mse(method: nn.Module, split: Any) -> float | None:
    """Mean over items and pixels of (decode(mean of q(z|x)) - x)^2; None where there is no trained decoder."""
    if not decodes(method) or several_modalities(split) or count(split) == 0:
        return None
    total, numbers = torch.zeros((), dtype=torch.float64), 0
    with measuring(method):
        for x, _ in batches(split):
            decoded = reconstruct(method, x)
            if decoded is None:
                return None
            total += (decoded.double() - x.to(decoded.device)).square().sum().cpu()
            numbers += x.numel()
    return float(total) / numbers


def not_finite(method: nn.Module) -> str:
    """The name of a parameter that is not finite, or nothing. Distributions refuse what such a network gives."""
    return next((name for name, value in method.named_parameters() if not bool(torch.isfinite(value).all())), "")

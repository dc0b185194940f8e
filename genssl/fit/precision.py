"""bf16 around networks only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from genssl.errors import SettingsError
from genssl.objective import Objective

PRECISIONS = ("32", "bf16")


@contextmanager
def networks_in(precision: str, method: nn.Module, device: torch.device) -> Iterator[None]:
    """Run the children of a method (encoder, decoder, head, ...) under bfloat16 autocast, and give float32 back.

    Distributions, log-sum-exp and reductions stay outside: a log density of 784 pixels has no digits left in bfloat16.
    """
    if precision not in PRECISIONS:
        raise SettingsError(f"precision = {precision!r}, expected one of {', '.join(PRECISIONS)}")
    networks = [child for child in method.children() if not isinstance(child, Objective)] if precision == "bf16" else []
    for network in networks:
        network.forward = _autocast(network.forward, device.type)
    try:
        yield
    finally:
        for network in networks:
            del network.forward


def _autocast(forward: Callable[..., Any], device_type: str) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type, dtype=torch.bfloat16):
            out = forward(*args, **kwargs)
        return out.float() if isinstance(out, Tensor) and out.dtype == torch.bfloat16 else out

    return run

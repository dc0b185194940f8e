"""bf16 around networks only."""

from __future__ import annotations

from collections.abc import Iterator
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
    entered: list[torch.autocast] = []  # a stack: networks may call each other, and this manager may be nested

    def before(_module: nn.Module, _args: Any) -> None:
        entered.append(torch.autocast(device.type, dtype=torch.bfloat16))
        entered[-1].__enter__()

    def after(_module: nn.Module, _args: Any, output: Any) -> Any:
        entered.pop().__exit__(None, None, None)
        return output.float() if isinstance(output, Tensor) and output.dtype == torch.bfloat16 else output

    # Hooks rather than a wrapped forward: a deep copy of the method keeps its own weights.
    handles = [network.register_forward_pre_hook(before) for network in networks]
    handles += [network.register_forward_hook(after, always_call=True) for network in networks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

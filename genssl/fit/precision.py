"""bf16 around networks only; TF32 in the products of a GPU."""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from genssl.errors import SettingsError
from genssl.objective import Objective

PRECISIONS = ("32", "tf32", "bf16")


@functools.cache
def fastest(device_type: str) -> str:
    """What precision="auto" means here: "bf16" where this device multiplies in it faster than in float32, else "32".

    A processor without bfloat16 instructions emulates them, hundreds of times slower than float32.
    """
    if device_type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    seconds: dict[str, float] = {}
    for _ in range(5):  # in turn, and the best of each: other work on the machine must not decide
        for name, dtype in {"32": torch.float32, "bf16": torch.bfloat16}.items():
            x = torch.ones(512, 512, dtype=dtype)
            x[:64] @ x  # kernels are chosen at the first call
            began = time.perf_counter()
            x @ x
            seconds[name] = min(seconds.get(name, math.inf), time.perf_counter() - began)
    return min(seconds, key=seconds.__getitem__)


@contextmanager
def networks_in(precision: str, method: nn.Module, device: torch.device) -> Iterator[None]:
    """Run the children of a method (encoder, decoder, head, ...) under bfloat16 autocast, and give float32 back.

    A class with children that compute densities names those that are networks: networks = ("encoder", "decoder").

    "tf32": a GPU multiplies float32 matrices (of networks, gradients, and whatever else there is) with 10 bits of mantissa in place of 23;
    on a CPU it is "32". Convolutions take it in "32" too, as is PyTorch's default.

    Distributions, log-sum-exp and reductions stay outside: a log density of 784 pixels has no digits left in bfloat16.
    Contexts may be nested; a deep copy of the method that is made inside is in float32.
    """
    if precision not in PRECISIONS:
        raise SettingsError(f"precision = {precision!r}, expected one of {', '.join(PRECISIONS)}")
    names = getattr(type(method), "networks", None)
    networks = list(dict.fromkeys(_networks(method, names))) if precision == "bf16" else []
    before = [network.__dict__.get("forward") for network in networks]
    for network in networks:
        network.forward = _Autocast(network, device.type)
    products = torch.get_float32_matmul_precision()
    if precision == "tf32" and device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        for network, forward in zip(networks, before, strict=True):
            del network.forward
            if forward is not None:
                network.forward = forward


def _networks(module: nn.Module, names: Sequence[str] | None = None) -> Iterator[nn.Module]:
    for name, child in module.named_children():
        if names is not None and name not in names:
            continue
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):  # several encoders: these are never called themselves
            yield from _networks(child)
        elif not isinstance(child, Objective):
            yield child


class _Autocast:
    """The forward of a network, under autocast."""

    def __init__(self, network: nn.Module, device_type: str) -> None:
        self.forward, self.device_type = network.forward, device_type

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(self.device_type, dtype=torch.bfloat16):
            out = self.forward(*args, **kwargs)
        return _floats(out)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.forward, memo)  # the plain forward, bound to the copied network


def _floats(out: Any) -> Any:
    if isinstance(out, Tensor):
        return out.float() if out.dtype == torch.bfloat16 else out
    if isinstance(out, dict):
        return {key: _floats(value) for key, value in out.items()}
    if isinstance(out, tuple) and hasattr(out, "_fields"):
        return type(out)(*map(_floats, out))
    return type(out)(map(_floats, out)) if type(out) in (tuple, list) else out

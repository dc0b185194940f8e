"""Randomness as a function of (seed, stream, step): nothing to save, nothing to restore when a run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def stream_seed(seed: int, stream: str, step: int = 0) -> int:
    """An integer below 2^63 for this seed, stream and step; unrelated for any two of them."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_noise(seed: int, step: int, device: torch.device) -> None:
    """Set torch's default generators, from which Pyro's sites draw, for one step."""
    value = stream_seed(seed, "noise", step)
    # torch.manual_seed would seed every GPU of the machine each step.
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(value)


def seed_weights(module: nn.Module, seed: int) -> None:
    """Draw every module's initial weights from its own name, so that methods with a part in common share its start."""
    with generators_kept():
        for name, part in module.named_modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                torch.manual_seed(stream_seed(seed, f"weights/{name}"))
                reset()


@contextmanager
def generators_kept() -> Iterator[None]:
    """Give torch's default generators back as they were."""
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

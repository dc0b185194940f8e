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


def seed_noise(seed: int, step: int, device: torch.device, stream: str = "noise") -> None:
    """Set torch's default generators, from which Pyro's sites (and many a user's views) draw, for one step."""
    value = stream_seed(seed, stream, step)
    # torch.manual_seed would seed every GPU of the machine each step.
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(value)


def seed_weights(module: nn.Module, seed: int, prefix: str = "") -> None:
    """Draw every module's initial weights from its own name, so that methods with a part in common share its start.

    prefix: the name of `module` itself in the method, where it is a part.

    What counts is `reset_parameters`; a part that sets its children's weights in its own has the last word over them.
    A copy (the EMA target of an encoder) draws from the name of the part that it was copied from, and stays a copy.
    """
    parts = [(name, part) for name, part in module.named_modules() if callable(getattr(part, "reset_parameters", None))]
    first: dict[bytes, str] = {}
    origin = {name: first.setdefault(_digest(part), name) for name, part in parts}
    with generators_kept():
        for name, part in reversed(parts):  # children before the parts that hold them
            torch.manual_seed(stream_seed(seed, f"weights/{'.'.join(filter(None, (prefix, origin[name])))}"))
            part.reset_parameters()


def _digest(part: nn.Module) -> bytes:
    """Equal for two modules of one class with the same weights, bit for bit."""
    digest = hashlib.blake2b(type(part).__name__.encode(), digest_size=16)
    for name, value in part.state_dict().items():
        if not isinstance(value, torch.Tensor):  # extra state of a module: no weight
            continue
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.digest()


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


@contextmanager
def threads_kept() -> Iterator[None]:
    """Give the number of threads back as it was: a resumed run takes that of its start."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)

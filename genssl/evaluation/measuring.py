"""Measuring without a trace: a module in eval mode under no_grad, and all that a run depends on put back after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def measuring(module: nn.Module) -> Iterator[nn.Module]:
    """Within it, module is in eval mode and gradients are off; after it, also after an error, the run is bit-identical.

    Put back: the training flag of every submodule, every buffer (BatchNorm statistics, queues, centres; also one that
    was replaced, added or removed), and the state of torch's default generators: CPU and, where CUDA is in use, GPUs.
    """
    flags = [(child, child.training) for child in module.modules()]
    buffers = [(child, dict(child._buffers), _copies(child)) for child in module.modules()]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield module.eval()
    finally:
        for child, training in flags:
            child.training = training
        with torch.no_grad():
            for child, kept, values in buffers:
                child._buffers.clear()
                child._buffers.update(kept)
                for name, value in values.items():
                    # Written in place: an optimiser, a DDP wrapper or a CUDA graph may hold the very same tensor.
                    child._buffers[name].copy_(value)  # type: ignore[union-attr]


def _copies(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.detach().clone() for name, buffer in module._buffers.items() if buffer is not None}

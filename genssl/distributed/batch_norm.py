"""BatchNorm whose statistics are those of all processes' rows, on CPU and GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from genssl.precision import at_least_float32

Gather = Callable[[Tensor], Tensor]


class Synced(TorchFunctionMode):
    """In this block every F.batch_norm in training takes the rows of all processes, whichever module calls it.

    (torch.nn.SyncBatchNorm takes tensors of a GPU alone, and would have to replace the modules of a method.)
    gather: [1, *] of every process -> [world, *], with gradients.
    """

    def __init__(self, gather: Gather) -> None:
        super().__init__()
        self.gather = gather

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return batch_norm(self.gather, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def batch_norm(
    gather: Gather,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    r"""F.batch_norm of x [N, C, *], with the moments of the rows of all processes; N may differ between them.

        mean = sum_r n_r mean_r / n,     n var = sum_r [M_r + n_r (mean_r - mean)^2],     M_r = sum (x - mean_r)^2

    (Chan, Golub, LeVeque 1983): one message a layer, without the cancellation of E x^2 - (E x)^2.
    """
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    full = at_least_float32(x)
    count = full.numel() // full.shape[1]
    mean = full.sum(dims) / max(count, 1)
    spread = (full - mean.view(shape)).square().sum(dims)
    moments = gather(torch.cat([mean, spread, mean.new_full((1,), float(count))])[None])
    means, spreads, counts = moments.split([len(mean), len(mean), 1], 1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    spread = (spreads + counts * (means - mean).square()).sum(0)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.detach().to(running_mean.dtype), momentum)
            unbiased = spread.detach() / (total.detach() - 1).clamp(min=1)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    scale = (spread / total + eps).rsqrt()
    out = (full - mean.view(shape)) * (scale if weight is None else scale * weight).view(shape)
    return (out if bias is None else out + bias.view(shape)).to(x.dtype)

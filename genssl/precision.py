"""The precision of densities: at least float32."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(value: Tensor) -> Tensor:
    """float16 and bfloat16 to float32; everything else as it is. A density of many dimensions has no digits left in half."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value

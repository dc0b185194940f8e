"""Figures that may have no meaning: None where a representation is collapsed, too small or of another kind for one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from genssl.errors import GensslError


def maybe(measure: Callable[[], Any]) -> Any:
    """What measure gives, or None."""
    try:
        return measure()
    except (GensslError, torch.linalg.LinAlgError):
        return None


def number(measure: Callable[[], Any]) -> float | None:
    """What measure gives as a float that JSON can hold, or None."""
    value = maybe(measure)
    return None if value is None else finite(value)


def finite(value: Any) -> float | None:
    """A float that JSON can hold."""
    as_float = float(value)
    return as_float if math.isfinite(as_float) else None

"""What a method was built with, given or by default: also what defaults became on these data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from genssl.fit.build import is_own, settings_of
from genssl.networks import default_network
from genssl.networks.mlp import default_hidden


def resolved(cls: type, method: nn.Module, shape: Sequence[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a class by name, as `given` or by its default.

    Of the gallery what is None by default stands as what it became: network and hidden by the shape of a view, dim by the network, the
    head of the class, the scale of a Gaussian. What is None still is none, such as content_scale of a flat p(y).
    """
    found = settings_of(cls) | dict(given)
    if is_own(cls) or not all(isinstance(size, int) for size in shape):
        return found
    became: dict[str, Any] = {"network": found.get("network") or default_network(shape)}
    if became["network"] == "mlp":
        became["hidden"] = default_hidden(shape)
    became["dim"] = 10 if became["network"] == "mlp" else 64
    became["head"] = getattr(cls, "default_head", None)
    became["likelihood_scale"] = getattr(getattr(method, "likelihood", None), "_fixed", None)
    return found | {name: value for name, value in became.items() if name in found and found[name] is None}

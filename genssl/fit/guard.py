"""The guard against numbers that are not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genssl.errors import NonFiniteError
from genssl.groups import Groups
from genssl.objective import ObjectiveModule


def explain(module: ObjectiveModule, groups: Groups, step: int) -> NonFiniteError:
    """Repeat a failed step and name what failed first: the data, a term and its site, or a parameter's gradient."""
    where = f"step {step}"
    for x in groups.x if isinstance(groups.x, tuple) else (groups.x,):
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            row = _first_row(x)
            return NonFiniteError(f"{where}: the data of group {int(groups.index[row])} are not finite; clean them or mask the view")
    module.zero_grad(set_to_none=True)
    loss = module(groups)
    assert module.terms is not None
    for slot, sites in module.terms.sites.items():
        for site, value in sites.items():
            if not bool(torch.isfinite(value).all()):
                row = _first_row(value)
                return NonFiniteError(
                    f"{where}: the {slot} term of site '{site}' is {float(value[row])} for group {int(groups.index[row])}; lower the "
                    "learning rate, or clip gradients"
                )
    loss.backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return NonFiniteError(
                f"{where}: the loss is finite, the gradient of {name} is not ({_sizes(module)}); look for a square root or log at 0 in the "
                "model, or lower the learning rate"
            )
    return NonFiniteError(f"{where}: the loss was not finite, but not when repeated; is something outside (seed, step) random?")


def _first_row(value: Tensor) -> int:
    return int((~torch.isfinite(value.reshape(len(value), -1)).all(-1)).nonzero()[0])


def _sizes(module: nn.Module) -> str:
    largest = max((float(p.detach().abs().max()) for p in module.parameters() if p.numel()), default=0.0)
    return f"largest parameter {largest:.3g}"

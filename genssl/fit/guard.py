"""The guard against numbers that are not finite: what failed, and where."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genssl.distributed import average, some
from genssl.errors import NonFiniteError
from genssl.groups import Groups
from genssl.objective_module import ObjectiveModule

# The guide runs first, then the model: what fails first is named first.
ORDER = ("entropy", "prior", "reconstruction")


def explain(module: ObjectiveModule, groups: Groups, step: int) -> NonFiniteError:
    """Repeat a failed step and name what failed first: the data, a parameter, a term and its site, or a gradient; all processes say what
    one of them found."""
    where = f"step {step}"
    found = some(of_data(groups, where) or of_parameters(module, where))
    if found is not None:
        return found
    module.zero_grad(set_to_none=True)
    loss = module(groups)
    found = some(_of_terms(module, groups, where))
    if found is not None:
        return found
    loss.backward()
    average(parameter.grad for parameter in module.parameters() if parameter.grad is not None)
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return NonFiniteError(
                f"{where}: the loss is finite, the gradient of {plain_name(name)} is not ({_largest(module)}); look for a square root "
                "or log at 0 in the model, or lower the learning rate"
            )
    norm = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    if not bool(torch.isfinite(norm)):
        return NonFiniteError(
            f"{where}: loss and gradients are finite, but the norm of the gradient overflows ({_largest(module)}); standardise the "
            "data, or lower their scale"
        )
    return NonFiniteError(
        f"{where}: the loss was not finite, but is when repeated; is something outside (seed, step) random?"
    )


def _of_terms(module: ObjectiveModule, groups: Groups, where: str) -> NonFiniteError | None:
    """The error for a term of the last forward that is not finite, if there is one."""
    assert module.terms is not None
    for slot in ORDER:
        for site, value in module.terms.sites[slot].items():
            if not bool(torch.isfinite(value).all()):
                row = _first_row(value)
                return NonFiniteError(
                    f"{where}: the {slot} term of site '{site}' is {float(value[row])} for group {int(groups.index[row])}; lower the "
                    "learning rate, or clip gradients"
                )
    return None


def of_data(groups: Groups, where: str) -> NonFiniteError | None:
    """The error for views that are not finite, if there are any."""
    for x in groups.x if isinstance(groups.x, tuple) else (groups.x,):
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            group = int(groups.index[_first_row(x)])
            return NonFiniteError(
                f"{where}: the views of group {group} are not finite; repair the data or the views, or mask the view"
            )
    return None


def of_parameters(module: nn.Module, where: str) -> NonFiniteError | None:
    """The error for a parameter that is not finite, if there is one."""
    for name, value in module.named_parameters():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return NonFiniteError(
                f"{where}: the parameter {plain_name(name)} is not finite; start from weights that are"
            )
    return None


def _first_row(value: Tensor) -> int:
    return int((~torch.isfinite(value.reshape(len(value), -1)).all(-1)).nonzero()[0])


def plain_name(name: str) -> str:
    """owners.0.encoder.1.weight -> encoder.1.weight"""
    return ".".join(name.split(".")[2:]) if name.startswith("owners.") else name


def _largest(module: nn.Module) -> str:
    largest = max((float(p.detach().abs().max()) for p in module.parameters() if p.numel()), default=0.0)
    return f"largest parameter {largest:.3g}"

"""What a term sees: the sites of one run of guide and model, reduced to one number a group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from genssl.errors import ShapeError, SiteError
from genssl.groups import Groups


@dataclass
class Site:
    """One sample site of a trace: its distribution, its value, and the plates it stands in."""

    name: str
    fn: Any
    value: Tensor
    observed: bool
    auxiliary: bool
    plates: dict[int, Any]  # dim -> pyro's frame
    scale: Any
    mask: Any
    num_groups: int
    total: int  # N, the full size of the plate `groups`
    _log_prob: Tensor | None = field(default=None, repr=False)

    @cached_property
    def groups_dim(self) -> int | None:
        """The batch dim of the plate `groups`; None for a site outside it."""
        return next((dim for dim, frame in self.plates.items() if frame.name == "groups"), None)

    @property
    def log_prob(self) -> Tensor:
        """[G] log density of the value, nats: see `per_group`."""
        if self._log_prob is None:
            try:
                density = self.fn.log_prob(self.value)
            except ValueError as error:  # Pyro's checks of arguments and support, which do not know the site
                raise SiteError(
                    f"site '{self.name}': {str(error).split(', but found')[0]}; check data and likelihood"
                ) from error
            self._log_prob = self.per_group(density)
        return self._log_prob

    def per_group(self, value: Tensor) -> Tensor:
        """A quantity of the site's batch shape to [G], with Pyro's scales and masks applied as Pyro does.

        Only the factor of the subsampled plate `groups` is divided out, so that the sum over groups times N / G is what
        Trace_ELBO adds up. A site outside `groups` is shared by all N groups: each gets 1 / N of it.
        """
        if value.shape != self.fn.batch_shape:
            raise ShapeError(
                f"site '{self.name}': {type(self.fn).__name__} gives densities of shape {list(value.shape)}, expected its batch shape "
                f"{list(self.fn.batch_shape)}; check the shapes of its parameters"
            )
        scale, dim = self.scale, self.groups_dim
        if dim is not None:
            factor = self.plates[dim].full_size / self.plates[dim].size
            scale = scale / factor if isinstance(scale, Tensor) or scale != factor else 1.0
        value = scale_and_mask(value, scale, self.mask)
        if dim is None:
            return (value.sum() / self.total).expand(self.num_groups)
        if value.dim() < -dim or value.shape[dim] != self.num_groups:
            value = value.expand(torch.broadcast_shapes(value.shape, (self.num_groups,) + (1,) * (-dim - 1)))
        others = [d for d in range(-value.dim(), 0) if d != dim]
        return value.sum(others) if others else value

    def check(self) -> None:
        """Refuse shapes that the plates do not account for: they would broadcast in silence."""
        expected = [1] * max((-dim for dim in self.plates), default=0)
        for dim, frame in self.plates.items():
            expected[dim] = frame.size
        batch = list(self.fn.batch_shape)
        if [1] * (len(batch) - len(expected)) + expected != [1] * (len(expected) - len(batch)) + batch:
            inside = ", ".join(f"{frame.name} (dim {dim}, size {frame.size})" for dim, frame in self.plates.items())
            raise ShapeError(
                f"site '{self.name}': batch shape {batch} of {type(self.fn).__name__}, expected {expected} from the plates it "
                f"stands in ({inside or 'none'}); enter groups.plate, or move dimensions into the event with .to_event()"
            )
        shape = list(self.fn.batch_shape) + list(self.fn.event_shape)
        if list(self.value.shape) != shape and self.value.numel() > 0:
            raise ShapeError(
                f"site '{self.name}': the value has shape {list(self.value.shape)}, but {type(self.fn).__name__} has shape {shape} "
                f"(batch {batch}, event {list(self.fn.event_shape)}); make model, guide and data agree, e.g. a joint prior over "
                f"views stands under groups.plate alone, never under a plate 'views'"
            )


@dataclass
class Traces:
    """The sites of one particle: the guide's, and the model's as far as the model was run."""

    groups: Groups
    guide: dict[str, Site]
    model: dict[str, Site]

    @property
    def observed(self) -> Iterator[Site]:
        """Observed model sites: what the reconstruction slot reads."""
        return (site for site in self.model.values() if site.observed)

    @property
    def latent(self) -> Iterator[Site]:
        """Latent model sites at the guide's values: what the prior slot reads."""
        return (site for site in self.model.values() if not site.observed)

    @property
    def posterior(self) -> Iterator[Site]:
        """Guide sites: what the entropy slot reads."""
        return iter(self.guide.values())

    def detach(self) -> Traces:
        """The same sites with values that carry no graph."""
        cut = [
            {n: replace(s, value=s.value.detach(), _log_prob=None) for n, s in sites.items()}
            for sites in (self.guide, self.model)
        ]
        return Traces(self.groups, *cut)

    def follows_a_model_parent(self, name: str) -> bool:
        """Whether a latent that comes before `name` in the model comes after it in the guide.

        Then p(name | ...) may depend on a value that the guide drew from `name`, and averaging over q(name) alone, with that
        value held fixed, would be biased (the condition that TraceMeanField_ELBO states and does not check).
        """
        model = [site.name for site in self.latent]
        guide = list(self.guide)
        before = model[: model.index(name)]
        after = set(guide[guide.index(name) + 1 :])
        return any(other in after for other in before)

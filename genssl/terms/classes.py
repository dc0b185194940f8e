"""Terms of classification: each group belongs to a class, whose prototype its views are to be told by."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genssl.errors import DataError, SettingsError
from genssl.groups import Groups
from genssl.terms.base import Term
from genssl.terms.batch import unit, views
from genssl.terms.traces import Traces
from genssl.training_set import training_place


class Classes(nn.Module):
    """K classes over representations: which class a group has, and a score of every class for z. Shared by the terms below."""

    needs: frozenset[str] = frozenset({"prototypes"})
    _advanced: Any = None

    def classes(self, groups: Groups) -> Tensor:
        """[G] int64 the class of every group; -1 where it is not known."""
        raise NotImplementedError

    def forward(self, z: Tensor, which: Tensor | None = None) -> Tensor:
        """z [G, J, D] -> [G, J, K] scores: log p(z | k) + log p(k) up to what does not depend on k; of class which [G] alone: [G, J]."""
        raise NotImplementedError

    def advance(self, traces: Traces) -> None:
        """Change the state after an optimiser step; most have none."""

    def update(self, traces: Traces) -> None:
        """`advance`, once a step, whichever and however many of the terms share these classes."""
        if self._advanced is None or self._advanced() is not traces:
            self._advanced = weakref.ref(traces)
            self.advance(traces)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_advanced": None}  # a weak reference cannot be copied


class Instances(Classes):
    r"""Every training group is a class of its own: scores zhat . what_k / temperature, with a vector of each of N groups.

    bank False: the vectors are parameters. bank True: a memory bank, w_k <- unit(momentum w_k + (1 - momentum) zhat_k) when
    group k is seen.
    Sources: Dosovitskiy et al. 2014 (arXiv:1406.6909); Wu et al. 2018 (arXiv:1805.01978), Eq. 1 and 2, over all N classes.
    """

    weight: Tensor

    def __init__(
        self, num_instances: int, dim: int, temperature: float = 0.07, bank: bool = False, momentum: float = 0.5
    ) -> None:
        super().__init__()
        if num_instances < 1 or not temperature > 0:
            raise SettingsError(
                f"Instances: num_instances = {num_instances} and temperature = {temperature}, expected positive numbers"
            )
        self.temperature, self.bank, self.momentum = float(temperature), bank, float(momentum)
        weight = torch.empty(num_instances, dim)
        if bank:
            self.register_buffer("weight", weight)
        else:
            self.weight = nn.Parameter(weight)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.copy_(unit(torch.randn_like(self.weight)))

    def classes(self, groups: Groups) -> Tensor:
        return training_place(groups, len(self.weight), self.training)

    def forward(self, z: Tensor, which: Tensor | None = None) -> Tensor:
        return cosines(z, self.weight, which) / self.temperature

    def advance(self, traces: Traces) -> None:
        if not self.bank:
            return
        z, valid = unit(views(traces, "z")), traces.groups.valid.unsqueeze(-1)
        mean = torch.where(valid, z, 0.0).sum(1) / valid.sum(1)
        rows = self.classes(traces.groups)
        old = self.weight[rows]
        self.weight[rows] = unit(self.momentum * old + (1 - self.momentum) * mean.to(old.dtype))


class GaussianClasses(Classes):
    r"""Labelled classes with p(z | k) = N(mean_k, diag scale_k^2) and p(k) = softmax(logits): scores log p(z | k) + log p(k), nats.

    Source: Dhuliawala, Sachan, Allen 2024 (variational classification, arXiv:2305.10406). The class is groups.label. scale_k^2 =
    floor^2 + exp(2 log_scale): for a deterministic z the density of its own class would otherwise grow without end as scale_k falls.
    """

    def __init__(self, num_classes: int, dim: int, scale: float = 1.0, floor: float = 0.1) -> None:
        super().__init__()
        if num_classes < 1 or not 0 <= floor < scale:
            raise SettingsError(
                f"GaussianClasses: num_classes = {num_classes}, scale = {scale} and floor = {floor}, expected floor < scale and a class"
            )
        self.needs = frozenset({"prototypes", "labels"})
        self.initial, self.floor = math.sqrt(scale**2 - floor**2), float(floor)
        self.mean = nn.Parameter(torch.empty(num_classes, dim))
        self.log_scale = nn.Parameter(torch.empty(num_classes, dim))
        self.logits = nn.Parameter(torch.empty(num_classes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.mean.normal_()
            self.log_scale.fill_(math.log(self.initial))
            self.logits.zero_()

    def classes(self, groups: Groups) -> Tensor:
        if groups.label is None or groups.label.dim() != 1:
            raise DataError(
                "GaussianClasses: the groups have no label [G]; give labels, or take a method that needs none"
            )
        return groups.label

    def log_density(self, z: Tensor, which: Tensor | None = None) -> Tensor:
        """log p(z | k), z [G, J, D] -> [G, J, K], nats; of class which [G] alone: [G, J]."""
        variance = (2 * self.log_scale).exp() + self.floor**2
        # Differences, not products: classes far from the origin with small scales would cancel.
        if which is None:
            difference = z.unsqueeze(-2) - self.mean
        else:
            difference, variance = z - self.mean[which].unsqueeze(1), variance[which].unsqueeze(1)
        squares = (difference.square() / variance).sum(-1)
        return -0.5 * squares - 0.5 * variance.log().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)

    def forward(self, z: Tensor, which: Tensor | None = None) -> Tensor:
        log_share = self.logits.log_softmax(-1)
        return self.log_density(z, which) + (log_share if which is None else log_share[which].unsqueeze(1))


class ClassScore(Term):
    r"""sum_j score(z_j, class of the group): log p(z_j, y) where the class y is what the views share. {"z": [G]} nats.

    Source: Bizeul et al. 2024 (arXiv:2402.01399), Eq. 6, first term: instance discrimination takes the group's own index for y. Groups
    whose class is not known (-1) add 0. Alone it collapses onto one prototype.
    """

    slots = ("prior",)
    space = "labels"
    guide_family = "delta"

    def __init__(self, classes: Classes) -> None:
        super().__init__()
        self.classes = _checked(classes)
        self.needs = self.classes.needs

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        own, counted = _own(self.classes, self.classes, traces)
        return {"z": torch.where(counted, own, 0.0).sum(1)}

    def update(self, traces: Traces) -> None:
        self.classes.update(traces)

    def extra_repr(self) -> str:
        return type(self.classes).__name__


class ClassNormaliser(Term):
    r"""-sum_j log sum_k exp score(z_j, k): -log p(z_j) of the mixture of all classes, up to constants. {"z": [G]} nats.

    Source: Bizeul et al. 2024, Eq. 6, second term (an estimate of the aggregate entropy where the mixture is the aggregate posterior; a
    cross-entropy above it otherwise). Takes the same Classes as its ClassScore, so that score + normaliser = log p(y | z).
    """

    slots = ("reconstruction",)
    space = "labels"
    guide_family = "delta"

    def __init__(self, classes: Classes) -> None:
        super().__init__()
        self.classes = _checked(classes)
        self.needs = self.classes.needs

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        normaliser = self.classes(views(traces, "z")).logsumexp(-1)
        counted = traces.groups.valid & (self.classes.classes(traces.groups) >= 0)[:, None]
        return {"z": -torch.where(counted, normaliser, 0.0).sum(1)}

    def update(self, traces: Traces) -> None:
        self.classes.update(traces)

    def extra_repr(self) -> str:
        return type(self.classes).__name__


class ClassDensity(Term):
    r"""weight sum_j log p(z_j | class of the group) for classes that have a density. {"density": [G]} nats; unknown classes add 0."""

    slots = ("prior",)
    space = "labels"
    guide_family = "delta"

    def __init__(self, classes: GaussianClasses, weight: float = 1.0) -> None:
        super().__init__()
        self.classes, self.weight = _checked(classes), float(weight)
        self.needs = self.classes.needs

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        own, counted = _own(self.classes.log_density, self.classes, traces)  # type: ignore[arg-type]
        return {"density": self.weight * torch.where(counted, own, 0.0).sum(1)}

    def extra_repr(self) -> str:
        return f"{type(self.classes).__name__}, weight={self.weight:g}"


def cosines(z: Tensor, weight: Tensor, which: Tensor | None = None) -> Tensor:
    """cos(z, w_k), z [G, J, D], weight [K, D] -> [G, J, K]; of row which [G] alone: [G, J].

    `unit` copies, so a bank may be written in place after the step.
    """
    if which is None:
        return unit(z) @ unit(weight).T.to(z.dtype)
    return (unit(z) * unit(weight[which]).to(z.dtype).unsqueeze(1)).sum(-1)


def _own(score: Callable[..., Tensor], classes: Classes, traces: Traces) -> tuple[Tensor, Tensor]:
    """Each view's score of its own class, and where there is one: [G, J] each."""
    which = classes.classes(traces.groups)
    return score(views(traces, "z"), which.clamp(min=0)), traces.groups.valid & (which >= 0)[:, None]


def _checked(classes: Classes) -> Classes:
    if not isinstance(classes, Classes):
        raise SettingsError(
            f"expected a genssl.terms.Classes, not {classes!r}; this term is made by a method, not by name"
        )
    return classes

"""Variational classification: labels are the content, and each class has a Gaussian."""

from __future__ import annotations

from typing import Any, Self

from genssl.models.discriminative import DiscriminativeMethod, mlp_head
from torch import nn

from genssl.errors import SettingsError
from genssl.groups import Groups
from genssl.networks import output_size
from genssl.objective import Objective
from genssl.terms import ClassDensity, ClassNormaliser, ClassScore, Constant, GaussianClasses


class VariationalClassification(DiscriminativeMethod):
    r"""The supervised limit: y is the label, p(z | y) = N(mean_y, diag scale_y^2), and p(y | z) follows by Bayes' rule.

        objective = - sum_j log sum_k p(k) p(z_j | k)  + 0  + sum_j log p(y) p(z_j | y) + density_weight sum_j log p(z_j | y)

    Source: Dhuliawala, Sachan, Allen 2024 (TMLR, arXiv:2305.10406): softmax cross-entropy is this with z unconstrained; the second term
    asks that z be where its class says. c = J: -mean(elbo) is J times cross-entropy + density_weight (-log p(z | y)), averaged over views.
    Their third term, a discriminator that matches the aggregate q(z | y) to p(z | y), is left out; without it density_weight draws z
    onto the class mean, as a constant entropy does. Groups without a known label (-1) add nothing.

    Args:
        num_classes: K.  density_weight: at least 0; 0 is a classifier with Gaussian classes.  class_scale: where scale_k starts.
        class_floor: what it cannot fall below; z is a point, and its density would grow without end.
    """

    source = "Dhuliawala, Sachan, Allen 2024, TMLR, arXiv:2305.10406"
    collapses = "density_weight above 0: each class shrinks to its mean, as far as class_floor rewards it"

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module | None = None,
        *,
        num_classes: int,
        density_weight: float = 0.1,
        class_scale: float = 1.0,
        class_floor: float = 0.1,
        dim: int | None = None,
    ) -> None:
        super().__init__(encoder, head)
        if not density_weight >= 0:
            raise SettingsError(f"VariationalClassification: density_weight = {density_weight}, expected at least 0")
        classes = GaussianClasses(num_classes, output_size(self.encoder, self.head, dim=dim), class_scale, class_floor)
        prior = ClassScore(classes) + ClassDensity(classes, density_weight)
        self.objective = Objective(ClassNormaliser(classes), Constant(), prior)

    @classmethod
    def _assemble(cls, encoder: nn.Module, dim: int, head: tuple[int, ...], example: Groups, **settings: Any) -> Self:
        if "num_classes" not in settings:
            if example.label is None:
                raise SettingsError(
                    "VariationalClassification: the data have no labels; give labels, or another method"
                )
            settings["num_classes"] = int(example.label.max()) + 1
        return cls(encoder, mlp_head(dim, head), **settings)

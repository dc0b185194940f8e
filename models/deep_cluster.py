"""DeepCluster: cluster the representations, learn to tell the clusters, cluster again."""

from __future__ import annotations

from typing import Any, Self

from genssl.models.discriminative import DiscriminativeMethod, mlp_head
from torch import nn

from genssl.groups import Groups
from genssl.networks import output_size
from genssl.objective import Objective
from genssl.terms import Alternation, ClassNormaliser, ClassScore, Clusters, Constant


class DeepCluster(DiscriminativeMethod):
    r"""Every group's class is its k-means cluster of the last pass; centroids are the classifier.

        objective = - sum_j log sum_k exp(cos(z_j, c_k) / t)  + 0  + sum_j cos(z_j, c_y) / t,    y = cluster of the group

    Source: Caron et al. 2018 (ECCV, arXiv:1807.05520), Eq. 1 and 2, in its later form with a bank and centroids as classifier
    (arXiv:2006.09882). c = J: -mean(elbo) is J times the mean cross-entropy over views. It is an alternation: the terms are those of
    classification, but the labels are made from z between steps (`objective.update()`), and what stands against one big cluster is
    that empty clusters are filled again, which no term says.

    Args:
        num_groups: N, the number of training groups.  num_clusters: K, some ten times the classes expected.  temperature: t.
        period: steps between clusterings; None: one pass over the training set.
    """

    source = "Caron et al. 2018, ECCV, arXiv:1807.05520; 2020, arXiv:2006.09882"
    collapses = "towards few big clusters, against which only the refilling of empty ones stands"

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module | None = None,
        *,
        num_groups: int,
        num_clusters: int = 100,
        temperature: float = 0.1,
        period: int | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__(encoder, head)
        clusters = Clusters(
            num_groups,
            min(num_clusters, num_groups),
            output_size(self.encoder, self.head, dim=dim),
            temperature,
            period,
        )
        self.objective = Objective(ClassNormaliser(clusters) + Alternation(), Constant(), ClassScore(clusters))

    @classmethod
    def _assemble(cls, encoder: nn.Module, dim: int, head: tuple[int, ...], example: Groups, **settings: Any) -> Self:
        settings.setdefault("num_groups", example.total)
        return cls(encoder, mlp_head(dim, head), **settings)

"""Classes from clustering: DeepCluster's alternation between k-means and classification."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genssl.errors import SettingsError
from genssl.groups import Groups
from genssl.terms.batch import unit, views
from genssl.terms.classes import Classes, cosines
from genssl.terms.traces import Traces
from genssl.training_set import training_place

ITERATIONS = 10  # of spherical k-means, from where the centroids are


class Clusters(Classes):
    r"""K clusters of the training groups: scores zhat . c_k / temperature with the centroids of spherical k-means, labels its assignments.

    Every group's mean direction is kept in a bank when it is seen, and every `period` steps (default: one pass over the training set)
    the bank is clustered anew from the centroids as they are, an empty cluster taking over half of the largest. Until then, and for
    groups not seen yet, the label is not known (-1) and adds nothing, but for the first period: then labels are random.

    Source: Caron et al. 2018 (DeepCluster, arXiv:1807.05520), as reworked in Caron et al. 2020 (arXiv:2006.09882, DeepCluster-v2): bank,
    spherical k-means, centroids in place of a learned classifier.
    """

    capturable = False  # when to cluster is counted, and decided, in Python
    bank: Tensor
    seen: Tensor
    assignment: Tensor
    centroids: Tensor

    def __init__(
        self, num_groups: int, num_clusters: int, dim: int, temperature: float = 0.1, period: int | None = None
    ) -> None:
        super().__init__()
        if not 1 <= num_clusters <= num_groups or not temperature > 0:
            raise SettingsError(
                f"Clusters: num_clusters = {num_clusters} of {num_groups} groups and temperature = {temperature}, expected "
                "at least one, at most one a group, and a positive number"
            )
        self.temperature, self.period, self.steps = float(temperature), period, 0
        self.register_buffer("bank", torch.zeros(num_groups, dim))
        self.register_buffer("seen", torch.zeros(num_groups, dtype=torch.bool))
        self.register_buffer("assignment", torch.zeros(num_groups, dtype=torch.long))
        self.register_buffer("centroids", torch.zeros(num_clusters, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.centroids.copy_(unit(torch.randn_like(self.centroids)))
        self.assignment.copy_(torch.randint_like(self.assignment, len(self.centroids)))

    def classes(self, groups: Groups) -> Tensor:
        place = training_place(groups, len(self.bank), self.training)
        return torch.where(place >= 0, self.assignment[place.clamp(min=0)], -1)

    def forward(self, z: Tensor, which: Tensor | None = None) -> Tensor:
        return cosines(z, self.centroids, which) / self.temperature

    def advance(self, traces: Traces) -> None:
        z, groups = unit(views(traces, "z")), traces.groups
        mean = torch.where(groups.valid.unsqueeze(-1), z, 0.0).sum(1)
        place = training_place(groups, len(self.bank), self.training)
        self.bank[place] = unit(mean).to(self.bank.dtype)
        self.seen.index_fill_(0, place, True)  # an assignment would bring the True from the host
        self.steps += 1
        if self.steps % (self.period or max(1, len(self.bank) // groups.num_groups)) == 0:
            self.cluster()

    def cluster(self) -> None:
        """Spherical k-means of the groups seen so far; the labels of the others become -1."""
        weight = self.seen.to(self.bank.dtype)
        for _ in range(ITERATIONS):
            nearest = (self.bank @ self.centroids.T).argmax(-1)
            share = nn.functional.one_hot(nearest, len(self.centroids)).to(self.bank.dtype) * weight[:, None]
            count = share.sum(0)
            centroids = unit(share.T @ self.bank)
            # An empty cluster starts beside the centre of the largest, which then splits between them.
            beside = unit(centroids.index_select(0, count.argmax().unsqueeze(0)) + 0.01 * self.centroids)
            self.centroids.copy_(torch.where((count > 0)[:, None], centroids, beside))
        nearest = (self.bank @ self.centroids.T).argmax(-1)
        self.assignment.copy_(torch.where(self.seen, nearest, -1))

    def get_extra_state(self) -> Any:
        return {"steps": self.steps}

    def set_extra_state(self, state: Any) -> None:
        self.steps = int(state["steps"])

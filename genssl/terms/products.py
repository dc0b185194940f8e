"""Attraction and normaliser by scalar products of representations as they are: CPC's bilinear score, CLIP's scaled cosine."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genssl.terms.base import Term
from genssl.terms.batch import anchor_sum, pairs, views
from genssl.terms.traces import Traces


class ProductAttraction(Term):
    r"""sum_i mean_{j != i} a_i . z_j, a = the guide site `site`: log p(z_j | z_i) up to its normaliser. {"z": [G]} nats.

    Sources: van den Oord et al. 2018 (CPC, arXiv:1807.03748), numerator of Eq. 4 with Eq. 3's f = exp(z' W c), a = W c; Radford et al. 2021
    (CLIP, arXiv:2103.00020), Figure 3, where z has the learned length. Alone it grows without limit.
    """

    slots = ("prior",)
    space = "plane"
    guide_family = "delta"

    def __init__(self, site: str = "z") -> None:
        super().__init__()
        self.site = site
        self.needs = frozenset({"predictor"}) if site == "z_predicted" else frozenset()

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        scores = views(traces, self.site) @ views(traces, "z").mT
        return {"z": anchor_sum(scores, traces.groups.valid)}

    def extra_repr(self) -> str:
        return "" if self.site == "z" else f"site={self.site}"


class ProductNormaliser(Term):
    r"""-sum_i mean_{j != i} log sum_g' exp(a_i . z_j(g')), over view j of all groups g' of the batch, the own one too. {"z": [G]} nats.

    Sources as ProductAttraction. Unlike SimCLR's normaliser each candidate is of the other view (or modality) alone. Score plus
    normaliser is at most 0, and log G + their mean is a lower bound on I[z_i; z_j] that cannot exceed log G.
    """

    slots = ("reconstruction",)
    space = "plane"
    couples = True
    guide_family = "delta"

    def __init__(self, site: str = "z") -> None:
        super().__init__()
        self.site = site
        self.needs = frozenset({"predictor"}) if site == "z_predicted" else frozenset()

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        anchors, z, valid = views(traces, self.site), views(traces, "z"), traces.groups.valid
        scores = torch.einsum("gid,hjd->gijh", anchors, z)
        chosen = pairs(valid)
        scores = torch.where(valid.T, scores, -torch.inf)  # view j of group h
        normaliser = torch.where(chosen.unsqueeze(-1), scores, 0.0).logsumexp(-1)
        mean = torch.where(chosen, normaliser, 0.0).sum(2) / chosen.sum(2).clamp(min=1)
        return {"z": -mean.sum(1)}

    def extra_repr(self) -> str:
        return "" if self.site == "z" else f"site={self.site}"

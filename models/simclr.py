"""SimCLR: the ELBO with the likelihood replaced by the batch's contrastive normaliser."""

from __future__ import annotations

from genssl.models.discriminative import DiscriminativeMethod
from torch import nn

from genssl.objective import Objective
from genssl.terms import Constant, ContrastiveNormaliser, CosineAttraction


class SimCLR(DiscriminativeMethod):
    r"""Every view is to be told from all other views of the batch by the views of its own group.

        objective = - sum_i log sum_{a != i} exp(cos(z_i, z_a) / t)        in place of log p(x | z)
                    + 0                                                    a deterministic guide
                    + sum_i mean_{j != i} cos(z_i, z_j) / t                in place of log p(z): von Mises-Fisher around another view

    Source: Chen et al. 2020 (ICML, arXiv:2002.05709), Eq. 1. c = J: -mean(elbo) is J times the published mean over anchors (ragged: the
    anchors that have a positive, over G). For J > 2 every other view is a positive, outside the logarithm. The mutual information
    of two views is at most the log of the batch, which the objective cannot tell from more. Content alone need be kept: style that
    augmentation changes is pushed out.

    Args:
        head: the projection head, None for none.  temperature: t (the paper's best 0.5 on CIFAR-10; 0.7 in Bizeul et al. 2024).
    """

    source = "Chen et al. 2020, ICML, arXiv:2002.05709, Eq. 1"
    collapses = "not while the batch has other groups; small batches or high temperature leave groups close together"

    def __init__(self, encoder: nn.Module, head: nn.Module | None = None, *, temperature: float = 0.5) -> None:
        super().__init__(encoder, head)
        self.objective = Objective(ContrastiveNormaliser(temperature), Constant(), CosineAttraction(temperature))

"""VI-SimSiam: SimSiam as inference, with a concentration of its own for every input."""

from __future__ import annotations

from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from genssl.models.discriminative import mlp_head
from genssl.models.spherical import SphericalMethod
from torch import Tensor, nn

from genssl.distributions import PowerSpherical
from genssl.groups import Groups
from genssl.networks import output_size
from genssl.objective import Objective
from genssl.terms import PosteriorEntropy, SphericalAttraction, StopGradient


class VISimSiam(SphericalMethod):
    r"""q(z | x) = PowerSpherical(mu(x), k(x)); another view's direction is to be likely under the predicted one, at this view's k.

        objective = 0 (stopped gradient)  + sum_i H[q_i]  + sum_i [ -H[q_i] + mean_{j != i} log PS(mu_i; predictor(mu_j), k_j) ]

    Source: Nakamura et al. 2023 (VI-SimSiam, ICCV, arXiv:2203.11437), from its abstract and what others tell of it: alignment
    E_q sum_j log p(z | x_j), uniformity, KL to the uniform law. Ours: q is the mixture of the views' own laws bounded by its members,
    whose entropy then cancels against the own view's share of the alignment; uniformity is left to predictor and stopped gradient, as
    in SimSiam. The weights of their three terms could not be had.

    k is learned by likelihood: about (D - 1) / (1 - cos) of what the view predicts, so inputs whose other views cannot be predicted are
    unsure. It is a precision of prediction, of the predictor's errors too, and no posterior of a generative model. Nothing but the bound on
    k holds its likelihood, so that codes which views agree on may gain by k what they lose in dimensions: on FashionMNIST one dimension was
    left after 2623 steps; on digits it did not collapse (results/discriminative.md). It does not separate where SimSiam does not.

    The directions (without a head those of the representation itself) go through a BatchNorm without scale and shift, as at the end of
    SimSiam's head; k does not, since over a batch its level is what is to be learned.

    Args:
        predictor: [N, D] -> [N, D] on the direction, None for the identity (which collapses).
        concentration_start: k of a network that gives 0.
    """

    family = PowerSpherical
    source = "Nakamura et al. 2023, ICCV, arXiv:2203.11437 (abstract)"
    collapses = (
        "as SimSiam: without predictor, stopped gradient or BatchNorm of directions; on FashionMNIST even with all three "
        "(results/discriminative.md)"
    )
    predictor: nn.Module

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module | None = None,
        predictor: nn.Module | None = None,
        *,
        concentration_start: float = 16.0,
    ) -> None:
        super().__init__(encoder, head, concentration_start=concentration_start)
        self.predictor = nn.Identity() if predictor is None else predictor
        self.objective = Objective(StopGradient(), PosteriorEntropy(), SphericalAttraction())

    def guide(self, groups: Groups) -> None:
        """z [G, J, D] on the sphere, and z_predicted, whose length is the view's concentration."""
        law = self.views_posterior(groups)
        bare = law if groups.mask is None else law.base_dist
        direction = groups.unpack(self.predictor(groups.pack(bare.loc)))
        with groups.plate:
            pyro.sample("z", law.to_event(1))
            predicted = nn.functional.normalize(direction, dim=-1) * bare.concentration.unsqueeze(-1)
            pyro.sample("z_predicted", dist.Delta(predicted).to_event(2))

    @classmethod
    def _assemble(cls, encoder: nn.Module, dim: int, head: tuple[int, ...], example: Groups, **settings: Any) -> Self:
        made = mlp_head(dim, head)
        width = output_size(encoder, *([made] if made else [])) - 1
        norm = DirectionNorm(width)
        if made is None:
            encoder = nn.Sequential(encoder, norm)
        else:
            made = nn.Sequential(made, norm)
        settings.setdefault(
            "predictor", mlp_head(width, (max(width // 4, 8), width))
        )  # None: the identity, which collapses
        return cls(encoder, made, **settings)


class DirectionNorm(nn.Module):
    """[N, D + 1] -> [N, D + 1]: BatchNorm without scale and shift of all columns but the last, the log concentration."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)

    def forward(self, output: Tensor) -> Tensor:
        return torch.cat([self.norm(output[..., :-1]), output[..., -1:]], -1)

"""MCInfoNCE: contrastive learning of posteriors, whose draws are averaged inside the logarithm."""

from __future__ import annotations

import pyro
from genssl.models.spherical import SphericalMethod
from torch import nn

from genssl.distributions import VonMisesFisher
from genssl.groups import Groups
from genssl.objective import Objective
from genssl.terms import AveragedNormaliser, Constant, CosineAttraction, MonteCarloContrast


class MCInfoNCE(SphericalMethod):
    r"""q(z | x) = vMF(mu(x), kappa(x)); the probability that a view of the own group is the positive, averaged over draws of all z.

        objective = sum_i mean_{j != i} log mean_s e^{k z_i.z_j} / (e^{k z_i.z_j} + mean_g' e^{k z_i.z_j(g')})

    Source: Kirchhof, Kasneci, Oh 2023 (ICML, arXiv:2302.02865). c = J: -mean(elbo) is J times the published mean over anchors, which
    there are the first views alone. It does not separate: attraction and repulsion are inside one average. separated=True takes the
    bound by Jensen's inequality that does (the logarithm's average in place of the average's logarithm), which rewards sure
    posteriors more.

    Where x does not tell which positive is to come, a wide q wins: kappa measures ambiguity. The source proves that the true posteriors
    are recovered up to a rotation, and fits mu first, then kappa with mu held. Fitted jointly against the
    mean of negatives, as here, a narrow cone of sure posteriors is better than the truth (results/recovery.md), and kappa runs to its
    cap: do not read it as a calibrated concentration. There is no entropy term: the entropy slot is constant.

    Args:
        concentration: k of the positive around the anchor, 16 in the source.  num_samples: draws.
        concentration_start: kappa of a network that gives 0.
    """

    family = VonMisesFisher
    source = "Kirchhof, Kasneci, Oh 2023, ICML, arXiv:2302.02865"
    collapses = (
        "fitted jointly: into a cone of sure posteriors, kappa at its cap; separated: kappa grows where views agree"
    )

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module | None = None,
        *,
        concentration: float = 16.0,
        num_samples: int = 16,
        separated: bool = False,
        concentration_start: float = 16.0,
    ) -> None:
        super().__init__(encoder, head, concentration_start=concentration_start)
        if separated:
            self.objective = Objective(
                AveragedNormaliser(concentration),
                Constant(),
                CosineAttraction(1 / concentration),
                num_particles=num_samples,
            )
        else:
            self.objective = Objective(MonteCarloContrast(concentration, num_samples), Constant(), Constant())

    def guide(self, groups: Groups) -> None:
        """z [G, J, D] on the sphere."""
        with groups.plate:
            pyro.sample("z", self.views_posterior(groups).to_event(1))

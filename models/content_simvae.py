"""SimVAE with the content as a site of its own."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from genssl.models.simvae import SimVAE
from torch import nn

from genssl.distributions import GroupPosterior
from genssl.errors import SettingsError
from genssl.groups import Groups
from genssl.objective import Objective
from genssl.terms import PosteriorEntropy


class ContentSimVAE(SimVAE):
    r"""y -> z_j -> x_j with y sampled: the model of SimVAE written out, and the exact q(y | z_1..z_J) = p(y | z_1..z_J).

        log p(y) + sum_j log p(z_j | y) - log q(y | z_1..z_J) = log p(z_1..z_J)     for every y (Bayes' rule)

    so its ELBO equals SimVAE's at every draw, and sampling y adds no variance. Source: Bizeul et al. 2024 (arXiv:2402.01399),
    Eq. 3. Use it where y itself is wanted as a site (conditioning, prediction, a richer p(y)); NESTED layout.

    Args: as SimVAE.
    """

    source = "Bizeul, Schoelkopf, Allen 2024, arXiv:2402.01399, Eq. 3 and 4"

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        view_scale: float,
        likelihood_scale: float,
        *args: Any,
        **rest: Any,
    ) -> None:
        # -log q(y | z) must be taken at the draw for the identity to hold draw by draw; z's entropy stays analytic.
        rest.setdefault("objective", None)
        if rest["objective"] is None:
            rest["objective"] = Objective(entropy=PosteriorEntropy(analytic={"z"}))
        super().__init__(encoder, decoder, view_scale, likelihood_scale, *args, **rest)

    def model(self, groups: Groups) -> None:
        """NESTED layout: y [G, 1, D], z [G, J, D], x [G, J, *event]."""
        groups_plate, views_plate = groups.plates
        with groups_plate:
            y = pyro.sample("y", self.content_prior(groups))
            with views_plate:
                loc = y.expand(-1, groups.num_views, -1)
                # A number as the scale would be sent to a GPU, and the host would wait.
                view = dist.Normal(loc, torch.full_like(loc, self.view_scale))
                z = pyro.sample("z", _masked(view, groups).to_event(1))
                with pyro.poutine.scale(scale=self.likelihood_weight):
                    pyro.sample("x", self.observation(z, groups), obs=self.target(groups))

    def guide(self, groups: Groups) -> None:
        """q(z_j | x_j) for every view, then the exact q(y | z_1..z_J)."""
        groups_plate, views_plate = groups.plates
        with groups_plate, views_plate:
            z = pyro.sample("z", self.views(groups).to_event(1))
        with groups_plate:
            given_z = self.prior(groups).content_posterior(z)
            pyro.sample("y", dist.Normal(given_z.mean.unsqueeze(1), given_z.stddev.unsqueeze(1)).to_event(1))

    def views(self, groups: Groups) -> Any:
        """The law of every z_j, batch [G, J, D], masked where views are padded."""
        law = self.joint(groups)
        if isinstance(law, GroupPosterior):
            raise SettingsError(
                "ContentSimVAE: a product of experts draws all views of a group at once, expected a law of each; take SimVAE, or "
                'group_guide="set"'
            )
        return law.base_dist

    def content_prior(self, groups: Groups) -> Any:
        """p(y), batch [G, 1], event [D]: Normal, or density 1 everywhere where it is flat."""
        shape = (groups.num_groups, 1)
        if self.content_scale is None:
            return dist.ImproperUniform(dist.constraints.real_vector, shape, (self.dim,))
        zero = torch.zeros(*shape, self.dim, device=groups.device)
        return dist.Normal(zero, torch.full_like(zero, self.content_scale)).to_event(1)


def _masked(view: Any, groups: Groups) -> Any:
    return view if groups.mask is None else view.mask(groups.mask.unsqueeze(-1))

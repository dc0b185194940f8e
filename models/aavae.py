"""AAVAE: an autoencoder that is regularised by augmentation alone."""

from __future__ import annotations

from typing import Any

from genssl.models.vae import VAE
from torch import Tensor, nn

from genssl.errors import DataError, SettingsError, ShapeError
from genssl.groups import Groups
from genssl.objective import Objective
from genssl.terms import LogPrior, PosteriorEntropy


class AAVAE(VAE):
    r"""From every view, reconstruct the item that it was made from; augmentation takes the place of the KL.

        objective = sum_j E_{q(z_j | x_j)} log p(x | z_j) - kl_weight KL[q(z_j | x_j) || N(0, I)],      x = groups.source, kl_weight = 0

    Generative story: z ~ N(0, I), x | z, as in the VAE; the guide sees an augmentation x_j of x. With kl_weight 1, as `.elbo` reports
    it whatever the weight, the sum is a lower bound on J log p(x) of the item, for any guide. At kl_weight 0 nothing holds q near the
    prior: its scale falls, the scale of z is free, and the ELBO that is reported is poor while the representation need not be.

    Source: Falcon, Jha, Koker, Cho 2021 (arXiv:2107.12329), Eq. 5; there the likelihood scale is 1, which at kl_weight 0 only scales the
    loss. The decoder cannot use what tells the views apart, so z is free to drop style; nothing but the bottleneck asks it to. It does
    not collapse while the items differ.

    Needs `groups.source`: items whose views are made by `fit`, not groups without an original.

    Args:
        kl_weight: weight of entropy and prior together, at least 0.  The rest: VAE.
    """

    source = "Falcon, Jha, Koker, Cho 2021, arXiv:2107.12329, Eq. 5"
    collapses = "not while items differ; views that no longer tell which item they come from are decoded to a blur"

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood_scale: float = 1.0,
        *,
        kl_weight: float = 0.0,
        **rest: Any,
    ) -> None:
        if not kl_weight >= 0:
            raise SettingsError(f"AAVAE: kl_weight = {kl_weight}, expected a number of at least 0")
        if rest.get("objective") is None:
            rest["objective"] = Objective(entropy=kl_weight * PosteriorEntropy(), prior=kl_weight * LogPrior())
        super().__init__(encoder, decoder, likelihood_scale, **rest)
        self.kl_weight = float(kl_weight)

    def target(self, groups: Groups) -> Tensor:
        """The item itself, once for every view."""
        if groups.source is None:
            raise DataError(
                "AAVAE: groups.source is None, expected the item before augmentation; give items and let fit make the views, or set "
                "Groups(x, source=...)"
            )
        if tuple(groups.source.shape[1:]) != groups.event_shape:
            raise ShapeError(
                f"AAVAE: items have shape {list(groups.source.shape[1:])} and views {list(groups.event_shape)}, expected the same; use "
                "views that keep the size"
            )
        return groups.source.unsqueeze(1).expand(-1, groups.num_views, *groups.event_shape)

"""SimVAE whose content comes from a learned mixture, with labels where they are known."""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from genssl.models.method import GenerativeMethod
from torch import Tensor, nn

from genssl.distributions import GroupMixture
from genssl.errors import DataError, SettingsError
from genssl.groups import Groups
from genssl.host_sync import readable
from genssl.objective import Objective
from genssl.training_set import is_training, training_place


class Components(nn.Module):
    """The learned p(y) = sum_k pi_k N(m_k, diag c_k^2): logits [K], loc [K, D], log_scale [K, D]; means start as draws of N(0, I).

    The parameters behind loc and log_scale are these divided by UNIT, so that one step of Adam moves a mean by about UNIT times the
    learning rate; not those of the logits, since a component that loses its weight before it has moved stays empty.
    (Of plain SGD it is UNIT^2: give these parameters a rate of their own there.)
    """

    # Means lie a few units apart, weights of networks are hundredths: at a rate of 1e-3 that suits the networks, Adam carries a mean
    # at most about 2 units in 4000 steps of a falling rate, and the components stay where they happened to start.
    UNIT = 50.0

    def __init__(self, num_components: int, dim: int, content_scale: float) -> None:
        super().__init__()
        if num_components < 1:
            raise SettingsError(f"MixtureSimVAE: num_components = {num_components}, expected at least 1")
        if not 0 < content_scale < math.inf:
            raise SettingsError(
                f"MixtureSimVAE: content_scale = {content_scale}, expected a positive standard deviation"
            )
        self.content_scale = content_scale
        self.logits = nn.Parameter(torch.empty(num_components))
        self.stored_loc = nn.Parameter(torch.empty(num_components, dim))
        self.stored_log_scale = nn.Parameter(torch.empty(num_components, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.logits.zero_()
            self.stored_loc.normal_().div_(self.UNIT)
            self.stored_log_scale.fill_(math.log(self.content_scale) / self.UNIT)

    @property
    def loc(self) -> Tensor:
        return self.UNIT * self.stored_loc

    @property
    def log_scale(self) -> Tensor:
        return self.UNIT * self.stored_log_scale


class MixtureSimVAE(GenerativeMethod):
    r"""k -> y -> z_j -> x_j: content from one of K learned components, k and y integrated out; labels observed for some groups.

        p(y) = sum_k pi_k N(y; m_k, diag c_k^2),   p(z_1..z_J) in closed form (genssl.distributions.GroupMixture)
        ELBO = sum_j E_q log p(x_j | z_j) + sum_j H[q(z_j | x_j)] + E_q log p(z_1..z_J)  [ + E_q log p(k = label | z_1..z_J) ]

    For a labelled group log p(z) + log p(k | z) = log pi_k + log p(z | k): the same model with k observed, written so that the label is
    a site of its own, which has a weight. At weight 1 the sum is a lower bound on log p(x, the labels shown). At (groups / labels
    shown), the scale of a subsampled plate, it estimates the bound on log p(x, all labels) without bias, since the groups that show
    their label are a uniformly random choice.

    Sources: the mixture prior over content that Bizeul et al. 2024 (arXiv:2402.01399, section 4) names and does not fit; labels as in
    Kingma, Rezende, Mohamed, Welling 2014 (NeurIPS, arXiv:1406.5298), whose alpha also weighs them up. The guide is SimVAE's.

    Loose as SimVAE is. Without labels a component is a cluster of groups, not a class; components can stay empty or share a cluster
    (start them wide, content_scale about 1). It collapses where SimVAE does, and with few components of small scale all content is
    pulled onto K points. Labels are read off the views that training shows, one Gaussian a class: where views are far from the clean
    items, or classes are no clusters of z, p(k | x) of a clean item falls behind a probe that was shown clean items.

    Args:
        view_scale: standard deviation of z_j around y.
        num_components: K; with labels, at least the number of classes: label c is component c.
        content_scale: where the learned standard deviations of the components start.
        labels: how many training groups show their label: a fixed random choice of `num_groups` places, blind to the classes and the
            same for every seed. None: every group whose label is not negative; 0: none. No other label is looked at. Which place a
            group has is its `rows` in batches of `fit`, its `index` in a loop of your own; groups that are not of the training set
            (another total, outside training mode) show none.
        label_weight: weight of log p(k = label | z), at least 0. None: num_groups / labels where `labels` is a number above 0, else
            1 (with labels=None and few labels among many groups, give their ratio). Far below that, components settle on the density
            of all groups and the labels are hardly heard.  The rest: GenerativeMethod.
    """

    source = "Bizeul et al. 2024, arXiv:2402.01399, section 4; Kingma et al. 2014, arXiv:1406.5298"
    collapses = "as SimVAE; components stay empty or share a cluster"
    defaults = {
        "digits": {"num_views": 4, "batch_size": 128, "lr": 1e-3, "epochs": 200},
        "": {"num_views": 4, "batch_size": 128, "lr": 1e-3, "epochs": 50},
    }

    shown: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        view_scale: float,
        likelihood_scale: float,
        *,
        num_components: int = 10,
        content_scale: float = 1.0,
        labels: int | None = 0,
        label_weight: float | None = None,
        num_groups: int | None = None,
        likelihood: nn.Module | None = None,
        dim: int | None = None,
        objective: Objective | None = None,
        group_guide: nn.Module | None = None,
    ) -> None:
        super().__init__(
            encoder, decoder, likelihood_scale=likelihood_scale, likelihood=likelihood, dim=dim, group_guide=group_guide
        )
        if labels is not None and (isinstance(labels, bool) or labels < 0):
            raise SettingsError(
                f"MixtureSimVAE: labels = {labels}, expected a number of groups, or None for all that have one"
            )
        if label_weight is not None and not 0 <= label_weight < math.inf:
            raise SettingsError(
                f"MixtureSimVAE: label_weight = {label_weight}, expected a finite number of at least 0, or None"
            )
        self.components = Components(num_components, self.dim, content_scale)
        self.view_scale, self.labels = view_scale, labels
        if labels and num_groups is None:
            raise SettingsError(
                f"MixtureSimVAE: labels = {labels} of how many? expected num_groups, the size of the training set"
            )
        if labels and num_groups is not None and labels > num_groups:
            raise SettingsError(
                f"MixtureSimVAE: labels = {labels} of {num_groups} training groups, expected at most that many"
            )
        if label_weight is None:
            label_weight = num_groups / labels if labels and num_groups else 1.0
        self.label_weight = float(label_weight)
        shown = torch.zeros(num_groups or 0, dtype=torch.bool)
        shown[torch.randperm(len(shown), generator=torch.Generator().manual_seed(0))[: labels or 0]] = True
        self.register_buffer("shown", shown, persistent=False)
        self.objective = Objective() if objective is None else objective

    def model(self, groups: Groups) -> None:
        """JOINT layout: z [G, J, D] with k and y integrated out; x from z; the component of the groups that are labelled."""
        prior, known = self.prior(groups), self.known(groups)
        with groups.plate:
            z = pyro.sample("z", prior)
            self.observe(z, groups)
            if known is not None and self.label_weight:
                with pyro.poutine.scale(scale=self.label_weight):
                    pyro.sample("label", prior.component(z).mask(known), obs=groups.label.clamp(min=0))  # type: ignore[union-attr]

    def prior(self, groups: Groups) -> GroupMixture:
        """p(z_1..z_J) for these groups, event (J, D)."""
        parts = self.components
        return GroupMixture(
            self.view_scale, groups.num_views, parts.logits, parts.loc, parts.log_scale.exp(), groups.mask
        )

    def known(self, groups: Groups) -> Tensor | None:
        """[G] bool, which groups show their label; None where none does."""
        if self.labels == 0:
            return None
        if groups.label is None or groups.label.dim() != 1:
            raise DataError(
                "MixtureSimVAE: labels are to be observed, but the groups have no label [G]; give labels, or labels=0"
            )
        components = len(self.components.logits)
        if readable(groups.label) and int(groups.label.max()) >= components:
            raise DataError(
                f"MixtureSimVAE: labels go up to {int(groups.label.max())}, but there are {components} components, one for each class; "
                f"give num_components={int(groups.label.max()) + 1}"
            )
        given = groups.label >= 0
        if self.labels is None:
            return given
        if not is_training(groups, len(self.shown), self.training):
            return None
        place = training_place(groups, len(self.shown), self.training)
        return given & (place >= 0) & self.shown[place.clamp(min=0)]

    def classify(self, groups: Groups) -> Any:
        """p(k | x_1..x_J) at the posterior means: batch [G], a Categorical over the K components (classes, where labels were shown)."""
        return self.prior(groups).component(self._means(groups)[0])

    def content(self, groups: Groups) -> Any:
        """q(y | x_1..x_J), a mixture of K Normals: batch [G], event [D]; p(k | z) is taken at the posterior means."""
        loc, spread = self._means(groups)
        return self.prior(groups).content_posterior(loc, spread)

    def _means(self, groups: Groups) -> tuple[Tensor, Tensor]:
        """Posterior means [G, J, D], and the variance of their mean over views [G, D]."""
        posterior = self.joint(groups)
        variance = posterior.variance if groups.mask is None else posterior.variance * groups.mask.unsqueeze(-1)
        return posterior.mean, variance.sum(-2) / groups.count.unsqueeze(-1).to(variance.dtype) ** 2

    @classmethod
    def build(cls, example: Groups, *, view_scale: float = 0.15**0.5, **settings: Any) -> MixtureSimVAE:
        settings.setdefault("num_groups", example.total)
        return super().build(example, view_scale=view_scale, **settings)

"""The Neural Statistician: content as a site that the guide reads off the whole group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from genssl.models.method import SCALE, GenerativeMethod, event_shape_of, latent_dim, make_likelihood, widths_of
from torch import Tensor, nn

from genssl.distributions import Gaussian, at_least_float32
from genssl.errors import SettingsError
from genssl.groups import Groups
from genssl.networks import default_network, make_decoder, make_encoder
from genssl.networks.mlp import mlp
from genssl.objective import Objective


class NeuralStatistician(GenerativeMethod):
    r"""y ~ N(0, I), z_j | y ~ N(m(y), diag s(y)^2) with learned m and s, x_j | z_j; the guide sees the whole group.

        log p(x_1..x_J) >= sum_j E_q log p(x_j | z_j) + H[q(y | x_1..x_J)] + sum_j E_q H[q(z_j | x_j, y)]
                           + E_q [log p(y) + sum_j log p(z_j | y)]

    Source: Edwards and Storkey 2017 (ICLR, arXiv:1606.02185), the basic model of section 3. The graph is SimVAE's; p(z | y) is
    learned where SimVAE's is N(y, view_scale^2 I), y may have another size than z, and z_j sees the other views through y.

    q(y | x_1..x_J): features of the views are averaged, and a network turns the average into a location and a scale r of what ONE
    view says; its variance is 1 / (1 + J / r^2), the precisions of the prior and of J views added up. So it does not depend on the
    order of the views, takes any number of them, and sharpens with each (in the original the network gives the variance itself,
    which need not). The annealed weights of its released code are left out: this is the plain bound.

    It collapses as other hierarchical VAEs do: p(z | y) may ignore y, whose posterior is then its prior (content in z alone).
    `encode` is q(z | x, y) at the mean of q(y | x), the group being that one view. Groups of one view are a VAE of two layers, in which
    nothing says what is shared.

    Args:
        encoder: [N, *event] -> [N, H], features of a view.  decoder: [N, D] -> [N, *event].
        content_network: [..., H] -> [..., 2C], from averaged features to location and log scale.
        view_network: [..., H + C] -> [..., 2D], from a view's features and y to z.
        prior_network: [..., C] -> [..., 2D], from y to p(z | y).
        dim, content_dim: D and C.  The rest: GenerativeMethod.
    """

    networks = ("encoder", "decoder", "content_network", "view_network", "prior_network")
    source = "Edwards and Storkey 2017, ICLR, arXiv:1606.02185, section 3"
    collapses = "p(z | y) that ignores y: q(y | x) becomes N(0, I)"
    defaults = {
        "digits": {"num_views": 4, "batch_size": 128, "lr": 1e-3, "epochs": 200},
        "": {"num_views": 4, "batch_size": 128, "lr": 1e-3, "epochs": 50},
    }

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        content_network: nn.Module,
        view_network: nn.Module,
        prior_network: nn.Module,
        likelihood_scale: float,
        *,
        likelihood: nn.Module | None = None,
        dim: int,
        content_dim: int,
        objective: Objective | None = None,
    ) -> None:
        super().__init__(encoder, decoder, likelihood_scale=likelihood_scale, likelihood=likelihood, dim=dim)
        self.content_dim = content_dim
        self.content_network, self.view_network, self.prior_network = content_network, view_network, prior_network
        self.objective = Objective() if objective is None else objective

    def model(self, groups: Groups) -> None:
        """NESTED layout: y [G, 1, C], z [G, J, D], x [G, J, *event]."""
        groups_plate, views_plate = groups.plates
        with groups_plate:
            y = pyro.sample("y", self.content_prior(groups))
            with views_plate:
                view = self._normal(self.prior_network(y))  # [G, 1, D], the same for every view
                view = view.expand((groups.num_groups, groups.num_views, view.loc.shape[-1]))
                z = pyro.sample("z", _masked(view, groups).to_event(1))
                pyro.sample("x", self.observation(z, groups), obs=self.target(groups))

    def guide(self, groups: Groups) -> None:
        """q(y | x_1..x_J), then q(z_j | x_j, y)."""
        self._event_dim = len(groups.event_shape)
        features = at_least_float32(groups.map(self.encoder))
        groups_plate, views_plate = groups.plates
        with groups_plate:
            content = self._content(features, groups.valid)
            y = pyro.sample("y", dist.Normal(content.loc.unsqueeze(1), content.scale.unsqueeze(1)).to_event(1))
            with views_plate:
                pyro.sample("z", _masked(self._view(features, y), groups).to_event(1))

    def content_prior(self, groups: Groups) -> Any:
        """p(y) = N(0, I), batch [G, 1], event [C]."""
        zero = torch.zeros(groups.num_groups, 1, self.content_dim, device=groups.device)
        return dist.Normal(zero, torch.ones_like(zero)).to_event(1)

    def content(self, groups: Groups) -> Any:
        """q(y | x_1..x_J): batch [G], event [C]."""
        return self._content(at_least_float32(groups.map(self.encoder)), groups.valid).to_event(1)

    def encode(self, x: Tensor) -> Any:
        features = at_least_float32(self._leading(self.encoder, x)).unsqueeze(-2)  # each x a group of one view
        valid = torch.ones(features.shape[:-1], dtype=torch.bool, device=x.device)
        y = self._content(features, valid).loc.unsqueeze(-2)
        view = self._view(features, y)
        return dist.Normal(view.loc.squeeze(-2), view.scale.squeeze(-2)).to_event(1)

    def _content(self, features: Tensor, valid: Tensor) -> Any:
        """features [..., J, H], valid [..., J] -> the Normal of y, [..., C]."""
        count = valid.sum(-1, keepdim=True).to(features.dtype)
        mean = torch.where(valid.unsqueeze(-1), features, 0.0).sum(-2) / count
        loc, log_scale = at_least_float32(self.content_network(mean)).chunk(2, -1)
        return dist.Normal(loc, (1 + count * (-2 * log_scale).exp()).rsqrt())

    def _view(self, features: Tensor, y: Tensor) -> Any:
        """features [..., J, H], y [..., 1, C] -> the Normal of every z_j, [..., J, D]."""
        y = y.expand(*features.shape[:-1], y.shape[-1])
        return self._normal(self.view_network(torch.cat([features, y], -1)))

    @classmethod
    def build(
        cls,
        example: Groups,
        *,
        dim: int | None = None,
        content_dim: int | None = None,
        network: str | None = None,
        hidden: Sequence[int] | None = None,
        likelihood: str | nn.Module = "gaussian",
        likelihood_scale: float | None = None,
        learned_scale: bool | str = False,
        group_guide: str | nn.Module | None = None,
        **settings: Any,
    ) -> NeuralStatistician:
        """As GenerativeMethod.build; content_dim: C, default D. The encoder gives 256 features, the small networks have one hidden layer
        of 256 (with hidden given: of its last width)."""
        if group_guide is not None:
            raise SettingsError(
                f"NeuralStatistician: group_guide = {group_guide!r}, expected none: its guide q(y | x_1..x_J) sees the group already"
            )
        shape = event_shape_of(example, cls)
        network = default_network(shape) if network is None else network
        dim = latent_dim(dim, network)
        content_dim = dim if content_dim is None else content_dim
        width = hidden[-1] if hidden else 256
        likelihood = make_likelihood(shape, likelihood, likelihood_scale, learned_scale)
        squash = isinstance(likelihood, Gaussian) and len(shape) == 3
        method = cls(
            nn.Sequential(make_encoder(network, shape, width, hidden), nn.ReLU()),
            make_decoder(network, dim, shape, hidden, sigmoid=squash),
            nn.Sequential(*mlp([width, width, 2 * content_dim])),
            nn.Sequential(*mlp([width + content_dim, width, 2 * dim])),
            nn.Sequential(*mlp([content_dim, width, 2 * dim])),
            likelihood_scale or SCALE,
            likelihood=likelihood,
            dim=dim,
            content_dim=content_dim,
            **settings,
        )
        method._event_dim = len(shape)
        of_gaussian = {"likelihood_scale": likelihood_scale or SCALE} if isinstance(likelihood, Gaussian) else {}
        method.built_with = widths_of(network, shape, hidden) | {"dim": dim, "content_dim": content_dim} | of_gaussian
        return method


def _masked(view: Any, groups: Groups) -> Any:
    return view if groups.mask is None else view.mask(groups.mask.unsqueeze(-1))

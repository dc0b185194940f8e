"""What every method of the gallery has in common, and what the generative ones share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import pyro
import pyro.distributions as dist
from genssl.models.group_guides import make_group_guide
from genssl.models.swap import swap
from torch import Tensor, nn

from genssl.distributions import Bernoulli, ContinuousBernoulli, Gaussian, at_least_float32
from genssl.errors import SettingsError, ShapeError
from genssl.groups import Groups
from genssl.networks import default_network, make_decoder, make_encoder
from genssl.networks.mlp import default_hidden
from genssl.objective import Objective


class Preset(NamedTuple):
    """Settings under a published name: of the method (for `build`) and of the fit (for `fit`)."""

    settings: dict[str, Any]
    fit: dict[str, Any]


SCALE = 0.02**0.5
"""The standard deviation of a Gaussian p(x | z) where none is given: the paper's."""

VAGUE = 30.0
"""The largest log scale of a view's message to a guide that sees the group: at e^30 it tells nothing that float32 could hold."""


class Method(nn.Module):
    """A plain nn.Module with a guide, an objective, `encode`, and a model where it is generative.

    `model` is None for a guide-only method. Children named in `optional_parts` are left out of the optimisation where no term needs them.
    """

    optional_parts: ClassVar[tuple[str, ...]] = ("decoder", "predictor", "target", "prototypes")
    source: ClassVar[str] = ""
    """Author, year, where published."""
    collapses: ClassVar[str] = ""
    """When the representation becomes useless."""
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Settings of `fit` by data set; the key "" is for any other."""

    guide_family: ClassVar[str] = "any"
    """What the guide draws z from: normal, sphere, delta (a point mass); any where that is not known."""
    networks: ClassVar[tuple[str, ...] | None] = None
    """The children that are networks, which run in bf16 where asked; None: all of them."""
    capturable: ClassVar[bool] = True
    """Whether a step may be recorded once and replayed (genssl.fit.graph): all state that changes is in parameters and buffers, changed
    in place, and nothing in Python depends on the step or on values. A class of the user says so itself, whatever it extends."""

    model: Any = None
    objective: Objective
    encoder: nn.Module
    _event_dim: int | None = None
    built_with: Mapping[str, Any] = MappingProxyType({})
    """What `build` made of settings that were None: network, hidden, dim, head, likelihood_scale."""

    def encode(self, x: Tensor) -> Any:
        """x [..., *event] -> distribution over z, batch [...], event [D]; its mean is the representation."""
        raise NotImplementedError

    def guide(self, groups: Groups) -> None:
        raise NotImplementedError

    @classmethod
    def build(cls, example: Groups, **settings: Any) -> Self:
        """The method with default networks for data like `example`."""
        raise NotImplementedError

    def swap(self, **changes: Any) -> Self:
        """Other terms in the slots of the objective, and guide and parts that fit them; in place: see genssl.models.swap.swap."""
        return swap(self, **changes)

    def _leading(self, network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply a network [N, *event] to x [..., *event]."""
        event_dim = self._event_dim if self._event_dim is not None else x.dim() - 1
        lead = x.shape[: x.dim() - event_dim]
        if len(lead) == 1:
            return network(x)
        return network(x.reshape(-1, *x.shape[len(lead) :])).unflatten(0, lead) if lead else network(x[None])[0]


class GenerativeMethod(Method):
    """A method with a decoder: q(z_j | x_j) = N(loc, scale^2) from one encoder, p(x_j | z_j) from one decoder.

    Args:
        encoder: [N, *event] -> [N, 2D], loc and log scale.  decoder: [N, D] -> [N, *event], a mean or logits.
        likelihood_scale: standard deviation of the Gaussian p(x | z) (the paper's 0.02 is a variance).
        likelihood: a module from the decoder's output to a distribution over x, in place of the Gaussian.
        dim: D, where it cannot be read off the encoder's last layer.
        group_guide: ProductOfExperts() or SetGuide(dim) (genssl.models.group_guides): a guide that sees the whole group, in place
            of prod_j q(z_j | x_j).
    """

    guide_family = "normal"
    networks: ClassVar[tuple[str, ...] | None] = ("encoder", "decoder", "head", "predictor", "scale_network")
    encoder: nn.Module
    decoder: nn.Module
    group_guide: Any
    prior: Any
    """p(z_1..z_J) of groups, for a guide that sees the group: a method of those that have one in closed form."""

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        likelihood_scale: float,
        likelihood: nn.Module | None = None,
        dim: int | None = None,
        group_guide: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.likelihood: Any = Gaussian(likelihood_scale) if likelihood is None else likelihood
        self._dim, self.group_guide = dim, group_guide

    @property
    def dim(self) -> int:
        """D, the number of latent dimensions."""
        if self._dim is None:
            widths = [module.out_features for module in self.encoder.modules() if isinstance(module, nn.Linear)]
            if not widths:
                raise SettingsError(f"{type(self).__name__}: the latent size cannot be read off the encoder; give dim=")
            return widths[-1] // 2
        return self._dim

    # ------------------------------------------------------------------ guide

    def guide(self, groups: Groups) -> None:
        """prod_j q(z_j | x_j), or what group_guide makes of it; JOINT layout: site z, batch [G], event (J, D)."""
        with groups.plate:
            pyro.sample("z", self.joint(groups))

    def joint(self, groups: Groups) -> Any:
        """q(z_1..z_J | x_1..x_J), batch [G], event (J, D)."""
        views = self.posterior(groups)
        guide = self.group_guide
        return views.to_event(2) if guide is None else guide(views, groups, self.prior(groups))

    def posterior(self, groups: Groups) -> Any:
        """The Normal of every view by itself, batch [G, J, D], masked where views are padded."""
        self._event_dim = len(groups.event_shape)
        normal = self._normal(groups.map(self.encoder))
        return normal if groups.mask is None else normal.mask(groups.mask.unsqueeze(-1))

    def encode(self, x: Tensor) -> Any:
        view = self._normal(self._leading(self.encoder, x))
        return (view if self.group_guide is None else self.group_guide.alone(view, self)).to_event(1)

    def _normal(self, output: Tensor) -> Any:
        if output.shape[-1] % 2:
            raise ShapeError(
                f"{type(self).__name__}: the encoder gives {output.shape[-1]} numbers a view, expected an even number: loc and log scale"
            )
        loc, log_scale = at_least_float32(output).chunk(2, -1)
        self._dim = loc.shape[-1]
        if self.group_guide is not None:
            # An expert that knows nothing of z_j has no largest scale: the prior holds z_j in its place, and nothing holds the scale
            # back until exp overflows, whose gradient is 0 times inf.
            log_scale = (log_scale + getattr(self.group_guide, "start", 0.0)).clamp(max=VAGUE)
        return dist.Normal(loc, log_scale.exp())

    # ------------------------------------------------------------------ model

    def observe(self, z: Tensor, groups: Groups) -> None:
        """The site x, JOINT layout: batch [G], event (J, *event), every view from its own z_j; z [G, J, D]."""
        pyro.sample("x", self.observation(z, groups).to_event(1), obs=self.target(groups))

    def observation(self, z: Tensor, groups: Groups) -> Any:
        """p(x_j | z_j) of every view, batch [G, J], event [*event], masked where views are padded."""
        output = groups.unpack(self.decoder(groups.pack(z)))
        likelihood = self.likelihood(output, event_dim=len(groups.event_shape))
        return likelihood if groups.mask is None else likelihood.mask(groups.mask)

    def target(self, groups: Groups) -> Tensor:
        """[G, J, *event], what is reconstructed: the views."""
        return groups.x

    def decode(self, z: Tensor) -> Tensor:
        """E[x | z]: z [..., D] -> [..., *event]."""
        lead = z.shape[:-1]
        return (
            self.likelihood.mean(self.decoder(z.reshape(-1, z.shape[-1]))).unflatten(0, lead)
            if lead
            else self.decode(z[None])[0]
        )

    # ------------------------------------------------------------------ building

    @classmethod
    def build(
        cls,
        example: Groups,
        *,
        dim: int | None = None,
        network: str | None = None,
        hidden: Sequence[int] | None = None,
        likelihood: str | nn.Module = "gaussian",
        likelihood_scale: float | None = None,
        learned_scale: bool | str = False,
        group_guide: str | nn.Module | None = None,
        **settings: Any,
    ) -> Self:
        """The method with default networks for data like `example`.

        network: "mlp" (the paper's Table 3; smaller for small events), "conv" (its Table 4), "released_conv", "resnet18", "timm:NAME";
        default: conv for colour images of 32x32 and 64x64, mlp for everything else. dim: 10, with conv 64, as in the paper.
        hidden: widths of the mlp encoder, reversed in the decoder. likelihood: "gaussian", "bernoulli", "continuous_bernoulli", or a
        module. likelihood_scale: of a Gaussian, a standard deviation; None: the paper's, sqrt(0.02). learned_scale: True for one learned
        scale, "pixel" for one a pixel. group_guide: "product" or "set", for a guide that sees the whole group
        (genssl.models.group_guides). Images get a sigmoid on a Gaussian's mean, since their values are in [0, 1].
        """
        shape = event_shape_of(example, cls)
        network = default_network(shape) if network is None else network
        dim = latent_dim(dim, network)
        likelihood = make_likelihood(shape, likelihood, likelihood_scale, learned_scale)
        squash = isinstance(likelihood, Gaussian) and len(shape) == 3
        encoder = make_encoder(network, shape, 2 * dim, hidden)
        decoder = make_decoder(network, dim, shape, hidden, sigmoid=squash)
        if group_guide is not None:
            settings["group_guide"] = make_group_guide(group_guide, dim)
        scale = likelihood_scale or SCALE
        method = cls(encoder, decoder, likelihood_scale=scale, likelihood=likelihood, dim=dim, **settings)
        method._event_dim = len(shape)
        of_gaussian = {"likelihood_scale": scale} if isinstance(likelihood, Gaussian) else {}
        method.built_with = widths_of(network, shape, hidden) | {"dim": dim} | of_gaussian
        return method


def event_shape_of(example: Groups, cls: type) -> tuple[int, ...]:
    """The shape of one view, for default networks; of several modalities there are none."""
    if not isinstance(example.x, Tensor):
        raise ShapeError(
            f"{cls.__name__}.build: data of several modalities have no default networks; construct {cls.__name__} yourself"
        )
    return example.event_shape


def widths_of(network: str, shape: tuple[int, ...], hidden: Sequence[int] | None) -> dict[str, Any]:
    """The network, and the widths of an mlp's layers, as `make_encoder` takes them."""
    if network != "mlp":
        return {"network": network}
    return {"network": network, "hidden": list(default_hidden(shape) if hidden is None else hidden)}


def latent_dim(dim: int | None, network: str) -> int:
    """D; None: the paper's latent sizes, 10 with its MLPs and 64 with its convolutions."""
    if dim is None:
        return 10 if network == "mlp" else 64
    if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
        raise SettingsError(f"build: dim = {dim!r}, expected a whole number of at least 1")
    return dim


def make_likelihood(
    shape: Sequence[int], likelihood: str | nn.Module, scale: float | None = None, learned: bool | str = False
) -> nn.Module:
    """A likelihood of genssl.distributions by name; a module is taken as it is. scale: a Gaussian's, None for the paper's."""
    if scale is not None and likelihood != "gaussian":
        named = repr(likelihood) if isinstance(likelihood, str) else f"a {type(likelihood).__name__}"
        raise SettingsError(
            f"build: likelihood_scale = {scale!r}, but likelihood = {named} takes none from here; leave it out, or take gaussian"
        )
    scale = SCALE if scale is None else scale
    if not isinstance(likelihood, str):
        return likelihood
    if learned not in (True, False, "pixel"):
        raise SettingsError(f"build: learned_scale = {learned!r}, expected True, False or 'pixel'")
    families = {"bernoulli": Bernoulli, "continuous_bernoulli": ContinuousBernoulli}
    if likelihood == "gaussian":
        if learned != "pixel":
            return Gaussian(scale, bool(learned))
        return Gaussian(scale, True, shape, floor=1 / 255 if len(shape) == 3 else 0.0)
    if likelihood not in families:
        raise SettingsError(f"build: likelihood = {likelihood!r}, expected one of gaussian, {', '.join(families)}")
    if learned:
        raise SettingsError(
            f"build: learned_scale = {learned!r}, but likelihood = {likelihood!r} has no scale; take gaussian"
        )
    return families[likelihood]()

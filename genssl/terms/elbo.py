"""The terms of the evidence lower bound itself: likelihood, posterior entropy, prior; and the constant that stands in for one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from genssl.errors import SettingsError
from genssl.terms import closed_forms
from genssl.terms.base import Term
from genssl.terms.traces import Traces


class LogLikelihood(Term):
    r"""sum_j E_q log p(x_j | z_j), estimated at the guide's draw: the log density of every observed model site.

    Source: Bizeul et al. 2024 (arXiv:2402.01399), Eq. 4, first term; needs the decoder. {site: [G]} nats; masks and scales
    of the sites (poutine.scale, other plates) stay.
    """

    slots = ("reconstruction",)
    needs = frozenset({"model", "decoder"})

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        return {site.name: site.log_prob for site in traces.observed}


class PosteriorEntropy(Term):
    r"""sum_j H[q(z_j | x_j)]: the entropy of every guide site, in nats (Bizeul et al. 2024, Eq. 4, second term).

    For a Normal of standard deviation s, H = sum_d log s_d + (D/2) log 2 pi e. (The factor 2 pi INSIDE the sum over log s^2 in
    released code of the paper multiplies the gradient by 2 pi and makes posteriors too wide; it is not reproduced.)

    analytic: True takes the closed form where there is one; False takes -log q at the draw, as Trace_ELBO does; a collection of
    site names takes the closed form at those alone. Auxiliary and Delta sites always count -log q. This is not the entropy of
    the aggregate E_x q(z | x), which repulsion terms raise: the two differ by I[x; z].
    """

    slots = ("entropy",)

    def __init__(self, analytic: bool | Collection[str] = True) -> None:
        super().__init__()
        if not isinstance(analytic, bool) and (isinstance(analytic, str) or not isinstance(analytic, Collection)):
            raise SettingsError(
                f"PosteriorEntropy: analytic = {analytic!r}, expected True, False or a collection of site names"
            )
        self.analytic = analytic if isinstance(analytic, bool) else frozenset(analytic)

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        unknown = [] if isinstance(self.analytic, bool) else sorted(self.analytic - traces.guide.keys())
        if unknown:
            raise SettingsError(
                f"PosteriorEntropy: the guide has no site {unknown[0]!r}, only {', '.join(traces.guide)}"
            )
        values = {}
        for site in traces.posterior:
            wanted = self.analytic if isinstance(self.analytic, bool) else site.name in self.analytic
            closed = closed_forms.entropy(site.fn) if wanted and not (site.auxiliary or site.observed) else None
            values[site.name] = -site.log_prob if closed is None else site.per_group(closed)
        return values

    def extra_repr(self) -> str:
        analytic = self.analytic if isinstance(self.analytic, bool) else ",".join(sorted(self.analytic))
        return f"analytic={analytic}"


class LogPrior(Term):
    r"""E_q log p(z_1..z_J), y integrated out or sampled: the log density of every latent model site at the guide's draw.

    Source: Bizeul et al. 2024, Eq. 4, third term. {site: [G]} nats.

    analytic: True averages over a Normal guide in closed form where the model's site is a GroupNormal or a Normal, which takes
    the sampling noise out of this term. It is exact only if the site's prior does not depend on latents that the guide draws
    after it; where the order of the sites leaves that open, the draw is used.
    """

    slots = ("prior",)
    needs = frozenset({"model"})

    def __init__(self, analytic: bool = False) -> None:
        super().__init__()
        if not isinstance(analytic, bool):
            raise SettingsError(f"LogPrior: analytic = {analytic!r}, expected True or False")
        self.analytic = analytic

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        values = {}
        for site in traces.latent:
            closed = None
            if self.analytic and site.name in traces.guide and not traces.follows_a_model_parent(site.name):
                closed = closed_forms.expected_log_prob(site.fn, traces.guide[site.name].fn)
            values[site.name] = site.log_prob if closed is None else site.per_group(closed)
        return values

    def extra_repr(self) -> str:
        return f"analytic={self.analytic}"


class Constant(Term):
    """A slot that is left constant: `value` nats for every group, no gradient.

    As entropy it stands for a deterministic (Delta) or fixed-scale guide, whose entropy does not depend on x; with a Gaussian
    likelihood that is an autoencoder. With a flat prior and no repulsion every representation collapses to one point.
    """

    slots: ClassVar[tuple[str, ...]] = ("reconstruction", "entropy", "prior")
    guide_family = "delta"

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = float(value)

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        return {"constant": torch.full((traces.groups.num_groups,), self.value, device=traces.groups.device)}

    def extra_repr(self) -> str:
        return f"value={self.value:g}" if self.value else ""

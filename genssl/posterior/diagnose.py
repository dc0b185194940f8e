"""How far the guide is from the posterior, group by group: Pareto k-hat, effective sample size, importance-weighted bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from genssl.errors import SettingsError
from genssl.evaluation.weights import effective_sample_size, importance_bound
from genssl.posterior.tail import LEAST_DRAWS, pareto_k

TRUSTED = 0.7
"""Largest k-hat with which importance-weighted figures are shown."""


def diagnose(tree: Any) -> Any:
    r"""Diagnostics of the weights in sample_stats of a posterior tree: an xarray.Dataset over groups.

        pareto_k             shape of a generalised Pareto fitted to the largest weights (Vehtari, Simpson, Gelman, Yao, Gabry 2024,
                             arXiv:1507.02646), by ArviZ; inf where weights are too far apart for one, -inf where the largest are all the
                             same; below 0.5 the weights have a variance, above 0.7 averages under them cannot be trusted at any
                             number of draws that one would take
        effective_samples    (sum w)^2 / sum w^2 of S draws; from the draws alone, so too large where they miss mass
        elbo                 mean log w, nats
        importance_weighted  (num_draws, group): E log 1/K sum w for K = 1, 2, 4, .. S, nats; not a number where pareto_k is above 0.7
        trusted              pareto_k <= 0.7

    k-hat above 0.7 is what to expect of a factorised guide over J x D = 100 latents: it says that the guide leaves out the posterior's
    correlations, not that its means are wrong. With a flat p(y) the weights are those of an improper joint: k-hat and effective samples
    mean the same, elbo and importance_weighted bound nothing.

    Raises SettingsError for a tree without weights, or with fewer than 25 draws.
    """
    import xarray

    if "sample_stats" not in tree.children or "log_weight" not in tree["sample_stats"]:
        raise SettingsError("diagnose: the tree has no log_weight; make it with log_likelihood=True")
    weight = tree["sample_stats/log_weight"].transpose("sample", "group")
    samples = weight.sizes["sample"]
    if samples < LEAST_DRAWS:
        raise SettingsError(
            f"diagnose: {samples} draws a group, expected at least {LEAST_DRAWS} for a tail; draw more samples"
        )
    values = weight.values
    draws = torch.as_tensor(values)
    k_hat = pareto_k(draws).numpy()
    ks = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
    bounds = np.stack([importance_bound(draws, k).numpy() for k in ks])
    trusted = k_hat <= TRUSTED
    return xarray.Dataset(
        {
            "pareto_k": ("group", k_hat),
            "effective_samples": ("group", effective_sample_size(draws).numpy()),
            "elbo": ("group", values.mean(0)),
            "importance_weighted": (("num_draws", "group"), np.where(trusted, bounds, np.nan)),
            "trusted": ("group", trusted),
        },
        coords={"group": tree["sample_stats/group"].values, "num_draws": ks},
        attrs={"samples": samples, "largest_trusted_k": TRUSTED},
    )

"""posterior(run): draws of the posterior and what they predict, as an ArviZ data tree in a netCDF file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from genssl._version import __version__
from genssl.errors import SettingsError
from genssl.evaluation.bound import unfitted_prior
from genssl.evaluation.measuring import measuring
from genssl.evaluation.weights import draws
from genssl.fit.precision import networks_in
from genssl.fit.randomness import stream_seed
from genssl.groups import Groups
from genssl.posterior.blocks import block_of, is_proper, prior_of
from genssl.posterior.store import Store, sizes_of
from genssl.terms.closed_forms import is_delta

VIEWS_A_BLOCK = 1024
PREDICTED, STORED = 20, 5


def posterior(
    run: Any,
    groups: Groups | None = None,
    samples: int = 200,
    log_likelihood: bool = True,
    *,
    number: int = 1000,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Any:
    r"""Draws z ~ q(z | x) and y ~ q(y | x) of groups, what they predict and how likely they are; written to RUN/posterior.nc.

        posterior             z (sample, group, view, latent), every other latent site of the guide, and y (sample, group, latent),
                              drawn from p(y | z_1..z_J) where the model has integrated it out
        posterior_predictive  x_mean, x_variance (group, view, *event) of p(x' | x) = E_q p(x' | z), by the law of total variance,
                              over all draws (without log-likelihoods: over 20); x (prediction, group, view, *event): 5 draws of it
        log_likelihood        x (sample, group, view): log p(x_j | z_j), nats, summed over pixels
        sample_stats          log_p, log_q, log_weight (sample, group): log p(z), log q(z | x), and log p(x, z) - log q(z | x), nats
        prior, prior_predictive   where p(y) is proper: z and y (sample, ...), x_mean (prediction, view, *event) of one group
        observed_data         x, valid (group, view), label, index

    Chains there are none, and R-hat means nothing: draws are independent. The draws are of the GUIDE; log_weight tells how far it is
    from the posterior (`genssl.posterior.diagnose`). Where p(y) is flat the weights are those of an improper joint: good for
    that, and for no log p(x). Factors of poutine.scale are in no density here: a tempered one is none of x. A method whose reconstruction
    slot holds a substitute has draws alone; one whose prior slot does has no y, no prior and no weights, since p(z) was not fitted.

    Args:
        groups: default the first `number` groups of the test split, with the run's views (a fixed stream of its seed).
        samples: draws a group.  log_likelihood: False leaves log_likelihood, log_p and log_weight out, and decodes 20 draws only.
        out: the file; default posterior.nc in the run's folder, written whole or not at all; one that is there is told, and replaced.

    Returns the tree, opened lazily (xarray.DataTree); `arviz_base`, `arviz_stats`, `arviz_plots` read it with sample_dims="sample".

    Raises SettingsError (a guide without spread; samples; several modalities), SiteError, DiskError.
    """
    import xarray

    if samples < 1 or number < 1:
        raise SettingsError(f"posterior: samples = {samples}, groups = {number}, expected at least 1 each")
    method, chosen = run.method, groups
    if chosen is None:
        chosen = run.groups("test", number)
    if not hasattr(chosen.x, "shape"):
        raise SettingsError("posterior: the groups are of several modalities, expected one tensor of views")
    chosen = chosen.to(run.device)
    path = Path(run.path) / "posterior.nc" if out is None else Path(out)
    seed = stream_seed(int(run.config.get("seed") or 0), "posterior")
    size = max(1, VIEWS_A_BLOCK // chosen.num_views)
    attributes = {
        "creation_library": "genssl", "creation_library_version": __version__, "method": str(run.config.get("method")),
        "inference": "draws of the guide, fitted by stochastic variational inference; independent, no chains",
        "seed": int(run.config.get("seed") or 0), "steps": int(run.config.get("steps") or 0), "precision": str(run.config.get("precision")),
    }  # fmt: skip
    fitted = "decoder" in getattr(method.objective, "needs", ("decoder",))  # one beside a substitute term never was
    model = getattr(method, "model", None) if fitted else None
    with measuring(method), networks_in(run.config.get("precision", "32"), method, run.device):
        first = next(draws(model, method.guide, chosen[:1], 1, seed))
        _check_spread(method, first)
        foreign = unfitted_prior(method)
        proper = model is not None and not foreign and is_proper(first)
        if model is not None:
            flat = "flat: log_weight is of an improper joint, and no bound on log p(x)"
            attributes["content_prior"] = foreign or ("proper" if proper else flat)
        densities = log_likelihood and model is not None
        if path.exists() and progress:  # before the work, so that Ctrl-C keeps it
            told = "it is replaced at the end; Ctrl-C, and another --out, keep it"
            print(f"genssl: {path}: is there already ({sizes_of(path)}); {told}", file=sys.stderr)
        with Store(path, len(chosen), attributes) as store:
            starts = range(0, len(chosen), size)
            bar = tqdm(starts, desc="posterior", unit="block", leave=False, disable=None if progress else True)
            for place, start in enumerate(bar):
                rows = chosen[start : start + size]
                rows.total = chosen.total
                decoded = samples if densities else PREDICTED
                block = block_of(method, model, rows, samples, decoded, STORED, densities, not foreign, seed, place)
                if place == 0 and proper:
                    block = {**block, **prior_of(method, rows, samples, STORED, seed)}
                store.write(block)
    return xarray.open_datatree(path, engine="h5netcdf")


def _check_spread(method: Any, traces: Any) -> None:
    if all(is_delta(site.fn) for site in traces.guide.values() if not site.observed):
        raise SettingsError(
            f"posterior: the guide of {type(method).__name__} is a point mass, so there is nothing to draw; take a method with a "
            "stochastic guide (SimVAE, VISimSiam, ...), or swap(scale=...)"
        )

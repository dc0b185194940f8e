"""How strange inputs are to a fitted run: seven scores, and how well a score tells two sets of inputs apart."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genssl.distributions.spherical import Spherical
from genssl.errors import NonFiniteError, SettingsError, ShapeError, SiteError
from genssl.evaluation.bound import fitted_content_prior, no_density, unfitted
from genssl.evaluation.fresh_views import fresh_groups, no_groups
from genssl.evaluation.items import BATCH
from genssl.evaluation.measuring import measuring
from genssl.evaluation.weights import ContentPrior, draws, flat_site, importance_bound, innermost, log_weights
from genssl.fit.precision import networks_in
from genssl.fit.randomness import stream_seed
from genssl.groups import Groups
from genssl.posterior.tail import LEAST_DRAWS, pareto_k
from genssl.terms import Traces
from genssl.terms.closed_forms import is_delta

REFERENCE, FITTED = 2000, 5000
"""Training views that typicality is held against, and that the Gaussian of `distance` is fitted to."""
RIDGE = 1e-6
OF_MODEL = ("negative_elbo", "negative_bound", "typicality", "pareto_k", "reconstruction")


class Strangeness(NamedTuple):
    """scores {name: [G] float64 on the CPU, higher is stranger}; absent {name: why the run has no such score}."""

    scores: dict[str, Tensor]
    absent: dict[str, str]


def strangeness(run: Any, groups: Groups, samples: int = 64) -> Strangeness:
    r"""Out-of-distribution scores of groups under a fitted run, one number a group, higher = stranger.

        negative_elbo    -mean_s log w_s,  w = p(x_1..x_J, z) / q(z | x),  over `samples` draws; nats a group
        negative_bound   -log mean_s w_s, at most negative_elbo (Burda et al. 2016, arXiv:1509.00519); nats a group
        typicality       | -elbo_g - n_g r |, r = mean of -elbo / n over training groups, n their views; nats a group. The typical set
                         test at one group (Nalisnick, Matsukawa, Teh, Lakshminarayanan 2019, arXiv:1906.02994), with the ELBO for
                         log p and the views of a group for its batch: an input can be too likely as well
        pareto_k         k-hat of the w_s (`genssl.posterior.diagnose`): where the guide is far from the posterior. inf where the largest
                         fifth of log w spans more than 700 nats (float64 has no such weights), -inf where a quarter of it is one number
        posterior_scale  log standard deviation of q(z_j | x_j), mean over dimensions; on the sphere -1/2 log concentration, which is
                         the same for a narrow law. Of the guide as it stands: one that sees the group, given the group
        distance         -log N(E_q z_j; m, S) of posterior means (`run.represent`), S the full covariance of training views: half the
                         squared Mahalanobis distance and a constant (Lee et al. 2018, arXiv:1807.03888, without classes); nats a view
        reconstruction   -E_q log p(x_j | z_j), nats a view

    What is of a view is the mean over the valid views of the group; what is of a group grows with the number of its views, so compare
    groups of one size. A flat p(y) is replaced by the Gaussian that `held_out_bound` fits to training groups (at the same draws).
    Factors of poutine.scale are left out. Labels are not looked at: no input is strange by its label. Views of training items are fresh
    ones of the run (`fresh_groups`), so give groups that are made alike: clean items are strange to a run of augmented views.

    Fails: simple inputs are often MORE likely than the training data (digits under a model of garments; Nalisnick et al. 2019,
    arXiv:1810.09136), so that AUROC of the bounds falls below 1/2; typicality helps only where the bound is off to either side; a
    posterior scale that no input ever moved says nothing; one Gaussian cannot follow clusters, and its ridge (1e-6 of the mean variance)
    makes any deviation in a collapsed direction enormous; k-hat is above 0.7 for most groups of factorised guides, and at an exact
    guide it is of rounding errors. No score is a test: what is strange to the world need not be strange to the run.

    Args:
        groups: one modality; any label, which is not read.  samples: draws a group; below 25 there is no pareto_k.

    A function of the run's seed and the groups; run and torch's generators are left bit-identical.

    Raises SettingsError (samples, groups, several modalities), ShapeError, NonFiniteError (weights or representations).
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise SettingsError(f"strangeness: samples = {samples!r}, expected a whole number of at least 1; take 64")
    if not isinstance(groups, Groups) or not isinstance(groups.x, Tensor):
        seen = "of several modalities" if isinstance(groups, Groups) else f"a {type(groups).__name__}"
        raise SettingsError(f"strangeness: groups is {seen}, expected a genssl.Groups of one tensor; give Groups(x)")
    method, seed = run.method, int(run.config.get("seed") or 0)
    found = Strangeness({}, {})
    with measuring(method), networks_in(run.config.get("precision", "32"), method, run.device):
        groups = _unlabelled(groups.to(run.device))
        for part in (_of_model(run, groups, samples, seed), _of_guide(method, groups, seed), _of_means(run, groups)):
            found.scores.update(part.scores)
            found.absent.update(part.absent)
    return Strangeness({name: value.double().cpu() for name, value in found.scores.items()}, found.absent)


def auroc(inside: Tensor, outside: Tensor) -> float:
    """P(outside > inside) + P(outside = inside) / 2 of scores [N] and [M]: the area under the ROC curve, in [0, 1]; 1/2 tells nothing.

    The Mann-Whitney statistic, by scikit-learn. Infinite scores take part as the largest or smallest. A NaN orders with nothing, and
    to drop it would choose the inputs by their score: NonFiniteError. From n of each the standard error is at most 1 / (2 sqrt n).

    Raises ShapeError (another shape, no score), NonFiniteError.
    """
    from sklearn.metrics import roc_auc_score

    for name, score in (("inside", inside), ("outside", outside)):
        if score.dim() != 1 or len(score) == 0:
            raise ShapeError(f"auroc: {name} has shape {list(score.shape)}, expected [N], at least one score")
        if bool(score.isnan().any()):
            seen = f"{int(score.isnan().sum())} of {len(score)} scores {name}"
            raise NonFiniteError(f"auroc: {seen} are NaN, expected numbers; where an input broke the run, give inf")
    scores = torch.cat([inside.double().cpu(), outside.double().cpu()])
    _, ranks = torch.unique(scores, return_inverse=True)  # scikit-learn takes no infinities, and the order is all
    return float(roc_auc_score(np.arange(len(scores)) >= len(inside), ranks.numpy()))


def log_spread(law: Any) -> Tensor | None:
    """Log standard deviation of a law, as its innermost base has it ([G, J, D] of Normals); on the sphere -1/2 log concentration [G, J].

    None for a point mass, and for a law whose variance has no closed form.
    """
    if is_delta(law):
        return None
    base = innermost(law)
    if isinstance(base, Spherical):
        return -0.5 * base.concentration.double().log()
    try:
        return base.stddev.double().log()
    except (AttributeError, NotImplementedError):
        return None


def _of_model(run: Any, groups: Groups, samples: int, seed: int) -> Strangeness:
    """The scores that need densities of the model."""
    method, own = run.method, stream_seed(seed, "strangeness")
    if reason := unfitted(method):
        return Strangeness({}, dict.fromkeys(OF_MODEL, reason))
    try:
        first = next(draws(method.model, method.guide, groups[: max(1, BATCH // groups.num_views)], 1, own))
        prior, reason = content_prior_for(run, first, groups.num_views, seed)
        weights = log_weights(method, groups, samples, prior, seed=own, tempered=False)
        scores = {"reconstruction": -weights.log_likelihood.mean(0) / groups.count}
        if reason := reason or no_density(first):  # p(x | z) as it was fitted still orders inputs
            return Strangeness(scores, dict.fromkeys(OF_MODEL[:-1], reason))
        elbo = weights.log_weight.mean(0)
        scores |= {"negative_elbo": -elbo, "negative_bound": -importance_bound(weights.log_weight, samples)}
        absent = {}
        if samples < LEAST_DRAWS:
            absent["pareto_k"] = f"{samples} draws a group have no tail; {LEAST_DRAWS} have one"
        else:
            scores["pareto_k"] = pareto_k(weights.log_weight)
        if reason := no_groups(run, "train"):
            absent["typicality"] = reason
        else:
            rate = _rate(run, prior, samples, groups.num_views, own)
            scores["typicality"] = (-elbo - groups.count * rate).abs()
    except SiteError as error:
        return Strangeness({}, dict.fromkeys(OF_MODEL, str(error)))
    return Strangeness(scores, absent)


def content_prior_for(run: Any, first: Traces, views: int, seed: int) -> tuple[ContentPrior | None, str]:
    """What stands for a flat p(y), and why it is no fitted one, or nothing; first: a trace of the run's model, seed: of the run."""
    flat = flat_site(first)
    if flat is None:
        return None, ""
    if reason := no_groups(run, "train"):  # any prior does for log p(x | z), which is all that is used then
        return ContentPrior(torch.zeros(flat.value.shape[-1]), 1.0), f"p(y) is flat, and none can be fitted: {reason}"
    return fitted_content_prior(run, views, stream_seed(seed, "bound"))[0], ""


def _rate(run: Any, prior: ContentPrior | None, samples: int, views: int, own: int) -> Tensor:
    """The mean of -elbo / n over training groups."""
    found = []
    for number, block in enumerate(fresh_groups(run, "train", "strangeness/train", REFERENCE, views)):
        block, at = _unlabelled(block), stream_seed(own, "reference", number)
        weights = log_weights(run.method, block, samples, prior, seed=at, block=len(block), tempered=False)
        found.append(-weights.log_weight.mean(0) / block.count)
    return torch.cat(found).mean()


def _of_guide(method: Any, groups: Groups, seed: int) -> Strangeness:
    """The posterior scale, of site z, or of the first of the guide's that has one."""
    found = []
    for rows in torch.arange(len(groups), device=groups.device).split(max(1, BATCH // groups.num_views)):
        part = groups[rows]
        part.total = groups.total
        sites = next(draws(None, method.guide, part, 1, stream_seed(seed, "strangeness"))).guide
        spreads = {name: log_spread(site.fn) for name, site in sites.items() if not site.observed}
        spread = spreads.get("z")
        if spread is None:
            spread = next((value for value in spreads.values() if value is not None), None)
        if spread is None:
            why = "a point mass" if all(is_delta(site.fn) for site in sites.values()) else "of no scale in closed form"
            return Strangeness({}, {"posterior_scale": f"the guide of {type(method).__name__} is {why}"})
        spread = spread.flatten(2).mean(2) if spread.dim() > 2 else spread
        if spread.dim() == 1 or spread.shape[1] != part.num_views:  # of no views: it is the group's
            spread = spread.reshape(len(part), -1).mean(1, keepdim=True).expand(-1, part.num_views)
        found.append(torch.where(part.valid, spread, torch.nan))
    views = torch.cat(found)
    if int(groups.count.sum()) > 1 and bool((views[groups.valid] == views[groups.valid][0]).all()):
        return Strangeness({}, {"posterior_scale": "the scale of the guide is the same for every input"})
    return Strangeness({"posterior_scale": views.nansum(1) / groups.count}, {})


def _of_means(run: Any, groups: Groups) -> Strangeness:
    """The distance of posterior means under a Gaussian of training views."""
    if reason := no_groups(run, "train"):
        return Strangeness({}, {"distance": reason})
    blocks = fresh_groups(run, "train", "strangeness/train", FITTED, groups.num_views)
    train = torch.cat([_means(run, block) for block in blocks])
    centre = train.mean(0)
    dim = len(centre)
    if len(train) <= dim:
        return Strangeness({}, {"distance": f"{len(train)} training views have no covariance in {dim} dimensions"})
    covariance = (train - centre).T @ (train - centre) / len(train)
    variance = covariance.diagonal().mean()
    if not float(variance) > 1e-24 * (1 + float(centre.square().max())):
        return Strangeness({}, {"distance": "the training representations are all the same"})
    covariance.diagonal().add_(RIDGE * variance)
    law = torch.distributions.MultivariateNormal(centre, covariance, validate_args=False)
    distance = groups.unpack(-law.log_prob(_means(run, groups)))
    return Strangeness({"distance": distance.sum(1) / groups.count}, {})


def _means(run: Any, groups: Groups) -> Tensor:
    """[N, D] the representations of the views that exist, float64."""
    z = run.represent(groups.pack(groups.x)).flatten(1).double()
    if not bool(torch.isfinite(z).all()):
        bad = int((~torch.isfinite(z).all(1)).sum())
        raise NonFiniteError(
            f"strangeness: {bad} of {len(z)} representations are not finite; fit again with a lower lr"
        )
    return z


def _unlabelled(groups: Groups) -> Groups:
    """The groups, in place, with labels that nobody knows: methods that observe some pass over these."""
    groups.label = torch.full((len(groups),), -1, device=groups.device)
    return groups

"""What every slot of the objective would say of a representation, whatever was optimised: one batch of groups, in nats."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genssl import estimators
from genssl.evaluation.components import maximum_likelihood_scales, variance_components
from genssl.evaluation.geometry import alpha_req, effective_rank, lidar, rankme
from genssl.evaluation.information import posterior_information, view_information
from genssl.evaluation.maybe import finite, maybe, number
from genssl.evaluation.measuring import measuring
from genssl.fit.randomness import stream_seed
from genssl.groups import Groups
from genssl.sites import run_guide, run_model
from genssl.terms import SLOTS, Classes, PosteriorEntropy, Site, Term, Traces
from genssl.terms.closed_forms import diagonal_normal, is_delta

Measures = dict[str, Any]
SHRINKAGE = 1e-3


def slot_measures(method: Any, groups: Groups, own: Groups | None = None, seed: int = 0) -> Measures:
    r"""Numbers of one batch under nested names; None where a number has no meaning (or the batch is too small for it).

        terms          reconstruction, entropy, prior, elbo and the weighted objective of the method, on the groups `own` (default: the
                       same); None where a term scores classes that none of these groups has (instance discrimination held out)
        prior          ELBO_SSL's prior log p(z_1..z_J) per group at maximum-likelihood scales (GroupNormal around a fitted mean), and the
                       view_scale and content_scale that these are: for every guide, on one footing
        entropy        posterior: sum_j H[q(z_j | x_j)] per group; not defined for a point mass
        aggregate      H of the batch's draws of z: logdet, knn (Kozachenko-Leonenko) of one view; joint_logdet of all views together
        information    views: I[z; z'] by InfoNCE with its cap log k (the critic is chosen on other groups); input: I[x; z] of a Normal
                       guide with its cap log N. A point mass has no finite I[x; z]
        sphere         alignment and uniformity (Wang and Isola 2020)
        geometry       rankme, lidar, alpha_req, effective_rank; variance within and between groups (components per dimension)
        gradients      cosine between the gradients of the reconstruction slot and of the prior slot at the encoder: below 0 they pull
                       against each other; in training mode, as the fit has them, where all else is measured in eval mode

    z is what the terms compare, after a head; geometry is that of its means, aggregates those of its draws. Nothing of the run changes:
    parameters have no gradient added, buffers, modes and generators are put back. Every figure of a batch of G groups is biased by G
    (caps, ranks and log-determinants above all): compare equal G.
    Ragged groups: a padded view enters nothing, whatever a guide gives it; what compares two views takes the groups that have the first
    and the second.
    """
    own = groups if own is None else own
    with measuring(method):
        torch.manual_seed(stream_seed(seed, "measure"))
        found: Measures = {"terms": _terms(method, own)}
        traces = _traces(method, groups)
        site = _compared(traces)
        if site is not None and bool(torch.isfinite(site.fn.mean[groups.valid]).all()):
            found |= _representation(site, traces)
        for child in method.children():  # BatchNorm by running averages has other gradients, of another sign even
            child.train()
        method.objective.eval()  # held-out groups are none of the training set, so that no class of one is theirs
        found["gradients"] = {
            "reconstruction_prior": number(
                lambda: gradient_cosine(method, own, method.objective.reconstruction, method.objective.prior)
            )
        }
    return found


def gradient_cosine(method: Any, groups: Groups, one: Term, other: Term) -> float | None:
    """Cosine between the gradients of two terms' means at the parameters of method.encoder (else of all), at the same draws.

    None where one of them has no gradient there: a constant, an encoder that the term does not see.
    """
    encoder = getattr(method, "encoder", None)
    part = encoder if isinstance(encoder, nn.Module) else method
    parameters = [parameter for parameter in part.parameters() if parameter.requires_grad]
    directions = []
    with torch.enable_grad():
        traces = _traces(method, groups, one.needs | other.needs)
        for term in (one, other):
            value = sum(weight * v.mean() for weight, t in term.parts for v in t(traces).values())
            if not isinstance(value, Tensor) or not value.requires_grad:
                return None
            gradients = torch.autograd.grad(
                value, parameters, retain_graph=True, materialize_grads=True, allow_unused=True
            )
            directions.append(torch.cat([gradient.flatten() for gradient in gradients]).double())
    lengths = directions[0].norm() * directions[1].norm()
    return float(directions[0] @ directions[1] / lengths) if float(lengths) > 0 else None


def _traces(method: Any, groups: Groups, needs: frozenset[str] = frozenset()) -> Traces:
    """One run of the guide, and of the model as far as terms with these needs ask for it."""
    guide, trace = run_guide(method.guide, groups, alone="model" not in needs)
    model = run_model(method.model, guide, trace, groups, whole="decoder" in needs) if "model" in needs else {}
    return Traces(groups, guide, model)


def _terms(method: Any, groups: Groups) -> Measures:
    found = method.objective.terms(getattr(method, "model", None), method.guide, groups)
    classless = {
        slot for slot in SLOTS if any(_classless(term, groups) for _, term in getattr(method.objective, slot).parts)
    }
    unknown = classless | {"elbo", "objective"} if classless else set()
    return {
        name: None if name in unknown else finite(getattr(found, name).mean()) for name in (*SLOTS, "elbo", "objective")
    }


def _classless(term: Term, groups: Groups) -> bool:
    """Whether it adds 0 for every group, since the class of none is known."""
    classes = getattr(term, "classes", None)
    return isinstance(classes, Classes) and bool((classes.classes(groups) < 0).all())


def _compared(traces: Traces) -> Site | None:
    """What the terms compare: the site z, else the guide's first site with a value [G, J, D]."""
    shape = (traces.groups.num_groups, traces.groups.num_views)
    sites = [traces.guide["z"]] if "z" in traces.guide else list(traces.posterior)
    return next((site for site in sites if site.value.dim() == 3 and site.value.shape[:2] == shape), None)


def _representation(site: Site, traces: Traces) -> Measures:
    # Views that exist go to the front, so that the first two are those of every group that has two.
    order = traces.groups.valid.byte().argsort(dim=1, descending=True, stable=True)
    valid = traces.groups.valid.gather(1, order)
    z, mean = (
        value.float().gather(1, order[..., None].expand(-1, -1, value.shape[-1]))
        for value in (site.value, site.fn.mean)
    )
    several = traces.groups.num_views > 1
    rows = mean[valid]
    found: Measures = {}
    scales = maybe(lambda: maximum_likelihood_scales(mean, valid)) if several else None
    found["prior"] = {
        "maximum_likelihood": None if scales is None else finite(scales.log_prob.mean()),
        "view_scale": None if scales is None else scales.view_scale,
        "content_scale": None if scales is None else scales.content_scale,
    }
    found["entropy"] = {
        "posterior": None if is_delta(site.fn) else number(lambda: PosteriorEntropy()(traces)[site.name].mean())
    }
    complete = valid.all(1)
    found["aggregate"] = {
        "logdet": number(lambda: estimators.logdet_entropy(z[:, 0], SHRINKAGE, valid=valid[:, 0])),
        "knn": number(lambda: estimators.knn_entropy(z[:, 0], valid=valid[:, 0])),
        "joint_logdet": number(lambda: estimators.logdet_entropy(z.flatten(1), SHRINKAGE, valid=complete))
        if several
        else None,
    }
    between = maybe(lambda: view_information(mean, valid)) if several else None
    normal = diagonal_normal(site.fn)
    inputs = None
    if normal is not None:
        place = order[:, :1, None].expand(-1, -1, mean.shape[-1])
        loc, scale = (part.expand_as(mean).gather(1, place)[:, 0] for part in (normal.loc, normal.scale))
        inputs = maybe(lambda: posterior_information(loc[valid[:, 0]], scale[valid[:, 0]]))
    found["information"] = {
        "views": None if between is None else finite(between.bound),
        "views_cap": None if between is None else between.cap,
        "views_critic": None if between is None else between.critic,
        "input": None if inputs is None else finite(inputs.bound),
        "input_cap": None if inputs is None else inputs.cap,
    }
    pair = valid[:, 0] & valid[:, 1] if several else valid[:, 0]
    found["sphere"] = {
        "alignment": number(lambda: estimators.alignment(mean[:, 0], mean[:, 1], valid=pair)) if several else None,
        "uniformity": number(lambda: estimators.uniformity(mean[:, 0], valid=valid[:, 0])),
    }
    variance = maybe(lambda: variance_components(mean, valid)) if several else None
    found["geometry"] = {
        "rankme": number(lambda: rankme(rows)),
        "effective_rank": number(lambda: effective_rank(rows)),
        "alpha_req": number(lambda: alpha_req(rows)),
        "lidar": number(lambda: lidar(mean, valid)) if several else None,
        "variance_within": None if variance is None else variance.within,
        "variance_between": None if variance is None else variance.between,
    }
    return found

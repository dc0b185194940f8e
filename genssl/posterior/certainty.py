"""How far to trust what a run says of its own uncertainty: figures for evaluation.json."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from genssl.errors import GensslError
from genssl.evaluation.bound import unfitted, unfitted_prior
from genssl.evaluation.fresh_views import fresh_groups, no_groups
from genssl.evaluation.measuring import measuring
from genssl.evaluation.weights import draws, effective_sample_size, log_weights
from genssl.fit.precision import networks_in
from genssl.fit.randomness import stream_seed
from genssl.groups import Groups
from genssl.posterior.calibration import calibrate
from genssl.posterior.diagnose import TRUSTED
from genssl.posterior.predictive_coverage import predictive_coverage
from genssl.posterior.selective import representation_risk
from genssl.posterior.strangeness import content_prior_for
from genssl.posterior.tail import pareto_k

VIEWS, DRAWS, CALIBRATED = 1000, 100, 500
POINTS = 20


def held_out_groups(run: Any, stream: str, views: int | None = None) -> Groups:
    """About `views` test views (VIEWS), at least two groups of them, fresh ones of the stream; call it within `measuring`."""
    views = VIEWS if views is None else views
    return Groups.collate(list(fresh_groups(run, "test", stream, max(views, 2 * int(run.config["num_views"])))))


def risk_figures(run: Any) -> dict[str, Any] | str:
    """{accuracy, items, curves, absent}, or why none; curves of `risk_coverage`: its areas, and risk, a list of [coverage, risk]."""
    try:
        found = representation_risk(run)
    except GensslError as error:
        return str(error)
    curves = {}
    for name, curve in found.curves.items():
        places = torch.linspace(0, len(curve.risk) - 1, min(POINTS, len(curve.risk))).round().long()
        shown = [[float(curve.coverage[i]), float(curve.risk[i])] for i in places]
        areas = {key: getattr(curve, key) for key in ("area", "area_of_random", "area_of_oracle", "excess_ratio")}
        curves[name] = areas | {"risk": shown}
    return {"accuracy": found.accuracy, "items": found.items, "curves": curves, "absent": found.absent}


def coverage_figures(run: Any) -> dict[str, Any] | str:
    """{observed, next_view: {part: {level: share}}, constant_share, absent} of predictive intervals of pixels, or why none."""
    if reason := unfitted(run.method) or no_groups(run, "test"):
        return reason
    with measuring(run.method):
        groups = held_out_groups(run, "certainty/coverage")
    found = predictive_coverage(run, groups)
    if not found.observed and not found.next_view:
        return "; ".join(dict.fromkeys(found.absent.values()))
    named = {part: {p: {str(k): v for k, v in row.items()} for p, row in shares.items()} for part, shares in
             (("observed", found.observed), ("next_view", found.next_view))}  # fmt: skip
    return named | {"constant_share": found.constant_share, "absent": found.absent}


def weight_figures(run: Any) -> dict[str, Any] | str:
    """{groups, views, draws, trusted: share of groups with k-hat at most 0.7, pareto_k: median, effective_samples: mean}, or why none."""
    method = run.method
    if reason := unfitted(method) or unfitted_prior(method) or no_groups(run, "test"):
        return reason
    seed = stream_seed(int(run.config.get("seed") or 0), "certainty/weights")
    try:
        with measuring(method), networks_in(run.config.get("precision", "32"), method, run.device):
            groups = held_out_groups(run, "certainty/weights")
            first = next(draws(method.model, method.guide, groups[:1], 1, seed))
            prior, reason = content_prior_for(run, first, groups.num_views, int(run.config.get("seed") or 0))
            if reason:
                return reason
            weights = log_weights(method, groups, DRAWS, prior, seed=seed, tempered=False).log_weight
    except GensslError as error:
        return str(error)
    k = pareto_k(weights).numpy()
    return {
        "groups": len(groups), "views": groups.num_views, "draws": DRAWS, "trusted": float((k <= TRUSTED).mean()),
        "pareto_k": float(np.median(np.clip(k, -10.0, 10.0))), "effective_samples": float(effective_sample_size(weights).mean()),
    }  # fmt: skip


def calibration_figures(run: Any) -> dict[str, Any] | str:
    """{site: {p_value, coverage: {level: share}, histogram: [bins], summed over dimensions}} on data that the model makes, or why none."""
    if reason := unfitted(run.method) or unfitted_prior(run.method) or no_groups(run, "test"):
        return reason
    try:
        with measuring(run.method), networks_in(run.config.get("precision", "32"), run.method, run.device):
            like = held_out_groups(run, "certainty/calibration", 2 * int(run.config["num_views"]))
            found = calibrate(run.method, like, groups=CALIBRATED, samples=99, seed=int(run.config.get("seed") or 0))
    except GensslError as error:
        return str(error).partition("Trace Shapes:")[0].strip()  # which Pyro adds
    return {
        name: {
            "p_value": each.p_value,
            "coverage": {str(level): share for level, share in each.coverage.items()},
            "histogram": each.histogram.sum(0).tolist(),
        }
        for name, each in found.items()
    }

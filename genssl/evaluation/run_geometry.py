"""The geometry of a fitted representation: of clean test items, and of groups of their views."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genssl import estimators
from genssl.evaluation.components import maximum_likelihood_scales, variance_components
from genssl.evaluation.fresh_views import fresh_groups, no_groups
from genssl.evaluation.geometry import alpha_req, effective_rank, eigenspectrum, lidar, rankme
from genssl.evaluation.information import view_information
from genssl.evaluation.items import spaced
from genssl.evaluation.maybe import maybe, number
from genssl.evaluation.measuring import measuring
from genssl.evaluation.subject import Subject

ITEMS, VIEWS, LARGEST = 10000, 4000, 64


def geometry_figures(subject: Subject) -> dict[str, Any] | str:
    """Ranks and spectrum of z [N, D] of test items, and how groups of views stand in it; or why there is none.

        effective_rank, rankme, alpha_req   of at most 10000 clean test items; dim: D, their largest value
        eigenvalues    of the covariance, descending, at most the 64 largest, in units of z^2
        groups         of fresh views: alignment (of views 0 and 1) and uniformity on the sphere (Wang and Isola 2020), lidar, variance
                       {within, between} per dimension, the maximum-likelihood scales of GroupNormal and its log p(z_1..z_J) in nats,
                       I[z; z'] by InfoNCE with its cap. Null for what needs several views that differ; wholly null for the reason that
                       no_groups gives

    z is the representation, before any head. A figure that has no meaning (collapse to a point, say) is null.
    """
    if subject.no_items:
        return subject.no_items
    z = subject.z("test")
    z = z[spaced(len(z), ITEMS).to(z.device)]
    values = maybe(lambda: eigenspectrum(z))
    found: dict[str, Any] = {
        "effective_rank": number(lambda: effective_rank(z)),
        "rankme": number(lambda: rankme(z)),
        "alpha_req": number(lambda: alpha_req(z)),
        "dim": z.shape[1],
        "items": len(z),
        "eigenvalues": None if values is None else values[:LARGEST].tolist(),
    }
    reason = no_groups(subject.run, "test")
    return found | {"groups": None if reason else _groups(subject), "no_groups": reason or None}


def _groups(subject: Subject) -> dict[str, Any]:
    with measuring(subject.run.method):
        blocks = [
            (groups.unpack(subject.encode(groups.pack(groups.x)).flatten(1)).float(), groups.valid)
            for groups in fresh_groups(subject.run, "test", "geometry", VIEWS)
        ]
    z, valid = torch.cat([z for z, _ in blocks]), torch.cat([valid for _, valid in blocks])
    several = z.shape[1] > 1
    pair = valid[:, 0] & valid[:, 1] if several else valid[:, 0]
    scales = maybe(lambda: maximum_likelihood_scales(z, valid)) if several else None
    variance = maybe(lambda: variance_components(z, valid)) if several else None
    between = maybe(lambda: view_information(z, valid)) if several else None
    return {
        "groups": len(z),
        "views": z.shape[1],
        "alignment": number(lambda: estimators.alignment(z[:, 0], z[:, 1], valid=pair)) if several else None,
        "uniformity": number(lambda: estimators.uniformity(z[:, 0], valid=valid[:, 0])),
        "lidar": number(lambda: lidar(z, valid)) if several else None,
        "variance": None if variance is None else {"within": variance.within, "between": variance.between},
        "view_scale": None if scales is None else scales.view_scale,
        "content_scale": None if scales is None else scales.content_scale,
        "log_prob": None if scales is None else number(lambda: _mean(scales.log_prob)),
        "view_information": None if between is None else {"nats": number(lambda: between.bound), "cap": between.cap},
    }


def _mean(value: Tensor) -> Tensor:
    return value.mean()

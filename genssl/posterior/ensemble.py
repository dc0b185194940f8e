"""Several fits of one method as an ensemble: where they disagree, they do not know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genssl.errors import NonFiniteError, SettingsError
from genssl.evaluation.fresh_views import fresh_groups, no_groups
from genssl.evaluation.measuring import measuring
from genssl.groups import Groups
from genssl.posterior.strangeness import Strangeness, strangeness

ALIGNED, ROUNDS = 5000, 20
"""Training views that members are aligned on, and rounds of it at most."""


def ensemble(runs: Sequence[Any], groups: Groups, samples: int = 64) -> Strangeness:
    r"""Scores of strangeness of groups under an ensemble of fitted runs (other seeds of one method and data); higher = stranger.

        disagreement     var_m a_m(z_m), z_m the posterior mean of member m, M - 1 in the denominator, summed over dimensions, mean over
                         views: the share of the representations' spread over training views that members do not agree on, 0 where all
                         do, about 1 where they have nothing in common, whatever M
        waic             mean_m -b_m + var_m b_m, b_m the importance-weighted bound of member m (`negative_bound`), nats a group; var with
                         M - 1 in the denominator (Choi, Jang, Alemi 2018, arXiv:1810.01392, section 2.3, with the bound for log p)
        mixture_bound    -log 1/M sum_m exp b_m: the bound of the mixture of the members, nats a group
        and for every score of `strangeness` that all members have, mean_SCORE

    Representations of two fits differ by at least a rotation, so a_m(z) = (z - mean) / s R_m: centred and scaled to total variance 1 over
    training views, and rotated (generalised Procrustes analysis, Gower 1975, Psychometrika 40) so that the members come as close as
    rotations make them. What is left on TRAINING views is not 0 and says how much of the representation is of the seed: compare with it,
    it is what the run's own inputs score. Members that fold z otherwise than by a rotation disagree everywhere.

    Args:
        runs: two or more, of the same latent size and data; the first's device is used for groups. samples: draws a group and member.

    A function of the runs' seeds and the groups; runs and torch's generators are left bit-identical.

    Raises SettingsError (fewer than two runs, sizes of z that differ, no training groups), and what `strangeness` raises.
    """
    runs = list(runs)
    if len(runs) < 2:
        raise SettingsError(
            f"ensemble: {len(runs)} run, expected at least two; fit other seeds: genssl.fit(..., seed=1)"
        )
    if reason := no_groups(runs[0], "train"):
        raise SettingsError(f"ensemble: {reason}, so members cannot be aligned; give runs whose data are at hand")
    with measuring(runs[0].method):
        views = fresh_groups(runs[0], "train", "ensemble/train", ALIGNED, groups.num_views)
        train = Groups.collate(list(views))
    z, at = ([_means(run, each) for run in runs] for each in (groups, train))
    sizes = sorted({part.shape[1] for part in at})
    if len(sizes) > 1:
        raise SettingsError(
            f"ensemble: representations have {' and '.join(map(str, sizes))} dimensions, expected one size; give fits of one setting"
        )
    each = [strangeness(run, groups, samples) for run in runs]
    apart = torch.stack(aligned(at, z)).var(0).sum(1)
    of_views = groups.to("cpu")
    scores = {"disagreement": of_views.unpack(apart).sum(1) / of_views.count}
    shared = set.intersection(*(set(one.scores) for one in each))
    if "negative_bound" in shared:
        bounds = -torch.stack([one.scores["negative_bound"] for one in each])
        scores["waic"] = bounds.var(0) - bounds.mean(0)
        scores["mixture_bound"] = -(bounds.logsumexp(0) - torch.tensor(float(len(runs))).log())
    absent = {name: why for one in each for name, why in one.absent.items()}
    for name in sorted(shared):
        scores[f"mean_{name}"] = torch.stack([one.scores[name] for one in each]).mean(0)
    return Strangeness(scores, absent)


def aligned(train: Sequence[Tensor], points: Sequence[Tensor]) -> list[Tensor]:
    """The points [N, D] of every member in one frame, which training representations [M, D] of the same items define (see `ensemble`)."""
    centres = [part.mean(0) for part in train]
    spans = [(part - centre).square().sum(1).mean().sqrt() for part, centre in zip(train, centres, strict=True)]
    if any(not float(span) > 0 for span in spans):
        raise NonFiniteError("ensemble: the training representations of a member are all the same; leave it out")

    def standard(parts: Sequence[Tensor]) -> list[Tensor]:
        return [(part - centre) / span for part, centre, span in zip(parts, centres, spans, strict=True)]

    shapes = standard(train)
    frame = shapes[0]
    for _ in range(ROUNDS):
        turns = [rotation(shape, frame) for shape in shapes]
        new = torch.stack([shape @ turn for shape, turn in zip(shapes, turns, strict=True)]).mean(0)
        if bool((new - frame).square().sum(1).mean() < 1e-12):
            break
        frame = new
    return [part @ turn for part, turn in zip(standard(points), turns, strict=True)]


def rotation(moved: Tensor, onto: Tensor) -> Tensor:
    """The orthogonal R that minimises ||moved R - onto||^2 (Schoenemann 1966): U V^T of the singular vectors of moved^T onto."""
    u, _, v = torch.linalg.svd(moved.T @ onto)
    return u @ v


def _means(run: Any, groups: Groups) -> Tensor:
    """[N, D] of the views that exist, float64 on the CPU."""
    z = run.represent(groups.pack(groups.x)).flatten(1).double().cpu()
    if not bool(torch.isfinite(z).all()):
        raise NonFiniteError(f"ensemble: representations of {run.path} are not finite; leave that run out")
    return z

"""How much known style a representation carries: each factor predicted from it by ridge, by kernel ridge, by a probe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genssl.errors import SettingsError, ShapeError
from genssl.evaluation.inputs import SPLITS, checked, standardised
from genssl.evaluation.items import spaced
from genssl.evaluation.kernel_ridge import Setting, grid, kernel_ridge
from genssl.evaluation.probes import linear_probe
from genssl.groups import STYLE_KINDS

PENALTIES = tuple(10.0**power for power in range(2, -7, -1))
KERNEL_POINTS = 5000
SEARCH_POINTS = 2000  # of these, to choose penalty and width

Part = tuple[Tensor, Tensor]  # z [N, D] and style [N, S]
Predicted = tuple[dict[str, float], Tensor, Tensor]  # settings, and what they predict on validation and test


class StyleScores(NamedTuple):
    """factors: the figures of every factor by its name; left_out: why the others have none."""

    factors: dict[str, dict[str, Any]]
    left_out: dict[str, str]


class Target(NamedTuple):
    """What is regressed for one factor in each split [N, M]: its values, its (cos, sin), or its classes one-hot."""

    name: str
    kind: str
    parts: list[Tensor]

    def score(self, split: int, predicted: Tensor) -> float:
        """Accuracy for classes, else R2."""
        truth = self.parts[split]
        if self.kind == "categorical":
            known = truth.sum(1) > 0  # no column for a class that training never showed
            return float(((predicted.argmax(1) == truth.argmax(1)) & known).double().mean())
        return r_squared(truth, predicted)


@torch.no_grad()
def style_scores(
    train: Part,
    validation: Part,
    test: Part,
    kinds: Sequence[str],
    names: Sequence[str],
    kernel_points: int = KERNEL_POINTS,
) -> StyleScores:
    """How well each known factor of style is predicted from vectors, linearly and by an RBF kernel.

    z [N, D] (standardised here by the training mean and deviation) and style [N, S] of each split, S kinds and names.

        linear    W, b minimise   mean_n ||t_n - W z_n - b||^2 + l2 ||W||^2,   l2 in 1e2 .. 1e-6
        kernel    t(z) = b + sum_n a_n exp(-gamma ||z - z_n||^2),   (K + alpha I) a = t - b,   b the training mean of t,
                  alpha in {1, .1, .01, .001}, gamma in logspace(-2, 2, 4): the kernel ridge regression of
                  von Kuegelgen et al. (2021, arXiv:2106.04619), which finds style that no linear map does

    The target t of a `continuous` factor is its value; of a `circular` one (cos, sin), as a pair; of a `categorical` one
    its class: by `linear_probe`, and one-hot by the kernel, where the largest is the class. Penalties and gamma are chosen
    on validation, where von Kuegelgen et al. cross-validate in 3 folds. The kernel sees at most kernel_points training rows,
    drawn, since its time grows with their cube: of less data it may also find less than the linear map. Of more than
    2000 rows the grid sees 2000, and the settings that are the best for some factor there are fitted to all.

    Returns for every factor its kind and {linear, kernel}: {validation, test, ...} with what was chosen. The figure is
    R2 = 1 - sum ||t - t'||^2 / sum ||t - mean t||^2 in the split itself (1: exact, 0: no better than its mean, negative:
    worse), of the pair where circular, with `angle`, the mean angular error on test in radians (pi / 2 is chance for a
    uniform angle); for categories the accuracy, with `majority`, the share on test of the most frequent training class.
    A factor that is constant or not finite somewhere in a split is left out and told.

    Raises SettingsError for a kind that is none; ShapeError, DataError, NonFiniteError on bad z.
    """
    parts, dim = (train, validation, test), train[0].shape[-1]
    _check(parts, kinds, names, kernel_points)
    points = standardised([checked("style_scores", name, z, dim) for name, (z, _) in zip(SPLITS, parts, strict=True)])
    styles = [style.detach().to(points[0]) for _, style in parts]
    targets, left_out = [], {}
    for column, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        values = [style[:, column] for style in styles]
        if reason := unfit(dict(zip(SPLITS, values, strict=True))):
            left_out[name] = reason
        else:
            targets.append(target_of(name, kind, values))
    numbers = [target for target in targets if target.kind != "categorical"]
    linear = _chosen(numbers, _ridge(points, numbers))
    kernel = _kernel(points, targets, kernel_points)
    factors: dict[str, dict[str, Any]] = {}
    for target in targets:
        found: dict[str, Any] = {"kind": target.kind}
        if target.kind == "categorical":
            classes = [
                truth.argmax(1).where(truth.sum(1) > 0, truth.shape[1]) for truth in target.parts
            ]  # no row: unseen
            found["majority"] = float((classes[2] == classes[0].bincount().argmax()).double().mean())
            probe = linear_probe(points[0], classes[0], points[1], classes[1], points[2], classes[2])
            linear[target.name] = {name: probe[name] for name in ("validation", "test", "l2")}
        factors[target.name] = found | {"linear": linear[target.name], "kernel": kernel[target.name]}
    return StyleScores(factors, left_out)


def r_squared(truth: Tensor, predicted: Tensor) -> float:
    """1 - sum ||t - t'||^2 / sum ||t - mean t||^2 over rows and columns of t [N, M]."""
    total = (truth - truth.mean(0)).square().sum()
    return float(1 - (truth - predicted).square().sum() / total)


def angular_error(truth: Tensor, predicted: Tensor) -> float:
    """The mean distance on the circle in radians, between the directions of (cos, sin) [N, 2]."""
    turn = torch.atan2(*predicted.flip(1).unbind(1)) - torch.atan2(*truth.flip(1).unbind(1))
    return float(torch.atan2(turn.sin(), turn.cos()).abs().mean())


def unfit(values: Mapping[str, Tensor]) -> str:
    """Why a factor with these values [N] in each split cannot be scored, or nothing."""
    for split, value in values.items():
        if not bool(torch.isfinite(value).all()):
            return f"not known for {int((~torch.isfinite(value)).sum())} of {len(value)} {split} rows"
        if bool((value == value[0]).all()):
            return f"the same in all {split} rows"
    return ""


def target_of(name: str, kind: str, values: list[Tensor]) -> Target:
    """Of values [N] in each split, training first, whose classes are those that are known."""
    if kind == "categorical":
        classes = torch.unique(values[0])
        return Target(name, kind, [(value[:, None] == classes).to(value) for value in values])
    if kind == "circular":
        return Target(name, kind, [torch.stack([value.cos(), value.sin()], 1) for value in values])
    return Target(name, kind, [value[:, None] for value in values])


def _ridge(points: list[Tensor], targets: list[Target]) -> Iterator[Predicted]:
    """All penalties and factors from one eigendecomposition of the covariance of z."""
    truth = torch.cat([target.parts[0] for target in targets], 1)
    mean, size = truth.mean(0), len(truth)
    eigenvalues, vectors = torch.linalg.eigh(points[0].T @ points[0] / size)
    moments = vectors.T @ (points[0].T @ (truth - mean)) / size
    validation, test = (z @ vectors for z in points[1:])
    for penalty in PENALTIES:
        weight = moments / (eigenvalues.clamp(min=0) + penalty)[:, None]
        yield {"l2": penalty}, validation @ weight + mean, test @ weight + mean


def _kernel(points: list[Tensor], targets: list[Target], limit: int) -> dict[str, dict[str, float]]:
    """The whole grid on few points, then on all of them the settings that were the best for some factor."""
    found = _chosen(targets, _kernel_ridge(points, targets, min(limit, SEARCH_POINTS), grid()))
    if min(limit, len(points[0])) > SEARCH_POINTS:
        best = dict.fromkeys((figures["gamma"], figures["alpha"]) for figures in found.values())
        found = _chosen(targets, _kernel_ridge(points, targets, limit, best))
    return found


def _kernel_ridge(
    points: list[Tensor], targets: list[Target], limit: int, settings: Iterable[Setting]
) -> Iterator[Predicted]:
    rows = spaced(len(points[0]), limit).to(points[0].device)
    truth = torch.cat([target.parts[0][rows] for target in targets], 1)
    for setting, (on_validation, on_test) in kernel_ridge(points[0][rows], truth, points[1:], settings):
        yield setting, on_validation, on_test


def _chosen(targets: list[Target], tried: Iterable[Predicted]) -> dict[str, dict[str, float]]:
    """For each factor the first of the best on validation; the test figures choose nothing."""
    if not targets:
        return {}
    best: dict[str, dict[str, float]] = {}
    widths = [target.parts[0].shape[1] for target in targets]
    for settings, on_validation, on_test in tried:
        columns = zip(targets, on_validation.split(widths, 1), on_test.split(widths, 1), strict=True)
        for target, validation, test in columns:
            score = target.score(1, validation)
            if target.name not in best or score > best[target.name]["validation"]:
                figures = {"validation": score, "test": target.score(2, test)}
                if target.kind == "circular":
                    figures["angle"] = angular_error(target.parts[2], test)
                best[target.name] = figures | settings
    return best


def _check(parts: Sequence[Part], kinds: Sequence[str], names: Sequence[str], kernel_points: int) -> None:
    if not set(kinds) <= set(STYLE_KINDS):
        raise SettingsError(f"style_scores: kinds {tuple(kinds)}, expected each one of {', '.join(STYLE_KINDS)}")
    if len(kinds) != len(names) or len(set(names)) != len(names):
        raise SettingsError(
            f"style_scores: names {tuple(names)} for {len(kinds)} kinds, expected a name of its own for each factor"
        )
    if kernel_points < 1:
        raise SettingsError(f"style_scores: kernel_points = {kernel_points}, expected at least 1; such as 1000")
    for split, (z, style) in zip(SPLITS, parts, strict=True):
        if tuple(style.shape) != (len(z), len(names)):
            raise ShapeError(
                f"style_scores: the {split} style has shape {list(style.shape)}, expected [{len(z)}, {len(names)}],"
                " a row for each row of z and a column for each name"
            )

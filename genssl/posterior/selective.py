"""Whether the unsure predictions are the wrong ones: risk-coverage curves, and those of a fitted representation's uncertainties."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genssl.datasets.arrays import as_floats
from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.evaluation.inputs import Labelled, labelled, standardised
from genssl.evaluation.items import batches
from genssl.evaluation.measuring import measuring
from genssl.evaluation.probes import L2, minimise, threads_for, zero_layer
from genssl.evaluation.subject import Subject
from genssl.fit.precision import networks_in
from genssl.fit.randomness import seed_noise
from genssl.posterior.strangeness import log_spread
from genssl.terms.closed_forms import is_delta

TRAINING, DRAWS = 10000, 32
"""Training items that the probe sees, and draws of z for each test item."""


class RiskCoverage(NamedTuple):
    """coverage [N] = 1/N .. 1; risk [N], the mean loss of what is kept there, both float64 on the CPU; and the areas under three curves.

    excess_ratio = (area - area_of_oracle) / (area_of_random - area_of_oracle): 0 for the best order there is, 1 for a random one, above
    1 for one that keeps the wrong. NaN where all losses are equal: then no order is better than another.
    """

    coverage: Tensor
    risk: Tensor
    area: float
    area_of_random: float
    area_of_oracle: float
    excess_ratio: float


class RepresentationRisk(NamedTuple):
    """curves {uncertainty: RiskCoverage} of the same predictions; absent {uncertainty: why there is none}; what was predicted, how well.

    accuracy on `items` test items, in [0, 1]; l2, the penalty of the probe, chosen on validation.
    """

    curves: dict[str, RiskCoverage]
    absent: dict[str, str]
    accuracy: float
    items: int
    l2: float


def risk_coverage(wrong: Tensor, uncertainty: Tensor) -> RiskCoverage:
    r"""The mean loss of the k predictions that are surest, for every k: wrong [N] bool or losses, uncertainty [N], higher = less sure.

        risk(k / N) = 1/k sum_{i <= k} wrong_(i),   uncertainty_(1) <= uncertainty_(2) <= ..,      area = 1/N sum_k risk(k / N)

    Source: Geifman and El-Yaniv 2017 (arXiv:1705.08500: selective risk and coverage); the area over coverages and its
    excess over the oracle, which orders by the loss itself: Geifman, Uziel, El-Yaniv 2019 (arXiv:1805.08206). A random order has the
    mean loss at every coverage. Predictions of one uncertainty stand in no order: the risk is its expectation over all of theirs, so
    a constant uncertainty is exactly as good as a random one, whatever the order of the rows. Infinite uncertainties come last (first).

    Areas depend on the accuracy: compare excess_ratio between methods, the area between uncertainties of the same predictions. At small
    coverage the risk is a mean of few.

    Raises ShapeError, NonFiniteError (a loss that is not finite; an uncertainty that is NaN).
    """
    if wrong.dim() != 1 or wrong.shape != uncertainty.shape or len(wrong) == 0:
        raise ShapeError(
            f"risk_coverage: wrong has shape {list(wrong.shape)} and uncertainty {list(uncertainty.shape)}, expected [N] of both; give "
            "one loss and one uncertainty for each prediction"
        )
    loss, unsure = wrong.detach().double().cpu(), uncertainty.detach().double().cpu()
    for name, bad in (("losses are not finite", ~loss.isfinite()), ("uncertainties are NaN", unsure.isnan())):
        if bool(bad.any()):
            raise NonFiniteError(
                f"risk_coverage: {int(bad.sum())} of {len(loss)} {name}, expected numbers; leave those out"
            )
    kept = torch.arange(1, len(loss) + 1, dtype=torch.float64)
    risk, best = (_expected(loss, order).cumsum(0) / kept for order in (unsure, loss))
    area, random, oracle = float(risk.mean()), float(loss.mean()), float(best.mean())
    ratio = (area - oracle) / (random - oracle) if bool((loss != loss[0]).any()) else float("nan")
    return RiskCoverage(kept / len(loss), risk, area, random, oracle, ratio)


def representation_risk(run: Any, number: int = 5000) -> RepresentationRisk:
    r"""Risk-coverage curves of the class that a linear probe reads off z, of test items, by three uncertainties.

        posterior_scale      log standard deviation of q(z | x), mean over dimensions (on the sphere -1/2 log concentration): knows no class
        predictive_entropy   H[ 1/S sum_s p(c | z_s) ], z_s ~ q(z | x), 32 draws, nats: the probe's own doubt, and its disagreement over
                             draws (the entropy of the mean is the mean entropy and the mutual information of class and draw)
        confidence           1 - max_c p(c | E_q z): the doubt at the mean alone, which a deterministic guide has too

    The prediction is that at the mean, argmax_c p(c | E_q z), for all three. p is multinomial logistic regression on standardised posterior
    means of at most 10000 drawn training items, its penalty chosen on validation, as in
    `genssl.evaluation.linear_probe`; at most `number` drawn test items. Items whose label is negative are left out. Confidence
    is what the probe was fitted for, and the one to beat; the posterior scale is right about the class only where what blurs z also
    blurs the class.

    A function of the run's seed; run and torch's generators are left bit-identical.

    Raises SettingsError (number), DataError (no labels, no items, several modalities), NonFiniteError.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise SettingsError(
            f"representation_risk: number = {number!r}, expected a whole number of at least 1; take 5000"
        )
    subject = Subject(run, encode=run.method.encode)
    if subject.no_labels:
        raise DataError(f"representation_risk: {subject.no_labels}; give data with labels in every split")
    with measuring(run.method), networks_in(run.config.get("precision", "32"), run.method, run.device):
        limits = {"train": TRAINING, "validation": number, "test": number}
        encoded = [_encoded(run, subject.splits[name], limit) for name, limit in limits.items()]
        flat = [value for part in encoded for value in (part.z, part.y)]
        parts, classes = labelled("representation_risk", *flat)
        train, validation, test = (
            Labelled(z, part.y) for z, part in zip(standardised([part.z for part in parts]), parts, strict=True)
        )
        layer, l2 = _probe(train, validation, classes)
        probability = layer(test.z).softmax(-1)
        wrong = probability.argmax(-1) != test.y
        unsure, absent = {"confidence": 1 - probability.max(-1).values}, {}
        laws, who = encoded[2].laws, type(run.method).__name__
        if (scale := _scales(laws)) is None:
            absent["posterior_scale"] = f"encode of {who} gives a law without a scale"
        elif len(scale) > 1 and bool((scale == scale[0]).all()):
            absent["posterior_scale"] = f"the scale of {who} is the same for every item"
        else:
            unsure["posterior_scale"] = scale[encoded[2].labelled]
        if any(is_delta(law) for law in laws):
            absent["predictive_entropy"] = f"encode of {who} gives a point mass, so all draws are one"
        else:
            entropies = [_mean_entropy(law, layer, parts[0].z, subject.seed, n) for n, law in enumerate(laws)]
            unsure["predictive_entropy"] = torch.cat(entropies)[encoded[2].labelled]
    curves = {name: risk_coverage(wrong, value) for name, value in unsure.items()}
    return RepresentationRisk(curves, absent, 1 - float(wrong.double().mean()), len(wrong), l2)


class _Encoded(NamedTuple):
    """laws q(z | x) of blocks of items; labelled [N] bool, which of them have a class; z [M, D] and y [M] of those."""

    laws: list[Any]
    labelled: Tensor
    z: Tensor
    y: Tensor


def _encoded(run: Any, split: Any, limit: int) -> _Encoded:
    laws, labels = [], []
    for x, label in batches(split, limit):
        laws.append(run.method.encode(as_floats(x.to(run.device))))
        labels.append(torch.as_tensor(label).to(run.device))
    z, y = torch.cat([law.mean.flatten(1) for law in laws]), torch.cat(labels)
    return _Encoded(laws, y >= 0, z[y >= 0], y[y >= 0])


def _scales(laws: list[Any]) -> Tensor | None:
    """[N] mean log scale over dimensions, or None."""
    found = [spread.reshape(len(spread), -1).mean(1) for law in laws if (spread := log_spread(law)) is not None]
    return torch.cat(found) if len(found) == len(laws) else None


def _expected(loss: Tensor, order: Tensor) -> Tensor:
    """[N] the losses in the order of `order`, each its mean over those of the same value."""
    _, place, counts = torch.unique(order, return_inverse=True, return_counts=True)
    means = torch.zeros(len(counts), dtype=loss.dtype).index_add_(0, place, loss) / counts
    return means.repeat_interleave(counts)


def _probe(train: Labelled, validation: Labelled, classes: int) -> tuple[nn.Linear, float]:
    """The linear probe, and its penalty: the best on validation, the stronger one on a tie."""
    layer, found = zero_layer(train.z, classes), []
    with threads_for(train.z):
        for l2 in sorted(L2, reverse=True):  # each start is the optimum of the stronger penalty before it
            minimise(layer, train, l2)
            score = float((layer(validation.z).argmax(-1) == validation.y).double().mean())
            found.append((score, copy.deepcopy(layer), l2))
    _, best, l2 = max(found, key=lambda each: each[0])
    return best, l2


def _mean_entropy(law: Any, layer: nn.Linear, train: Tensor, seed: int, block: int) -> Tensor:
    """[B] entropy of the probe's probabilities averaged over draws of z."""
    seed_noise(seed, block, train.device, "selective")
    probability = sum(
        layer(standardised([train, law.sample().flatten(1).to(train)])[1]).softmax(-1) / DRAWS for _ in range(DRAWS)
    )
    return torch.special.entr(probability).sum(-1)

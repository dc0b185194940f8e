"""Whether a classifier is as often right as it claims: confidence against accuracy, expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: what is plotted of each bin, [bins] each, float64; where count is 0 the means are NaN.

    confidence  the mean of the largest probability
    accuracy    the share of rows whose largest probability stands at their class
    count       the number of rows
    """

    confidence: Tensor
    accuracy: Tensor
    count: Tensor


@torch.no_grad()
def reliability(probability: Tensor, y: Tensor, bins: int = BINS) -> Reliability:
    r"""Confidence and accuracy in intervals ((m - 1)/bins, m/bins] of the largest probability (Guo et al. 2017, 2).

    probability [N, C], each row a distribution over the classes; y [N] the true class, 0..C-1. Any other y, such as -1
    for a class that training never showed, counts as wrong. Perfect calibration is the diagonal, accuracy = confidence;
    below it the classifier is too sure. Since the largest probability is at least 1/C, the bins below that stay empty.

    Raises ShapeError, DataError (no rows, no distribution), NonFiniteError, SettingsError (bins).
    """
    confidence, accuracy, count = _sums("reliability", probability, y, bins)
    return Reliability(confidence / count, accuracy / count, count)


@torch.no_grad()
def expected_calibration_error(probability: Tensor, y: Tensor, bins: int = BINS) -> float:
    r"""ECE = sum_m |B_m| / N * |accuracy(B_m) - confidence(B_m)| over the bins of `reliability`, in [0, 1].

    (Guo, Pleiss, Sun, Weinberger 2017, arXiv:1706.04599, Eq. 3, with 15 bins.) probability [N, C], y [N] as there. 0 is
    needed for calibration but does not show it: only the largest probability is looked at, errors of opposite sign
    cancel within a bin, and a constant classifier that knows the share of the most frequent class has 0. It depends on
    bins. From few rows it is too large even for a perfectly calibrated classifier, by about sqrt(bins in use / N) / 3.

    Raises ShapeError, DataError (no rows, no distribution), NonFiniteError, SettingsError (bins).
    """
    confidence, accuracy, _ = _sums("expected_calibration_error", probability, y, bins)
    return float((accuracy - confidence).abs().sum()) / len(probability)


def _sums(who: str, probability: Tensor, y: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """[bins] each: the confidences that fall in a bin, how many of them were right, how many there are."""
    _check(who, probability, y, bins)
    confidence, predicted = probability.double().max(1)
    right = (predicted == y.to(predicted.device)).double()
    edges = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins
    place = torch.bucketize(confidence, edges)  # edges[m - 1] < confidence <= edges[m]; 1 and above: the last
    sums = confidence.new_zeros(3, bins).index_add_(1, place, torch.stack([confidence, right, torch.ones_like(right)]))
    return sums[0], sums[1], sums[2]


def _check(who: str, probability: Tensor, y: Tensor, bins: int) -> None:
    if bins < 1:
        raise SettingsError(f"{who}: bins = {bins}, expected at least 1; Guo et al. take 15")
    if probability.dim() != 2 or tuple(y.shape) != (len(probability),):
        raise ShapeError(
            f"{who}: probability has shape {list(probability.shape)} and y {list(y.shape)}, expected"
            " [N, C] and [N], a row for each label"
        )
    if probability.numel() == 0:
        raise DataError(f"{who}: probability is empty, expected at least one row and one class; give it some")
    if not bool(torch.isfinite(probability).all()):
        bad = int((~torch.isfinite(probability).all(1)).sum())
        raise NonFiniteError(
            f"{who}: {bad} of {len(probability)} rows of probability are not finite; look at the logits"
        )
    off = float((probability.double().sum(1) - 1).abs().max())
    if float(probability.min()) < -1e-6 or off > 1e-2:
        raise DataError(
            f"{who}: probability has a smallest entry of {float(probability.min()):.3g} and a row whose sum is"
            f" {off:.3g} away from 1, expected distributions over the classes; take the softmax of the logits"
        )

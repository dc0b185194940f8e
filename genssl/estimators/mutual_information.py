r"""Mutual information from critics: scores f_ij = f(x_i, y_j) of N pairs, (i, i) drawn from p(x, y) and i != j from p(x) p(y).

All values are in nats; E_p is the mean over the N positives, E_pp over the N(N - 1) negatives. Gradients reach the scores. `valid`
[N] bool leaves pairs out, as anchors, positives and negatives; fewer than two pairs leave no finite value, except in infonce.
Exponentials are taken in log space as far as the formula allows.

A value above the truth is no contradiction: a bound holds in expectation. No lower bound on I from N pairs alone can be trusted
much beyond log N (McAllester and Stratos 2020).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from genssl.errors import SettingsError, ShapeError
from genssl.estimators.rows import Rows, rows


def infonce(
    scores: Tensor, orientation: Literal["rows", "columns", "both"] = "rows", *, valid: Tensor | None = None
) -> Tensor:
    r"""I >= log k + E_p [f_ii - log sum_j exp f_ij], over the k candidates y_j of anchor x_i, its own among them -> [].

    (van den Oord et al. 2018, arXiv:1807.03748, Section 2.3; Poole et al. 2019, arXiv:1905.06922, Section 2.3; here log k + E log softmax,
    Bizeul et al. 2024, Eq. 10.) A lower bound in expectation for every f, and never above log k, on any data: where I > log k it
    saturates. Low variance, high bias. Tightest at f = log p(y|x) / p(y) + c(x), any c; the bias left there falls with k.
    A published InfoNCE loss is log k - this.

    scores [N, M], M >= N, positives on the diagonal, k = M: columns from N on are further candidates (a queue), drawn from p(y).

    Args:
        orientation: rows: candidates y for the anchor x; columns: candidates x for the anchor y; both: the mean of the two, still a
            bound, tightest at f = log p(x, y) / p(x) p(y) + constant. The last two need M = N.
        valid: [N] bool.
    """
    if orientation not in ("rows", "columns", "both"):
        raise SettingsError(f"infonce: orientation = {orientation!r}, expected 'rows', 'columns' or 'both'")
    if orientation == "rows":
        return _classify(scores, valid)
    if scores.dim() == 2 and scores.shape[0] != scores.shape[1]:
        raise ShapeError(
            f"infonce: scores has shape {list(scores.shape)}, expected [N, N] for {orientation!r}; use 'rows'"
        )
    columns = _classify(scores.mT, valid)
    return columns if orientation == "columns" else 0.5 * (columns + _classify(scores, valid))


def barber_agakov(log_conditional: Tensor, entropy: Tensor | float, *, valid: Tensor | None = None) -> Tensor:
    r"""I >= E_p log q(y|x) + H[y] -> [], from log_conditional [N], values log q(y_i | x_i) of a normalised density, and H[y].

    (Barber and Agakov 2003; latent distribution matching, arXiv:2605.03517, Eq. 20.) Below I by E KL(p(y|x) || q(y|x)) where H[y] is exact:
    a lower bound for every q, tight at q = p(y|x), unbiased, of low variance and without a cap at log N. With an estimated entropy
    it is as good as that: one that errs upwards (kde_entropy, logdet_entropy of a non-Gaussian y) makes it no bound.
    """
    given = rows("barber_agakov", log_conditional, valid, name="log_conditional", axes="[N]")
    return given.mean(given.z) + entropy


def tuba(scores: Tensor, log_baseline: Tensor | float = 0.0, *, valid: Tensor | None = None) -> Tensor:
    r"""I >= 1 + E_p[f - log a(x)] - E_pp[exp(f) / a(x)] -> [], from scores [N, N] and log_baseline log a(x_i): [N], [] or a number.

    (Barber and Agakov 2003; Poole et al. 2019, arXiv:1905.06922, Section 2.2.) A lower bound for every f, and every a > 0 that does not see
    the negatives; unbiased for it. Tight at f = log p(y|x) / p(y) + c(x) with a = exp c(x). The variance of its last term grows as
    exp(I): few pairs mostly miss the rare large exp f, and the value then comes out too high. It overflows to -infinity where
    f - log a exceeds the range of exp (88 in float32).
    """
    given = _square("tuba", scores, valid)
    if isinstance(log_baseline, Tensor) and log_baseline.dim() > 0:
        baseline = rows("tuba", log_baseline, valid, name="log_baseline", axes="[N]")
        if len(baseline.z) != len(given.z):
            raise ShapeError(
                f"tuba: log_baseline has {len(baseline.z)} entries, expected {len(given.z)}, one an anchor x_i"
            )
        log_baseline = baseline.z[:, None]
    given = given._replace(z=given.z - log_baseline)
    return 1 + given.mean(given.z.diagonal()) - _log_mean_exp(given).exp()


def nwj(scores: Tensor, *, valid: Tensor | None = None) -> Tensor:
    r"""I >= E_p f - E_pp exp(f - 1) -> [], scores [N, N].

    (Nguyen, Wainwright, Jordan 2010; MINE-f in Belghazi et al. 2018.) tuba at a = e: a lower bound, unbiased for it, of variance growing
    as exp(I). Tightest at f = 1 + log p(x, y) / p(x) p(y) and nowhere else: the offset of the critic matters, unlike in infonce and dv.
    """
    return tuba(scores, 1.0, valid=valid)


def dv(scores: Tensor, *, valid: Tensor | None = None) -> Tensor:
    r"""E_p f - log E_pp exp f -> [], scores [N, N].

    (Donsker and Varadhan 1983; MINE in Belghazi et al. 2018.) A lower bound with the population's E_pp. With the batch's mean, as here,
    E log mean <= log E: the estimate is biased upwards and NO bound, the more so the larger I (variance as exp(I)); the gradient
    is biased too. Tightest at f = log p(x, y) / p(x) p(y) + constant.
    """
    given = _square("dv", scores, valid)
    return given.mean(given.z.diagonal()) - _log_mean_exp(given)


def smile(scores: Tensor, clip: float = 5.0, *, valid: Tensor | None = None) -> Tensor:
    r"""E_p f - log E_pp clamp(exp f, exp -clip, exp clip) -> [], scores [N, N].

    (Song and Ermon 2020, arXiv:1910.06222.) dv with the density ratio clipped in its second term: its variance is bounded by clip rather
    than growing with I. NO bound: the upper clip biases it upwards, the lower one downwards. Made for f = log p(x, y) / p(x) p(y),
    offset included. Clipped negatives have no gradient; the authors' code trains the critic by js and reports this value.

    Args: clip > 0, nats; 5 is theirs.
    """
    if not clip > 0:
        raise SettingsError(f"smile: clip = {clip}, expected a positive number of nats")
    given = _square("smile", scores, valid)
    clipped = given._replace(z=given.z.clamp(-clip, clip))
    return given.mean(given.z.diagonal()) - _log_mean_exp(clipped)


def js(scores: Tensor, *, valid: Tensor | None = None) -> Tensor:
    r"""-E_p softplus(-f) - E_pp softplus(f) -> [], scores [N, N]; at most 0.

    The negated binary cross-entropy of telling positives from negatives by the logit f (Hjelm et al. 2019, arXiv:1808.06670, Eq. 4). A
    lower bound on 2 JS(p(x, y) || p(x) p(y)) - 2 log 2, NOT on I: at the best critic it runs from -2 log 2 (x and y independent) to 0.
    Unbiased, low variance. Tightest at f = log p(x, y) / p(x) p(y), offset included; hence its use as a critic's objective while
    another formula reports the information at the same f: nwj(1 + f) in Poole et al. (2019), smile(f, clip) in Song and Ermon
    (2020). The value of the one with the gradient of the other is js(f) + (value - js(f)).detach().
    """
    given = _square("js", scores, valid)
    # Masked before softplus, whose gradient at a padded nan would be nan; softplus(-inf) = 0.
    negatives = softplus(given.z.masked_fill(~_negatives(given), -math.inf)).sum() / (given.number * (given.number - 1))
    return -given.mean(softplus(-given.z.diagonal())) - negatives


def _classify(scores: Tensor, valid: Tensor | None) -> Tensor:
    """log k + E log softmax of the diagonal in its row."""
    given = rows("infonce", scores, valid, name="scores", axes="[N, M]")
    n, m = given.z.shape
    if m < n:
        raise ShapeError(
            f"infonce: scores has shape {list(scores.shape)}, expected [N, M] with M >= N, positives on the diagonal"
        )
    candidates = torch.cat([given.valid, given.valid.new_ones(m - n)])
    log_softmax = given.z.diagonal() - given.z.masked_fill(~candidates, -math.inf).logsumexp(1)
    return (given.number + (m - n)).log() + given.mean(log_softmax)


def _square(who: str, scores: Tensor, valid: Tensor | None) -> Rows:
    given = rows(who, scores, valid, name="scores", axes="[N, N]", least=2)
    if given.z.shape[0] != given.z.shape[1]:
        raise ShapeError(
            f"{who}: scores has shape {list(scores.shape)}, expected [N, N] with the positives on the diagonal"
        )
    return given


def _negatives(given: Rows) -> Tensor:
    return given.others() & given.valid[:, None]


def _log_mean_exp(given: Rows) -> Tensor:
    """log E_pp exp f."""
    log_sum = given.z.masked_fill(~_negatives(given), -math.inf).logsumexp((0, 1))
    return log_sum - (given.number * (given.number - 1)).log()

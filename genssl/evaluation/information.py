"""How much information a representation keeps: between two views of a group, and about its own input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.estimators import infonce
from genssl.estimators.rows import inner_products, rows
from genssl.evaluation.grouped import grouped
from genssl.evaluation.items import spaced

TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1.0)
VARIANCES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_BLOCK = 4_000_000  # numbers in memory at once: 32 MB


class ViewInformation(NamedTuple):
    """bound: a lower bound on I[z; z'], nats; cap: log k, which it cannot exceed; critic: the score that gave it."""

    bound: float
    cap: float
    critic: str


class PosteriorInformation(NamedTuple):
    """bound: a lower bound on I[x; z], nats; cap: log N, which it cannot exceed."""

    bound: float
    cap: float


@torch.no_grad()
def view_information(
    z: Tensor,
    valid: Tensor | None = None,
    temperatures: Sequence[float] = TEMPERATURES,
    variances: Sequence[float] = VARIANCES,
    limit: int = 2048,
) -> ViewInformation:
    r"""I[z_1; z_2] >= log k + E [f(z_1, z_2) - log sum_j exp f(z_1, z_2j)], InfoNCE over k groups; z [G, J, D], nats.

    (van den Oord et al. 2018, arXiv:1807.03748; `genssl.estimators.infonce`, the mean over both orders of the views.) z_1 and z_2 are the
    first two views, of the groups that have both. Critics f without training, on a grid:

        cos(z, z') / t,   t in temperatures         -||z - z'||^2 / 2s^2,   s^2 in variances x the mean variance within groups

    Groups in even places choose f (and set s^2), those in odd places give the figure: choosing and measuring on the same groups
    would be optimistic. A bound in expectation, it may come out a little below 0; it is 0 at collapse to a point, and about 0 where
    views share nothing. It never exceeds log k, k = half of the groups and at most `limit`, drawn: representations that tell items
    apart come near, and a value close to the cap says I >= cap and no more. Below it the bound is loose by what these critics
    miss, since no critic is trained. Of Gaussian views the best has s^2 = 2 x within where groups stand far apart, and a larger one
    where they do not. Rotations and the scale of z leave it alone.

    Raises SettingsError (grid, limit), ShapeError, DataError (fewer than 4 groups with both views), NonFiniteError.
    """
    who = "view_information"
    for name, grid in (("temperatures", temperatures), ("variances", variances)):
        if not all(0 < value < math.inf for value in grid):
            raise SettingsError(f"{who}: {name} = {tuple(grid)}, expected positive numbers only; leave others out")
    if not (*temperatures, *variances):
        raise SettingsError(f"{who}: no temperatures and no variances, expected one critic at least; give one")
    if limit < 2:
        raise SettingsError(f"{who}: limit = {limit}, expected at least 2 groups; such as 2048")
    groups = grouped(who, z, valid, least=1)
    pairs = groups.z[groups.valid[:, :2].all(1), :2] if z.shape[1] > 1 else groups.z[:0]
    if len(pairs) < 4:
        raise DataError(
            f"{who}: {len(pairs)} of {len(z)} groups have a first and a second view, expected 4 at least; give more groups of two"
        )
    pairs = pairs[spaced(len(pairs), 2 * limit).to(z.device)]
    if float((pairs - pairs.mean((0, 1))).norm()) <= groups.rounding:
        pairs = torch.zeros_like(pairs)  # one point: what rounding leaves is no information
    choose, measure = pairs[::2], pairs[1::2]
    # Where views coincide within would be 0: the floor keeps the scores finite.
    floor = torch.finfo(torch.float64).eps * float(pairs.square().mean()) + torch.finfo(torch.float64).tiny
    within = max(float((choose[:, 0] - choose[:, 1]).square().mean()) / 2, floor)
    values = [float(infonce(scores, "both")) for _, scores in _critics(choose, temperatures, variances, within)]
    best = values.index(max(values))
    critic, scores = next(islice(_critics(measure, temperatures, variances, within), best, None))
    return ViewInformation(float(infonce(scores, "both")), math.log(len(measure)), critic)


def _critics(
    pairs: Tensor, temperatures: Sequence[float], variances: Sequence[float], within: float
) -> Iterator[tuple[str, Tensor]]:
    """(in words, scores [k, k]) of every critic, positives on the diagonal; pairs [k, 2, D]."""
    cosine = inner_products(*normalize(pairs, dim=-1).unbind(1))
    for temperature in temperatures:
        yield f"cos(z, z') / {temperature:g}", cosine / temperature
    # A matrix product cancels least around the mean.
    first, second = (pairs - pairs.mean((0, 1))).unbind(1)
    square = first.square().sum(1)[:, None] + second.square().sum(1) - 2 * inner_products(first, second)
    for factor in variances:
        words = f"-||z - z'||^2 / 2s^2, s^2 = {factor:g} x within = {factor * within:.3g}"
        yield words, -square.clamp(min=0) / (2 * factor * within)


@torch.no_grad()
def posterior_information(loc: Tensor, scale: Tensor, draws: int = 8, seed: int = 0) -> PosteriorInformation:
    r"""I[x; z] of a Normal guide q(z|x_i) = N(loc_i, diag scale_i^2): loc, scale [N, D], nats.

        I >= 1/N sum_i E_{z ~ q(z|x_i)} [log q(z|x_i) - log 1/N sum_k q(z|x_k)]

    (The mutual information of z and the index i: Hoffman and Johnson 2016; a bound for the x that these N are a sample of: Poole et al.
    2019, arXiv:1905.06922, InfoNCE with the conditional density known.) For the N items as the whole population it is I[i; z] itself, up to
    the noise of the draws; for a larger one it lies below the truth, the more so the nearer to the cap log N. H[E q(z|x)] = E H[q(z|x)]
    + I[x; z]. It is 0 where z is independent of x (posterior collapse: q the same for all x), and near the cap where no two
    posteriors overlap, which is usual in many dimensions. Any invertible map of z leaves it alone. Not defined for point masses.

    Args: draws: z a posterior.  seed: of their generator; torch's default one is left alone.  Memory: blocks of 32 MB.
    Raises ShapeError, DataError (scale not positive), NonFiniteError, SettingsError (draws).
    """
    who = "posterior_information"
    if draws < 1:
        raise SettingsError(f"{who}: draws = {draws}, expected at least 1")
    rows(who, loc, name="loc", least=2)
    rows(who, scale, name="scale")
    if loc.shape != scale.shape:
        raise ShapeError(
            f"{who}: loc has shape {list(loc.shape)} and scale {list(scale.shape)}, expected the same; expand scale"
        )
    if not bool(torch.isfinite(loc).all() & torch.isfinite(scale).all()):
        raise NonFiniteError(f"{who}: loc or scale is not finite; lower lr and fit again")
    if not bool((scale > 0).all()):
        raise DataError(
            f"{who}: {int((scale <= 0).sum())} scales are not positive; of a point mass I[x; z] is not defined, take view_information"
        )
    # A matrix product cancels least around the mean.
    loc, scale = (loc.double() - loc.double().mean(0)), scale.double()
    precision = scale.square().reciprocal()
    constant = (
        -0.5 * (loc.square() * precision).sum(1) - scale.log().sum(1) - 0.5 * loc.shape[1] * math.log(2 * math.pi)
    )

    def log_prob(z: Tensor) -> Tensor:
        return constant + inner_products(z, loc * precision) - 0.5 * inner_products(z.square(), precision)

    generator = torch.Generator(loc.device).manual_seed(seed)
    noise = (torch.randn(loc.shape, generator=generator, dtype=loc.dtype, device=loc.device) for _ in range(draws))
    found = [information_of_draws(loc + scale * each, log_prob) for each in noise]
    return PosteriorInformation(sum(each.bound for each in found) / draws, found[0].cap)


@torch.no_grad()
def information_of_draws(z: Tensor, log_prob: Callable[[Tensor], Tensor]) -> PosteriorInformation:
    r"""1/N sum_i [log q(z_i|x_i) - log 1/N sum_k q(z_i|x_k)] for any guide: z [N, D], z_i ~ q(z|x_i); nats, at most log N.

    What `posterior_information` averages over draws, for a family of one's own.

    Args: log_prob: z [B, D] -> [B, N], log q(z_b|x_k) for all N items, up to a constant that is the same for all k; called in blocks.
    Raises ShapeError (also of what log_prob gives), DataError, NonFiniteError.
    """
    who = "information_of_draws"
    size, total = len(rows(who, z, least=2).z), 0.0
    for place in torch.arange(size, device=z.device).split(max(1, _BLOCK // size)):
        values = log_prob(z[place])
        if values.shape != (len(place), size):
            raise ShapeError(
                f"{who}: log_prob gave shape {list(values.shape)} for {len(place)} rows of z, expected [{len(place)}, {size}]; "
                "give every draw under every item"
            )
        values = values.double()
        total += float((values.gather(1, place[:, None])[:, 0] - values.logsumexp(1)).sum())
    if not math.isfinite(total):
        raise NonFiniteError(f"{who}: log_prob of a draw under its own posterior is not finite; check log_prob and z")
    return PosteriorInformation(math.log(size) + total / size, math.log(size))

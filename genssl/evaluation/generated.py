"""Images that a fitted model generates: samples, samples of each class, further views of a group, traversals of z."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genssl.datasets.arrays import as_floats
from genssl.errors import DataError, NonFiniteError, SettingsError
from genssl.evaluation.decoding import decodes
from genssl.evaluation.items import batches, several_modalities
from genssl.evaluation.measuring import measuring
from genssl.evaluation.predictive import predicted
from genssl.fit.precision import networks_in
from genssl.fit.randomness import seed_noise, stream_seed
from genssl.groups import Groups

Decode = Callable[[Tensor], Tensor]  # z [N, D] -> x [N, *event]
FIT_ITEMS, BLOCK = 10000, 1024


class Generated(NamedTuple):
    """Images with what they were decoded from.

    images  [..., *event] decode(z), means of p(x | z)
    z       [..., D] draws of the law
    law     in words, what z was drawn from
    label   class_samples: [C]; next_views: that of the groups, or None; samples: None
    """

    images: Tensor
    z: Tensor
    law: str
    label: Tensor | None = None


class Traversals(NamedTuple):
    """Images along single coordinates of z.

    images   [N, K, S, *event] decode(z with coordinate dims[k] moved by offsets[s] * scale[k])
    offsets  [S] in standard deviations
    dims     [K]
    scale    [K] the standard deviation of the aggregate along each
    """

    images: Tensor
    offsets: Tensor
    dims: Tensor
    scale: Tensor


def gaussian_samples(z: Tensor, number: int, seed: int) -> Tensor:
    """[number, D] draws from the Gaussian with the mean and full covariance (divisor N) of z [N, D].

    The same for the same seed, which seeds a generator of its own. From N <= D rows the covariance is singular, and
    draws stay in the plane of the rows.
    """
    centre = z.double().mean(0)
    # z - centre = U S V^T, so V S e / sqrt(N) has their covariance for standard normal e, also where it is singular.
    _, values, directions = torch.linalg.svd(z.double() - centre, full_matrices=False)
    noise = torch.randn(number, len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (centre + (noise.to(z.device) * values / len(z) ** 0.5) @ directions).to(z.dtype)


def samples(run: Any, number: int, decode: Decode | None = None, limit: int = FIT_ITEMS) -> Generated:
    """decode(z) [number, *event] for z from a Gaussian with the mean and full covariance of training representations.

    NOT draws from the model's own prior: a flat p(y) has none, and this law is the same for every method. Where the
    aggregate is no Gaussian (clusters, a sphere) it also decodes points that no item is near. Fitted to at most `limit`
    drawn training items.

    decode: for a method without a trained decoder, one that was fitted to its frozen representations (`adhoc_decoder`).
    The same for the same run and arguments; run and torch's generators are left as they were.

    Raises DataError (several modalities), SettingsError (no decoder, number), NonFiniteError.
    """
    _at_least_one("samples", number=number)
    with decoder_of("samples", run, decode) as decoder:
        z, _ = represented("samples", run, limit)
        drawn = draw(run, z, number)
        law = f"a Gaussian with the mean and covariance of {len(z)} training representations, not the model's prior"
        return Generated(decoded(decoder, drawn), drawn, law)


def class_samples(run: Any, per_class: int, decode: Decode | None = None, limit: int = FIT_ITEMS) -> Generated:
    """decode(z) [C, per_class, *event] for z from one Gaussian for each class, with the full covariance of its
    training representations.

    Source: Bizeul et al. 2024 (arXiv:2402.01399), A.7.6, which generates so for every method. Not the model's own
    prior, as in `samples`. label [C]: the classes, in order; items with a negative label are left out. A class of
    n <= D items spans n - 1 directions, one of a single item gives that item. The draws of one class do not depend on
    the others.

    Raises DataError (no labels, or not one for an item; several modalities), SettingsError, NonFiniteError.
    """
    who = "class_samples"
    _at_least_one(who, per_class=per_class)
    with decoder_of(who, run, decode) as decoder:
        z, label = represented(who, run, limit)
        if label is None or not class_sizes(label):
            raise DataError(f"{who}: the training items have no labels, one class for each; take samples")
        drawn = draw_classes(run, z, label, dict.fromkeys(class_sizes(label), per_class))
        stacked = torch.stack(list(drawn.values()))
        law = (
            f"a Gaussian for each class, with the mean and covariance of its training representations ({len(z)} of all "
            "classes), not the model's prior"
        )
        return Generated(decoded(decoder, stacked), stacked, law, torch.tensor(list(drawn), device=z.device))


def next_views(
    run: Any,
    groups: Groups,
    draws: int,
    decode: Decode | None = None,
    *,
    means: bool = False,
    view_scale: float | None = None,
) -> Generated:
    r"""decode(z_{J+1}) [G, draws, *event]: further views of what the groups show.

    z_{J+1} ~ p(z_{J+1} | z_1..z_J), a law of its own for each draw of z_j ~ q(z_j | x_j):

        SimVAE              N(m, (v + s^2) I), where p(y | z_1..z_J) = N(m, v I) and s = view_scale; flat p(y):
                            N(zbar, s^2 (1 + 1 / J) I), proper for any J >= 1 (Bizeul et al. 2024, Eq. 9 and A.4)
        MixtureSimVAE       the same for each component, weighted by p(k | z_1..z_J)
        NeuralStatistician  y ~ q(y | x_1..x_J), then its learned p(z | y)

    means=True takes z_j (or y) at the mean of q, so that all spread is that of p. Ragged groups: J is the number of
    views that a group has.

    Loose: q(z_1..z_J | x) stands for the posterior, and p(z | y) is a Gaussian of one width. Style that fills less than
    it (a guide that spreads views less than view_scale) gives draws that vary more than views do.

    view_scale: for a method without such a prior (SimCLR, with an ad-hoc decoder); p(y) is flat then. That of
    `maximum_likelihood_scales` is the best fit.

    Raises SettingsError (no decoder; views that the prior does not tie together), DataError, NonFiniteError.
    """
    who = "next_views"
    _at_least_one(who, draws=draws)
    if not isinstance(groups.x, Tensor):
        raise DataError(f"{who}: the views are of several modalities, and one decoder gives one; take groups of one")
    groups = groups.to(run.device)
    with decoder_of(who, run, decode) as decoder:
        seed_noise(_seed(run, who), 0, run.device)
        with networks_in(run.config.get("precision", "32"), run.method, run.device):
            z = predicted(run.method, groups, draws, means, view_scale)
        if not bool(torch.isfinite(z).all()):
            raise NonFiniteError(f"{who}: representations are not finite; the run has diverged, lower lr")
        own = (
            f"of {type(run.method).__name__}" if view_scale is None else f"at view_scale {view_scale:.4g} and flat p(y)"
        )
        law = f"p(z_J+1 | z_1..z_J) {own}, z_j {'at the mean of' if means else 'from'} q(z_j | x_j)"
        return Generated(decoded(decoder, z), z, law, groups.label)


def traversals(
    run: Any,
    x: Tensor,
    dims: Sequence[int] | None = None,
    steps: int = 7,
    span: float = 3.0,
    decode: Decode | None = None,
    limit: int = FIT_ITEMS,
) -> Traversals:
    """decode(z) [N, K, steps, *event] for x [N, *event]: the mean of q(z | x) with one of K coordinates moved.

    By -span to span standard deviations of the aggregate E_x q(z | x) along that coordinate (variance of the means plus
    mean variance) over at most `limit` training items. An odd number of steps has the reconstruction in its middle.
    dims: the K coordinates, None for all.

    Axes need not mean anything: SimVAE's prior is invariant to rotations of z, and only the diagonal guide singles them
    out. Far from the items (span above 2, or clusters) the decoder is asked what it never saw; a coordinate that it
    ignores changes nothing.

    Raises SettingsError (dims, steps, span, no decoder), DataError, NonFiniteError.
    """
    who = "traversals"
    if steps < 2:
        raise SettingsError(f"{who}: steps = {steps}, expected at least 2; an odd number has the item in its middle")
    if not 0 < span < float("inf"):
        raise SettingsError(f"{who}: span = {span}, expected a positive number of standard deviations")
    with decoder_of(who, run, decode) as decoder:
        z = _finite(who, run.represent(x).flatten(1), "given")
        dims = range(z.shape[1]) if dims is None else dims
        if len(dims) == 0:
            raise SettingsError(f"{who}: dims is empty, expected at least one coordinate")
        if outside := [dim for dim in dims if not 0 <= dim < z.shape[1]]:
            raise SettingsError(f"{who}: dims has {outside[0]}, expected coordinates from 0 to {z.shape[1] - 1}")
        chosen = torch.tensor(list(dims), dtype=torch.long, device=z.device)
        scale = _aggregate_scale(who, run, limit).to(z)[chosen]
        offsets = torch.linspace(-span, span, steps, device=z.device, dtype=z.dtype)
        moves = scale[:, None] * offsets  # [K, S]
        moved = z[:, None, None] + moves[..., None] * nn.functional.one_hot(chosen, z.shape[1])[:, None]
        return Traversals(decoded(decoder, moved), offsets, chosen, scale)


# ---------------------------------------------------------------------- inside


@contextmanager
def decoder_of(who: str, run: Any, decode: Decode | None) -> Iterator[Decode]:
    """What decodes, while the run, and the module behind it, are measured without a trace."""
    if decode is None and not decodes(run.method):
        raise SettingsError(
            f"{who}: {type(run.method).__name__} has no trained decoder; give decode=, such as adhoc_decoder(run)[0]"
        )
    chosen: Any = run.method.decode if decode is None else decode
    owner = chosen if isinstance(chosen, nn.Module) else getattr(chosen, "__self__", None)
    with ExitStack() as stack:
        for module in {run.method, owner} if isinstance(owner, nn.Module) else {run.method}:
            stack.enter_context(measuring(module))
        yield chosen


def decoded(decode: Decode, z: Tensor) -> Tensor:
    """[..., *event] from z [..., D], in blocks."""
    return torch.cat([decode(part) for part in z.flatten(0, -2).split(BLOCK)]).unflatten(0, z.shape[:-1])


def represented(who: str, run: Any, limit: int) -> tuple[Tensor, Tensor | None]:
    """Representations z [N, D] of training items, and their labels [N] where each has one."""
    _at_least_one(who, limit=limit)
    if several_modalities(run.data.train):
        raise DataError(f"{who}: the views are of several modalities, and one decoder gives one; take data of one")
    parts = [(run.represent(x).flatten(1), label) for x, label in batches(run.data.train, limit)]
    z = _finite(who, torch.cat([z for z, _ in parts]), "training")
    labels = [label.to(z.device) for _, label in parts if label is not None and label.dim() == 1]
    return z, torch.cat(labels) if len(labels) == len(parts) else None


def _finite(who: str, z: Tensor, which: str) -> Tensor:
    if not bool(torch.isfinite(z).all()):
        bad = int((~torch.isfinite(z).all(1)).sum())
        raise NonFiniteError(
            f"{who}: {bad} of {len(z)} {which} representations are not finite; the run has diverged, lower lr"
        )
    return z


def _aggregate_scale(who: str, run: Any, limit: int) -> Tensor:
    """[D] standard deviations of E_x q(z | x) over training items."""
    means = represented(who, run, limit)[0].double()
    variance = means.var(0, correction=0)
    with networks_in(run.config.get("precision", "32"), run.method, run.device):
        for x, _ in batches(run.data.train, limit):
            try:
                stddev = run.method.encode(as_floats(x.to(run.device))).stddev
            except (AttributeError, NotImplementedError):  # a law without one adds nothing
                break
            variance = variance + stddev.flatten(1).double().square().sum(0) / len(means)
    return variance.sqrt()


def _seed(run: Any, stream: str) -> int:
    return stream_seed(int(run.config.get("seed") or 0), f"generation/{stream}")


def draw(run: Any, z: Tensor, number: int) -> Tensor:
    """[number, D] from the Gaussian of all z, from the stream of `samples`."""
    return gaussian_samples(z, number, _seed(run, "samples"))


def draw_classes(run: Any, z: Tensor, label: Tensor, numbers: dict[int, int]) -> dict[int, Tensor]:
    """For each class as many draws [number, D] as asked for, from a stream of its own."""
    seed = _seed(run, "class_samples")
    return {
        value: gaussian_samples(z[label == value], number, stream_seed(seed, "class", value))
        for value, number in numbers.items()
    }


def class_sizes(label: Tensor) -> dict[int, int]:
    """How many items each class has; negative labels are none."""
    values, counts = torch.unique(label[label >= 0], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _at_least_one(who: str, **numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise SettingsError(f"{who}: {name} = {value}, expected at least 1")

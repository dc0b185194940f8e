"""Pictures of how sure a run is: of single items, of items made worse, and of a group as its views arrive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genssl.errors import GensslError, SettingsError
from genssl.evaluation.fresh_views import fresh_groups, no_groups
from genssl.evaluation.items import batches
from genssl.evaluation.measuring import measuring
from genssl.groups import Groups
from genssl.posterior.degraded import degraded_scales
from genssl.report import bars, figures
from genssl.report.drawing import Drawing, sentence
from genssl.report.looking import Look

ITEMS, SHOWN, GROUPS, INTERVALS = 1000, 10, 500, 60


def uncertain(run: Any, seen: Look) -> dict[str, Drawing]:
    """By the name of its file; where one does not apply, its caption says why."""
    makers: dict[str, tuple[str, Callable[[Any, Look], Drawing]]] = {
        "intervals": ("Intervals on embeddings", _intervals),
        "surest": ("The surest and the least sure items", _surest),
        "degraded": ("Uncertainty of items made worse", _degraded),
        "arriving": ("Content as views arrive", _arriving),
    }
    out = {}
    for name, (title, make) in makers.items():
        try:
            reason = sentence(seen.why_not) if seen.z is None else ""
            if not reason and seen.stddev is None:
                reason = "The guide is deterministic: it is never unsure."
            out[name] = Drawing(title, reason) if reason else make(run, seen)
        except GensslError as error:
            out[name] = Drawing(title, sentence(str(error)))
    return out


def _intervals(run: Any, seen: Look) -> Drawing:
    title = "Intervals on embeddings"
    z, stddev = _both(seen)
    best = int((z.var(0) / stddev.square().mean(0)).argmax())
    rows = torch.arange(min(INTERVALS, len(z)))
    rows = rows[z[rows, best].argsort()]
    label = None if seen.label is None else seen.label[rows]
    caption = (
        f"Mean and central 95 % of q(z|x) for {len(rows)} test items, in the coordinate that tells items apart best for its posterior "
        f"scale (z {best}), sorted by it. They are what the guide says; whether that is right, `genssl.posterior.calibrate` tells."
    )
    figure = bars.intervals(z[rows, best], 1.96 * stddev[rows, best], label, seen.classes, f"z {best}")
    return Drawing(title, caption, figure)


def _surest(run: Any, seen: Look) -> Drawing:
    title = "The surest and the least sure items"
    _, stddev = _both(seen)
    images = torch.cat([x for x, _ in batches(run.data.test, len(stddev))])
    if not figures.is_image(images.shape[1:]):
        return Drawing(title, f"Items of shape {list(images.shape[1:])} are no images.")
    order = stddev.log().mean(1).argsort()
    count = min(SHOWN, len(order))
    rows = [images[order[:count]], images[order.flip(0)[:count]]]
    caption = (
        f"Of {len(order)} test items those with the smallest (first row) and the largest mean log standard deviation of q(z|x). In a "
        "model with a likelihood the scale follows how sharply the decoder reacts to z: sure often means detailed, and not typical."
    )
    return Drawing(title, caption, figures.rows_of_images(rows, ["surest", "least sure"]))


def _degraded(run: Any, seen: Look) -> Drawing:
    x = torch.cat([x for x, _ in batches(run.data.test, ITEMS)])
    curves = degraded_scales(run, x)
    # One axis for strengths of several units: each as a fraction of its largest.
    lines = {
        f"{name.split(',')[0]}, up to {points[-1][0]:g}": [
            (strength / points[-1][0], value) for strength, value in points
        ]
        for name, points in curves.items()
    }
    caption = (
        f"Mean change of log posterior scale over {len(x)} test items against how strongly they were degraded (noise: standard deviation, "
        "pixels in [0, 1]; blur: standard deviation as a share of the side). A guide that knows what it has lost rises. Nothing in the "
        "bound asks that of degradations it never saw."
    )
    figure = bars.against(lines, "strength, as a share of the largest", "change of log scale")
    return Drawing("Uncertainty of items made worse", caption, figure)


def _arriving(run: Any, seen: Look) -> Drawing:
    title = "Content as views arrive"
    if not hasattr(run.method, "content"):
        return Drawing(title, f"{type(run.method).__name__} has no posterior of content.")
    if reason := no_groups(run, "test"):
        return Drawing(title, sentence(reason))
    with measuring(run.method):
        groups = next(fresh_groups(run, "test", "report/arriving", GROUPS * int(run.config["num_views"])))
    groups = groups[groups.valid.all(1)]
    if len(groups) < 2 or groups.num_views < 2:
        return Drawing(title, "There are no groups of which every view is there, or groups have one view.")
    scale, moved = arriving(run.method, groups)
    caption = (
        f"q(y | x_1..x_J) of {len(groups)} groups of test items: its standard deviation, and how far its mean is from that of all views "
        "(root mean square a dimension). They come down together where the guide knows what is left to learn; the first is in closed "
        "form under the model, the second is measured."
    )
    lines = {"standard deviation of y": scale, "distance of its mean from the last": moved}
    return Drawing(title, caption, bars.against(lines, "views J", "units of z"))


@torch.no_grad()
def arriving(method: Any, groups: Groups) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Of groups without padding, for J = 1, 2, ...: the scale of q(y | x_1..x_J), and how far its mean is from that of all views.

    Root means over groups and dimensions, of the variance and of the square.
    """
    with measuring(method):
        laws = [method.content(Groups(groups.x[:, :j])) for j in range(1, groups.num_views + 1)]
    if not isinstance(laws[-1], torch.distributions.Distribution):
        raise SettingsError(
            f"{type(method).__name__}.content gives a {type(laws[-1]).__name__}, expected a distribution of y given the views"
        )
    last = laws[-1].mean
    scale = [(float(j), float(law.variance.mean().sqrt())) for j, law in enumerate(laws, 1)]
    moved = [(float(j), float((law.mean - last).square().mean().sqrt())) for j, law in enumerate(laws[:-1], 1)]
    return scale, moved


def _both(seen: Look) -> tuple[Tensor, Tensor]:
    assert seen.z is not None  # `uncertain` has looked
    assert seen.stddev is not None
    return seen.z, seen.stddev

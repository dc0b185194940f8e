"""Pictures of what a run generates: samples of each class, further views of test groups, one coordinate of z moved at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genssl.errors import GensslError
from genssl.evaluation.fresh_views import fresh_groups, no_groups
from genssl.evaluation.generated import class_samples, next_views, traversals
from genssl.evaluation.measuring import measuring
from genssl.report import figures
from genssl.report.drawing import Drawing, by, sentence
from genssl.report.looking import Look

PER_CLASS, CLASSES = 10, 10
GROUPS, SHOWN_VIEWS, DRAWS = 6, 4, 6
DIMS, STEPS = 10, 9


def imagined(run: Any, seen: Look, evaluation: dict[str, Any]) -> dict[str, Drawing]:
    """By the name of its file; where one does not apply, its caption says why."""
    makers: dict[str, tuple[str, Callable[[Any, Look, dict[str, Any]], Drawing]]] = {
        "class_samples": ("Samples of each class", _class_samples),
        "next_views": ("Further views of a group", _next_views),
        "traversals": ("One coordinate of z at a time", _traversals),
    }
    out: dict[str, Drawing] = {}
    for name, (title, make) in makers.items():
        if seen.decode is None or seen.images is None or not figures.is_image(seen.images.shape[1:]):
            out[name] = Drawing(title, "There are no decoded images.")
            continue
        try:
            out[name] = make(run, seen, evaluation)
        except GensslError as error:
            out[name] = Drawing(title, sentence(str(error)))
    return out


def _given(seen: Look) -> Any:
    """The decoder as `genssl.evaluation.generated` takes it."""
    return seen.decode if seen.adhoc else None


def _class_samples(run: Any, seen: Look, _: dict[str, Any]) -> Drawing:
    made = class_samples(run, PER_CLASS, _given(seen))
    labels = [] if made.label is None else made.label.tolist()[:CLASSES]
    names = [str(seen.classes[y]) if seen.classes is not None and y < len(seen.classes) else str(y) for y in labels]
    caption = f"A row a class: z from {made.law}; decoded." + by(seen)
    return Drawing("Samples of each class", caption, figures.rows_of_images(list(made.images[:CLASSES]), names))


def _next_views(run: Any, seen: Look, evaluation: dict[str, Any]) -> Drawing:
    title = "Further views of a group"
    if reason := no_groups(run, "test"):
        return Drawing(title, sentence(reason))
    with measuring(run.method):
        groups = next(fresh_groups(run, "test", "report/views", GROUPS * int(run.config["num_views"])))[:GROUPS]
    own = getattr(run.method, "prior", None) is not None
    scale = None if own else ((evaluation.get("geometry") or {}).get("groups") or {}).get("view_scale")
    if not own and scale is None:
        return Drawing(
            title, "The method has no p(z | y), and no view_scale was measured; `genssl evaluate` measures one."
        )
    made = next_views(run, groups, DRAWS, _given(seen), view_scale=scale)
    gap = torch.ones_like(made.images[:, :1])
    rows = torch.cat([_views(groups.x, groups.valid).to(made.images), gap, made.images], 1)
    caption = (
        f"A row a group of test items: views that it has, then after the gap decoded draws of {made.law}. What differs among the draws "
        "is what the model takes for style."
    ) + by(seen)
    return Drawing(title, caption, figures.rows_of_images(list(rows), [""] * len(rows)))


def _views(x: Tensor, valid: Tensor) -> Tensor:
    """[G, at most 4, *event]; views that a group does not have are white."""
    x, valid = x[:, :SHOWN_VIEWS], valid[:, :SHOWN_VIEWS]
    return torch.where(valid.reshape(*valid.shape, *[1] * (x.dim() - 2)), x, torch.ones_like(x))


def _traversals(run: Any, seen: Look, _: dict[str, Any]) -> Drawing:
    assert seen.images is not None
    width = 1 if seen.z is None else seen.z.shape[1]
    # The coordinates along which the means spread most: with many, the others show little.
    order = torch.arange(width) if seen.z is None else seen.z.var(0, correction=0).argsort(descending=True)
    made = traversals(run, seen.images[:1], sorted(order[:DIMS].tolist()), STEPS, decode=_given(seen))
    names = [f"z {dim}" for dim in made.dims.tolist()]
    caption = (
        f"decode(z) of one test item, a row a coordinate that moves by {-made.offsets[-1]:.0f} to {made.offsets[-1]:.0f} "
        "standard deviations of all z. Axes need not mean anything: the prior does not single them out."
    ) + by(seen)
    return Drawing("One coordinate of z at a time", caption, figures.rows_of_images(list(made.images[0]), names))

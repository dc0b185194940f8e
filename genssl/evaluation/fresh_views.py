"""Groups to measure on: drawn items of a split with views that no step of the fit has seen."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch

from genssl.evaluation.items import BATCH, count, several_modalities, spaced
from genssl.fit.randomness import seed_noise, stream_seed
from genssl.groups import Groups
from genssl.views import make_groups


def no_groups(run: Any, split: str) -> str:
    """Why there are no groups of this split, or nothing."""
    part = getattr(run.data, split)
    if count(part) == 0:
        return f"the data have no {split} items"
    if several_modalities(part):
        return "the views are of several modalities"
    if isinstance(part, Groups):
        return ""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        _ = run.views
    return str(told[0].message) if told else ""  # the run's own views are not here


def fresh_groups(run: Any, split: str, stream: str, limit: int, num_views: int | None = None) -> Iterator[Groups]:
    """At most `limit` views in all, as groups in blocks on the run's device; natural groups keep their own views.

    Views of items are a function of (seed of the run, stream, block), and the stream is one that no step of the fit uses, so that
    every method of that seed is measured on the same ones. torch's default generator is seeded for views of the user that draw
    from it: call this within `measuring`. num_views: default the run's.
    """
    part, device = getattr(run.data, split), run.device
    natural = isinstance(part, Groups)
    num_views = part.num_views if natural else num_views or int(run.config["num_views"])
    order = spaced(len(part), max(1, limit // num_views)).split(max(1, BATCH // num_views))
    if natural:
        for rows in order:
            yield part[rows.to(part.device)].to(device)
        return
    seed, views = stream_seed(int(run.config.get("seed") or 0), stream), run.views
    for block, (x, label, index) in enumerate(part.batches(order, 0, seed)):
        seed_noise(seed, block, device, "views")
        generator = torch.Generator(device).manual_seed(stream_seed(seed, "views", block))
        yield make_groups(x, index, label, views, num_views, generator).to(device)

"""Which style is known in the data of a run, and the vectors that it is looked for in."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from genssl.evaluation.inputs import SPLITS
from genssl.evaluation.items import BATCH, batches, count, several_modalities, spaced
from genssl.evaluation.measuring import measuring
from genssl.evaluation.style import Part, style_scores
from genssl.fit.precision import networks_in
from genssl.fit.randomness import seed_noise, stream_seed
from genssl.groups import Groups
from genssl.views import make_groups

LIMITS = {"train": 10000, "validation": 5000, "test": 5000}  # items, or views of all groups together
KERNEL_POINTS = 1000
MOST_VIEWS = 4

Vectors = dict[str, Part]


def style_figures(run: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """({items, views}, why one of them is None): scores of the known style of the items, and of that of views.

    Each is {points, SOURCE: {FACTOR: figures of style_scores}, left_out}, where SOURCE is

        z         the representation, of every item or view
        content   of groups of views: the mean of the method's q(y | x_1..x_J), or zbar, the mean of z over the group, where
                  the method has none (or gives None)
        residual  of groups of views: z - zbar, where style should be (von Kuegelgen et al. 2021)

    Style of J views that is a linear part of z and independent of content and between views has R2 1 / J in zbar, which
    still holds a J-th of it, and 1 - 1 / J in the residual: read both against that. J is the run's num_views, at most 4;
    natural groups keep theirs, and of those groups only the ones of several views give content and residual.

    Views of items are drawn from a stream of the run's seed that no step of the fit uses, so that every method of that
    seed is measured on the same ones; the run and torch's default generators are left as they were.
    """
    with measuring(run.method):
        found = {"items": _items(run), "views": _views(run)}
    notes = {f"style.{name}": value for name, value in found.items() if isinstance(value, str)}
    return {name: None if isinstance(value, str) else value for name, value in found.items()}, notes


def _items(run: Any) -> dict[str, Any] | str:
    splits = {name: getattr(run.data, name) for name in SPLITS}
    if isinstance(splits["train"], Groups):
        return "the items are the views of natural groups"
    parts: dict[str, Vectors] = {}
    for name, split in splits.items():
        if count(split) == 0:
            return f"the data have no {name} items"
        style = split.style
        if style is None or style.shape[1] == 0:
            return f"the {name} items have no known style factors"
        z = torch.cat([run.represent(x).flatten(1) for x, _ in batches(split, LIMITS[name])])
        parts[name] = {"z": (z, style[spaced(len(split), LIMITS[name]).to(style.device)])}
    return _scored(parts, splits["train"].style_names, splits["train"].style_kinds)


def _views(run: Any) -> dict[str, Any] | str:
    train, views = run.data.train, None
    if not isinstance(train, Groups):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            views = run.views
        if told:  # the run's own views are not here, and no others tell what it learned of its style
            return str(told[0].message)
    num_views = train.num_views if isinstance(train, Groups) else min(int(run.config["num_views"]), MOST_VIEWS)
    parts: dict[str, Vectors] = {}
    names = kinds = None
    for split in SPLITS:
        if count(getattr(run.data, split)) == 0:
            return f"the data have no {split} items"
        blocks: list[Vectors] = []
        for groups in _groups(run, split, views, num_views):
            if several_modalities(groups):
                return "the views are of several modalities"
            if groups.style is None or groups.style.shape[-1] == 0:
                return "the views come without style"
            blocks.append(_vectors(run, groups))
            names, kinds = groups.style_names, groups.style_kinds
        parts[split] = {source: _joined([block[source] for block in blocks]) for source in blocks[0]}
    return {"num_views": num_views} | _scored(parts, names, kinds)


def _groups(run: Any, name: str, views: Any, num_views: int) -> Iterator[Groups]:
    """Evenly spaced groups of a split in blocks; views of items are a function of (seed, split, block)."""
    split, device = getattr(run.data, name), run.device
    order = spaced(len(split), max(1, LIMITS[name] // num_views)).split(BATCH // num_views or 1)
    if isinstance(split, Groups):
        for rows in order:
            yield split[rows.to(split.device)].to(device)
        return
    seed = stream_seed(int(run.config.get("seed") or 0), f"style/{name}")
    for block, (x, label, index) in enumerate(split.batches(order, 0, seed)):
        seed_noise(seed, block, device, "views")  # for views of the user that draw from torch's default generator
        generator = torch.Generator(device).manual_seed(stream_seed(seed, "views", block))
        yield make_groups(x, index, label, views, num_views, generator).to(device)


def _vectors(run: Any, groups: Groups) -> Vectors:
    """Every source with the style of each view, as rows."""
    packed = run.represent(groups.pack(groups.x)).flatten(1)
    known: Any = groups.style
    rows = {"z": (packed, groups.pack(known).to(packed.device))}
    if groups.num_views == 1:
        return rows
    z, several = groups.unpack(packed), groups.valid & (groups.count > 1)[:, None]
    mean = z.sum(1) / groups.count[:, None].to(z)
    content = _content(run, groups)
    content = (mean if content is None else content)[:, None].expand(-1, groups.num_views, -1)
    style = known[several].to(packed.device)
    return rows | {"content": (content[several], style), "residual": ((z - mean[:, None])[several], style)}


def _content(run: Any, groups: Groups) -> Tensor | None:
    """[G, C] the mean of q(y | x_1..x_J), or None where the method has no content."""
    content = getattr(run.method, "content", None)
    if content is None:
        return None
    with networks_in(run.config.get("precision", "32"), run.method, run.device):
        posterior = content(groups)
    return None if posterior is None else posterior.mean.flatten(1)


def _joined(parts: list[Part]) -> Part:
    return torch.cat([vectors for vectors, _ in parts]), torch.cat([style for _, style in parts])


def _scored(parts: dict[str, Vectors], names: Any, kinds: Any) -> dict[str, Any]:
    """The figures of every source that has rows in every split; a factor without a name gets its number, without a kind is continuous."""
    width = parts["train"]["z"][1].shape[1]
    names = tuple(f"factor_{i}" for i in range(width)) if names is None else names
    kinds = ("continuous",) * width if kinds is None else kinds
    figures: dict[str, Any] = {"points": {split: len(vectors["z"][0]) for split, vectors in parts.items()}}
    for source in parts["train"]:
        train, validation, test = (parts[split][source] for split in SPLITS)
        if all(len(vectors) for vectors, _ in (train, validation, test)):
            figures[source], left_out = style_scores(train, validation, test, kinds, names, KERNEL_POINTS)
            if source == "z":
                figures["left_out"] = left_out
    return figures

"""Which style is known in the data of a run, and the vectors that it is looked for in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genssl.evaluation.disentanglement import POINTS, dci, mutual_information_gap
from genssl.evaluation.fresh_views import fresh_groups, no_groups
from genssl.evaluation.inputs import SPLITS
from genssl.evaluation.items import batches, count, spaced
from genssl.evaluation.maybe import finite
from genssl.evaluation.measuring import measuring
from genssl.evaluation.style import KERNEL_POINTS, Part, style_scores, unfit
from genssl.fit.precision import networks_in
from genssl.groups import Groups

LIMITS = {"train": 10000, "validation": 5000, "test": 5000}  # items, or views of all groups together
MOST_VIEWS = 4

Vectors = dict[str, Part]


def item_style(run: Any) -> dict[str, Any] | str:
    """Scores of the style factors that the data give for each clean item, from z; or why there are none.

    {points, z: {FACTOR: figures of style_scores, with kind}, left_out, axes}, where axes (`axes_of`) is there for two factors and
    two dimensions at least.
    """
    with measuring(run.method):
        return _items(run)


def view_style(run: Any) -> dict[str, Any] | str:
    """Scores of the parameters of views (natural groups: their style), from groups of fresh views; or why there are none.

    {num_views, points, SOURCE: {FACTOR: figures of style_scores}, left_out, axes (of z)}, where SOURCE is

        z         the representation of every view
        content   the mean of the method's q(y | x_1..x_J), or zbar, the mean of z over the group, where the method has none
                  (or gives None)
        residual  z - zbar, where style should be (von Kuegelgen et al. 2021)

    Style of J views that is a linear part of z and independent of content and between views has R2 1 / J in zbar, which
    still holds a J-th of it, and 1 - 1 / J in the residual: read both against that. J is the run's num_views, at most 4;
    natural groups keep theirs, and of those groups only the ones of several views give content and residual.

    Every method of a seed is measured on the same views (`fresh_groups`); the run and torch's default generators are left as
    they were.
    """
    with measuring(run.method):
        return _views(run)


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
    train = run.data.train
    num_views = train.num_views if isinstance(train, Groups) else min(int(run.config["num_views"]), MOST_VIEWS)
    parts: dict[str, Vectors] = {}
    names = kinds = None
    for split in SPLITS:
        if reason := no_groups(run, split):
            return reason
        blocks: list[Vectors] = []
        for groups in fresh_groups(run, split, f"style/{split}", LIMITS[split], num_views):
            if groups.style is None or groups.style.shape[-1] == 0:
                return "the views come without style"
            blocks.append(_vectors(run, groups))
            names, kinds = groups.style_names, groups.style_kinds
        parts[split] = {source: _joined([block[source] for block in blocks]) for source in blocks[0]}
    return {"num_views": num_views} | _scored(parts, names, kinds)


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
                if axes := axes_of(train, test, kinds, names):
                    figures["axes"] = axes
    return figures


def axes_of(train: Part, test: Part, kinds: Sequence[str], names: Sequence[str]) -> dict[str, Any] | None:
    """Whether coordinates of z stand for factors; None of fewer than two coordinates, or factors that vary in these rows.

    {points, disentanglement, completeness, informativeness, mig, factors: {FACTOR: {completeness, informativeness, mig}}}: `dci`,
    and `mutual_information_gap` of the training rows that its forests see. The seed is one for all runs: trees are no part of them.
    """
    rows = spaced(len(train[0]), POINTS)
    z, style = (part[rows.to(part.device)] for part in train)
    kept = [i for i in range(len(names)) if not unfit({"train": style[:, i], "test": test[1][:, i]})]
    if len(kept) < 2 or z.shape[1] < 2:
        return None
    style, chosen = style[:, kept], [kinds[i] for i in kept]
    scores = dci((z, style), (test[0], test[1][:, kept]), chosen)
    gap = mutual_information_gap(z, style, chosen)
    return {
        "points": len(z),
        "disentanglement": finite(scores.disentanglement),
        "completeness": finite(scores.completeness),
        "informativeness": finite(scores.informativeness),
        "mig": finite(gap.gap),
        "factors": {
            names[i]: {"completeness": finite(own), "informativeness": finite(r2), "mig": finite(apart)}
            for i, own, r2, apart in zip(kept, scores.by_factor, scores.r2, gap.by_factor, strict=True)
        },
    }

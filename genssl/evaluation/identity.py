"""Whether a representation still tells which item a view comes from: retrieval of the item, on tensors and on a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.estimators.rows import rows
from genssl.evaluation.fresh_views import fresh_groups, no_groups
from genssl.evaluation.inputs import SPLITS
from genssl.evaluation.items import batches, count, several_modalities
from genssl.evaluation.measuring import measuring
from genssl.evaluation.neighbour_decoder import nonparametric_decoder
from genssl.evaluation.shattering import shattering
from genssl.fit.randomness import stream_seed
from genssl.groups import Groups

ITEMS, INPUT_ITEMS, VIEWS = 5000, 1000, 10000  # most candidates; those by the input itself; views of natural groups
DIMENSIONS = 32  # most principal directions that are shattered
DECODED = {"train": 10000, "validation": 2500, "test": 5000}  # most items
_BLOCK = 4_000_000  # distances at once: 32 MB


class Pairs(NamedTuple):
    """Queries [Q, D], gallery [N, D], owner [Q], the row of gallery of each query, label [N], its class, or None."""

    queries: Tensor
    gallery: Tensor
    owner: Tensor
    label: Tensor | None


@torch.no_grad()
def retrieval(
    queries: Tensor,
    gallery: Tensor,
    owner: Tensor | None = None,
    label: Tensor | None = None,
    metric: str = "euclidean",
    sizes: Sequence[int] = (10, 100, 1000),
) -> dict[str, Any]:
    r"""How high the z of a view ranks its own item among N candidates; queries [Q, D], gallery [N, D], a row an item.

        rank_q = 1 + #{n: d(q, g_n) < d(q, g_own)} + the number of those as far as g_own that a random order puts first

    owner [Q]: the row of gallery that a query belongs to; None: query i to row i. d is Euclidean, or with
    metric="cosine" that of z / ||z||, which orders as the cosine (0 has no direction and stays 0). Ties are no hits:
    figures are means over their random orders, so that a z collapsed to a point has the chance figures exactly.
    Distances that rounding in the type of z could have parted are ties.

    Returns, as means over queries: top1, top5, the shares of rank 1 and of at most 5; mean_reciprocal_rank; median_rank
    (of mid-ranks); chance, 1 / N, the top1 of a z that holds nothing; top1_of {n: top1 among the own item and n - 1
    others drawn at random}, in expectation, exactly, for n of sizes up to N; queries, Q; candidates, N. Chance of the
    others: 5 / N, (1 + 1/2 + .. + 1/N) / N, (N + 1) / 2, 1 / n. The error of top1 is about sqrt(p (1 - p) / Q).

    label [N], the class of each item, adds within_class: the same among the items of the own class, over queries with a
    rival there (None if there are none; a negative label is none); chance is the mean of 1 / N_class, candidates of
    N_class; top1_of is over queries with n candidates. If the views of an item are independent given its class, the own
    item and its rivals are exchangeable and figures within the class are at chance in expectation. So above chance they
    are dependent; at chance they may still be, in ways that distances do not show. Of a z of the class alone top1 is
    about (number of classes) / N among all, and within the class exactly chance.

    Where it misleads: 1 asks no more than that views of an item lie closer than other items. A z free of style that is
    unique to each item has it, as contrastive objectives ask, so it shows neither style in z nor a fault of z. Weak
    views leave identity in any z: hold it against the input itself. It falls with N (compare top1_of), and
    near-duplicates cost hits that no z can win. It knows no scale: a z that shrank to almost a point counts in full,
    and one that varies most with style counts little, whatever its other directions hold.

    Raises SettingsError (metric, sizes), ShapeError, DataError (types, owner), NonFiniteError.
    """
    if metric not in ("euclidean", "cosine") or any(size < 1 for size in sizes):
        raise SettingsError(f"retrieval: metric = {metric!r}, sizes = {sizes}, expected euclidean or cosine, n >= 1")
    pairs = _checked(queries, gallery, owner, label)
    eps = max(torch.finfo(part.dtype).eps for part in pairs[:2])
    q, g = (part.double() for part in pairs[:2])
    if metric == "cosine":
        q, g = (normalize(part, dim=1, eps=torch.finfo(part.dtype).tiny) for part in (q, g))
    classes = [g.new_zeros(len(g)), *([] if pairs.label is None else [pairs.label])]
    if pairs.label is not None:  # a negative label is none: each such item is alone, without a rival
        classes[1] = pairs.label.where(pairs.label >= 0, -1 - torch.arange(len(g), device=g.device))
    among, *within = _ranks(q, g, pairs.owner, classes, eps)
    figures = _figures(among, sizes) or {}  # two candidates at least, so there is a rival
    if within:
        figures["within_class"] = _figures(within[0], sizes)
    return figures


def _checked(queries: Tensor, gallery: Tensor, owner: Tensor | None, label: Tensor | None) -> Pairs:
    g = rows("retrieval", gallery, name="gallery", least=2).z
    q = rows("retrieval", queries, name="queries", least=1).z.to(g.device)
    if q.shape[1] != g.shape[1] or g.shape[1] == 0:
        raise ShapeError(f"retrieval: queries {list(q.shape)}, gallery {list(g.shape)}, expected rows of one width")
    for name, z in (("queries", q), ("gallery", g)):
        if bad := int((~torch.isfinite(z).all(1)).sum()):
            raise NonFiniteError(f"retrieval: {bad} of {len(z)} rows of {name} are not finite; lower lr and fit again")
    owner = torch.arange(len(q), device=g.device) if owner is None else owner.to(g.device)
    if owner.shape != q.shape[:1] or owner.dtype != torch.int64 or not bool(((owner >= 0) & (owner < len(g))).all()):
        raise DataError(
            f"retrieval: owner {list(owner.shape)} does not give each of {len(q)} queries one of {len(g)} rows of "
            "gallery; give int64 [Q]"
        )
    if label is not None and label.shape != g.shape[:1]:
        raise ShapeError(f"retrieval: label has shape {list(label.shape)}, expected [{len(g)}], one a row of gallery")
    return Pairs(q, g, owner, None if label is None else label.to(g.device))


def _ranks(q: Tensor, g: Tensor, owner: Tensor, classes: Sequence[Tensor], eps: float) -> Tensor:
    """[classes, 3, Q] of the candidates in the class of the own one: how many are closer, beside it, there in all."""
    size = torch.maximum(q.norm(dim=1), g.norm(dim=1)[owner])
    centre = g.median(0).values  # float64 around the middle, which no far item moves, as in `knn`
    q, g = q - centre, g - centre
    q_square, g_square = q.square().sum(1), g.square().sum(1)
    error = 4 * g.shape[1] * torch.finfo(g.dtype).eps * (q_square + g_square[owner])  # of the matrix product
    counts = []
    for place in torch.arange(len(q), device=q.device).split(max(1, _BLOCK // len(g))):
        mine = owner[place]
        distance = torch.addmm(g_square, q[place], g.T, alpha=-2)  # squared, without ||q||^2
        own = distance.gather(1, mine[:, None])
        rounding = 4 * eps * size[place, None]
        slack = rounding * (2 * (own + q_square[place, None]).clamp(min=0).sqrt() + rounding) + error[place, None]
        closer, level = distance < own - slack, (distance - own).abs() <= slack
        rivals = [label == label[mine, None] for label in classes]
        found = [((closer & same).sum(1), (level & same).sum(1) - 1, same.sum(1)) for same in rivals]
        counts.append(torch.stack([torch.stack(part) for part in found]))
    return torch.cat(counts, -1).double()


def _figures(counts: Tensor, sizes: Sequence[int]) -> dict[str, Any] | None:
    """Means over queries with a rival, and over the places that the own candidate may take among those beside it."""
    b, t, n = counts[:, counts[2] > 1]
    if len(n) == 0:
        return None
    reciprocal = (torch.digamma(b + t + 2) - torch.digamma(b + 1)) / (t + 1)
    return {
        "top1": float(((b == 0) / (t + 1)).mean()),
        "top5": float(((5 - b) / (t + 1)).clamp(0, 1).mean()),
        "mean_reciprocal_rank": float(reciprocal.mean()),
        "median_rank": float((b + 1 + t / 2).quantile(0.5)),
        "chance": float((1 / n).mean()),
        "top1_of": {str(size): _top1_of(b, t, n, size) for size in sizes if size <= float(n.max())},
        "queries": len(n),
        "candidates": float(n.mean()),
    }


def _top1_of(closer: Tensor, tied: Tensor, total: Tensor, size: int) -> float:
    """The share of draws of m - 1 of the others with none before the own: C(N - 1 - b, m - 1) / C(N - 1, m - 1)."""
    b, t, n = torch.stack([closer, tied, total])[:, total >= size]

    def ways(number: Tensor) -> Tensor:  # log C(number, m) + log m!; -inf below m
        return torch.lgamma(number + 1) - torch.lgamma((number - size + 1).clamp(min=0))

    whole = ways(n) - (n / size).log()  # C(N - 1, m - 1) = C(N, m) m / N
    # The sum over the places b .. b + t telescopes.
    share = (ways(n - b) - whole).exp() - (ways(n - b - t - 1) - whole).exp()
    return float((share / (t + 1)).mean())


def identity_figures(run: Any) -> dict[str, Any] | str:
    """{retrieval, detail}: how far z tells which test item a fresh view comes from; or why there is no telling.

    retrieval is detail.euclidean.top1, the share of views whose nearest clean item by z is their own. detail holds

        euclidean, cosine   `retrieval` of a view of each of at most 5000 test items, drawn, among those items
                            as they are, with within_class where items have a class. Euclidean gives the figure: the
                            order of p(z_view | y = z_item) under Gaussian styles, and that of the k-NN probe. On the
                            sphere both order alike; cosine is beside it for z that is compared by direction
        input               the same of at most 1000 items with x in the place of z (compare top1_of)
        shattering          `shattering` of items and one view of each together, in the 32 leading principal directions
        decoder             `nonparametric_decoder` of clean items, at most 10000, 2500, 5000 of the splits
        reasons             why a part is None

    Of a z that keeps content alone, and content is the class, euclidean.within_class is at chance. Hold the figures
    against input and against a random encoder (the same function on such a run).

    Natural groups: the first view of a group is its item and the others are its queries, of at most 10000 views; groups
    of one index are one item, and one without a second view is a candidate alone. Views of items are the same for every
    method of a seed (`fresh_groups`); the run and torch's default generators are left as they were. Views that are made
    anew from the class of an item (`uses_label`) are not of that item: within the class they are at chance for any z.
    """
    with measuring(run.method):
        pairs = _pairs(run, lambda x: run.represent(x).flatten(1), ITEMS)
        if isinstance(pairs, str):
            return pairs
        as_is = _pairs(run, lambda x: x.flatten(1), INPUT_ITEMS)
        parts: dict[str, Any] = {
            "input": as_is if isinstance(as_is, str) else retrieval(*as_is),
            "shattering": _shattered(pairs, stream_seed(int(run.config.get("seed") or 0), "identity/labelings")),
            "decoder": _decoded(run),
        }
    reasons = {name: part for name, part in parts.items() if isinstance(part, str)}
    if pairs.label is None:
        reasons["within_class"] = "the items have no class each"
    detail: dict[str, Any] = {name: retrieval(*pairs, metric=name) for name in ("euclidean", "cosine")}
    detail |= {name: None if name in reasons else part for name, part in parts.items()}
    return {"retrieval": detail["euclidean"]["top1"], "detail": detail | {"reasons": reasons}}


def _pairs(run: Any, encode: Callable[[Tensor], Tensor], items: int) -> Pairs | str:
    """Items and views of the test split under an encoder, or why there are none."""
    if reason := no_groups(run, "test"):
        return reason
    test = run.data.test
    natural = isinstance(test, Groups)
    # Of items one view is enough, but a callable of the user may make all of them at once.
    num_views = test.num_views if natural else 1 if hasattr(run.views, "style_names") else int(run.config["num_views"])
    limit = min(VIEWS, items * num_views) if natural else items * num_views
    blocks: list[Tensor] = []
    keys: list[Tensor] = []
    labels: list[Tensor | None] = []
    copies, total = not natural, 0
    for groups in fresh_groups(run, "test", "identity", limit, num_views):
        label, place = groups.view_labels, torch.arange(len(groups), device=groups.device)
        if natural:
            blocks.append(encode(groups.pack(groups.x)))
            keys.append(groups.pack(groups.index[:, None].expand(-1, num_views)))
            labels.append(None if label is None else groups.pack(label))
            continue
        if several_modalities(groups) or groups.source is None:
            return "the views are of several modalities, or in other groups than one an item"
        source, view = groups.source, groups.x[place, groups.valid.int().argmax(1)]
        copies = copies and torch.equal(source, view)
        blocks += [encode(source), encode(view)]
        keys += [total + place] * 2
        labels += [None if label is None else label[:, 0]] * 2
        total += len(groups)
    if copies:
        return "the views are copies of their items"
    if not blocks[0].is_floating_point() or len({z.shape[1] for z in blocks}) > 1:
        return "the items are ids, or of another size than their views"
    known = [label for label in labels if label is not None]
    return _paired(torch.cat(blocks), torch.cat(keys), torch.cat(known) if len(known) == len(labels) else None)


def _paired(z: Tensor, keys: Tensor, label: Tensor | None) -> Pairs | str:
    """The first row of every key as its item, the others as its queries."""
    found, which = keys.unique(return_inverse=True)
    first = _first(which, len(found))
    others = torch.arange(len(z), device=z.device) != first[which]
    if len(found) < 2 or not bool(others.any()):
        return (
            "the groups have one view each" if len(found) > 1 else "there is one test item, and no other to take it for"
        )
    if label is not None and bool((label != label[first][which]).any()):
        label = None  # classes that vary within an item
    return Pairs(z[others], z[first], which[others], None if label is None else label[first])


def _first(which: Tensor, number: int) -> Tensor:
    """[number] the first place of each of 0..number - 1 in which [N], N where there is none."""
    place = torch.arange(len(which), device=which.device)
    return place.new_full((number,), len(which)).scatter_reduce(0, which, place, "amin")


def _shattered(pairs: Pairs, seed: int) -> dict[str, Any] | str:
    """Of each item with queries, the item and its first query."""
    first = _first(pairs.owner, len(pairs.gallery))
    has = first < len(pairs.owner)
    if int(has.sum()) < 2:
        return "one item has views"
    z = torch.stack([pairs.gallery[has], pairs.queries[first[has]]], 1)
    return shattering(z, seed=seed, dimension=DIMENSIONS)


def _decoded(run: Any) -> dict[str, Any] | str:
    parts: list[Tensor] = []
    labels: list[Tensor | None] = []
    for name in SPLITS:
        if count(getattr(run.data, name)) == 0:
            return f"the data have no {name} items"
        blocks = batches(getattr(run.data, name), DECODED[name])
        z, x, y = zip(*((run.represent(x).flatten(1), x, label) for x, label in blocks), strict=True)
        if not x[0].is_floating_point():
            return "the items are ids, which have no squared error"
        parts += [torch.cat(z), torch.cat(x)]
        labels.append(None if any(label is None or label.dim() != 1 for label in y) else torch.cat(y))
    return nonparametric_decoder(*parts, train_y=labels[0], test_y=labels[2])  # type: ignore[misc,arg-type]

"""The tables of evaluation.json: content, style, geometry, identity, generation; where a part is missing, the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from genssl.report.markup import head, note, number, percent, row, shown, table, text
from genssl.report.style_tables import style

PROBES = {"knn": "k nearest neighbours", "linear": "linear probe", "mlp": "MLP probe"}

OTHERS = {"kernel": "kernel distance", "precision": "precision", "recall": "recall"}
OTHERS_NOTE = (
    " Precision: the share of the set that lies where test items do, recall: the share of test items that lie where the set does, "
    "within the distance to a third neighbour; neither sees in which proportions."
)

GEOMETRY: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("effective rank", ("effective_rank",), ".2f",
     "Effective rank: exp of the entropy of the normalised singular values, as if so many directions were used alike."),
    ("decay of the spectrum", ("alpha_req",), ".2f", "Decay: the power by which eigenvalues fall with their rank."),
    ("alignment of two views", ("groups", "alignment"), ".3f",
     "Alignment: mean squared distance of two views on the unit sphere, 0 where they coincide."),
    ("uniformity on the sphere", ("groups", "uniformity"), ".3f", "Uniformity: lower is more even."),
    ("variance within groups, a dimension", ("groups", "variance", "within"), ".3g", ""),
    ("variance between groups, a dimension", ("groups", "variance", "between"), ".3g", "Variances are in units of z squared."),
    ("effective rank of what tells groups apart (LiDAR)", ("groups", "lidar"), ".2f",
     "LiDAR: the effective rank of the variance between groups in units of that within."),
    ("what two views tell of each other, at least, nats", ("groups", "view_information", "nats"), ".2f", ""),
    ("the most that could be found, nats", ("groups", "view_information", "cap"), ".2f",
     "What two views tell: a lower bound on I[z; z'] by InfoNCE, which sees no more than the log of the number of pairs."),
)  # fmt: skip
"""Name, place in evaluation.json, form and meaning of each row."""

Evaluation = dict[str, Any]


def results(evaluation: Evaluation) -> str:
    """Every table that has something in it, top to bottom."""
    makers: dict[str, Callable[[Evaluation], str]] = {
        "Content": content, "Style": style, "Geometry": geometry, "Identity": identity, "Generation": generation,
    }  # fmt: skip
    parts = {title: maker(evaluation) for title, maker in makers.items()}
    return "".join(f"<h3>{title}</h3>{part}" for title, part in parts.items() if part)


def content(evaluation: Evaluation) -> str:
    """How well the labels are read off z, with many of them, with few, and with none."""
    found, notes = evaluation.get("content"), _notes(evaluation)
    if not found:
        return f"<p>No content accuracy: {text(notes.get('content') or 'not measured')}.</p>"
    random = (evaluation.get("random_encoder") or {}).get("content") or {}
    after = (evaluation.get("after_head") or {}).get("content") or {}
    ece = any("ece" in (found.get(key) or {}) for key in PROBES)
    rows = "".join(
        row(
            name,
            percent(found.get(key)),
            percent(random.get(key)),
            *([percent(after.get(key))] if after else []),
            percent(found.get(key), "test_best"),
            *([number((found.get(key) or {}).get("ece"), ".3f")] if ece else []),
        )
        for key, name in PROBES.items()
    )
    heads = ["this run", "random encoder", *(["after the head"] if after else []), "best on test*"]
    out = table(head("accuracy on test", numbers=[*heads, *(["calibration error"] if ece else [])]), rows)
    out += note(
        "How well the labels are read off z. Settings of a probe are chosen on validation. The random encoder is the same network "
        "before learning. * chosen on the test set itself: optimistic, only for comparison with papers that report it."
        + (" Calibration error: of the probe's probabilities (expected, 15 bins)." if ece else "")
    )
    return out + _few_labels(evaluation) + _clusters(evaluation)


def _few_labels(evaluation: Evaluation) -> str:
    found = evaluation.get("low_label") or {}
    counts = [key for key in found if key.isdigit()]
    if not counts:
        return ""
    rows = "".join(row(f"{key} a class", percent(found[key]), number(found[key].get("std"), ".1%")) for key in counts)
    return table(head("labels", numbers=["linear probe on test", "spread over draws"]), rows)


def _clusters(evaluation: Evaluation) -> str:
    found = evaluation.get("clustering")
    if not found:
        return ""
    rows = row(
        f"{found.get('components', '')} clusters",
        percent(found, "accuracy"),
        number(found.get("nmi"), ".3f"),
        number(found.get("ari"), ".3f"),
    )
    return table(head("no labels", numbers=["accuracy", "NMI", "ARI"]), rows) + note(
        "A mixture of Gaussians fitted to z without labels, the best of several starts. Accuracy under the best assignment of clusters to "
        "classes, found on the scored items themselves; NMI and ARI need none."
    )


def geometry(evaluation: Evaluation) -> str:
    """Ranks and what views do to z, before and after a head."""
    found = evaluation.get("geometry")
    if not found:
        return ""
    after = (evaluation.get("after_head") or {}).get("geometry") or {}
    both = {"z": found} | ({"after the head": after} if after else {})
    dims = ", ".join(
        f"{shown(part.get('dim'), '')} {'of ' + name if name == 'z' else name}" for name, part in both.items()
    )
    rows, words = "", []
    for name, path, form, meaning in GEOMETRY:
        if any(_at(part, path) is not None for part in both.values()):
            rows += row(
                f"{name} (dimensions: {dims})" if path == ("effective_rank",) else name,
                *(number(_at(part, path), form) for part in both.values()),
            )
            words.append(meaning)
    return table(head("geometry of test items and views", numbers=list(both)), rows) + note(
        " ".join(word for word in words if word)
    )


def identity(evaluation: Evaluation) -> str:
    """Whether a view tells which item it is of."""
    found = evaluation.get("identity")
    if not found or not isinstance(found.get("retrieval"), (int, float)):
        return ""
    detail = found.get("detail") or {}
    lines = {
        name: detail.get(key) for key, name in (("euclidean", "z"), ("cosine", "z, by angle"), ("input", "pixels"))
    }
    rows = "".join(
        row(
            f"{name}, of {line.get('candidates') or 0:.0f} items",
            percent(line, "top1"),
            percent(line, "chance"),
            percent(line.get("within_class"), "top1"),
            percent(line.get("within_class"), "chance"),
        )
        for name, line in lines.items()
        if line
    )
    out = table(
        head("the right item from a fresh view", numbers=["nearest", "chance", "within its class", "chance"]), rows
    )
    shattered = detail.get("shattering") or {}
    capacity = (
        f" Random labels of up to {shattered['capacity']:.0f} items, a view each, are told apart by a hyperplane half of the time; "
        f"{shattered['cover_capacity']:.0f} is what points that lie in no pattern allow in so many dimensions (Cover 1965)."
        if shattered.get("capacity") and shattered.get("cover_capacity")
        else ""
    )
    return out + note("A z that holds the class alone is at chance within it." + capacity)


def generation(evaluation: Evaluation) -> str:
    """Squared error, bound and distances of what is decoded."""
    found, notes = evaluation.get("generation") or {}, _notes(evaluation)
    out = ""
    if found.get("mse") is not None:
        out += f"<p>Mean squared error of reconstructed clean test items, per pixel: <b>{found['mse']:.5f}</b>.</p>"
    else:
        out += _adhoc(found.get("adhoc"), notes)
    return out + _bound(found.get("bound")) + _frechet(found.get("frechet"))


def _adhoc(found: Any, notes: dict[str, Any]) -> str:
    """What a decoder reaches that was fitted to the frozen representation, where the method has none."""
    if not found:
        return f"<p>No reconstruction error: {text(notes.get('generation.mse') or 'not measured')}.</p>"
    return (
        "<p>The method has no trained decoder. One that was fitted to its frozen representation reaches a mean squared error per pixel of "
        f"<b>{shown(found.get('mse'), '.5f')}</b> on clean test items; predicting the mean of all items gives "
        f"{shown(found.get('baseline_mse'), '.5f')}.</p>"
    )


def _bound(found: Any) -> str:
    if not found:
        return ""
    weighted = found.get("importance_weighted") or {}
    rows = row("ELBO", number(found.get("elbo"), ".1f"))
    rows += "".join(row(f"importance-weighted, {k} draws", number(value, ".1f")) for k, value in weighted.items())
    bits = found.get("bits_per_dimension")
    prior = found.get("content_prior") or {}
    fitted = (
        f" The method's p(y) is flat, so a Gaussian (standard deviation {shown(prior.get('scale'), '.3g')}) was fitted to training "
        "content in its place."
        if prior.get("fitted")
        else ""
    )
    return table(head("lower bound on log p of a test group", numbers=["nats"]), rows) + note(
        f"{found.get('groups')} groups of {found.get('views')} views, densities of values in [0, 1]"
        + (f"; the last is {bits:.3f} bits a dimension." if isinstance(bits, (int, float)) else ".")
        + fitted
        + " Compare likelihoods of one kind only, at equal views."
    )


def _frechet(found: Any) -> str:
    if not found:
        return ""
    names = {
        "reconstructions": "reconstructions of test items",
        "samples": "samples of each class",
        "unconditional": "samples without a class",
        "reference": "training items (the floor)",
    }
    others = {key: form for key, form in (("kernel", ".3f"), ("precision", ".1%"), ("recall", ".1%")) if found.get(key)}
    rows = "".join(
        row(name, number(found[key], ".3f"), *(number(found[other].get(key), form) for other, form in others.items()))
        for key, name in names.items()
        if key in found
    )
    heads = head("against test items", numbers=["Frechet distance", *(OTHERS[other] for other in others)])
    return table(heads, rows) + note(
        f"{found.get('items')} items each, in features: {found.get('features')}. A Frechet distance here is not "
        "comparable with FID, nor a kernel distance (unbiased, so that it may be below 0) with KID."
        + (OTHERS_NOTE if "precision" in others else "")
    )


def _notes(evaluation: Evaluation) -> dict[str, Any]:
    return evaluation.get("notes") or {}


def _at(found: Any, path: tuple[str, ...]) -> Any:
    """A nested value, or None."""
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found

"""From a run to its figures: what is measured for them, their captions, and why one does not apply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from genssl.report import figures
from genssl.report.looking import Look
from genssl.report.neighbours import placed


@dataclass
class Drawing:
    """A figure with its title and caption; where it does not apply, none, and the caption says why."""

    title: str
    caption: str
    figure: Figure | None = None


def draw(run: Any, seen: Look, evaluation: dict[str, Any]) -> dict[str, Drawing]:
    """Every figure of a report by the name of its file, in reading order; evaluation: evaluation.json, or {}."""
    metrics = run.metrics
    out = {name: _curve(metrics, name, seen) for name in ("reconstruction", "entropy", "prior", "elbo", "knn")}
    makers: dict[str, Callable[[Any, Look], Drawing]] = {
        "reconstructions": _reconstructions,
        "samples": _samples,
        "map": _map,
        "neighbours": _neighbours,
        "posterior_scales": _scales,
    }
    return out | {name: make(run, seen) for name, make in makers.items()} | {"spectrum": _spectrum(evaluation)}


def _curve(metrics: list[dict[str, Any]], name: str, seen: Look) -> Drawing:
    title = {
        "reconstruction": "Reconstruction term",
        "entropy": "Entropy term",
        "prior": "Prior term",
        "elbo": "Sum of the three terms",
        "knn": "kNN accuracy during the fit",
    }[name]
    lines = [line for line in metrics if line.get(name) is not None]
    if not lines:
        return Drawing(title, "No value of it was written during the fit.")
    if name == "knn":
        return Drawing(
            title,
            "A cheap figure on part of the data; the table below has the measurement.",
            figures.curve(lines, {"knn": "kNN"}, "accuracy", True),
        )
    names = {name: name}
    caption = ""
    if name == "elbo":
        names = {"elbo": "unweighted (ELBO)"}
        if any(line.get("objective") not in (None, line["elbo"]) for line in lines):
            names["objective"] = "weighted (objective)"
        if seen.z is not None and seen.stddev is None:
            caption = "The guide is deterministic: its entropy is a constant by convention and the ELBO is not defined."
    return Drawing(title, caption, figures.curve(lines, names, "nats per group"))


def _reconstructions(run: Any, seen: Look) -> Drawing:
    title, reason = "Reconstructions", _no_images(seen)
    if reason or seen.images is None or seen.decoded is None:
        return Drawing(title, reason)
    caption = "Clean test images (odd rows) over decode(mean of q(z|x)) (even rows)." + by(seen)
    return Drawing(title, caption, figures.reconstructions(seen.images, seen.decoded))


def _samples(run: Any, seen: Look) -> Drawing:
    title, reason = "Samples", _no_images(seen)
    if reason or seen.samples is None:
        return Drawing(title, reason or "The training representations are not finite.")
    caption = (
        f"z drawn from a Gaussian with the mean and covariance of {seen.fitted_to} training representations, then "
        "decoded: not draws from the model's own prior." + by(seen)
    )
    return Drawing(title, caption, figures.samples(seen.samples))


def _map(run: Any, seen: Look) -> Drawing:
    title = "Map of z"
    if seen.z is None:
        return Drawing(title, sentence(seen.why_not))
    if len(seen.z) < 2:
        return Drawing(title, "There are too few test items for a map.")
    if seen.z.shape[1] < 2:
        return Drawing(title, "z has one dimension: there is no plane to show.")
    if not bool(torch.isfinite(seen.z).all()):
        return Drawing(title, "The representations are not finite.")
    coloured = "coloured by class" if seen.label is not None else "without colours, since the data have no labels"
    caption = f"Means of q(z|x) of {len(seen.z)} test items on their first two principal components, {coloured}."
    return Drawing(title, caption, figures.latent_map(seen.z, seen.label, seen.classes))


def _neighbours(run: Any, seen: Look) -> Drawing:
    title = "Neighbourhoods of z"
    if seen.z is None or len(seen.z) < 10 or not bool(torch.isfinite(seen.z).all()):
        return Drawing(title, sentence(seen.why_not or "there are too few test items, or they are not finite"))
    if float(seen.z.std(0).max()) == 0:
        return Drawing(title, "All z are the same point.")
    points, rows = placed(seen.z, run.path)
    caption = f"t-SNE of {len(rows)} test items: near points are near in z; distances, sizes and densities of clusters mean nothing."
    label = None if seen.label is None else seen.label[rows]
    return Drawing(title, caption, figures.neighbour_map(points, label, seen.classes))


def _spectrum(evaluation: dict[str, Any]) -> Drawing:
    title = "Spectrum of z"
    after = (evaluation.get("after_head") or {}).get("geometry") or {}
    found = {"z": evaluation.get("geometry") or {}, "after the head": after}
    parts = {name: part["eigenvalues"] for name, part in found.items() if part.get("eigenvalues")}
    parts = {name: values for name, values in parts.items() if any(value > 0 for value in values)}
    if not parts:
        return Drawing(title, "Not measured, or z is a point; `genssl evaluate` measures it.")
    caption = "Eigenvalues of the covariance of clean test representations, at most the 64 largest. A cliff is dimensional collapse."
    return Drawing(title, caption, figures.spectrum(parts))


def by(seen: Look) -> str:
    """Whose decoder it is where it is not the method's own."""
    return " The decoder was fitted to frozen representations afterwards: the method has none." if seen.adhoc else ""


def _scales(run: Any, seen: Look) -> Drawing:
    title = "Posterior standard deviations"
    if seen.z is None:
        return Drawing(title, sentence(seen.why_not))
    if seen.stddev is None:
        return Drawing(title, "The guide is deterministic: q(z|x) has no standard deviation.")
    if not bool(torch.isfinite(seen.stddev).all()):
        return Drawing(title, "The standard deviations are not finite.")
    scale = getattr(run.method, "view_scale", None)
    scale = (
        float(scale) if isinstance(scale, (int, float)) or (isinstance(scale, Tensor) and scale.numel() == 1) else None
    )
    caption = f"Over {len(seen.stddev)} test items, for each latent dimension."
    if scale is not None:
        caption += " The line is view_scale, the standard deviation of z around the content y."
    return Drawing(title, caption, figures.posterior_scales(seen.stddev, scale))


def _no_images(seen: Look) -> str:
    """Why there are no images to show, or nothing."""
    if seen.z is None:
        return sentence(seen.why_not)
    if seen.images is None or seen.decoded is None:
        return (
            "The method has no trained decoder, and none was fitted to its representations; `genssl evaluate` fits one."
        )
    if not figures.is_image(seen.images.shape[1:]):
        return f"Items of shape {list(seen.images.shape[1:])} are no images."
    return ""


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."

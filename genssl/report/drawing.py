"""From a run to its figures: what is measured for them, their captions, and why one does not apply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from genssl.errors import GensslError
from genssl.evaluation.evaluate import decodes, not_finite, reconstruct
from genssl.evaluation.items import batches, count, several_modalities
from genssl.evaluation.measuring import measuring
from genssl.report import figures

MAP_ITEMS, FIT_ITEMS, IMAGES, SAMPLES = 5000, 10000, 30, 50


@dataclass
class Drawing:
    """A figure with its title and caption; where it does not apply, none, and the caption says why."""

    title: str
    caption: str
    figure: Figure | None = None


@dataclass
class Look:
    """What a look at the run gives: representations of test items, and how the method encodes and decodes."""

    images: Tensor | None = None  # [IMAGES, *event]
    decoded: Tensor | None = None
    samples: Tensor | None = None
    z: Tensor | None = None  # [N, D] posterior means
    label: Tensor | None = None
    stddev: Tensor | None = None  # [N, D]; None: deterministic
    why_not: str = ""  # why there is nothing to look at
    fitted_to: int = 0
    classes: Any = None


@torch.no_grad()
def look(run: Any) -> Look:
    """Encode up to 5000 test items and decode some; the run is left as it was. Missing data are told, and no error."""
    try:
        data = run.data
    except (GensslError, OSError) as error:
        return Look(why_not=str(error))
    if several_modalities(data.train):
        return Look(why_not="the views are of several modalities")
    if count(data.test) == 0:
        return Look(why_not="the data have no test items")
    if name := not_finite(run.method):
        return Look(why_not=f"the fitted {name} is not finite: the run has diverged")
    seen = Look(classes=data.classes)
    with measuring(run.method):
        parts: list[Tensor] = []
        labels: list[Tensor | None] = []
        scales: list[Tensor | None] = []
        for x, label in batches(data.test, MAP_ITEMS):
            posterior = run.method.encode(x.to(_device(run.method)))
            parts.append(posterior.mean.flatten(1).float().cpu())
            scales.append(_stddev(posterior, parts[-1]))
            labels.append(label)
        seen.z, seen.stddev, seen.label = torch.cat(parts), _joined(scales), _joined(labels)
        seen.label = seen.label if seen.label is not None and seen.label.dim() == 1 else None
        if decodes(run.method):
            seen.images = torch.cat([x for x, _ in batches(data.test, IMAGES)])
            seen.decoded = reconstruct(run.method, seen.images)
            train = torch.cat([run.represent(x).flatten(1).float().cpu() for x, _ in batches(data.train, FIT_ITEMS)])
            seen.fitted_to = len(train)
            if seen.decoded is not None and bool(torch.isfinite(train).all()):
                z = gaussian_samples(train, SAMPLES, int(run.config.get("seed") or 0))
                seen.samples = run.method.decode(z.to(_device(run.method)))
    return seen


def gaussian_samples(z: Tensor, number: int, seed: int) -> Tensor:
    """[number, D] draws from the Gaussian with the mean and full covariance of z [N, D]; the same for the same seed."""
    centre = z.double().mean(0)
    # z - centre = U S V^T, so V S e / sqrt(N) has their covariance for standard normal e, also where it is singular.
    _, values, directions = torch.linalg.svd(z.double() - centre, full_matrices=False)
    noise = torch.randn(number, len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (centre + (noise * values / len(z) ** 0.5) @ directions).to(z.dtype)


def draw(run: Any, seen: Look) -> dict[str, Drawing]:
    """Every figure of a report by the name of its file, in reading order."""
    out = {name: _curve(run.metrics, name, seen) for name in ("reconstruction", "entropy", "prior", "elbo", "knn")}
    makers: dict[str, Callable[[Any, Look], Drawing]] = {
        "reconstructions": _reconstructions,
        "samples": _samples,
        "map": _map,
        "posterior_scales": _scales,
    }
    return out | {name: make(run, seen) for name, make in makers.items()}


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
        if any(line.get("objective") != line["elbo"] for line in lines):
            names["objective"] = "weighted (objective)"
        if seen.z is not None and seen.stddev is None:
            caption = "The guide is deterministic: its entropy is a constant by convention and the ELBO is not defined."
    return Drawing(title, caption, figures.curve(lines, names, "nats per group"))


def _reconstructions(run: Any, seen: Look) -> Drawing:
    title, reason = "Reconstructions", _no_images(seen)
    if reason or seen.images is None or seen.decoded is None:
        return Drawing(title, reason)
    caption = "Clean test images (odd rows) over decode(mean of q(z|x)) (even rows)."
    return Drawing(title, caption, figures.reconstructions(seen.images, seen.decoded))


def _samples(run: Any, seen: Look) -> Drawing:
    title, reason = "Samples", _no_images(seen)
    if reason or seen.samples is None:
        return Drawing(title, reason or "The training representations are not finite.")
    caption = (
        f"z drawn from a Gaussian with the mean and covariance of {seen.fitted_to} training representations, then "
        "decoded: not draws from the model's own prior."
    )
    return Drawing(title, caption, figures.samples(seen.samples))


def _map(run: Any, seen: Look) -> Drawing:
    title = "Map of z"
    if seen.z is None:
        return Drawing(title, _sentence(seen.why_not))
    if len(seen.z) < 2:
        return Drawing(title, "There are too few test items for a map.")
    if seen.z.shape[1] < 2:
        return Drawing(title, "z has one dimension: there is no plane to show.")
    if not bool(torch.isfinite(seen.z).all()):
        return Drawing(title, "The representations are not finite.")
    coloured = "coloured by class" if seen.label is not None else "without colours, since the data have no labels"
    caption = f"Means of q(z|x) of {len(seen.z)} test items on their first two principal components, {coloured}."
    return Drawing(title, caption, figures.latent_map(seen.z, seen.label, seen.classes))


def _scales(run: Any, seen: Look) -> Drawing:
    title = "Posterior standard deviations"
    if seen.z is None:
        return Drawing(title, _sentence(seen.why_not))
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
        return _sentence(seen.why_not)
    if seen.images is None or seen.decoded is None:
        return "The method has no trained decoder."
    if not figures.is_image(seen.images.shape[1:]):
        return f"Items of shape {list(seen.images.shape[1:])} are no images."
    return ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _stddev(posterior: Any, mean: Tensor) -> Tensor | None:
    """[N, D] > 0, or None for a deterministic guide."""
    try:
        scale = posterior.stddev.flatten(1).float().cpu()
    except (AttributeError, NotImplementedError):
        return None
    return scale if scale.shape == mean.shape and bool((scale > 0).any()) else None


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    known = [part.cpu() for part in parts if part is not None]
    return torch.cat(known) if len(known) == len(parts) else None


def _device(method: Any) -> torch.device:
    return next((parameter.device for parameter in method.parameters()), torch.device("cpu"))

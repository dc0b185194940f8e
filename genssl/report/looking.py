"""A look at a run: what its figures are made of, measured once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genssl.errors import GensslError
from genssl.evaluation.cache import Cache
from genssl.evaluation.decoding import decodes, not_finite
from genssl.evaluation.generated import gaussian_samples
from genssl.evaluation.items import batches, count, several_modalities
from genssl.evaluation.kept_decoder import kept_decoder
from genssl.evaluation.measuring import measuring

MAP_ITEMS, FIT_ITEMS, IMAGES, SAMPLES = 5000, 10000, 30, 50


@dataclass
class Look:
    """What a look at the run gives: representations of test items, and how they are decoded.

    decode is the method's own trained decoder, or, with adhoc, the one that `evaluate` fitted to its frozen representations.
    """

    images: Tensor | None = None  # [IMAGES, *event]
    decoded: Tensor | None = None
    samples: Tensor | None = None
    z: Tensor | None = None  # [N, D] posterior means
    label: Tensor | None = None
    stddev: Tensor | None = None  # [N, D]; None: deterministic
    why_not: str = ""  # why there is nothing to look at
    fitted_to: int = 0
    classes: Any = None
    decode: Callable[[Tensor], Tensor] | None = None
    adhoc: bool = False


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
        seen.decode, seen.adhoc = _decoder(run)
        if seen.decode is not None:
            seen.images = torch.cat([x for x, _ in batches(data.test, IMAGES)])
            seen.decoded = seen.decode(run.represent(seen.images))
            train = torch.cat([run.represent(x).flatten(1).float() for x, _ in batches(data.train, FIT_ITEMS)])
            seen.fitted_to = len(train)
            if bool(torch.isfinite(train).all()):
                seed = int(run.config.get("seed") or 0)
                seen.samples = seen.decode(gaussian_samples(train.cpu(), SAMPLES, seed).to(_device(run.method)))
    return seen


def _decoder(run: Any) -> tuple[Callable[[Tensor], Tensor] | None, bool]:
    """The decoder of the run and whether it is ad hoc; none where there is none."""
    if decodes(run.method):
        return run.method.decode, False
    kept = kept_decoder(run, Cache(run))
    return (None, False) if kept is None else (kept[0], True)


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

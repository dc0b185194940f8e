"""`evaluate(run)`: what a fitted run is worth, measured on clean items and written to evaluation.json."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from genssl.errors import NonFiniteError
from genssl.evaluation.adhoc_decoder import adhoc_decoder
from genssl.evaluation.inputs import SPLITS
from genssl.evaluation.items import batches, count, labels_of, several_modalities
from genssl.evaluation.knn import knn
from genssl.evaluation.known_style import KERNEL_POINTS, LIMITS, style_figures
from genssl.evaluation.measuring import measuring
from genssl.evaluation.probes import linear_probe, mlp_probe
from genssl.files import write_json


def evaluate(run: Any, style: bool = True, decoder: bool = True) -> dict[str, Any]:
    """Measure run on its clean items, leave it as it was, and write (whole or not at all) and return evaluation.json.

        content         {knn, linear, mlp}: {validation, test, test_best, ...}, fractions in [0, 1]: how well the labels
                        are read off the posterior means. What is chosen (k, penalty, learning rate, epoch) is chosen on
                        validation; test_best is the same choice made on test, as the paper reports it, and optimistic
        style           {items, views}: how well known factors of style are predicted from representations, R2 or, for
                        categories, accuracy. items: the factors that the data give for each clean item, from z. views: the
                        parameters of the views (natural groups: their style), from z of every view, from the content
                        of the group and from the residual z - zbar (`style_figures`). style=False leaves it out
        random_encoder  the same for the method with fresh weights: what the architecture gives before any learning
        generation      mse: mean squared error per pixel of decode(mean of q(z|x)) on clean test images in [0, 1]; adhoc: for a method
                        without a trained decoder, what one that is fitted to its frozen representations reaches
                        (`adhoc_decoder`). decoder=False leaves that out
        protocol        sizes, seed and rules
        notes           why a part is null: no labels, no decoder, ...

    Each view of natural groups counts as an item. Probes are seeded by the run: a second call gives the same figures.

    Raises NonFiniteError where weights or representations are not finite.
    """
    splits = {name: getattr(run.data, name) for name in SPLITS}
    seed = int(run.config.get("seed") or 0)
    if name := not_finite(run.method):
        raise NonFiniteError(
            f"evaluate: the fitted {name} is not finite; the run has diverged, fit again with a lower lr"
        )
    notes: dict[str, str] = {}
    content = known = None
    adhoc: dict[str, Any] = {}
    random: dict[str, Any] = {"content": None, "style": None}
    bar = tqdm(total=11 if style else 9, desc="evaluate", file=sys.stderr, leave=False, unit="stage", disable=None)
    with measuring(run.method), bar as progress:
        labels, reason = _labels(splits)
        if labels is None:
            notes["content"] = notes["random_encoder.content"] = reason
        else:
            content = _content(run, "run", splits, labels, seed, progress)
        if style:
            known, reasons = _style(run, "run", progress)
            notes |= reasons
        else:
            notes["style"] = "left out (style=False)"
        if labels is not None or any((known or {}).values()):
            fresh = copy.copy(run)
            fresh.method = run.random_encoder()
            if labels is not None:
                random["content"] = _content(fresh, "random encoder", splits, labels, seed, progress)
            if style:
                random["style"], _ = _style(fresh, "random encoder", progress)
        progress.set_postfix_str("generation")
        mse = reconstruction_mse(run.method, splits["test"])
        if mse is None:
            notes["generation.mse"] = "no trained decoder that maps z to one kind of item, or no test items"
    if mse is None and decoder:
        _, adhoc = adhoc_decoder(run)
        if "reason" in adhoc:
            notes["generation.adhoc"], adhoc = adhoc["reason"], {}
    figures: dict[str, Any] = {
        "content": content,
        "style": known,
        "random_encoder": random,
        "generation": {"mse": mse, "adhoc": adhoc or None},
        "protocol": {
            "sizes": {name: count(split) for name, split in splits.items()},
            "seed": seed,
            "representation": "posterior mean of the clean item, eval mode",
            "selection": "k, penalty, learning rate and epoch on validation; test_best: on test, optimistic",
            "style": f"at most {LIMITS['train']} training and {LIMITS['test']} other items or views, {KERNEL_POINTS} of "
            "training for the kernel; penalty and gamma on validation",
        },
        "notes": notes,
    }
    write_json(run.path / "evaluation.json", figures)
    return figures


def reconstruction_mse(method: nn.Module, split: Any) -> float | None:
    """Mean over items and pixels of (decode(mean of q(z|x)) - x)^2; None where there is no trained decoder."""
    if not decodes(method) or several_modalities(split) or count(split) == 0:
        return None
    total, numbers = torch.zeros((), dtype=torch.float64), 0
    with measuring(method):
        for x, _ in batches(split):
            decoded = reconstruct(method, x)
            if decoded is None:
                return None
            total += (decoded.double() - x.to(decoded.device)).square().sum().cpu()
            numbers += x.numel()
    return float(total) / numbers


def not_finite(method: nn.Module) -> str:
    """The name of a parameter that is not finite, or nothing. Distributions refuse what such a network gives."""
    return next((name for name, value in method.named_parameters() if not bool(torch.isfinite(value).all())), "")


def decodes(method: Any) -> bool:
    """Whether the method has a decoder that its objective trains; one beside a substitute term was never fitted."""
    needs = getattr(getattr(method, "objective", None), "needs", None)
    return getattr(method, "decode", None) is not None and (needs is None or "decoder" in needs)


def reconstruct(method: Any, x: Tensor) -> Tensor | None:
    """[N, *event] decode(mean of q(z|x)), the mean image, on the device of the method; None without a decoder."""
    parameter = next(method.parameters(), x)
    return method.decode(method.encode(x.to(parameter.device)).mean)


def _content(
    run: Any, whose: str, splits: dict[str, Any], labels: dict[str, Tensor], seed: int, progress: tqdm
) -> dict[str, Any]:
    progress.set_postfix_str(f"{whose}: representations")
    parts: list[Tensor] = []
    for name, split in splits.items():
        z = torch.cat([run.represent(x) for x, _ in batches(split)]).flatten(1)
        if not bool(torch.isfinite(z).all()):
            bad = int((~torch.isfinite(z).all(1)).sum())
            raise NonFiniteError(
                f"evaluate: {bad} of {len(z)} {name} representations of the {whose} are not finite; fit with a lower lr"
            )
        parts += [z, labels[name].to(z.device)]
    progress.update()
    figures: dict[str, Any] = {}
    probes: dict[str, Callable[..., Any]] = {
        "knn": knn,
        "linear": linear_probe,
        "mlp": partial(mlp_probe, seed=seed),
    }
    for name, probe in probes.items():
        progress.set_postfix_str(f"{whose}: {name}")
        figures[name] = probe(*parts)
        progress.update()
    return figures


def _style(run: Any, whose: str, progress: tqdm) -> tuple[dict[str, Any], dict[str, str]]:
    progress.set_postfix_str(f"{whose}: style")
    figures = style_figures(run)
    progress.update()
    return figures


def _labels(splits: dict[str, Any]) -> tuple[dict[str, Tensor] | None, str]:
    """(the labels [N] of every split, ""), or (None, why no probe can be trained)."""
    if any(several_modalities(split) for split in splits.values()):
        return None, "the views are of several modalities: probe the representation of each by itself"
    if empty := [name for name, split in splits.items() if count(split) == 0]:
        return None, f"the data have no {' and no '.join(empty)} items"
    labels: dict[str, Tensor] = {}
    for name, split in splits.items():
        label = labels_of(split)
        if label is None:
            return None, f"the {name} items have no labels"
        if label.dim() != 1:
            return None, f"the labels of the {name} items are not one class for each"
        labels[name] = label
    return labels, ""

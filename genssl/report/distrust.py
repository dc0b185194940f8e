"""What a reader of a report should distrust: what one run cannot show, and what was seen to be doubtful in this one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from genssl.evaluation.decoding import decodes
from genssl.evaluation.reading import problems
from genssl.fit.longer import ended_by_time
from genssl.kinds import is_number
from genssl.report.drawing import Drawing

NOTHING = 0.05
"""Nats."""


def distrust(run: Any, evaluation: dict[str, Any] | str, drawings: dict[str, Drawing]) -> list[str]:
    """One sentence or two for each reason for doubt, the particular ones first."""
    wrong = [f"{each}." for each in problems(Path(run.path))]
    return [*wrong, *doubts(run, evaluation), *_data(run.config), *_general(run, evaluation, drawings)]


def doubts(run: Any, evaluation: dict[str, Any] | str) -> list[str]:
    """Those that this run gives by itself; they stand at the top of its report too."""
    lines: list[str] = []
    done, steps = max((line["step"] for line in run.metrics), default=0), run.config.get("steps")
    if steps and done < steps:
        lines.append(f"The fit stopped at step {done} of {steps}.")
    if steps == 0:
        lines.append("No step was taken: this is the random encoder itself.")
    shown = (run.config.get("settings") or {}).get("labels", 0)
    if "labels" in getattr(getattr(run.method, "objective", None), "needs", ()) or shown != 0:
        which = f"{shown} of the labels" if shown else "labels"
        lines.append(
            f"It was trained with {which}: its accuracy is not to be set beside that of methods that saw none."
        )
    if isinstance(evaluation, dict):
        lines += [*_no_gain(evaluation), *_failed(evaluation)] if steps != 0 else []
    if steps and run.config.get("max_seconds") is not None and ended_by_time(run.config):
        epochs = f"{steps / run.config['steps_per_epoch']:.2g} of {run.config['epochs']}"
        lines.append(f"Its time was over after {steps} steps, {epochs} epochs.")
    return lines


def _no_gain(evaluation: dict[str, Any]) -> list[str]:
    """Probes by which it is not ahead of the random encoder by two standard errors of a difference of accuracies, had of other items."""
    content = evaluation.get("content") or {}
    random = (evaluation.get("random_encoder") or {}).get("content") or {}
    items = ((evaluation.get("protocol") or {}).get("sizes") or {}).get("test")
    behind, near = [], []
    for name, values in content.items():
        own, other = values.get("test"), (random.get(name) or {}).get("test")
        if not is_number(own) or not is_number(other):
            continue
        noise = 2 * math.sqrt(2 * max(0.0, own * (1 - own)) / items) if is_number(items) and items > 0 else 0.0
        if own <= other:
            behind.append(name)
        elif own - other < noise:
            near.append(name)
    lines = [f"By {', '.join(behind)} this run is no better than the random encoder."] if behind else []
    if near:
        lines.append(
            f"By {', '.join(near)} its gain over the random encoder is within the noise of {items} test items (two standard errors)."
        )
    return lines


def _failed(evaluation: dict[str, Any]) -> list[str]:
    """What figures look like when nothing was learned."""
    lines = []
    geometry, generation = evaluation.get("geometry") or {}, evaluation.get("generation") or {}
    variance = (geometry.get("groups") or {}).get("variance") or {}
    within, between = variance.get("within"), variance.get("between")
    if is_number(within) and is_number(between) and between < within:
        lines.append(
            f"z varies more within groups ({within:.3g} a dimension) than between them ({between:.3g}): it tells style, or nothing."
        )
    told = ((geometry.get("groups") or {}).get("view_information") or {}).get("nats")
    if is_number(told) and told < NOTHING:
        lines.append(f"Two views of an item tell next to nothing of each other ({max(0.0, told):.2f} nats were found).")
    detail = (evaluation.get("identity") or {}).get("detail") or {}
    mse, constant = generation.get("mse"), (detail.get("decoder") or {}).get("constant")
    if is_number(mse) and is_number(constant) and mse > 0.9 * constant:
        lines.append(
            f"Its reconstructions (error {mse:.4f}) are about as far off as the mean of all items ({constant:.4f})."
        )
    recall = (generation.get("frechet") or {}).get("recall") or {}
    if is_number(recall.get("samples")) and recall["samples"] < 0.01:
        lines.append(
            "What it decodes covers less than 1 % of the test items (recall): all of it may look the same, however precise."
        )
    return lines


def _data(config: dict[str, Any]) -> list[str]:
    notes = [(config.get("data_description") or {}).get("notes"), config.get("notes")]
    lines = [line for note in notes if note for line in (note if isinstance(note, (list, tuple)) else [note])]
    return [f"Data: {line}" for line in lines]


def _general(run: Any, evaluation: dict[str, Any] | str, drawings: dict[str, Drawing]) -> list[str]:
    """Doubts that every run of this kind shares."""
    seed = run.config.get("seed")
    lines = [
        f"One seed{'' if seed is None else f' ({seed})'}: a difference between two runs smaller than the spread "
        "over seeds means nothing, and one run does not show that spread.",
        "The curves are means over training batches (their views, not the clean items), not over held-out data.",
    ]
    if isinstance(evaluation, dict) and evaluation.get("content"):
        lines.append(
            "Best on test is chosen on the test set, over k, penalties, learning rates and epochs: it is above what a "
            "fair choice gives. The columns beside it are chosen on validation."
        )
    needs = getattr(getattr(run.method, "objective", None), "needs", None)
    if not decodes(run.method) and needs is not None and "decoder" in needs:
        lines.append("The method has a likelihood but no `decode`, so no images are decoded here.")
    elif not decodes(run.method):
        lines.append(
            "No trained decoder: the reconstruction slot holds a substitute, so the sum of the terms is no bound on "
            "log p(x) and its level cannot be compared with that of other methods."
        )
    elif hasattr(run.method, "content_scale") and run.method.content_scale is None:
        lines.append(
            "p(y) is flat, which is improper: the sum of the terms is no bound on a normalised log p(x), and must not "
            "be compared with that of a model whose p(y) is proper."
        )
    else:
        lines.append("The ELBO is a lower bound: it is loose by what the guide misses, which the curves do not show.")
    if drawings["samples"].figure is not None:
        lines.append(
            "The samples come from a Gaussian fitted to representations, not from the model's prior: they show what "
            "the decoder makes of plausible z, not how well the model fits the data."
        )
    if drawings["map"].figure is not None:
        lines.append("The map shows two directions of z: classes that overlap in it may be apart in the others.")
    return lines

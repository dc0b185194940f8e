"""Several runs side by side: a table, the same items decoded by each, style and accuracy as bars, accuracy against a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from genssl.kinds import is_number
from genssl.report import bars, figures
from genssl.report.drawing import Drawing
from genssl.report.looking import Look
from genssl.report.markup import code, head, note, pictures, row, table, text
from genssl.report.names import short, told_of, unlike
from genssl.report.tables import PROBES

SLOTS = ("reconstruction", "entropy", "prior")
COLUMNS = 10

Evaluations = Sequence[dict[str, Any] | str]


def comparison(
    names: Sequence[str], runs: Sequence[Any], looks: Sequence[Look], evaluations: Evaluations, folder: Path
) -> str:
    """The part above the runs; its figures also go to folder/*.png. names: of the runs, made unlike where two are the same."""
    names = unlike(short(names), [run.config for run in runs])
    known = [found if isinstance(found, dict) else {} for found in evaluations]
    rows = "".join(_row(name, run, found) for name, run, found in zip(names, runs, known, strict=True))
    drawings = {
        "reconstructions_side_by_side": reconstructions(names, looks),
        "accuracy_bars": accuracy(names, known),
        "attribute_bars": attributes(names, known),
        "style_bars": style(names, known),
        "accuracy_against_setting": against_setting([run.config for run in runs], known),
    }
    known_drawings = {name: drawing for name, drawing in drawings.items() if drawing is not None}
    return (
        f"<h1>{len(runs)} runs</h1>"
        + table(
            head("run", numbers=["epochs", *PROBES.values(), "mse"]) + "".join(f"<th>{slot}</th>" for slot in SLOTS),
            rows,
        )
        + _apart([run.config for run in runs])
        + note(
            "Accuracy on test (in brackets that of the random encoder, the same network before learning), settings chosen on validation; "
            "mse: of reconstructed test items, per pixel, by the method's own decoder or (*) one fitted to its frozen representation. "
            "Terms of different kinds are on different scales: compare "
            "curves within a run, not across runs."
        )
        + pictures(folder, known_drawings)
    )


def _row(name: str, run: Any, evaluation: Mapping[str, Any]) -> str:
    content, slots = evaluation.get("content") or {}, run.config.get("slots") or {}
    generation = evaluation.get("generation") or {}
    mse, adhoc = generation.get("mse"), (generation.get("adhoc") or {}).get("mse")
    shown = "-" if mse is None and adhoc is None else f"{mse:.4f}" if mse is not None else f"{adhoc:.4f}*"
    random = (evaluation.get("random_encoder") or {}).get("content") or {}
    cells = [_beside(content.get(key), random.get(key)) for key in PROBES] + [f'<td class="number">{shown}</td>']
    steps, each = run.config.get("steps"), run.config.get("steps_per_epoch")
    epochs = f"{steps / each:.3g}" if is_number(steps) and is_number(each) and each else "-"
    return row(name, f'<td class="number">{epochs}</td>', *cells, *(code(slots.get(slot)) for slot in SLOTS))


def _beside(own: Any, random: Any) -> str:
    """A cell: accuracy on test, and that of the random encoder in brackets."""
    values = [_test(each) for each in (own, random)]
    shown = ["-" if value is None else f"{value:.1%}" for value in values]
    return f'<td class="number">{shown[0]}{"" if values[1] is None else f" ({shown[1]})"}</td>'


def _apart(configs: Sequence[Mapping[str, Any]]) -> str:
    """A warning where the runs are of different data."""
    names = dict.fromkeys(str(told_of(config)["data"]) for config in configs)
    if len(names) == 1:
        return ""
    told = f"The runs are of different data ({', '.join(names)}): their figures are not to be compared."
    return f'<p class="warn">{text(told)}</p>'


def reconstructions(names: Sequence[str], looks: Sequence[Look]) -> Drawing | None:
    """The same test items, decoded by every run that can; None where the runs do not share items."""
    shown = [
        (name, look.images, look.decoded, look.adhoc)
        for name, look in zip(names, looks, strict=True)
        if look.images is not None and look.decoded is not None
    ]
    if not shown or not figures.is_image(shown[0][1].shape[1:]):
        return None
    first = shown[0][1]
    same = [one for one in shown if one[1].shape == first.shape and torch.equal(one[1], first)]
    if len(same) < 2:
        return None
    rows = [first[:COLUMNS], *(decoded[:COLUMNS] for _, _, decoded, _ in same)]
    caption = "Clean test items (first row) and decode(mean of q(z|x)) of each run."
    if any(adhoc for *_, adhoc in same):
        caption += " * by a decoder that was fitted to the frozen representation, since the method has none."
    stars = [f"{name}*" if adhoc else name for name, _, _, adhoc in same]
    return Drawing("The same items by every run", caption, figures.rows_of_images(rows, ["test", *stars]))


def accuracy(names: Sequence[str], evaluations: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """Content accuracy of every run, a bar a probe."""
    values = {
        label: [_test((found.get("content") or {}).get(key)) for found in evaluations] for key, label in PROBES.items()
    }
    return _bars(
        "Accuracy on test",
        names,
        values,
        "accuracy",
        "Settings of a probe are chosen on validation; one seed a run, so no intervals.",
    )


def attributes(names: Sequence[str], evaluations: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """Known categories of the items (CelebA's attributes) from z, a bar a run, against the most frequent class; their mean first.

    The paper's figure (Bizeul et al. 2024, Fig. 5), there by an MLP probe.
    """
    tables = [_factors(found, "items", categories=True) for found in evaluations]
    factors = list(dict.fromkeys(factor for found in tables for factor in found))
    values = {name: [_best(found.get(factor)) for factor in factors] for name, found in zip(names, tables, strict=True)}
    marks = [_majority(tables, factor) for factor in factors]
    shown = [row for row in [*values.values(), marks] if any(value is not None for value in row)]
    common = [i for i in range(len(factors)) if all(row[i] is not None for row in shown)]
    caption = (
        "Accuracy on test of known categories of the items, predicted from z; linearly or by a kernel, whichever was better on "
        "validation. The black line is the share of the class that is most frequent in training, which takes no z. One seed a run, "
        "so no intervals."
    )
    if len(common) > 1:
        values = {name: [_mean(row, common), *row] for name, row in values.items()}
        factors, marks = [f"mean of {len(common)}", *factors], [_mean(marks, common), *marks]
    return _bars("Attributes of items", factors, values, "accuracy", caption, marks)


def style(names: Sequence[str], evaluations: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """Known factors of style from z by the better of the two predictors on validation, a bar a run; categories of items stand apart."""
    for of in ("items", "views"):
        tables = [_factors(found, of, categories=None if of == "views" else False) for found in evaluations]
        factors = list(dict.fromkeys(factor for found in tables for factor in found))
        if factors:
            values = {
                name: [_best(found.get(factor)) for factor in factors]
                for name, found in zip(names, tables, strict=True)
            }
            caption = (
                f"R2 (for categories the accuracy) of known style of {of}, predicted from z on test; linearly or by a kernel, "
                "whichever was better on validation. Below 0 is drawn as 0."
            )
            marks = [_majority(tables, factor) for factor in factors]
            return _bars(f"Style of {of}", factors, values, "R2 or accuracy", caption, marks)
    return None


def _factors(evaluation: Mapping[str, Any], of: str, categories: bool | None) -> dict[str, Any]:
    """The figures of each factor of z: of categories alone, of all others, or (None) of both."""
    found = ((evaluation.get("style") or {}).get(of) or {}).get("z") or {}
    kept = {factor: values for factor, values in found.items() if isinstance(values, dict)}
    if categories is None:
        return kept
    return {name: values for name, values in kept.items() if (values.get("kind") == "categorical") == categories}


def _majority(tables: Sequence[Mapping[str, Any]], factor: str) -> float | None:
    """The share of the most frequent class, where the runs that tell one agree (they have the same items)."""
    told = {found[factor].get("majority") for found in tables if factor in found} - {None}
    return told.pop() if len(told) == 1 else None


def _mean(row: Sequence[float | None], common: Sequence[int]) -> float | None:
    known = [value for value in (row[i] for i in common) if value is not None]
    return fmean(known) if known else None


def against_setting(configs: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """MLP-probe accuracy against the one numeric setting that the runs of a method differ in; None where there is none.

    Steps are no setting: they follow from epochs, seconds, batch and data.
    """
    more = ("method", "sha256", "data")  # of data the whole path
    told = [told_of(config) | {key: config.get(key) or told_of(config).get(key) for key in more} for config in configs]
    varied = [
        key for key in dict.fromkeys(key for one in told for key in one)
        if key not in ("method", "seed", "steps") and len({repr(one.get(key)) for one in told}) > 1
    ]  # fmt: skip
    if len(varied) != 1:
        return None
    lines: dict[str, list[tuple[float, float]]] = {}
    for one, found in zip(told, evaluations, strict=True):
        at, value = one.get(varied[0]), _test((found.get("content") or {}).get("mlp"))
        if isinstance(at, (int, float)) and value is not None:
            lines.setdefault(str(one["method"]), []).append((float(at), value))
    if sum(len({at for at, _ in points}) > 1 for points in lines.values()) == 0:
        return None
    caption = "MLP probe on test; each dot is a run. Other settings are the same."
    return Drawing(
        f"Accuracy against {varied[0]}", caption, bars.against(lines, varied[0], "accuracy of the MLP probe")
    )


def _bars(
    title: str,
    names: Sequence[str],
    values: Mapping[str, list[float | None]],
    unit: str,
    caption: str,
    marks: Sequence[float | None] = (),
) -> Drawing | None:
    if not any(value is not None for row_ in values.values() for value in row_):
        return None
    return Drawing(title, caption, bars.grouped(names, values, unit, marks, "most frequent class"))


def _test(values: Any) -> float | None:
    return values.get("test") if isinstance(values, dict) else None


def _best(values: Any) -> float | None:
    """The test score of the predictor that was better on validation."""
    known = [values.get(how) or {} for how in ("linear", "kernel")] if isinstance(values, dict) else []
    scored = [one for one in known if one.get("test") is not None]
    if not scored:
        return None
    told = all(one.get("validation") is not None for one in scored)
    return float(max(scored, key=lambda one: float(one["validation" if told else "test"]))["test"])

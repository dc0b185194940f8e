"""The tables of what a run's uncertainty is worth: risk against coverage, intervals, weights, calibration, other data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genssl.errors import GensslError
from genssl.files import read_json
from genssl.report import bars
from genssl.report.drawing import Drawing
from genssl.report.markup import head, note, number, row, table, text

UNCERTAINTIES = {
    "confidence": "1 - largest probability at the mean",
    "predictive_entropy": "entropy of the mean probability over draws of z",
    "posterior_scale": "scale of q(z | x)",
}
FEWEST = 50
"""Items that the error among them is drawn of."""
LEVELS = ("0.5", "0.8", "0.9", "0.95")


def certainty(evaluation: dict[str, Any], other: Sequence[dict[str, Any]] = ()) -> str:
    """Every table that has something in it; what is missing is told in a sentence. other: figures of `genssl.posterior.against`."""
    found = evaluation.get("certainty") or {}
    notes = evaluation.get("notes") or {}
    makers = {"risk": _risk, "coverage": _coverage, "weights": _weights, "calibration": _calibration}
    out, missing = "", []
    for part, make in makers.items():
        if found.get(part):
            out += make(found[part])
        elif why := notes.get(f"certainty.{part}"):
            missing.append(f"{part}: {why}")
    return out + "".join(_against(each) for each in other) + "".join(f"<p>No {text(line)}.</p>" for line in missing)


def risk_drawing(evaluation: dict[str, Any]) -> Drawing:
    """Error of a probe on the items it is surest of, against their share."""
    title = "Risk against coverage"
    found = (evaluation.get("certainty") or {}).get("risk")
    if not found:
        return Drawing(title, "Not measured, or there are no labels; `genssl evaluate` measures it.")
    # The error of a few items is that of chance: a single one is right or wrong.
    few = FEWEST / found["items"]
    lines = {
        UNCERTAINTIES[name]: [(at, error) for at, error in curve["risk"] if at >= min(few, 1.0)]
        for name, curve in found["curves"].items()
    }
    caption = (
        f"Error of a linear probe (accuracy {found['accuracy']:.1%} on {found['items']} test items) among the items that each uncertainty "
        "calls surest. A flat line says that the uncertainty knows nothing of the errors."
    )
    return Drawing(
        title, caption, bars.against(lines, "share of test items that is kept", "error among them", share=True)
    )


def against_of(folder: str | Path) -> list[dict[str, Any]]:
    """What `genssl.posterior.against` left in a run's folder; damaged files are passed over."""
    found = []
    for path in sorted((Path(folder) / "against").glob("*.json")):
        try:
            one = read_json(path)
        except GensslError:
            continue
        if isinstance(one, dict) and isinstance(one.get("auroc"), dict):
            found.append(one)
    return found


def _risk(found: dict[str, Any]) -> str:
    rows = "".join(
        row(UNCERTAINTIES[name], number(curve["area"], ".3f"), number(curve["excess_ratio"], ".2f"))
        for name, curve in found["curves"].items()
    )
    some = next(iter(found["curves"].values()))
    return table(head("order of predictions", numbers=["mean risk", "excess"]), rows) + note(
        f"Mean over coverages of the error among what is kept; {some['area_of_random']:.3f} for a random order, "
        f"{some['area_of_oracle']:.3f} for one that knows the errors. Excess: 0 the best there is, 1 random, above 1 worse than random."
    )


def _coverage(found: dict[str, Any]) -> str:
    rows = ""
    for key, name in (("observed", "the view itself"), ("next_view", "a further view of the group")):
        for part, shares in (found.get(key) or {}).items():
            rows += row(f"{name}, {part} pixels", *(number(shares.get(level), ".1%") for level in LEVELS))
    share = found.get("constant_share")
    told = "" if share is None else f" {share:.0%} of the pixels are constant in training, and trivially covered."
    return table(
        head("pixels inside predictive intervals", numbers=[f"{float(level):.0%}" for level in LEVELS]), rows
    ) + note(
        "Central intervals of p(x' | x), pixel by pixel. The view itself chose its z, and is covered above the level even by an exact "
        "posterior; a further view is the honest test." + told
    )


def _weights(found: dict[str, Any]) -> str:
    latents = found["views"]
    rows = row("groups whose importance weights can be trusted (k-hat at most 0.7)", number(found["trusted"], ".1%"))
    rows += row("median k-hat", number(found["pareto_k"], ".2f"))
    rows += row(f"effective draws of {found['draws']}", number(found["effective_samples"], ".1f"))
    return table(
        head(f"guide against posterior, {found['groups']} test groups of {latents} views", numbers=[""]), rows
    ) + note(
        "k-hat above 0.7 is what to expect of a factorised guide over many latents: it leaves out the posterior's correlations. No figure "
        "weighted by importance is to be believed of such groups; means and intervals of single views may still be right."
    )


def _calibration(found: dict[str, Any]) -> str:
    rows = "".join(
        row(
            {"z": "z of a view", "y": "content y"}.get(name, name),
            *(number(each["coverage"].get(level), ".1%") for level in LEVELS),
            number(each["p_value"], ".2g"),
        )
        for name, each in found.items()
    )
    heads = head(
        "true latents inside posterior intervals",
        numbers=[*(f"{float(level):.0%}" for level in LEVELS), "p of uniform ranks"],
    )
    return table(heads, rows) + note(
        "Of data drawn from the fitted model itself (simulation-based calibration, Bonferroni over dimensions): whether the guide is "
        "right under its model. Of real data the model may be wrong, and this does not see that."
    )


def _against(found: dict[str, Any]) -> str:
    scores = sorted(found["auroc"].items(), key=lambda item: -abs(item[1] - 0.5))
    rows = "".join(row(name.replace("_", " "), number(value, ".3f")) for name, value in scores)
    below = [name.replace("_", " ") for name, value in found["auroc"].items() if value < 0.5]
    told = (
        f" Below 1/2, so that the other data look LESS strange than the run's own: {', '.join(below)}." if below else ""
    )
    absent = "".join(f" No {name.replace('_', ' ')}: {why}." for name, why in (found.get("absent") or {}).items())
    return table(head(f"strangeness of {found['data']} against the run's own data", numbers=["AUROC"]), rows) + note(
        f"{found['groups'][0]} and {found['groups'][1]} groups of {found['views']} views, standard error at most "
        f"{found['standard_error']:.2f}. 1/2 tells nothing; 1 tells every pair apart." + told + absent
    )

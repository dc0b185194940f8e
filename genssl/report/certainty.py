"""The tables of what a run's uncertainty is worth: risk against coverage, intervals, weights, calibration, other data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genssl.errors import GensslError
from genssl.files import read_json
from genssl.kinds import NUMBER, TEXT, fault
from genssl.report import bars
from genssl.report.drawing import Drawing
from genssl.report.markup import head, note, number, row, shown, table, text

UNCERTAINTIES = {
    "confidence": "1 - largest probability at the mean",
    "predictive_entropy": "entropy of the mean probability over draws of z",
    "posterior_scale": "scale of q(z | x)",
}
FEWEST = 50
"""Items that the error among them is drawn of."""
AGAINST = {
    "data": TEXT, "auroc": {"*": NUMBER}, "absent": {"*": TEXT}, "groups": (NUMBER, NUMBER), "views": NUMBER, "standard_error": NUMBER,
}  # fmt: skip
"""What is shown of the figures of `genssl.posterior.against`."""
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
    curves = {UNCERTAINTIES.get(name, name): curve.get("risk") for name, curve in (found.get("curves") or {}).items()}
    few = min(1.0, FEWEST / max(1.0, found.get("items") or 1.0))  # the error of fewer is that of chance
    lines = {name: [(at, error) for at, error in risk if at >= few] for name, risk in curves.items() if risk}
    if not any(lines.values()):
        return Drawing(title, "No curve was measured.")
    caption = (
        f"Error of a linear probe (accuracy {shown(found.get('accuracy'), '.1%')} on {found.get('items')} test items) among the items that "
        "each uncertainty calls surest. A flat line says that the uncertainty knows nothing of the errors."
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
        if isinstance(one, dict) and one.get("auroc") and one.get("groups") and not fault(one, AGAINST):
            found.append(one)
    return found


def _risk(found: dict[str, Any]) -> str:
    curves = found.get("curves") or {}
    rows = "".join(
        row(UNCERTAINTIES.get(name, name), number(curve.get("area"), ".3f"), number(curve.get("excess_ratio"), ".2f"))
        for name, curve in curves.items()
    )
    some: dict[str, Any] = next(iter(curves.values()), {})
    return table(head("order of predictions", numbers=["mean risk", "excess, random = 1"]), rows) + note(
        f"Mean over coverages of the error among what is kept; {shown(some.get('area_of_random'))} for a random order, "
        f"{shown(some.get('area_of_oracle'))} for one that knows the errors. Excess over that best order, as a share of a random "
        "one's: 0 is the best, above 1 is worse than random."
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
    rows = row(
        "groups whose importance weights can be trusted (tail index k-hat at most 0.7)",
        number(found.get("trusted"), ".1%"),
    )
    rows += row("median k-hat", number(found.get("pareto_k"), ".2f"))
    rows += row(f"effective draws of {found.get('draws')}", number(found.get("effective_samples"), ".1f"))
    groups = f"{found.get('groups')} test groups of {found.get('views')} views"
    return table(head(f"guide against posterior, {groups}", numbers=[""]), rows) + note(
        "k-hat above 0.7 is what to expect of a factorised guide over many latents: it leaves out the posterior's correlations. No figure "
        "weighted by importance is to be believed of such groups; means and intervals of single views may still be right."
    )


def _calibration(found: dict[str, Any]) -> str:
    rows = "".join(
        row(
            {"z": "z of a view", "y": "content y"}.get(name, name),
            *(number((each.get("coverage") or {}).get(level), ".1%") for level in LEVELS),
            number(each.get("p_value"), ".2g"),
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

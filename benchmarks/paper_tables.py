"""results/paper.md: the paper's tables 1, 5, 6 and 7 in its layout, the ablations, and the verdicts on its claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from statistics import fmean
from typing import Any

import paper
from claims import summary, verdicts

from genssl.compare.table import spread_of

Row = dict[str, Any]
Figure = Callable[[Row], float | None]


def accuracy(probe: str) -> Figure:
    return lambda row: 100 * row["content"][probe]["test"]


def clusters(name: str) -> Figure:
    return lambda row: 100 * row["clustering"][name]


def style(source: str, *names: str) -> Figure:
    """The mean R2 over the style factors of views of these names; accuracies of categories are left out of it."""

    def mean(row: Row) -> float | None:
        factors = ((row["style"] or {}).get("views") or {}).get(source, {})
        found = [factors[name]["linear"]["test"] for name in names if name in factors]
        return 100 * fmean(found) if found else None

    return mean


def mse(row: Row) -> float | None:
    return None if row["mse"] is None else 1e3 * row["mse"]


CROP = ("crop_x", "crop_y", "crop_width", "crop_height")
COLOUR = ("brightness", "contrast", "saturation", "hue")
STYLE = "Style: mean R2 of the drawn parameters of views, %"
TABLES: dict[str, dict[str, Figure]] = {
    "Table 1: content accuracy, %": {"MLP probe": accuracy("mlp"), "kNN": accuracy("knn")},
    "Table 5: content accuracy, %": {"linear probe": accuracy("linear"), "Gaussian mixture": clusters("accuracy")},
    "Table 6: clustering, %": {"ARI": clusters("ari"), "NMI": clusters("nmi")},
    "Table 7: reconstruction (no Frechet distance was measured)": {"MSE of a pixel, thousandths": mse},
    STYLE: {
        "crop from z": style("z", *CROP),
        "crop from z - zbar": style("residual", *CROP),
        "colour from z": style("z", *COLOUR),
    },
}
HOW = (
    "Each claim was made a statistic, a margin and a test before its cells were run (`claims.py`): differences are paired by seed, a 95 % "
    "t-interval; supported: the interval lies on the claim's side of the margin; refuted: on the other; undecided: it holds the margin. "
    "Numbers are positive where the claim is right. Comparable is a margin of -1 point: no more than one behind. The best of several "
    "methods is that on validation. Two things came after the runs: the verdicts against each VAE by itself, and that the best by the "
    "mixture is chosen by the MLP probe. C7: the accuracies of .005 and .02 are alike, and all of the fall is from there to .08."
)
NOTES = {
    STYLE: "Linear readers; crop: its place and size, four numbers; colour: brightness, contrast, saturation, hue. zbar is the mean of z "
    "over the J views of an item: of a style that is a linear part of z, z - zbar shows at most 1 - 1/J, .50 for J = 2 and .75 for J = 4. "
    "SimVAE has J = 4 (that of J = 8 is measured with 4 too), CRVAE and the discriminative methods J = 2; set them beside SimVAE, J = 2.",
}


def cell(rows: list[Row], figure: Figure) -> str:
    """Mean and half-width of the 95 % interval over seeds."""
    values = [value for value in map(figure, rows) if value is not None]
    if not values:
        return ""
    found = spread_of(values)
    return f"{found.mean:.1f}" + ("" if found.half is None else f" +- {found.half:.1f}")


def table(rows: list[Row], labels: list[str], figures: dict[str, Figure]) -> list[str]:
    data = [name for name in paper.DATA if any(row["data"] == name for row in rows)]
    columns = [(name, title, figure) for name in data for title, figure in figures.items()]
    columns = [c for c in columns if any(row["data"] == c[0] and c[2](row) is not None for row in rows)]
    lines = [
        "| method | " + " | ".join(f"{name}, {title}" for name, title, _ in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for label in labels:
        values = [
            cell([r for r in rows if (r["data"], r["label"]) == (name, label)], figure) for name, _, figure in columns
        ]
        if any(values):
            lines.append(f"| {label} | {' | '.join(values)} |")
    return [*lines, ""]


def document() -> str:
    lines = [
        "# The paper's comparison",
        "",
        (paper.__doc__ or "").split("\n\n", 3)[-1].strip().replace("\n", "  \n"),
        "",
    ]
    for budget in paper.BUDGETS:
        if not (rows := paper.committed(budget)):
            continue
        ablated = list(dict.fromkeys(c["label"] for c in paper.cells(budget) if c["label"] not in paper.METHODS))
        seeds = Counter(row["data"] for row in rows if row["label"] == "SimVAE")
        lines += [
            f"## Budget {budget}",
            "",
            f"Seeds: {', '.join(f'{name} {n}' for name, n in seeds.items())}. Mean +- 95 % interval over seeds.",
            "",
        ]
        for title, figures in TABLES.items():
            labels = [*paper.METHODS, *(label for label in ablated if title == STYLE and "J = " in label)]
            lines += [
                f"### {title}",
                "",
                *([NOTES[title], ""] if title in NOTES else []),
                *table(rows, labels, figures),
            ]
        lines += [
            "### Ablations, MLP probe and kNN, %",
            "",
            *table(rows, ["SimVAE", *ablated], TABLES["Table 1: content accuracy, %"]),
        ]
        found = verdicts(rows)
        lines += ["### Verdicts", "", HOW, "", *summary(found), *(f"- {verdict}" for verdict in found), ""]
        fits = Counter((row["machine"], row["versions"]["torch"], row["precision"]) for row in rows)
        told = "; ".join(
            f"{n} on {machine}, torch {torch}, precision {precision}" for (machine, torch, precision), n in fits.items()
        )
        lines += [
            f"Cells: {told}. Data: " + "; ".join(sorted({f"{row['data']}: {row['exactness']}" for row in rows})) + ".",
            "",
        ]
    return "\n".join(lines)

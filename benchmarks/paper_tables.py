"""results/paper.md: the paper's tables 1, 5, 6 and 7 in its layout, the ablations, and the verdicts on its claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from statistics import fmean
from typing import Any

import paper
from claims import verdicts

from genssl.compare.table import spread_of

Row = dict[str, Any]
Figure = Callable[[Row], float | None]


def accuracy(probe: str) -> Figure:
    return lambda row: 100 * row["content"][probe]["test"]


def clusters(name: str) -> Figure:
    return lambda row: 100 * row["clustering"][name]


def style(source: str) -> Figure:
    """The mean over the numbers among the views' style factors; accuracies of categories are left out of a mean of R2."""

    def mean(row: Row) -> float | None:
        factors = ((row["style"] or {}).get("views") or {}).get(source, {}).values()
        found = [figures["linear"]["test"] for figures in factors if figures["kind"] != "categorical"]
        return 100 * fmean(found) if found else None

    return mean


def mse(row: Row) -> float | None:
    return None if row["mse"] is None else 1e3 * row["mse"]


TABLES: dict[str, dict[str, Figure]] = {
    "Table 1: content accuracy, %": {"MLP probe": accuracy("mlp"), "kNN": accuracy("knn")},
    "Table 5: content accuracy, %": {"linear probe": accuracy("linear"), "Gaussian mixture": clusters("accuracy")},
    "Table 6: clustering, %": {"ARI": clusters("ari"), "NMI": clusters("nmi")},
    "Table 7: reconstruction (no Frechet distance was measured)": {"MSE of a pixel, thousandths": mse},
    "Style: R2 of the views' crop and flip from z, %": {"z": style("z"), "z - content": style("residual")},
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
            lines += [f"### {title}", "", *table(rows, list(paper.METHODS), figures)]
        lines += [
            "### Ablations, MLP probe and kNN, %",
            "",
            *table(rows, ["SimVAE", *ablated], TABLES["Table 1: content accuracy, %"]),
        ]
        lines += ["### Verdicts", "", *(f"- {verdict}" for verdict in verdicts(rows)), ""]
        fits = Counter((row["machine"], row["versions"]["torch"], row["precision"]) for row in rows)
        told = "; ".join(
            f"{n} on {machine}, torch {torch}, precision {precision}" for (machine, torch, precision), n in fits.items()
        )
        lines += [
            f"Cells: {told}. Data: " + "; ".join(sorted({f"{row['data']}: {row['exactness']}" for row in rows})) + ".",
            "",
        ]
    return "\n".join(lines)

"""Every discriminative method on digits and FashionMNIST: results/discriminative.json and discriminative.md.

    python benchmarks/discriminative.py --calibrate     # ms a step of every cell, in turn, on a quiet machine
    python benchmarks/discriminative.py [--only TEXT]   # the cells that are not done yet (those whose name has TEXT), one after the other
    python benchmarks/discriminative.py --table         # results/discriminative.md from results/discriminative.json

A cell is one fit: method, data, seed; three minutes each, in steps (benchmarks/cells.py). The paper's encoder, 10 dimensions before the
head. Test accuracy of probes before and after the head, everything chosen on validation; effective rank is the exponential of the
entropy of the normalised singular values of centred test representations, at most the number of dimensions. Published temperatures and
weights throughout; nothing was tuned.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from cells import Benchmark, Cell, hardware, measured, percent, precision

from genssl.evaluation import effective_rank, knn, linear_probe, mlp_probe

THREE = (0, 1, 2)
METHODS: dict[str, dict[str, Any]] = {
    "random": {"method": "SimCLR", "steps": 0},
    "SimCLR": {"method": "SimCLR", "seeds": THREE},
    "VICReg": {"method": "VICReg", "seeds": THREE},
    "BYOL": {"method": "BYOL", "seeds": THREE},
    "DINO": {"method": "DINO", "seeds": THREE},
    "LDM, joint": {"method": "LDM", "seeds": THREE},
    "LDM, +MI": {"method": "LDM", "settings": {"mi_weight": 1.0}},
    "InfoNCE": {"method": "InfoNCE"},
    "MoCo": {"method": "MoCo"},
    "CLIP": {"method": "CLIP"},
    "MCInfoNCE": {"method": "MCInfoNCE"},
    "BarlowTwins": {"method": "BarlowTwins"},
    "WMSE": {"method": "WMSE"},
    "VISimSiam": {"method": "VISimSiam"},
    "SwAV": {"method": "SwAV"},
    "DeepCluster": {"method": "DeepCluster"},
    "InstanceDiscrimination": {"method": "InstanceDiscrimination"},
    "InstanceDiscrimination, bank": {"method": "InstanceDiscrimination", "settings": {"bank": True}},
    "VariationalClassification": {"method": "VariationalClassification"},
    "SimSiam": {"method": "SimSiam"},
}
DATA = ("fashion_mnist", "digits")
SECONDS, BATCH, RATE, VIEWS = 180.0, 256, 1e-3, 2
CALIBRATED = "an AMD EPYC, in float32,"


WHY = {
    "VISimSiam": "we suppose that its learned concentration makes the likelihood of a code that two views share exactly grow without "
    "bound: one dimension is enough for that, and BatchNorm holds the variance of each dimension, not that they differ",
    "SimSiam": "we suppose: nothing repels but predictor and stopped gradient, which lose dimensions slowly; the encoder is an MLP "
    "without BatchNorm",
    "InstanceDiscrimination": "not collapsed but hardly begun: a step compares with all 54 000 class parameters and so costs ten times the "
    "others', and each class was seen once",
}


def cells() -> list[Cell]:
    """All cells, one seed of everything first."""
    found = [
        {
            "name": f"{data}/{name}/{seed}", "data": data, "label": name, "method": what["method"], "seed": seed, "views": VIEWS,
            "batch": BATCH, "lr": RATE, "precision": precision(), "settings": {"dim": 10, **what.get("settings", {})},
            "seconds": SECONDS, "steps": what.get("steps"),
        }
        for data in DATA
        for name, what in METHODS.items()
        for seed in what.get("seeds", (0,))
    ]  # fmt: skip
    return sorted(found, key=lambda cell: cell["seed"])


def measure(cell: Cell, run: Any, steps: int) -> dict[str, Any]:
    """Everything that the table shows of a fitted cell."""
    result = measured(cell, run, steps)
    run.method.eval()
    splits = (run.data.train, run.data.validation, run.data.test)
    before = [torch.cat([run.represent(x) for x in split.floats().split(5000)]) for split in splits]
    result["effective_rank"] = {"before": effective_rank(before[2])}
    if cell["method"] == "CLIP":  # a head for each half of the image: none for the whole
        return result
    with torch.no_grad():
        after = [torch.cat([run.method.project(x) for x in split.floats().split(5000)]) for split in splits]
    parts = [part for z, split in zip(after, splits, strict=True) for part in (z, split.label)]
    probes = {"knn": knn(*parts), "linear": linear_probe(*parts), "mlp": mlp_probe(*parts, seed=cell["seed"])}
    result["after_head"] = {name: {k: found[k] for k in ("validation", "test")} for name, found in probes.items()}
    result["effective_rank"]["after"] = effective_rank(after[2])
    return result


def table(done: list[dict[str, Any]]) -> str:
    lines = ["# The discriminative methods", "", (__doc__ or "").strip().split("\n\n")[-1].replace("\n", " "), ""]
    for data in DATA:
        rows = [cell for cell in done if cell["data"] == data]
        if not rows:
            continue
        lines += [f"## {data}, 3 minutes a fit, {BATCH} groups of {VIEWS}", ""]
        head = [
            "method",
            "seeds",
            "epochs",
            "kNN",
            "linear",
            "MLP",
            "kNN after head",
            "linear",
            "MLP",
            "rank of 10",
            "rank after head",
        ]
        lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for name in METHODS:
            same = [cell for cell in rows if cell["label"] == name]
            if not same:
                continue
            values = [percent([c["content"][p]["test"] for c in same]) for p in ("knn", "linear", "mlp")]
            values += [
                percent([c["after_head"][p]["test"] for c in same]) if "after_head" in same[0] else ""
                for p in ("knn", "linear", "mlp")
            ]
            ranks = [[c["effective_rank"].get(where) for c in same] for where in ("before", "after")]
            values += ["" if found[0] is None else f"{statistics.mean(found):.1f}" for found in ranks]
            lines.append(f"| {name} | {len(same)} | {same[0]['epochs']:.0f} | {' | '.join(values)} |")
        lines += ["", f"Data: {rows[0]['exactness']}.", "", *collapsed(rows), ""]
    lines.append(hardware(done, CALIBRATED))
    return "\n".join(lines) + "\n"


def collapsed(rows: list[Cell]) -> list[str]:
    """The methods whose representation is no better by kNN than the random encoder's, or of a rank below 2, and why."""

    def nearest(cell: Cell) -> float:
        return float(cell["content"]["knn"]["test"])

    floor = max((nearest(cell) for cell in rows if cell["label"] == "random"), default=0.0)
    found = {
        cell[
            "label"
        ]: f"- {cell['label']}: kNN {100 * nearest(cell):.1f}, rank {cell['effective_rank']['before']:.1f}: "
        f"{WHY.get(cell['label'], 'the reason is not known')}."
        for cell in rows
        if cell["label"] != "random" and (nearest(cell) <= floor or cell["effective_rank"]["before"] < 2)
    }
    said = "Collapsed (kNN no better than the random encoder's, or rank below 2)"
    return [f"{said}:", "", *found.values()] if found else [f"{said}: none."]


if __name__ == "__main__":
    Benchmark("discriminative", cells(), measure, table, __doc__ or "").main()

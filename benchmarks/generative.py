"""Every generative method on sprites and FashionMNIST, and SimVAE and VAE on CIFAR-10: results/generative.json and generative.md.

    python benchmarks/generative.py --calibrate     # ms a step of every cell, in turn, on a quiet machine: results/generative_speed.json
    python benchmarks/generative.py [--only TEXT]   # the cells that are not done yet (those whose name has TEXT), one after the other
    python benchmarks/generative.py --table         # results/generative.md from results/generative.json

A cell is one fit: method, data, seed. Its budget is a number of steps, the time budget (3 minutes; CIFAR-10: 20) divided by the
measured time of a step on two threads, so that what else the machine does during a fit does not count (sprites: FashionMNIST's times
the ratio of the two on one thread). Content: test accuracy of probes on z of clean items, everything chosen on validation (100 labels: and
a validation split with its own). Style: R2 on test of ridge regression from z to known factors; of a category (named so) how far a linear
classifier comes from its most frequent value to all right, (accuracy - majority) / (1 - majority). MSE: of decoded means of test items, a
pixel in [0, 1]. z has 10 dimensions (CIFAR-10: 64), the likelihood is Gaussian with a fixed variance of .02, Adam at 1e-3 with a cosine.
Nothing was tuned on test.
"""

from __future__ import annotations

import json
import statistics
from typing import Any

import torch
from cells import RESULTS, Benchmark, Cell, hardware, measured, percent, precision

from genssl.evaluation import linear_probe
from genssl.groups import Groups
from genssl.views import make_groups

LABELS = 100

METHODS: dict[str, dict[str, Any]] = {
    "random": {"method": "VAE", "views": 1, "seeds": (0,), "steps": 0},
    "VAE": {"method": "VAE", "views": 1, "seeds": (0, 1, 2)},
    "SimVAE": {"method": "SimVAE", "views": 4, "seeds": (0, 1, 2)},
    "CRVAE": {"method": "CRVAE", "views": 2, "seeds": (0, 1, 2)},
    "AAVAE": {"method": "AAVAE", "views": 1, "seeds": (0, 1, 2)},
    "BetaVAE": {"method": "BetaVAE", "views": 1, "settings": {"beta": 4.0}},
    "ContentSimVAE": {"method": "ContentSimVAE", "views": 4},
    "NeuralStatistician": {"method": "NeuralStatistician", "views": 4},
    "MixtureSimVAE": {"method": "MixtureSimVAE", "views": 4},
    "MixtureSimVAE, 100 labels": {
        "method": "MixtureSimVAE",
        "views": 4,
        "settings": {"labels": LABELS},
    },
}
COMMON = {"likelihood_scale": 0.02**0.5}  # the paper's variance, for every method
DATA: dict[str, dict[str, Any]] = {
    "sprites": {"seconds": 180.0, "settings": {"dim": 10}, "methods": tuple(METHODS)},
    "fashion_mnist": {"seconds": 180.0, "settings": {"dim": 10}, "methods": tuple(METHODS)},
    "cifar10": {
        "seconds": 1200.0,
        "settings": {"dim": 64, "network": "conv"},
        "methods": ("random", "VAE", "SimVAE"),
        "seeds": (0,),
    },
}
BATCH, RATE = 128, 1e-3


def cells() -> list[Cell]:
    """All cells, one seed of everything first."""
    found = [
        {
            "name": f"{data}/{name}/{seed}", "data": data, "label": name, "method": what["method"], "seed": seed,
            "views": what["views"], "batch": BATCH, "lr": RATE, "precision": precision(),
            "settings": {**COMMON, **where["settings"], **what.get("settings", {})},
            "seconds": where["seconds"], "steps": what.get("steps"),
        }
        for data, where in DATA.items()
        for name, what in METHODS.items() if name in where["methods"]
        for seed in where.get("seeds", what.get("seeds", (0,)))
    ]  # fmt: skip
    return sorted(found, key=lambda cell: (cell["data"] == "cifar10", cell["seed"]))


def measure(cell: Cell, run: Any, steps: int) -> dict[str, Any]:
    """Everything that the table shows of a fitted cell."""
    result = measured(cell, run, steps)
    if cell["data"] != "cifar10":
        result["few_labels"] = few_labels(run, run.data)
    if cell["method"] == "NeuralStatistician":
        result["content_posterior"] = content_posterior(run, run.data)
    return result


def few_labels(run: Any, data: Any) -> dict[str, Any]:
    """Test accuracy with LABELS labels: of a linear probe on z, and of p(k | x) where the method was shown the same ones."""
    total = len(data.train)
    shown = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:LABELS]  # those that MixtureSimVAE sees
    parts = []
    for split, rows in ((data.train, shown), (data.validation, slice(None)), (data.test, slice(None))):
        parts += [run.represent(split.floats(rows)), split.label[rows]]
    out = {"linear_probe": linear_probe(*parts)["test"]}
    if run.config["settings"].get("labels"):
        with torch.no_grad():
            guessed = [run.method.classify(Groups(x[:, None])).probs.argmax(-1) for x in data.test.floats().split(1000)]
        out["component"] = float((torch.cat(guessed) == data.test.label).double().mean())
    return out


def content_posterior(run: Any, data: Any, items: int = 500) -> list[dict[str, float]]:
    """q(y | x_1..x_J) against J: its mean variance, and half the squared distance of two such posteriors' means of one item."""
    generator = torch.Generator().manual_seed(0)
    train = data.train.subset(torch.arange(items))
    draws = [
        make_groups(train.floats(), torch.arange(items), train.label, data.views, 16, generator).x for _ in range(2)
    ]
    out = []
    with torch.no_grad():
        for j in (1, 2, 4, 8, 16):
            one, other = (run.method.content(Groups(x[:, :j])) for x in draws)
            shuffled = run.method.content(Groups(draws[0][:, :j].flip(1)))
            out.append({
                "views": j, "variance": float(one.variance.mean()),
                "error": float((one.mean - other.mean).square().mean() / 2),
                "between_items": float(one.mean.var(0).mean()),
                "order_changes_mean_by": float((one.mean - shuffled.mean).abs().max()),
            })  # fmt: skip
    return out


def table(done: list[dict[str, Any]]) -> str:
    lines = ["# The generative methods", "", (__doc__ or "").strip().split("\n\n")[-1].replace("\n", " "), ""]
    for data, where in DATA.items():
        rows = [cell for cell in done if cell["data"] == data]
        if not rows:
            continue
        lines += [f"## {data}, {where['seconds'] / 60:.0f} minutes a fit", ""]
        factors = list(dict.fromkeys(factor for cell in rows for factor in style_of(cell)))
        if data == "sprites":
            lines += [
                "The views of a group are drawings of one class, in styles of their own: methods that compare or share views are given "
                "every label in that form, so that of the last column only VAE's, BetaVAE's and the random encoder's figures are of few "
                "labels.",
                "",
            ]
        head = [
            "method",
            "seeds",
            "views",
            "steps",
            "kNN",
            "linear",
            "MLP",
            "MSE",
            *factors,
            f"linear, {LABELS} labels",
        ]
        lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for name in where["methods"]:
            same = [cell for cell in rows if cell["label"] == name]
            if not same:
                continue
            values = [percent([c["content"][p]["test"] for c in same]) for p in ("knn", "linear", "mlp")]
            values.append("" if same[0]["mse"] is None else f"{statistics.mean(c['mse'] for c in same):.4f}")
            values += [f"{statistics.mean(style_of(cell)[factor] for cell in same):.2f}" for factor in factors]
            few = [c["few_labels"] for c in same if c.get("few_labels")]
            shown = percent([f["linear_probe"] for f in few]) if few else ""
            values.append(
                shown + (f"; component {100 * few[0]['component']:.1f}" if few and "component" in few[0] else "")
            )
            lines.append(
                f"| {name} | {len(same)} | {same[0]['batch']} x {same[0]['views']} | {same[0]['steps']} | {' | '.join(values)} |"
            )
        lines += ["", f"Data: {rows[0]['exactness']}.", ""]
        if any("component" in (cell.get("few_labels") or {}) for cell in rows):
            lines += [
                f"Component: p(k | x) of MixtureSimVAE, to which the labels of the same {LABELS} groups were shown. It learned from "
                "their views, the probe from the clean items.",
                "",
            ]
        if data == "cifar10":
            speed = json.loads((RESULTS / "generative_speed.json").read_text())
            rates = [
                f"{kind} {1e3 * BATCH * METHODS[kind]['views'] / speed[f'{data}/{kind}']:.0f}"
                for kind in ("VAE", "SimVAE")
            ]
            lines += [f"Views a second, all of a step, 2 threads, in turn: {', '.join(rates)}.", ""]
        for cell in rows:
            if "content_posterior" in cell:
                lines += [
                    "q(y | x_1..x_J) of the Neural Statistician (mean variance; half the squared distance between two of one item):",
                    "",
                ]
                lines += ["| J | variance | half the squared distance | between items |", "|---|---|---|---|"]
                lines += [
                    f"| {r['views']} | {r['variance']:.4f} | {r['error']:.4f} | {r['between_items']:.4f} |"
                    for r in cell["content_posterior"]
                ] + [""]
    kinds = {
        f"{cell['data']}, {cell['label']}": sorted(
            {(c["seed"], c["precision"]) for c in done if (c["data"], c["label"]) == (cell["data"], cell["label"])}
        )
        for cell in done
    }
    mixed = [name for name, found in kinds.items() if len({precision for _, precision in found}) > 1]
    if mixed:
        lines += [
            "Seeds of these rows were fitted in two precisions (bf16 and float32), so that their spread is one over precision too: "
            f"{'; '.join(mixed)}.",
            "",
        ]
    lines.append(hardware(done, "an AMD EPYC"))
    return "\n".join(lines) + "\n"


def style_of(cell: Cell) -> dict[str, float]:
    """Factor -> how well it is predicted linearly from z on test: of the items' own style where it is known, else of their views'."""
    style = cell["style"] or {}
    found = style.get("items") or style.get("views") or {"z": {}}
    out = {}
    for name, scores in found["z"].items():
        value, majority = scores["linear"]["test"], scores.get("majority")
        out[name if majority is None else f"{name} (category)"] = (
            value if majority is None else (value - majority) / (1 - majority)
        )
    return out


if __name__ == "__main__":
    Benchmark("generative", cells(), measure, table, __doc__ or "").main()

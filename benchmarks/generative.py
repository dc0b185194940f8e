"""Every generative method on sprites and FashionMNIST, and SimVAE and VAE on CIFAR-10: results/generative.json and generative.md.

    python benchmarks/generative.py --calibrate     # ms a step of every cell, in turn, on a quiet machine: results/generative_speed.json
    python benchmarks/generative.py [--only TEXT]   # the cells that are not done yet (those whose name has TEXT), one after the other
    python benchmarks/generative.py --table         # results/generative.md from results/generative.json

A cell is one fit: method, data, seed. Its budget is a number of steps, the time budget (3 minutes; CIFAR-10: 20) divided by the
measured time of a step on two threads, so that what else the machine does during a fit does not count (sprites: FashionMNIST's times
the ratio of the two on one thread). Content: test accuracy of probes on z of clean items, everything chosen on validation. Style: R2
on test of ridge regression from z to known factors. Nothing was tuned on test.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import json
import os
import re
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import genssl
from genssl import datasets
from genssl.evaluation import linear_probe
from genssl.files import write_json
from genssl.fit.optimiser import learning_rate
from genssl.groups import Groups
from genssl.views import make_groups

RESULTS = Path(__file__).parent.parent / "results"
OUT, SPEED = RESULTS / "generative.json", RESULTS / "generative_speed.json"
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
        "settings": {"labels": LABELS, "label_weight": 100.0},
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


def cells() -> list[dict[str, Any]]:
    """All cells, one seed of everything first."""
    found = [
        {
            "name": f"{data}/{name}/{seed}", "data": data, "label": name, "method": what["method"], "seed": seed,
            "views": what["views"], "batch": BATCH, "lr": RATE, "precision": "bf16",
            "settings": {**COMMON, **where["settings"], **what.get("settings", {})},
            "seconds": where["seconds"], "steps": what.get("steps"),
        }
        for data, where in DATA.items()
        for name, what in METHODS.items() if name in where["methods"]
        for seed in where.get("seeds", what.get("seeds", (0,)))
    ]  # fmt: skip
    return sorted(found, key=lambda cell: (cell["data"] == "cifar10", cell["seed"]))


def data_root() -> str | None:
    beside = Path(__file__).parent.parent.parent / "shared" / "data"
    return os.environ.get("GENSSL_DATA") or (str(beside) if beside.exists() else None)


def load(name: str) -> Any:
    return datasets.load(name, root=data_root(), verify=name != "cifar10")


# ---------------------------------------------------------------------- one cell


def folder_of(cell: dict[str, Any]) -> Path:
    return Path(tempfile.gettempdir()) / "genssl_generative" / re.sub(r"\W+", "_", cell["name"])


def fit_cell(cell: dict[str, Any], size: int, steps: int) -> Any:
    """The run of a cell; one that was cut goes on, one that is fitted is loaded."""
    folder, per_epoch = folder_of(cell), size // cell["batch"]
    if (folder / "fitted").exists():
        return genssl.load(folder)
    run = genssl.fit(
        cell["method"], cell["data"], data_root=data_root(), verify=cell["data"] != "cifar10", settings=cell["settings"],
        num_views=cell["views"], batch_size=cell["batch"], lr=cell["lr"], epochs=-(-steps // per_epoch), precision=cell["precision"],
        seed=cell["seed"], out=folder, resume=True, progress=False, max_steps=steps, schedule=functools.partial(cosine, steps=steps),
    )  # fmt: skip
    (folder / "fitted").touch()
    return run


def measure_cell(cell: dict[str, Any], run: Any, steps: int) -> dict[str, Any]:
    """Everything that the table shows of a fitted cell."""
    figures, data = run.evaluate(), run.data
    last = run.metrics[-1] if run.metrics else {}
    result = {
        **cell, "steps": steps, "epochs": round(steps * cell["batch"] / len(data.train), 2),
        "content": {probe: {k: value[k] for k in ("validation", "test")} for probe, value in figures["content"].items()},
        "style": figures.get("style"), "mse": figures["generation"]["mse"] if steps else None,
        "terms": {slot: last.get(slot) for slot in ("reconstruction", "entropy", "prior")},
        "machine": run.config["machine"], "versions": run.config["versions"], "exactness": data.notes,
    }  # fmt: skip
    if cell["data"] != "cifar10":
        result["few_labels"] = few_labels(run, data)
    if cell["method"] == "NeuralStatistician":
        result["content_posterior"] = content_posterior(run, data)
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
    draws = [make_groups(train.floats(), torch.arange(items), None, data.views, 16, generator).x for _ in range(2)]
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


def cosine(step: int, _: int, steps: int) -> float:
    """The schedule spans the steps of the cell, which are no whole epochs."""
    return learning_rate("cosine", 1.0, step, max(1, steps))


# ---------------------------------------------------------------------- time of a step


def calibrate(only: str, rounds: int = 3, steps: int = 20) -> dict[str, float]:
    """Milliseconds a step of every kind of cell, taken in turn, median of the rounds."""
    import pyro

    from genssl.fit.batches import Batches
    from genssl.fit.build import build, find_class
    from genssl.fit.optimiser import make_optimiser
    from genssl.fit.precision import networks_in
    from genssl.fit.step import Stepper

    device, sides = torch.device("cpu"), {}
    for cell in cells():
        key = f"{cell['data']}/{cell['label']}"
        if key in sides or cell["steps"] == 0 or only not in cell["name"]:
            continue
        data = load(cell["data"])
        method = build(find_class(cell["method"]), data.example(cell["views"]), 0, cell["settings"])
        batches = Batches(data.train, data.views, cell["views"], cell["batch"], 0, device)
        module = method.objective(method.model, method.guide)
        config = {"seed": 0, "clip": None, "lr": cell["lr"], "steps": 10**6}
        optimiser = make_optimiser("adam", module.parameters(), cell["lr"])
        sides[key] = method, Stepper(module, optimiser, batches, config, "constant"), batches.run(0, 10**6), []
    with pyro.validation_enabled(False):
        for _ in range(rounds):
            for key, (method, stepper, stream, times) in sides.items():
                count = max(2, steps // 8) if key.startswith("cifar10") else steps
                with networks_in("bf16", method, device):
                    for _ in range(2):
                        stepper(*next(stream))
                    began = time.perf_counter()
                    for _ in range(count):
                        stepper(*next(stream))
                    times.append(1e3 * (time.perf_counter() - began) / count)
    return {key: round(statistics.median(times), 2) for key, (*_, times) in sides.items()}


# ---------------------------------------------------------------------- table


def table(done: list[dict[str, Any]]) -> str:
    lines = ["# The generative methods", "", (__doc__ or "").strip().split("\n\n")[-1].replace("\n", " "), ""]
    for data, where in DATA.items():
        rows = [cell for cell in done if cell["data"] == data]
        if not rows:
            continue
        lines += [f"## {data}, {where['seconds'] / 60:.0f} minutes a fit", ""]
        factors = list(dict.fromkeys(f for c in rows for kind in (c["style"] or {}).values() for f in style_of(kind)))
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
            for factor in factors:
                found = [
                    style_of(kind)[factor]
                    for c in same
                    for kind in (c["style"] or {}).values()
                    if factor in style_of(kind)
                ]
                values.append(f"{statistics.mean(found):.2f}" if found else "")
            few = [c["few_labels"] for c in same if c.get("few_labels")]
            shown = percent([f["linear_probe"] for f in few]) if few else ""
            values.append(
                shown + (f"; component {100 * few[0]['component']:.1f}" if few and "component" in few[0] else "")
            )
            lines.append(
                f"| {name} | {len(same)} | {same[0]['batch']} x {same[0]['views']} | {same[0]['steps']} | {' | '.join(values)} |"
            )
        lines += ["", f"Data: {rows[0]['exactness']}.", ""]
        for cell in rows:
            if "content_posterior" in cell:
                lines += [
                    "q(y | x_1..x_J) of the Neural Statistician (mean variance; half the squared distance between two of one item):",
                    "",
                ]
                lines += ["| J | variance | error | between items |", "|---|---|---|---|"]
                lines += [
                    f"| {r['views']} | {r['variance']:.4f} | {r['error']:.4f} | {r['between_items']:.4f} |"
                    for r in cell["content_posterior"]
                ] + [""]
    machine = done[0]
    lines.append(
        f"Hardware: {machine['machine']}, torch {machine['versions']['torch']}, bf16 networks; fits on one thread, two side by side."
    )
    return "\n".join(lines) + "\n"


def style_of(kind: dict[str, Any]) -> dict[str, float]:
    """Factor -> R2 of a linear regression from z, on test."""
    return {name: found["linear"]["test"] for name, found in kind["z"].items()}


def percent(values: list[float]) -> str:
    mean = 100 * statistics.mean(values)
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def append(result: dict[str, Any]) -> None:
    """Add a cell to the file; two processes may share the work."""
    with open(OUT.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_json(OUT, [*finished(), result])


def finished() -> list[dict[str, Any]]:
    return json.loads(OUT.read_text()) if OUT.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--fit-only", action="store_true", help="leave the measuring to a later call")
    parser.add_argument("--only", default="", help="cells whose name (data/method/seed) contains this")
    parser.add_argument(
        "--share", default="0/1", help="I/N: every N-th cell from the I-th on, for N processes side by side"
    )
    args = parser.parse_args()
    if args.table:
        (RESULTS / "generative.md").write_text(table(finished()))
    elif args.calibrate:
        known = json.loads(SPEED.read_text()) if SPEED.exists() else {}
        write_json(SPEED, known | calibrate(args.only))
        print(SPEED.read_text())
    else:
        speed, sizes = json.loads(SPEED.read_text()), {}
        first, every = map(int, args.share.split("/"))
        for cell in [cell for cell in cells() if args.only in cell["name"]][first::every]:
            if cell["name"] in {other["name"] for other in finished()}:
                continue
            if cell["data"] not in sizes:
                sizes[cell["data"]] = len(load(cell["data"]).train)
            steps = cell["steps"]
            if steps is None:
                steps = int(1e3 * cell["seconds"] / speed[f"{cell['data']}/{cell['label']}"])
            began = time.perf_counter()
            run = fit_cell(cell, sizes[cell["data"]], steps)
            print(cell["name"], steps, f"{time.perf_counter() - began:.0f} s", flush=True)
            if args.fit_only:
                continue
            result = measure_cell(cell, run, steps)
            append(result)
            print(cell["name"], {p: round(v["test"], 4) for p, v in result["content"].items()}, flush=True)
            shutil.rmtree(folder_of(cell))


if __name__ == "__main__":
    main()

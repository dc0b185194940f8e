"""VAE and SimVAE on FashionMNIST and MNIST, at equal epochs and at equal time: results/core.json and results/core.md.

    python benchmarks/core.py --calibrate       # ms a step of every setting, in turn, on a quiet machine: results/core_speed.json
    python benchmarks/core.py                   # the cells that are not done yet, one after the other
    python benchmarks/core.py --table           # results/core.md from results/core.json

Paper's fully connected networks, 10-dimensional z, bf16, the paper's augmentation. Equal time means equal number of steps times
measured milliseconds a step (so that what else the machine does during a fit does not count). Figures are test accuracies with
k, penalty and stopping chosen on the validation split (5000 of the 60000 training images); settings were chosen on validation too.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from cells import cosine, data_root, milliseconds

import genssl
from genssl import datasets
from genssl.evaluation import knn, linear_probe, mlp_probe
from genssl.files import write_json

RESULTS = Path(__file__).parent.parent / "results"
SECONDS, EPOCHS = 120.0, 5

# The paper's settings, with our batch (128 groups) and rate; view_scale only sets the unit of z where p(y) is flat. The last two were
# chosen on the validation split of FashionMNIST (seed 0, one minute a fit): batch, rate, likelihood variance, analytic prior.
PLAIN = {"likelihood_scale": 0.02**0.5}
CELLS: dict[str, dict[str, Any]] = {
    "random": {"method": "VAE", "views": 1, "batch": 128, "lr": 1e-3, "settings": PLAIN},
    "VAE": {"method": "VAE", "views": 1, "batch": 128, "lr": 1e-3, "settings": PLAIN},
    "SimVAE J=2": {"method": "SimVAE", "views": 2, "batch": 128, "lr": 1e-3, "settings": PLAIN},
    "SimVAE J=4": {"method": "SimVAE", "views": 4, "batch": 128, "lr": 1e-3, "settings": PLAIN},
    "SimVAE J=10": {"method": "SimVAE", "views": 10, "batch": 128, "lr": 1e-3, "settings": PLAIN},
    "VAE, tuned": {"method": "VAE", "views": 1, "batch": 512, "lr": 2e-3, "settings": PLAIN},
    "SimVAE, tuned": {
        "method": "SimVAE",
        "views": 4,
        "batch": 320,
        "lr": 1e-3,
        "settings": PLAIN,
        "replace": {"prior": "LogPrior:analytic=True"},
        "seeds": (0,),  # below the plain settings at two minutes a fit, so not repeated
    },
}
SEEDS = {"fashion_mnist": (0, 1, 2), "mnist": (0,)}
ORDER = (("fashion_mnist", 0), ("mnist", 0), ("fashion_mnist", 1), ("fashion_mnist", 2))


def run_cell(
    data: Any, name: str, cell: dict[str, Any], steps: int, seed: int, progress: bool = True
) -> dict[str, Any]:
    """Fit one cell and measure it."""
    folder = Path(tempfile.mkdtemp()) / "run"
    began = time.perf_counter()
    per_epoch = len(data.train) // cell["batch"]
    # The schedule spans the steps of this cell: whole epochs of it, cut at `steps`.
    run = genssl.fit(
        cell["method"], data, settings=cell["settings"], num_views=cell["views"], batch_size=cell["batch"], lr=cell["lr"],
        epochs=max(1, -(-steps // per_epoch)) if steps else 0, precision="bf16", seed=seed, out=folder, progress=progress,
        schedule=functools.partial(cosine, steps=steps), max_steps=steps, replace=cell.get("replace"),
    )  # fmt: skip
    seconds = time.perf_counter() - began
    splits = (data.train, data.validation, data.test)
    parts = [tensor for split in splits for tensor in (run.represent(split.floats()), split.label)]
    found = {"knn": knn(*parts), "linear": linear_probe(*parts, seed=seed), "mlp": mlp_probe(*parts, seed=seed)}
    last = run.metrics[-1] if run.metrics else {}
    result = {
        "name": name, "data": data.name, "seed": seed, "steps": steps, "epochs": steps / per_epoch, "seconds": round(seconds, 1),
        **{key: cell[key] for key in ("method", "views", "batch", "lr", "settings")}, "replace": cell.get("replace"),
        **{probe: {k: values[k] for k in ("validation", "test", "test_best")} for probe, values in found.items()},
        **{slot: last.get(slot) for slot in ("reconstruction", "entropy", "prior")},
        "precision": "bf16", "versions": run.config["versions"], "machine": run.config["machine"], "threads": run.config["threads"],
    }  # fmt: skip
    shutil.rmtree(folder.parent)
    return result


def calibrate() -> dict[str, float]:
    """Milliseconds a step of every setting on FashionMNIST, taken in turn, median of the rounds."""
    return milliseconds(
        {
            name: {**cell, "data": "fashion_mnist", "precision": "bf16"}
            for name, cell in CELLS.items()
            if name != "random"
        },
        rounds=5,
        steps=40,
    )


def table(cells: list[dict[str, Any]]) -> str:
    """Markdown: mean (and range over seeds) of test accuracy in percent."""
    lines = ["# Core results", "", (__doc__ or "").strip().split("\n\n")[-1].replace("\n", " "), ""]
    for data in SEEDS:
        for budget in ("equal epochs", "equal time"):
            rows = [c for c in cells if c["data"] == data and c["budget"] in (budget, "none")]
            if not rows:
                continue
            seeds = sorted({c["seed"] for c in rows})
            lines += [
                f"## {data}, {budget} ({EPOCHS} epochs)"
                if budget == "equal epochs"
                else f"## {data}, {budget} ({SECONDS:.0f} s)",
                "",
            ]
            lines += [f"Test accuracy in percent, mean over seeds {seeds} (smallest to largest).", ""]
            lines += [
                "| method | groups x views | epochs | steps | kNN | linear | MLP | MLP minus VAE's, seed by seed |"
            ]
            lines += ["|---|---|---|---|---|---|---|---|"]
            vae = {c["seed"]: c["mlp"]["test"] for c in rows if c["name"] == "VAE"}
            for name in dict.fromkeys(c["name"] for c in rows):
                same = [c for c in rows if c["name"] == name]
                first = same[0]
                shown = (
                    name
                    if len(same) == len(seeds)
                    else f"{name} (seed {', '.join(str(c['seed']) for c in same)} alone)"
                )
                figures = [_figure([c[p]["test"] for c in same]) for p in ("knn", "linear", "mlp")]
                ahead = [f"{100 * (c['mlp']['test'] - vae[c['seed']]):+.1f}" for c in same if c["seed"] in vae]
                figures.append("" if name == "VAE" else ", ".join(ahead))
                lines.append(
                    f"| {shown} | {first['batch']} x {first['views']} | {first['epochs']:.1f} | {first['steps']} | {' | '.join(figures)} |"
                )
            lines.append("")
    machine = cells[0]
    lines += [f"Hardware: {machine['machine']}, {machine['threads']} threads, torch {machine['versions']['torch']}, bf16 networks. "
              "The fits ran two at a time, one thread each; the time of a step was measured alone on two threads. "
        "Data: MNIST and FashionMNIST, bit-exact copies of the originals."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _figure(values: list[float]) -> str:
    mean = 100 * statistics.mean(values)
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--only", nargs="*", metavar="DATA:SEED", help="these alone (two processes can share the work)")
    args = parser.parse_args()
    out, speed_file = RESULTS / "core.json", RESULTS / "core_speed.json"
    cells: list[dict[str, Any]] = json.loads(out.read_text()) if out.exists() else []
    if args.table:
        (RESULTS / "core.md").write_text(table(cells))
        return
    if args.calibrate:
        write_json(speed_file, calibrate())
        print(speed_file.read_text())
        return
    speed = json.loads(speed_file.read_text())
    done = {(c["data"], c["name"], c["budget"], c["seed"]) for c in cells}
    for dataset, seed in ORDER:
        if args.only and f"{dataset}:{seed}" not in args.only:
            continue
        data = datasets.load(dataset, root=data_root())
        per_epoch = {name: len(data.train) // cell["batch"] for name, cell in CELLS.items()}
        for name, cell in CELLS.items():
            budgets = (
                ("none",)
                if name == "random"
                else ("equal time",)
                if "tuned" in name
                else ("equal time", "equal epochs")
            )
            for budget in budgets:
                if (dataset, name, budget, seed) in done or seed not in cell.get("seeds", (seed,)):
                    continue
                in_time = int(1e3 * SECONDS / speed.get(name, 1.0))
                steps = {"none": 0, "equal epochs": EPOCHS * per_epoch[name], "equal time": in_time}[budget]
                result = {"budget": budget, **run_cell(data, name, cell, steps, seed, progress=False)}
                cells = [
                    *(json.loads(out.read_text()) if out.exists() else []),
                    result,
                ]  # another process may have written
                write_json(out, cells)
                figures = {p: round(result[p]["test"], 4) for p in ("knn", "linear", "mlp")}
                print(dataset, name, budget, seed, steps, result["seconds"], figures, flush=True)


if __name__ == "__main__":
    main()

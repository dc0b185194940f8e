"""The paper's comparison: its data, networks, augmentations, methods, and ablations of its claims. One JSON a cell in results/paper/.

    python benchmarks/paper.py --budget cpu                  # the cells that are not done yet; start it again where it was stopped
    python benchmarks/paper.py --budget paper --seconds 600  # a stage: stops after 600 s, a fit that is under way is kept
    python benchmarks/paper.py --budget paper --epochs 1     # a dry run: that many epochs of every cell of one seed, and its minutes
    python benchmarks/paper.py --budget paper --steps 60     # the same of so many steps
    python benchmarks/paper.py --table                       # results/paper.md

Several processes may run side by side: they share the work. `--only TEXT`: cells whose name has TEXT.

cpu    4400 steps of 512 views for every method (as many groups as that makes), lr 1e-3, cosine: three minutes on two cores at the 40.6 ms
       a step of results/generative_speed.json (SimVAE, the paper's MLP). All methods see equally many views: 41 epochs of MNIST with
       one a group, 10 with four. CIFAR-10 with the paper's convolutions: a quarter of the steps, 12.5 epochs with one view a group.
paper  400 epochs of the generative, 600 of the discriminative methods, 128 views a step; lr 8e-5 as the released code (VICReg 1e-4).
large  the epochs of `paper`, 1024 views a step, lr 1e-3.

From the paper: encoder, views, 10 dimensions (CIFAR-10, CelebA: 64), variances 0.15 of p(z|y) and 0.02 of p(x|z), CRVAE's weight 0.1,
SimCLR's temperature 0.7, VICReg's weights 25. Inferred, for it is not said: VAE's likelihood variance 1, BetaVAE the VAE with 0.02. Ours:
J = 4 for SimVAE in `cpu` (10 in the others, as the paper), heads of two layers (the paper does not say), the other methods' published
settings. Probes are chosen on validation. Style: views' augmentation parameters from z.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import json
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cells import RESULTS, cosine, data_root, load, precision

import genssl
from genssl.cli import exit_status
from genssl.files import write_bytes, write_json
from genssl.views import Geometric

OUT = RESULTS / "paper"
WIDE, NARROW = {"likelihood_scale": 1.0}, {"likelihood_scale": 0.02**0.5}
METHODS: dict[str, dict[str, Any]] = {
    "Random": {"method": "VAE", "views": 1, "settings": WIDE},
    "VAE": {"method": "VAE", "views": 1, "settings": WIDE},
    "BetaVAE": {"method": "VAE", "views": 1, "settings": NARROW},
    "CRVAE": {"method": "CRVAE", "views": 2, "settings": NARROW | {"consistency": 0.1}},
    "AAVAE": {"method": "AAVAE", "views": 1, "settings": NARROW},
    "SimVAE": {"method": "SimVAE", "views": 10, "settings": NARROW | {"view_scale": 0.15**0.5, "content_scale": None}},
    "SimCLR": {"method": "SimCLR", "views": 2, "settings": {"temperature": 0.7}},
    "MoCo": {"method": "MoCo", "views": 2},
    "VICReg": {"method": "VICReg", "views": 2},
    "BYOL": {"method": "BYOL", "views": 2},
    "BarlowTwins": {"method": "BarlowTwins", "views": 2},
    "LDM": {"method": "LDM", "views": 2},
}
GENERATIVE = ("Random", "VAE", "BetaVAE", "CRVAE", "AAVAE", "SimVAE")
DATA = {"mnist": 10, "fashion_mnist": 10, "cifar10": 64, "celeba": 64}
BUDGETS: dict[str, dict[str, Any]] = {
    "cpu": {"views": 512, "steps": 4400, "lr": 1e-3, "cifar10": 1100, "celeba": 1100},
    "paper": {"views": 128, "epochs": (400, 600), "lr": 8e-5},
    "large": {"views": 1024, "epochs": (400, 600), "lr": 1e-3},
}
STRENGTHS = {"weak": 0.8, "strong": 0.15}
"""Smallest area of a crop; the paper's is 0.4. The flip stays."""


def ablations(data: str) -> dict[str, dict[str, Any]]:
    """C6: views a group; C7: variance of the likelihood; C8: strength of the augmentation."""
    sim = METHODS["SimVAE"]
    out = {f"SimVAE, J = {j}": {**sim, "views": j} for j in (2, 8)}
    if data == "fashion_mnist":
        for variance in (0.005, 0.08):
            name = f"SimVAE, variance {variance:g}"
            out[name] = {**sim, "settings": sim["settings"] | {"likelihood_scale": variance**0.5}}
        for strength in STRENGTHS:
            for name in ("SimVAE", "VAE", "SimCLR", "VICReg"):
                out[f"{name}, {strength} crops"] = {**METHODS[name], "crops": STRENGTHS[strength]}
    return out


def cells(budget: str) -> list[dict[str, Any]]:
    """MNIST and FashionMNIST first, one seed of everything first, ablations (of `cpu` alone) last, then the larger data sets."""
    given, found = BUDGETS[budget], []
    for data, dim in DATA.items():
        extra = ablations(data) if budget == "cpu" and data in ("mnist", "fashion_mnist") else {}
        for label, what in (METHODS | extra).items():
            views = what["views"] if what["views"] != 10 or budget != "cpu" else 4
            epochs = given.get("epochs", (None, None))[label not in GENERATIVE]
            cell = {
                "data": data, "label": label, "method": what["method"], "views": views, "batch": max(2, given["views"] // views),
                "lr": 1e-4 if (label, budget) == ("VICReg", "paper") else given["lr"], "crops": what.get("crops"),
                "settings": {"dim": dim, **what.get("settings", {})}, "epochs": 0 if label == "Random" else epochs,
                "steps": 0 if label == "Random" else given.get(data, given.get("steps")),
            }  # fmt: skip
            found += [{"name": f"{data}-{label}-{seed}", "seed": seed, **cell} for seed in (0, 1, 2)]
    return sorted(found, key=lambda c: (list(DATA).index(c["data"]) > 1, c["label"] not in METHODS, c["seed"]))


def fit(cell: dict[str, Any], folder: Path, cut: int | None = None) -> tuple[Any, int]:
    """The fitted run of a cell and its steps; cut: stop after so many."""
    verify = cell["data"] != "cifar10"
    per_epoch = len(load(cell["data"]).train) // cell["batch"]
    steps = cell["steps"] if cell["steps"] is not None else cell["epochs"] * per_epoch
    views = None
    if cell["crops"] is not None:
        views = Geometric(crop_scale=(cell["crops"], 1.0), crop_ratio=(0.75, 1.3), vertical_flip=0.5)
    run = genssl.fit(
        cell["method"], cell["data"], data_root=data_root(), verify=verify, settings=cell["settings"], views=views,
        replace=cell.get("replace"), num_views=cell["views"], batch_size=cell["batch"], lr=cell["lr"],
        epochs=-(-steps // per_epoch), seed=cell["seed"], precision=cell.get("precision") or precision(),
        schedule=functools.partial(cosine, steps=steps),
        max_steps=steps if cut is None else min(steps, cut), out=folder, resume=True, progress=False, measure=False,
    )  # fmt: skip
    return run, steps


def measure(cell: dict[str, Any], run: Any, steps: int) -> dict[str, Any]:
    """What is kept of a fitted cell: every figure that a table or a claim reads."""
    figures = run.evaluate(("content", "style", "clustering", "generation.mse"))
    lines = run.metrics
    return {
        **cell, "steps": steps, "epochs": round(steps * cell["batch"] / len(run.data.train), 2),
        "content": figures["content"], "clustering": figures["clustering"], "style": figures["style"],
        "mse": figures["generation"]["mse"] if steps else None,
        "terms": {name: lines[-1].get(name) for name in ("reconstruction", "entropy", "prior")} if lines else None,
        "precision": run.config["precision"], "machine": run.config["machine"], "versions": run.config["versions"],
        "exactness": run.data.notes,
    }  # fmt: skip


@contextmanager
def taken(path: Path) -> Iterator[bool]:
    """Whether this process has got the cell: nobody else is at it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def do(
    cell: dict[str, Any], out: Path, folder: Path, told: Callable[[dict[str, Any]], Any], method: Any = None
) -> None:
    """Fit and measure a cell, keep it in `out`, and print what is told of it; nothing where it is done, or another process is at it.

    method: a class in place of the name in the cell.
    """
    with taken(folder.with_suffix(".lock")) as mine:
        if not mine or out.exists():
            return
        began = time.perf_counter()
        run, steps = fit(cell if method is None else {**cell, "method": method}, folder)
        seconds = time.perf_counter() - began
        found = measure(cell, run, steps)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, {**found, "seconds": seconds})
        print(cell["name"], f"{seconds:.0f} s", told(found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", choices=BUDGETS, default="cpu")
    parser.add_argument("--only", default="")
    parser.add_argument("--seconds", type=float, help="of this stage")
    parser.add_argument(
        "--epochs", type=int, help="a dry run of so many epochs a cell of the first seed, nothing is kept"
    )
    parser.add_argument("--steps", type=int, help="a dry run of so many steps a cell of the first seed")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "genssl_paper")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        from paper_tables import document

        write_bytes(RESULTS / "paper.md", document().encode())
        return
    if args.seconds:  # as Ctrl-C: the fit under way saves itself
        timer = threading.Timer(args.seconds, os.kill, (os.getpid(), signal.SIGINT))
        timer.daemon = True
        timer.start()
    minutes: dict[str, float] = {}
    for cell in (c for c in cells(args.budget) if args.only in c["name"]):
        if args.epochs is not None or args.steps is not None:
            if cell["seed"] != 0:
                continue
            minutes[cell["name"]] = dry(cell, args.epochs, args.steps)
            print(f"{cell['name']}: {minutes[cell['name']]:.1f} min", flush=True)
            continue
        out, folder = OUT / args.budget / f"{cell['name']}.json", args.work / args.budget / cell["name"]
        do(cell, out, folder, lambda found: {probe: values["test"] for probe, values in found["content"].items()})
    if minutes:
        print(f"{len(minutes)} cells, {sum(minutes.values()):.0f} minutes of fitting a seed")


def dry(cell: dict[str, Any], epochs: int | None, steps: int | None) -> float:
    """Minutes of the whole fit, by the speed of its first epochs or steps."""
    cut = steps if epochs is None else epochs * (len(load(cell["data"]).train) // cell["batch"])
    with tempfile.TemporaryDirectory() as folder:
        run, whole = fit(cell, Path(folder) / "run", cut)
        lines = [line for line in run.metrics if line["step"] > 10] or run.metrics  # what comes once is in the first
        views = cell["batch"] * cell["views"]
        return statistics.median(views / line["views_per_second"] for line in lines) / 60 * whole if lines else 0.0


def committed(budget: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((OUT / budget).glob("*.json"))]


if __name__ == "__main__":
    raise SystemExit(exit_status(main))

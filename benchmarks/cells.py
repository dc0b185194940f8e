"""Fits in cells: one method, data set and seed each, resumable, several processes side by side, one JSON file for all of a benchmark."""

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
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch

import genssl
from genssl import datasets
from genssl.files import write_json
from genssl.fit.batches import Batches
from genssl.fit.build import build, find_class
from genssl.fit.optimiser import learning_rate, make_optimiser
from genssl.fit.precision import fastest, networks_in
from genssl.fit.slots import apply_slots
from genssl.fit.step import Stepper

RESULTS = Path(__file__).parent.parent / "results"
Cell = dict[str, Any]
"""name, data, label, method, seed, views, batch, lr, precision, settings, seconds (its budget), steps (None: by the budget)"""


def data_root() -> str | None:
    beside = Path(__file__).parent.parent.parent / "shared" / "data"
    return os.environ.get("GENSSL_DATA") or (str(beside) if beside.exists() else None)


def precision() -> str:
    """bf16 where this processor is faster in it; float32 on a GPU, where steps this small wait for launches and not for products."""
    return "32" if torch.cuda.is_available() else fastest("cpu")


def load(name: str) -> Any:
    return datasets.load(name, root=data_root(), verify=name != "cifar10")


def cosine(step: int, _: int, steps: int) -> float:
    """The schedule spans the steps of the cell, which are no whole epochs."""
    return learning_rate("cosine", 1.0, step, max(1, steps))


def milliseconds(kinds: dict[str, Cell], rounds: int = 3, steps: int = 20) -> dict[str, float]:
    """Milliseconds a step of each kind of cell, taken in turn, median of the rounds; CIFAR-10 with a tenth of the steps."""
    device, sides = torch.device("cpu"), {}
    for key, cell in kinds.items():
        data = load(cell["data"])
        method = build(find_class(cell["method"]), data.example(cell["views"]), 0, cell["settings"])
        apply_slots(method, cell.get("replace") or {}, 0, data.event_shape, cell["settings"])
        batches = Batches(data.train, data.views, cell["views"], cell["batch"], 0, device)
        module = method.objective(method.model, method.guide)
        config = {"seed": 0, "clip": None, "lr": cell["lr"], "steps": 10**6}
        optimiser = make_optimiser("adam", module.parameters(), cell["lr"])
        sides[key] = method, Stepper(module, optimiser, batches, config, "constant"), batches.run(0, 10**6), []
    with pyro.validation_enabled(False):
        for _ in range(rounds):
            for key, (method, stepper, stream, times) in sides.items():
                count = max(2, steps // 10) if kinds[key]["data"] == "cifar10" else steps
                with networks_in(kinds[key]["precision"], method, device):
                    for _ in range(2):
                        stepper(*next(stream))
                    began = time.perf_counter()
                    for _ in range(count):
                        stepper(*next(stream))
                    times.append(1e3 * (time.perf_counter() - began) / count)
    return {key: round(statistics.median(times), 2) for key, (*_, times) in sides.items()}


class Benchmark:
    """results/NAME.json of the cells that are done, results/NAME_speed.json of milliseconds a step, results/NAME.md.

    A cell's budget is a number of steps: its seconds divided by the measured time of a step, so that what else the machine does
    during a fit does not count. measure(cell, run, steps) gives what is kept of a fitted cell, table(results) the Markdown.
    """

    def __init__(
        self, name: str, cells: list[Cell], measure: Callable[..., dict[str, Any]], table: Callable[..., str], doc: str
    ) -> None:
        self.name, self.cells, self.measure, self.table, self.doc = name, cells, measure, table, doc
        self.out, self.speed = RESULTS / f"{name}.json", RESULTS / f"{name}_speed.json"

    def folder(self, cell: Cell) -> Path:
        return Path(tempfile.gettempdir()) / f"genssl_{self.name}" / re.sub(r"\W+", "_", cell["name"])

    def finished(self) -> list[dict[str, Any]]:
        return json.loads(self.out.read_text()) if self.out.exists() else []

    def append(self, result: dict[str, Any]) -> None:
        """Add a cell to the file; several processes may share the work."""
        with open(Path(tempfile.gettempdir()) / f"genssl_{self.name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            write_json(self.out, [*self.finished(), result])

    def fit(self, cell: Cell, size: int, steps: int) -> Any:
        """The run of a cell; one that was cut goes on, one that is fitted is loaded."""
        folder, per_epoch = self.folder(cell), size // cell["batch"]
        if (folder / "fitted").exists():
            return genssl.load(folder)
        run = genssl.fit(
            cell["method"], cell["data"], data_root=data_root(), verify=cell["data"] != "cifar10", settings=cell["settings"],
            num_views=cell["views"], batch_size=cell["batch"], lr=cell["lr"], epochs=-(-steps // per_epoch), precision=cell["precision"],
            seed=cell["seed"], out=folder, resume=True, progress=False, max_steps=steps, schedule=functools.partial(cosine, steps=steps),
        )  # fmt: skip
        (folder / "fitted").touch()
        return run

    def calibrate(self, only: str) -> dict[str, float]:
        """Milliseconds a step of every kind of cell."""
        kinds = {
            f"{cell['data']}/{cell['label']}": cell
            for cell in self.cells
            if cell["steps"] != 0 and only in cell["name"]
        }
        return milliseconds(kinds)

    def main(self) -> None:
        parser = argparse.ArgumentParser(description=self.doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--calibrate", action="store_true")
        parser.add_argument("--table", action="store_true")
        parser.add_argument("--fit-only", action="store_true", help="leave the measuring to a later call")
        parser.add_argument("--fitted", action="store_true", help="measure the cells that are fitted, fit none")
        parser.add_argument("--only", default="", help="cells whose name (data/method/seed) contains this")
        parser.add_argument(
            "--share", default="0/1", help="I/N: every N-th cell from the I-th on, for N processes side by side"
        )
        args = parser.parse_args()
        if args.table:
            (RESULTS / f"{self.name}.md").write_text(self.table(self.finished()))
        elif args.calibrate:
            known = json.loads(self.speed.read_text()) if self.speed.exists() else {}
            write_json(self.speed, known | self.calibrate(args.only))
            print(self.speed.read_text())
        else:
            self._run(args)

    def _run(self, args: argparse.Namespace) -> None:
        speed, sizes = json.loads(self.speed.read_text()) if self.speed.exists() else {}, {}
        first, every = map(int, args.share.split("/"))
        for cell in [cell for cell in self.cells if args.only in cell["name"]][first::every]:
            if cell["name"] in {other["name"] for other in self.finished()}:
                continue
            if args.fitted and not (self.folder(cell) / "fitted").exists():
                continue
            if cell["data"] not in sizes:
                sizes[cell["data"]] = len(load(cell["data"]).train)
            steps = cell["steps"]
            if steps is None:
                steps = int(1e3 * cell["seconds"] / speed[f"{cell['data']}/{cell['label']}"])
            began = time.perf_counter()
            run = self.fit(cell, sizes[cell["data"]], steps)
            print(cell["name"], steps, f"{time.perf_counter() - began:.0f} s", flush=True)
            if args.fit_only:
                continue
            result = self.measure(cell, run, steps)
            self.append(result)
            print(cell["name"], {p: round(v["test"], 4) for p, v in result["content"].items()}, flush=True)
            shutil.rmtree(self.folder(cell))


def measured(cell: Cell, run: Any, steps: int) -> dict[str, Any]:
    """What every benchmark keeps of a fitted cell: settings, probes of content, known style, terms, where it ran."""
    figures, data = run.evaluate(("content", "style", "generation.mse")), run.data
    last = run.metrics[-1] if run.metrics else {}
    return {
        **cell, "steps": steps, "epochs": round(steps * cell["batch"] / len(data.train), 2),
        "content": {probe: {k: value[k] for k in ("validation", "test")} for probe, value in figures["content"].items()},
        "style": figures.get("style"), "mse": figures["generation"]["mse"] if steps else None,
        "terms": {slot: last.get(slot) for slot in ("reconstruction", "entropy", "prior")},
        "machine": run.config["machine"], "versions": run.config["versions"], "exactness": data.notes,
    }  # fmt: skip


def percent(values: list[float]) -> str:
    """Mean in percent, and the range where there are several."""
    mean = 100 * statistics.mean(values)
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def hardware(results: list[dict[str, Any]], calibrated: str = "") -> str:
    """Where the cells were fitted, and the processor (and precision) whose speed turned their budgets into steps, if it did."""
    kinds = {"bf16": "bf16 networks", "32": "float32"}
    fits = Counter((cell["machine"], cell["versions"]["torch"], kinds[cell["precision"]]) for cell in results)
    told = "; ".join(f"{n} on {m} with torch {t} and {k}" for (m, t, k), n in fits.most_common())
    if not calibrated:
        return f"Cells fitted: {told}."
    return (
        f"Cells fitted: {told}. A budget is as many steps as two threads of {calibrated} take in that time, on whatever machine the "
        "cell is then fitted."
    )

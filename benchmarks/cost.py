"""What a training step costs as one thing varies and the rest stay: results/cost.json, of which cost_table.py makes results/cost.md.

    export OMP_NUM_THREADS=1
    python benchmarks/cost.py [--small] [--only PART ...] [--rounds 5] [--json FILE]    # 7 minutes on two cores, 3 with --small
    python benchmarks/cost.py --table                                                  # results/cost.md from results/cost.json

A step is genssl's own: views of random images in memory, loss, gradient, Adam, update; float32. One thread, and the processor time
of this process, which other work on the machine changes least. The values of a sweep are taken in turn, round by round: figures are
medians over rounds, ratios and slopes are taken within a round. Memory is that by which what torch's allocator has given out rises
within a step (torch.profiler: exact, the same in every run), above weights, moments and the last views: activations, gradients, views.
It does not see the scratch space of kernels; so the peak resident memory of fresh processes stands beside it.
Guide-only methods have a head that ends in dim, so that their terms see it; they have no particles, z being a point.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cost_evaluation
import cost_fresh
import cost_processes
import pyro
import torch
from cells import RESULTS
from cost_step import BASE, GENERATIVE, GUIDE_ONLY, NETWORKS, Step, allocated, milliseconds
from cost_table import document

from genssl.files import read_json, write_bytes, write_json
from genssl.fit.config import environment

AXES = {
    "groups": (8, 16, 32, 64, 128, 256, 512),
    "views": (1, 2, 4, 8, 16),
    "dim": (2, 16, 64, 256),
    "particles": (1, 2, 4, 8),
}


def in_turn(steps: dict[int, Step], rounds: int) -> dict[int, list[float]]:
    """Milliseconds of processor time a step of each, by round; a turn is one step, or as many as fill a twentieth of a second."""
    times: dict[int, list[float]] = {value: [] for value in steps}
    for value, step in steps.items():
        step()
        times[value].append(milliseconds(step, 1))
    count = {value: max(1, min(20, math.ceil(50 / found.pop()))) for value, found in times.items()}
    for _ in range(rounds):
        for value, step in steps.items():
            times[value].append(milliseconds(step, count[value]))
    return times


def slope(small: float, large: float, ratio: float) -> float:
    """d log cost / d log size between two sizes: 1 is linear, 2 quadratic."""
    return math.log(large / small) / math.log(ratio)


def sweep(method: str, network: str, axis: str, rounds: int) -> dict[str, Any]:
    """Time and memory of a step at every value of one axis, and the slope of time over the last factor of four."""
    values = [value for value in AXES[axis] if value > 1 or axis != "views" or method not in GUIDE_ONLY]
    steps = {value: Step(method, network, **{axis: value}) for value in values}
    times = in_turn(steps, rounds)
    last = values[-1]
    first = last // 4
    slopes = [slope(small, large, 4) for small, large in zip(times[first], times[last], strict=True)]
    low, _, high = statistics.quantiles(slopes, n=4)
    base = times[BASE[axis]]
    return {
        "method": method, "axis": axis, "values": values,
        "ms": [round(statistics.median(times[value]), 3) for value in values],
        "ratio": [round(statistics.median(t / b for t, b in zip(times[v], base, strict=True)), 3) for v in values],
        "slope": [round(found, 3) for found in (statistics.median(slopes), low, high)],
        "MB": [round(allocated(step), 2) for step in steps.values()],
    }  # fmt: skip


def sweeps(network: str, rounds: int) -> list[dict[str, Any]]:
    """Every axis by every method."""
    rows = []
    for axis in AXES:
        for method in GENERATIVE if axis == "particles" else GENERATIVE + GUIDE_ONLY:
            rows.append(sweep(method, network, axis, rounds))
            print(rows[-1], flush=True)
    return rows


PARTS: dict[str, Callable[[str, int], list[dict[str, Any]]]] = {
    "sweeps": sweeps,
    "fresh": lambda network, _: cost_fresh.measure(network),
    "processes": lambda network, _: cost_processes.measure(NETWORKS[network]),
    "evaluation": lambda *_: cost_evaluation.measure(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--small",
        action="store_true",
        help="two layers of 64 on 8x8 images, not the paper's MLP on 28x28; no evaluation",
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, help="measure these parts; the others stay in the file as they are"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="put the figures into this file, under the name of the networks")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        text = (__doc__ or "").split("\n\n")[-1].strip()
        write_bytes(RESULTS / "cost.md", document(read_json(RESULTS / "cost.json"), text).encode())
        return
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("processor time is a measure with one thread alone; start it with OMP_NUM_THREADS=1")
    with pyro.validation_enabled(False):
        network = "small" if args.small else "mlp"
        for part in args.only or [name for name in PARTS if not (args.small and name == "evaluation")]:
            load = round(os.getloadavg()[0], 1)
            rows = PARTS[part](network, args.rounds)
            print(part, *([] if part == "sweeps" else rows), sep="\n", flush=True)
            if args.json:
                kept = read_json(args.json) if args.json.exists() else {}
                about = environment(torch.device("cpu")) | {"cores": os.cpu_count(), "load_average": load}
                kept.setdefault(network, {})[part] = {"about": about, "rows": rows}
                write_json(args.json, kept)


if __name__ == "__main__":
    main()

"""What a step of `genssl.fit` takes in one process and in two on one machine; part of cost.py.

Fits of random images, started in turn, round by round, as a user starts them: torchrun for two processes (gloo), each with one thread,
against one process with one thread and with two. Told are the processor time of a step in the first process, all its threads together,
which other work on the machine changes little; and the time by the clock, which it lengthens, two threads most of all since they
wait for each other: of that the fastest ten steps. The first ten are left out.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIDES = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}
METHODS = ("SimVAE", "SimCLR")
GROUPS, VIEWS, STEPS = 128, 4, 40


def measure(kind: dict[str, Any], rounds: int = 3) -> list[dict[str, Any]]:
    """Milliseconds a step by method and side: of the processor, the median, and its ratio to the first side's; by the clock."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for side in SIDES:
            for method, times in once(side, kind).items():
                found.setdefault((method, side), []).extend(times)
    rows = []
    for (method, side), times in found.items():
        processor, clock = zip(*times, strict=True)
        against = statistics.median(each for each, _ in found[method, next(iter(SIDES))])
        median = statistics.median(processor)
        figures = {"processor_ms": median, "ratio": median / against, "clock_ms": min(clock)}
        rows.append({"method": method, "side": side} | {key: round(value, 3) for key, value in figures.items()})
    return rows


def once(side: str, kind: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Start the processes of one side, which fit every method once: (processor, clock) milliseconds a step, by line of metrics."""
    processes, threads = SIDES[side]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        words = [folder, json.dumps([kind["shape"], kind["hidden"]])]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        subprocess.run([sys.executable, *start, __file__, *words], check=True, capture_output=True, env=environment)
        return json.loads((Path(folder) / "times.json").read_text())


def fits(folder: str, network: str) -> None:
    """Every process of a side."""
    import torch

    import genssl
    from genssl import views

    shape, hidden = json.loads(network)
    images = torch.rand(60 * GROUPS, *shape, generator=torch.Generator().manual_seed(0))
    made = views.Geometric(crop_scale=(0.4, 1.0), vertical_flip=0.5)
    times: dict[str, list[tuple[float, float]]] = {}
    for method in METHODS:
        seen: list[tuple[int, float, float]] = []
        genssl.fit(
            method, images, views=made, num_views=VIEWS, batch_size=GROUPS, epochs=10, max_steps=STEPS, device="cpu", measure=False,
            settings={"dim": 64, "hidden": hidden}, progress=False, out=Path(folder) / method,
            callbacks=[lambda line, seen=seen: seen.append((line["step"], time.process_time(), time.perf_counter()))],
        )  # fmt: skip
        times[method] = [
            (1e3 * (b[1] - a[1]) / (b[0] - a[0]), 1e3 * (b[2] - a[2]) / (b[0] - a[0]))
            for a, b in itertools.pairwise(seen)
        ]
    if times[METHODS[0]]:  # the first process alone calls back
        (Path(folder) / "times.json").write_text(json.dumps(times))


if __name__ == "__main__":
    fits(*sys.argv[1:])

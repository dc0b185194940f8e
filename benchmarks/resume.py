"""Kills a fit with SIGKILL at random steps, resumes it, and compares with a fit that was never stopped: results/resume.json.

    python benchmarks/resume.py [--kills 10] [--seed 0] [--threads 1]

Real processes, `genssl fit` on scikit-learn's digits with small networks, a checkpoint at every line of metrics so that kills also
fall into the writing of one. Compared bit for bit: parameters, buffers, the optimiser's state, and the metrics (but for speed).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from genssl.files import write_json
from genssl.fit import checkpoint, metrics

RESULTS = Path(__file__).parent.parent / "results" / "resume.json"
STEPS = 400
COMMON = f"--data digits --limit 640 --batch-size 32 --epochs {STEPS // 20} --set hidden=(32,32) --no-report".split()
VARIANTS = {
    "SimVAE, float32": ["SimVAE", "--views", "4"],
    "SimVAE, bf16": ["SimVAE", "--views", "4", "--precision", "bf16"],
    "BetaVAE, seed 3": ["BetaVAE", "--seed", "3"],
    "SimVAE, analytic prior": ["SimVAE", "--views", "2", "--prior", "LogPrior:analytic=True"],
}
WORKER = """
import sys, torch
from genssl.cli import main
from genssl.fit import loop
loop.SAVE_EVERY = 0.0
torch.set_num_threads(int(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""


def start(threads: int, folder: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", WORKER, str(threads), "fit", *arguments, *COMMON, "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    _, told = process.communicate(timeout=600)
    if process.returncode != 0:
        raise RuntimeError(f"exit {process.returncode}: {told}")


def steps_of(folder: Path) -> int:
    return max((line["step"] for line in metrics.read(folder / "metrics.jsonl")), default=0)


def kill(process: subprocess.Popen, folder: Path, step: int, wait: float) -> bool:
    """SIGKILL `wait` seconds after the run reports that step; False if it was done before."""
    while process.poll() is None and steps_of(folder) < step:
        time.sleep(0.002)
    time.sleep(wait)
    if process.poll() is not None:
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def state(folder: Path) -> dict[str, Any]:
    """All that a run is at its end: the checkpoint, and metrics without the speed."""
    lines = [{**line, "views_per_second": None} for line in metrics.read(folder / "metrics.jsonl")]
    return {**(checkpoint.load(folder / "checkpoint") or {}), "metrics": lines}


def same(a: Any, b: Any) -> bool:
    """Bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of each fit; equal bits need equal threads")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    draw, began, rows = random.Random(args.seed), time.monotonic(), []
    with tempfile.TemporaryDirectory() as name:
        place, whole = Path(name), {}
        while len(rows) < args.kills:
            variant = list(VARIANTS)[len(rows) % len(VARIANTS)]
            if variant not in whole:
                finish(start(args.threads, place / variant, *VARIANTS[variant]))
                whole[variant] = state(place / variant)
            folder = place / f"kill-{time.monotonic_ns()}"
            process = start(args.threads, folder, *VARIANTS[variant])
            if not kill(process, folder, draw.randrange(0, STEPS - 10), draw.uniform(0, 0.05)):
                continue  # it was done before the signal came: draw again
            left = sorted(path.name for path in folder.rglob("*.tmp")) if folder.exists() else []
            saved = checkpoint.steps(folder / "checkpoint")
            row = {"variant": variant, "last step seen": steps_of(folder), "torn files left": len(left)}
            row["checkpoint"] = checkpoint.step_of(saved[-1]) if saved else None
            finish(start(args.threads, folder, *VARIANTS[variant], "--resume"))
            found = state(folder)
            row |= {
                "steps": found["step"],
                **{part: same(found[part], whole[variant][part]) for part in ("method", "optimizer", "metrics")},
            }
            rows.append(row)
            print(row, flush=True)
    identical = sum(row["method"] and row["optimizer"] and row["metrics"] and row["steps"] == STEPS for row in rows)
    config = {"torch": torch.__version__, "python": sys.version.split()[0], "threads": args.threads, "seed": args.seed}
    write_json(
        args.out,
        {
            "identical": identical,
            "kills": len(rows),
            "seconds": round(time.monotonic() - began),
            **config,
            "runs": rows,
        },
    )
    print(f"bit-identical: {identical} of {len(rows)}")
    return 0 if identical == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())

"""SIGKILL at random moments, several in one run (for benchmarks/faults.py)."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

from faults_fit import DIGITS, LENGTH, SETTINGS, STEPS, Fit, Row, differing, row, saved, steps_of, undisturbed

COMMON = ["--data", "digits", *SETTINGS, *LENGTH]
VARIANTS = {
    "SimVAE": DIGITS,
    "SimVAE, bf16, four views": ["SimVAE", *COMMON, "--views", "4", "--precision", "bf16"],
    "BetaVAE, seed 3": ["BetaVAE", *COMMON, "--seed", "3"],
    "SimVAE, analytic prior": [*DIGITS, "--prior", "LogPrior:analytic=True"],
    "MoCo, with its queue": ["MoCo", *COMMON, "--views", "2", "--set", "queue_size=64"],
}
EVERY = 0.0, 0.2
"""Seconds between checkpoints: one with every line of metrics, so that kills fall into its writing; or fewer, so that steps are redone."""
MOST = 8
"""Kills in one run."""


def killed(place: Path, _: Row, count: int, seconds: float) -> list[Row]:
    """`count` kills (or those that begin within `seconds`), and each run, bit for bit, beside one that was never killed."""
    draw, began, whole, runs, kills = random.Random(0), time.monotonic(), {}, [], 0
    while kills < count and time.monotonic() - began < seconds:
        variant = list(VARIANTS)[len(runs) % len(VARIANTS)]
        arguments, every = VARIANTS[variant], EVERY[len(runs) // len(VARIANTS) % len(EVERY)]
        if variant not in whole:
            whole[variant] = undisturbed(place / f"whole-{len(whole)}", arguments)
        folder, found = place / f"killed-{len(runs)}", []
        while True:
            fit = Fit(folder, "--resume", arguments=arguments, every=every)
            if kills == count or len(found) == MOST or not _kill(fit, draw):
                break
            found.append(_left(folder))
            kills += 1
        status, differ = fit.wait().status, differing(folder, whole[variant])
        runs.append(
            {"variant": variant, "seconds between checkpoints": every, "exit": status, "differ": differ, "kills": found}
        )
        shutil.rmtree(folder)
    identical = sum(len(run["kills"]) for run in runs if run["exit"] == 0 and not run["differ"])
    redone = max(kill["told"] - (kill["checkpoint"] or 0) for run in runs for kill in run["kills"])
    torn = sum(kill["torn files"] > 0 for run in runs for kill in run["kills"])
    fault = f"SIGKILL at a random moment, {kills} times in {len(runs)} runs; {torn} in the writing of a file"
    happens = f"{identical} of {kills} resumed bit-identical: parameters, optimiser, metrics, measures"
    lost = f"nothing; at most {redone} steps are done again"
    return [{**row(fault, happens, "", lost, [] if identical == kills else ["runs that differ"]), "runs": runs}]


def _kill(fit: Fit, draw: random.Random) -> bool:
    """SIGKILL: one in five while the run starts, else a while after a step that is drawn; False if it was over before."""
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0, 0.6))
    else:
        fit.until(steps_of(fit.folder) + draw.randrange(1, STEPS // 3))
        time.sleep(draw.uniform(0, 0.05))
    return fit.kill().status == -signal.SIGKILL


def _left(folder: Path) -> dict[str, int | None]:
    torn = len(list(folder.rglob("*.tmp"))) if folder.exists() else 0
    return {"told": steps_of(folder), "checkpoint": saved(folder), "torn files": torn}

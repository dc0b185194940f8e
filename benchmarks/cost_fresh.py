"""Time and peak resident memory of a training step in fresh processes, under two settings of the C library; part of cost.py."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyro
from cost_step import MEGABYTE, Step, milliseconds

METHODS, GROUPS = ("SimVAE", "SimCLR", "MoCo"), (64, 512)
ALLOCATORS = {"as it is": {}, "kept": {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}}


def measure(network: str) -> list[dict[str, Any]]:
    """Every method at few and at many groups, as it is and with large blocks kept."""
    rows = []
    for method in METHODS:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in ALLOCATORS}
        for groups in GROUPS:
            for name, environment in ALLOCATORS.items():
                words = [sys.executable, __file__, method, network, str(groups)]
                told = subprocess.run(
                    words, check=True, capture_output=True, text=True, env=os.environ | environment
                ).stdout
                found[name].append(dict(zip(("ms", "MB"), map(float, told.split()), strict=True)))
        rows.append({"method": method, "groups": list(GROUPS), "found": found})
    return rows


def alone(method: str, network: str, groups: str) -> None:
    """What a fresh process prints: milliseconds a step, and its peak resident memory.

    The kernel's own figure: getrusage's is at least that of the process which started this one.
    """
    with pyro.validation_enabled(False):
        step = Step(method, network, groups=int(groups))
        for _ in range(3):
            step()
        found = statistics.median(milliseconds(step, 1) for _ in range(7))
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(round(found, 2), round(int(peak) * 1024 / MEGABYTE, 1))


if __name__ == "__main__":
    alone(*sys.argv[1:])

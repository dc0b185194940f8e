"""Faults, done and not imagined, to real fits of scikit-learn's digits: results/faults.json, results/faults.md.

    python benchmarks/faults.py [--kills 100] [--seconds 600] [--only GROUP]

Every fit is `genssl fit` in a process of its own, with networks of 16 units and 200 steps. A fault passes where that process ends
with the exit status and the one line that it should and no traceback, and where going on with --resume, the fault gone, ends
bit-identical to a fit that nothing happened to: parameters, optimiser, metrics (but for speed) and measures. What is called lost is
what no resuming brings back. Linux; file systems (small, read-only, without power) are mounted, which needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from faults_files import damaged, full_disk, power_cut, read_only
from faults_fit import Fit, Row, undisturbed
from faults_kill import killed
from faults_process import clock, keys, memory, numbers, reading, two_at_once

from genssl.files import write_json

RESULTS = Path(__file__).parent.parent / "results"
GROUPS = {
    "kills": killed, "power": power_cut, "disk": full_disk, "read-only": read_only, "files": damaged, "two": two_at_once, "keys": keys,
    "memory": memory, "reading": reading, "numbers": numbers, "clock": clock,
}  # fmt: skip
COLUMNS = {
    "fault": "fault", "what happens": "happens", "message": "message", "what is lost": "lost", "passed": "passed",
}  # fmt: skip
WHAT = """# Faults

Made by `python benchmarks/faults.py`, which says what passing means: every fault was done to a real `genssl fit` of scikit-learn's
digits. {passed} of {all} pass. Exit status 0: it goes on by itself; 2: one line says why not; 130: stopped by hand; a dash: no word
was needed.
"""


def table(rows: list[Row]) -> str:
    """The outcomes in Markdown."""
    lines = [WHAT.format(passed=sum(row["passed"] for row in rows), all=len(rows)), f"| {' | '.join(COLUMNS)} |"]
    lines.append("| --- " * len(COLUMNS) + "|")
    for row in rows:
        cells = {**row, "message": row["message"] or "-", "passed": "yes" if row["passed"] else "NO"}
        lines.append("| " + " | ".join(cells[key].replace("|", "\\|") for key in COLUMNS.values()) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=600.0, help="begin no further killed run after so many")
    parser.add_argument("--only", choices=GROUPS, help="these faults; the others stay in the file as they are")
    args = parser.parse_args()
    path, config = RESULTS / "faults.json", {"torch": torch.__version__, "python": sys.version.split()[0], "threads": 1}
    known = json.loads(path.read_text())["groups"] if args.only and path.exists() else {}
    for name in [args.only] if args.only else GROUPS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            place = Fit.logs = Path(folder)
            os.chdir(place)
            whole = undisturbed(place / "whole")
            do = partial(killed, count=args.kills, seconds=args.seconds) if name == "kills" else GROUPS[name]
            rows = do(place, whole)
            os.chdir("/")
        known[name] = {"seconds": round(time.monotonic() - began), "rows": rows}
        for row in rows:
            print(
                "passed" if row["passed"] else "FAILED",
                row["fault"],
                "|",
                row["happens"],
                "|",
                row["message"],
                "|",
                row["lost"],
            )
            print(*[f"    {each}\n" for each in row["wrong"]], sep="", end="", flush=True)
        known = {each: known[each] for each in GROUPS if each in known}
        write_json(path, {**config, "groups": known})
    rows = [row for group in known.values() for row in group["rows"]]
    (RESULTS / "faults.md").write_text(table(rows))
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Seconds and memory of `genssl posterior` at the paper's sizes: results/posterior_time.json.

    python benchmarks/posterior_time.py        # 4 minutes at most, on all threads; leave the machine alone

The command itself, in a process of its own: SimVAE with the paper's MLPs on FashionMNIST, 1000 groups of 10 views, 200 draws.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cells import RESULTS, data_root

import genssl
from genssl.files import read_json, write_json

OUT = RESULTS / "posterior_time.json"
ALONE = "import sys; from genssl.cli import main; main(sys.argv[1:]); print(open('/proc/self/status').read())"
"""The command, and then the kernel's own figure of its peak: getrusage's is at least that of the process which started it."""
KINDS = {"without log-likelihoods": ["--no-log-likelihood"], "with all": []}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = genssl.fit(
            "SimVAE", "fashion_mnist", data_root=data_root(), settings={"dim": 10}, num_views=10, batch_size=12, max_steps=2, epochs=1,
            out=Path(folder) / "run",
        )  # fmt: skip
        found: dict[str, Any] = {"machine": run.config["machine"], "threads": run.config["threads"]}
        for name, flags in KINDS.items():
            words = ["posterior", str(run.path), "--groups", "1000", "--samples", "200", *flags]
            began = time.perf_counter()
            told = subprocess.run(
                [sys.executable, "-c", ALONE, *words], check=True, capture_output=True, text=True
            ).stdout
            seconds = time.perf_counter() - began
            (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", told)
            peak = int(kilobytes) / 1024**2
            size = (run.path / "posterior.nc").stat().st_size / 1e6
            found[name] = {"seconds": round(seconds, 1), "gigabytes": round(peak, 2), "file_megabytes": round(size)}
            print(name, found[name], flush=True)
    write_json(OUT, found)


def time_table() -> str:
    """For the table of uncertainty."""
    if not OUT.exists():
        return ""
    found = read_json(OUT)
    rows = "".join(
        f"| {name} | {found[name]['seconds']} | {found[name]['gigabytes']} | {found[name]['file_megabytes']} |\n"
        for name in KINDS
    )
    return (
        "## Time\n\n`genssl posterior` for 1000 groups of 10 views and 200 draws, the paper's MLPs, "
        f"{found['threads']} threads of {found['machine']}, start of the process included.\n\n"
        f"| | seconds | peak GB | file, MB |\n|---|---|---|---|\n{rows}"
    )


if __name__ == "__main__":
    main()

"""Processor seconds of every part of `run.evaluate()` on small runs of two sizes; part of cost.py, in one thread as that is."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import genssl
from genssl.evaluation.stages import STAGES

METHODS, ITEMS = ("SimVAE", "SimCLR"), (100, 400)


def measure() -> list[dict[str, Any]]:
    """Seconds by part, each asked for by itself, of fits of scikit-learn's digits with so many training items.

    The very first evaluation, which pays for imports, is thrown away.
    """
    rows = []
    for method in METHODS:
        for items in (ITEMS[0], *ITEMS) if method == METHODS[0] else ITEMS:
            with tempfile.TemporaryDirectory() as folder:
                run = genssl.fit(
                    method, "digits", limit=items, batch_size=64, epochs=5, num_views=4, progress=False,
                    measure=False, out=Path(folder) / "run",
                )  # fmt: skip
                seconds = {}
                for part in STAGES:
                    began = time.process_time()
                    run.evaluate([part])
                    seconds[part] = round(time.process_time() - began, 3)
                sizes = {name: len(split) for name, split in run.data.splits()}
            rows.append({"method": method, "items": sizes, "seconds": seconds})
    return rows[1:]

"""A grid of four cells of six steps: two terms of one slot, one of them without a part that it needs, and two seeds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

SPEC = {
    "base": {
        "method": "SimVAE",
        "data": "digits",
        "views": 2,
        "epochs": 2,
        "batch_size": 20,
        "limit": 60,
        "set": {"hidden": [8], "dim": 3},
    },
    "grid": {"prior": ["own", "PredictorAttraction"], "seed": [0, 1]},
}
FITTED = ("own-seed0", "own-seed1")
LEFT_OUT = ("PredictorAttraction-seed0", "PredictorAttraction-seed1")
CLOCK = ("seconds",)
"""What differs between two runs of the same bits."""


def spec(base=(), grid=(), without=()):
    """SPEC with other settings and lists."""
    made = {part: {**SPEC[part], **dict(more)} for part, more in (("base", base), ("grid", grid))}
    for name in without:
        made["base"].pop(name, None)
        made["grid"].pop(name, None)
    return made


def toml(given):
    """A spec as a TOML file holds it."""
    lines = []
    for part, values in given.items():
        lines.append(f"[{part}]")
        for key, value in values.items():
            pairs = [(f"set.{k}", v) for k, v in value.items()] if key == "set" else [(key, value)]
            lines += [f"{name} = {json.dumps(v)}" for name, v in pairs]
    return "\n".join(lines) + "\n"


def copied(folder, to):
    """A copy of a grid or run that a test may change."""
    return Path(shutil.copytree(folder, to))


def without_clock(rows):
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]

"""Names of runs that stand side by side: short, and unlike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TOLD = (
    "seed", "num_views", "batch_size", "lr", "epochs", "max_seconds", "steps", "precision", "views", "limit", "validation", "optimizer",
    "schedule", "clip",
)  # fmt: skip


def short(names: Sequence[str]) -> list[str]:
    """METHOD on DATA, without the data where all runs are of the same: names stand beside figures, where there is little room."""
    parts = [name.rpartition(" on ") for name in names]
    same = len({data for _, _, data in parts}) == 1 and all(method for method, _, _ in parts)
    return [method for method, _, _ in parts] if same else list(names)


def unlike(names: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names that tell the runs apart: where several are the same, with the settings that are not, else with a number."""
    out = []
    for name, config in zip(names, configs, strict=True):
        same = [other for other_name, other in zip(names, configs, strict=True) if other_name == name]
        told = {key: value for key, value in told_of(config).items() if any(told_of(o).get(key) != value for o in same)}
        if "epochs" in told:
            told.pop("steps", None)  # which follow
        out.append(name + (f" ({', '.join(f'{key} {value}' for key, value in told.items())})" if told else ""))
    return [name if out.count(name) == 1 else f"{name} #{out[: i + 1].count(name)}" for i, name in enumerate(out)]


def told_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run that tell it from others, flat."""
    data, described = config.get("data"), config.get("data_description") or {}
    chosen = {
        "data": Path(data).name if data else described.get("name"),
        "data_digest": None if data and "/" not in data else described.get("digest"),
        **{key: config.get(key) for key in TOLD},
    }
    return (
        chosen
        | dict(config.get("attributes") or {})
        | dict(config.get("settings") or {})
        | dict(config.get("replaced") or {})
    )

"""More epochs or seconds for a run that goes on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genssl.errors import CheckpointError, SettingsError
from genssl.files import remove, write_json
from genssl.fit.folder import read_config


def ended_by_time(config: Mapping[str, Any]) -> bool:
    """Whether max_seconds and not the epochs set the number of steps."""
    return config["max_seconds"] is not None and config["steps"] < config["epochs"] * config["steps_per_epoch"]


def how_ended(config: Mapping[str, Any]) -> str:
    """What set the number of steps, and how there can be more."""
    if not ended_by_time(config):
        return f"its {config['epochs']} epoch{'s are' if config['epochs'] != 1 else ' is'} over; --resume with a larger --epochs goes on"
    total = config["epochs"] * config["steps_per_epoch"]
    return f"its {config['max_seconds']:g} s held these of {total} steps; --resume with a larger --max-seconds goes on"


def lengthen(config: dict[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    """Raise epochs, max_seconds and with them the steps in config, where more is asked for than a run has.

    Seconds hold as many steps each as at the first start. A schedule spans all steps from here on: a cosine goes up again, so that the
    result is not that of a run as long from its start. Raises SettingsError where what is raised is not what ended the run.
    """
    more = {
        key: asked[key]
        for key in ("epochs", "max_seconds")
        if asked[key] is not None and config[key] is not None and asked[key] > config[key]
    }
    if not more or not config["steps"]:
        return
    steps = (config | more)["epochs"] * config["steps_per_epoch"]
    if ended_by_time(config):
        seconds = (config | more)["max_seconds"]
        steps = min(steps, int(config["steps"] * seconds / config["max_seconds"]))
    if steps <= config["steps"]:
        given = ", ".join(f"{key} = {value:g}" for key, value in more.items())
        raise SettingsError(f"{folder}: {given} gives it no more than its {config['steps']} steps: {how_ended(config)}")
    past = [*config.get("lengthened", []), {key: config[key] for key in ("steps", "epochs", "max_seconds")}]
    config |= {**more, "steps": steps, "lengthened": past}
    if config["schedule"] != "constant":
        warnings.warn(
            f"{folder}: {past[-1]['steps']} steps become {steps}, and its {config['schedule']} schedule spans all of them from here on",
            stacklevel=4,
        )


def keep(config: dict[str, Any], folder: Path) -> None:
    """Write the config of a run that was made longer, or that had lost it; what was measured of a shorter one goes."""
    try:
        there = read_config(folder)
    except CheckpointError:
        write_json(folder / "config.json", config)
        return
    if config.get("lengthened") != there.get("lengthened"):
        write_json(folder / "config.json", config)
        forget(folder)


def forget(folder: Path) -> None:
    """Drop the figures and the report of a run that takes further steps; they were of fewer."""
    for path in (folder / "evaluation.json", folder / "report.html", *(folder / "against").glob("*.json")):
        if path.exists():
            remove(path)

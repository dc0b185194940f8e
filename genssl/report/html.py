"""`write(runs)`: one self-contained HTML page about one or several runs, and their figures as PNG files."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from genssl.errors import SettingsError
from genssl.evaluation.measuring import measuring
from genssl.evaluation.reading import problems, read_evaluation
from genssl.files import write_text
from genssl.report.certainty import against_of, certainty, risk_drawing
from genssl.report.diagram import diagram
from genssl.report.distrust import distrust, doubts
from genssl.report.drawing import draw
from genssl.report.imagined import imagined
from genssl.report.looking import look
from genssl.report.markup import code, listed, pairs, pictures, row, table, text
from genssl.report.side_by_side import comparison
from genssl.report.tables import results
from genssl.report.uncertain import uncertain

FACTS = ("seed", "epochs", "steps", "batch_size", "num_views", "lr", "optimizer", "schedule", "precision", "device")
MACHINE = ("machine", "threads")
SLOTS = ("reconstruction", "entropy", "prior")
DURING = (*SLOTS, "elbo", "knn")
CURVES = "Nats per group, means over training batches."


def write(runs: Sequence[Any], out: str | Path | None = None) -> Path:
    """Write the page and return its path; default: report.html in the folder of the first run.

    The page asks nothing of the network: figures are inside it, and every text from a run is escaped. The figures also go to
    figures/*.png in each run's folder, where that can be written; those that set several runs side by side to figures/ beside the
    page. Files are written whole or not at all. A run without evaluation.json is shown without its results, and the page says so; one whose
    files are damaged is shown without what is, and a warning says so too. The runs are left as they were.

    Raises SettingsError without a run; DiskError where a file cannot be written.
    """
    if not runs:
        raise SettingsError("report: no runs given, expected at least one; name a run folder")
    path = Path(runs[0].path) / "report.html" if out is None else Path(out)
    looks = []
    for run in runs:
        with measuring(run.method):
            looks.append(look(run))
    evaluations = [_evaluation(run) for run in runs]
    for wrong in (sentence for run in runs for sentence in problems(Path(run.path))):
        warnings.warn(wrong, stacklevel=2)
    sections = [_section(*parts) for parts in zip(runs, looks, evaluations, strict=True)]
    title = " and ".join(dict.fromkeys(name_of(run) for run in runs))
    several = len(runs) > 1
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>{files(__package__).joinpath('style.css').read_text()}</style></head>",
        f'<body class="{"several" if several else "one"}">',
        comparison([name_of(run) for run in runs], runs, looks, evaluations, path.parent / "figures")
        if several
        else "",
        '<div class="runs">',
        *(f"<article>{section}</article>" for section in sections),
        "</div>",
        "</body></html>\n",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(parts))
    return path


def _section(run: Any, seen: Any, evaluation: dict[str, Any] | str) -> str:
    """The whole story of one run, top to bottom."""
    known = evaluation if isinstance(evaluation, dict) else {}
    drawings = draw(run, seen, known) | imagined(run, seen, known)
    folder = Path(run.path) / "figures" if os.access(run.path, os.W_OK) else None  # the page holds them all the same
    curves = pictures(folder, {name: drawings[name] for name in DURING}, wide=False)
    views = pictures(folder, {name: drawing for name, drawing in drawings.items() if name not in DURING})
    unsure = pictures(folder, uncertain(run, seen) | {"risk": risk_drawing(known)})
    first = doubts(run, evaluation)
    warned = f'<div class="doubts"><h3>What speaks against it</h3>{listed(first)}</div>' if first else ""
    worth = results(evaluation) if isinstance(evaluation, dict) else f'<p class="warn">{text(evaluation)}</p>'
    return (
        _what(run, warned)
        + f'<h2>The fit</h2><p class="soft">{CURVES}</p>{curves}'
        + f"<h2>What the representation is worth</h2>{worth}"
        + f"<h2>What it looks like</h2>{views}"
        + f"<h2>How sure it is</h2>{certainty(known, against_of(run.path))}{unsure}"
        + f"<h2>What to distrust</h2>{listed(distrust(run, evaluation, drawings))}"
    )


def _what(run: Any, warned: str) -> str:
    config, method = run.config, run.method
    data = config.get("data_description") or {}
    sizes = ", ".join(f"{size} {name}" for name, size in (data.get("sizes") or {}).items())
    shape = " x ".join(str(part) for part in data.get("event_shape") or ())
    described = {"data": data.get("name") or config.get("data"), "items": sizes, "shape of one": shape}
    facts = described | {name: config.get(name) for name in FACTS} | (config.get("settings") or {})
    all_settings = {"parameters": config.get("parameters")} | (config.get("resolved") or config.get("attributes") or {})
    rest = {name: config.get(name) for name in MACHINE} | (config.get("versions") or {})
    slots = config.get("slots") or {}
    rows = "".join(row(slot, code(slots.get(slot))) for slot in SLOTS)
    source = getattr(type(method), "source", "")
    return (
        f"<h1>{escape(name_of(run))}</h1>"
        f"<p>{text(_doc(method))}</p>"
        + (f'<p class="soft">{text(source)}</p>' if source else "")
        + warned
        + f'<h2>What was fitted</h2><div class="fitted"><div>{diagram(method)}'
        + f"{table('<th>slot</th><th>term</th>', rows)}</div><div>{pairs(facts)}"
        + f"<details><summary>All settings of the method</summary>{pairs(all_settings)}</details>"
        + f"<details><summary>Machine and versions</summary>{pairs(rest)}</details></div></div>"
    )


def _evaluation(run: Any) -> dict[str, Any] | str:
    """evaluation.json, or why it cannot be shown."""
    if not (Path(run.path) / "evaluation.json").exists():
        return "This run has not been evaluated: there is no evaluation.json. `genssl evaluate` writes it."
    found, wrong = read_evaluation(Path(run.path))
    return f"{wrong}." if wrong else found


def name_of(run: Any) -> str:
    config = run.config
    method = config.get("method") or type(run.method).__name__
    data = (config.get("data_description") or {}).get("name") or config.get("data")
    if str(config.get("data")).startswith(f"{data}:"):  # with its settings
        data = config["data"]
    return f"{method} on {data}" if data else str(method)


def _doc(method: Any) -> str:
    return " ".join((inspect.getdoc(type(method)) or "").split("\n\n")[0].split())

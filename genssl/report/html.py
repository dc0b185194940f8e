"""`write(runs)`: one self-contained HTML page about one or several runs, and their figures as PNG files."""

from __future__ import annotations

import base64
import inspect
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from genssl.errors import GensslError, SettingsError
from genssl.evaluation.measuring import measuring
from genssl.files import read_json, write_bytes
from genssl.report import figures
from genssl.report.diagram import diagram
from genssl.report.distrust import distrust
from genssl.report.drawing import Drawing, draw, look

FACTS = ("seed", "epochs", "steps", "batch_size", "num_views", "lr", "optimizer", "schedule", "precision", "device")
MACHINE = ("machine", "threads")
SLOTS = ("reconstruction", "entropy", "prior")
DURING = (*SLOTS, "elbo", "knn")
CURVES = "Nats per group, means over training batches."
PROBES = {"knn": "k nearest neighbours", "linear": "linear probe", "mlp": "MLP probe"}

STYLE = (
    "R2 of known factors of style predicted from z (accuracy where % stands): 1 is all of a factor, and a z that is content "
    "alone gives no more than content tells, 0 where the two are independent; linearly, and by a kernel, which sees fewer "
    "points but also finds style that no linear map does. Of groups of J views, content is the mean and residual is z less "
    "the mean of z: style that is a linear part of z gives 1/J and 1 - 1/J there."
)


def write(runs: Sequence[Any], out: str | Path | None = None) -> Path:
    """Write the page and return its path; default: report.html in the folder of the first run.

    The page asks nothing of the network: figures are inside it, and every text from a run is escaped. The figures also
    go to figures/*.png in each run's folder. Files are written whole or not at all. A run without evaluation.json is
    shown without its results, and the page says so. The runs are left as they were.

    Raises SettingsError without a run; DiskError where a file cannot be written.
    """
    if not runs:
        raise SettingsError("report: no runs given, expected at least one; name a run folder")
    sections = [_section(run) for run in runs]
    title = " and ".join(dict.fromkeys(_name(run) for run in runs))
    several = len(runs) > 1
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>{files(__package__).joinpath('style.css').read_text()}</style></head>",
        f'<body class="{"several" if several else "one"}">',
        _comparison(runs) if several else "",
        '<div class="runs">',
        *(f"<article>{section}</article>" for section in sections),
        "</div>",
        "</body></html>\n",
    ]
    path = Path(runs[0].path) / "report.html" if out is None else Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, "".join(parts).encode())
    return path


def _section(run: Any) -> str:
    """The whole story of one run, top to bottom."""
    with measuring(run.method):
        drawings = draw(run, look(run))
    evaluation = _evaluation(run)
    pictures = {name: _picture(run, name, drawing) for name, drawing in drawings.items()}
    curves = "".join(pictures[name] for name in DURING)
    views = "".join(picture for name, picture in pictures.items() if name not in DURING)
    return (
        _what(run)
        + f'<h2>The fit</h2><p class="soft">{CURVES}</p><div class="figures">{curves}</div>'
        + f"<h2>What the representation is worth</h2>{_results(evaluation)}"
        + f'<h2>What it looks like</h2><div class="figures wide">{views}</div>'
        + f"<h2>What to distrust</h2>{_list(distrust(run, evaluation, drawings))}"
    )


def _what(run: Any) -> str:
    config, method = run.config, run.method
    data = config.get("data_description") or {}
    sizes = ", ".join(f"{size} {name}" for name, size in (data.get("sizes") or {}).items())
    shape = " x ".join(str(part) for part in data.get("event_shape") or ())
    described = {"data": data.get("name") or config.get("data"), "items": sizes, "shape of one": shape}
    facts = described | {name: config.get(name) for name in FACTS} | (config.get("settings") or {})
    rest = {name: config.get(name) for name in MACHINE} | (config.get("versions") or {})
    slots = config.get("slots") or {}
    rows = "".join(f'<tr><th scope="row">{slot}</th>{_code(slots.get(slot))}</tr>' for slot in SLOTS)
    source = getattr(type(method), "source", "")
    return (
        f"<h1>{escape(_name(run))}</h1>"
        f"<p>{_text(_doc(method))}</p>"
        + (f'<p class="soft">{_text(source)}</p>' if source else "")
        + f'<h2>What was fitted</h2><div class="fitted"><div>{diagram(method)}'
        + f"{_table('<th>slot</th><th>term</th>', rows)}</div><div>{_pairs(facts)}"
        + f"<details><summary>Machine and versions</summary>{_pairs(rest)}</details></div></div>"
    )


def _results(evaluation: dict[str, Any] | str) -> str:
    if isinstance(evaluation, str):
        return f'<p class="warn">{_text(evaluation)}</p>'
    notes = evaluation.get("notes") or {}
    content = evaluation.get("content")
    random = (evaluation.get("random_encoder") or {}).get("content") or {}
    out = ""
    if content:
        rows = "".join(
            f'<tr><th scope="row">{name}</th>{_cell(content.get(key), "test")}{_cell(random.get(key), "test")}'
            f"{_cell(content.get(key), 'test_best')}</tr>"
            for key, name in PROBES.items()
        )
        out = (
            _table(
                '<th>accuracy on test</th><th class="number">this run</th><th class="number">random encoder</th>'
                '<th class="number">best on test*</th>',
                rows,
            )
            + "<p><small>How well the labels are read off z. Settings of a probe are chosen on validation. The random "
            "encoder is the same network before learning. * chosen on the test set itself: optimistic, only for "
            "comparison with papers that report it.</small></p>"
        )
    else:
        out = f"<p>No content accuracy: {_text(notes.get('content') or 'not measured')}.</p>"
    out += _style(evaluation)
    mse = (evaluation.get("generation") or {}).get("mse")
    if mse is None:
        return out + _adhoc((evaluation.get("generation") or {}).get("adhoc"), notes)
    return out + f"<p>Mean squared error of reconstructed clean test items, per pixel: <b>{mse:.5f}</b>.</p>"


def _adhoc(found: Any, notes: dict[str, Any]) -> str:
    """What a decoder reaches that was fitted to the frozen representation, where the method has none."""
    if not found:
        return f"<p>No reconstruction error: {_text(notes.get('generation.mse') or 'not measured')}.</p>"
    return (
        "<p>The method has no trained decoder. One that was fitted to its frozen representation reaches a mean squared error per pixel of "
        f"<b>{found['mse']:.5f}</b> on clean test items; predicting the mean of all items gives {found['baseline_mse']:.5f}.</p>"
    )


def _style(evaluation: dict[str, Any]) -> str:
    """A table for the style of the items and one for that of the views; nothing where it was not looked for."""
    random = (evaluation.get("random_encoder") or {}).get("style") or {}
    notes, out, tables = evaluation.get("notes") or {}, "", False
    for name, found in (evaluation.get("style") or {}).items():
        if not found:
            out += f"<p>No style of {_text(name)}: {_text(notes.get(f'style.{name}') or 'not measured')}.</p>"
            continue
        parts = {"z": found.get("z"), "random encoder": (random.get(name) or {}).get("z")}
        groups = {part: found[part] for part in ("content", "residual") if part in found}
        out += _style_table(name, parts, groups) if found.get("z") else ""
        out += "".join(
            f"<p>{_text(factor)}: {_text(why)}.</p>" for factor, why in (found.get("left_out") or {}).items()
        )
        tables = tables or bool(found.get("z"))
    return out + (f"<p><small>{STYLE}</small></p>" if tables else "")


def _style_table(name: str, parts: dict[str, Any], groups: dict[str, Any]) -> str:
    """One row a factor: z and the random encoder by both predictors, content and residual of groups by the linear one."""
    columns = [(part, how) for part in parts for how in ("linear", "kernel")] + [(part, "linear") for part in groups]
    heads = "".join(f'<th class="number">{part}, {how}</th>' for part, how in columns)
    found, rows = parts | groups, ""
    for factor, values in parts["z"].items():
        cells = "".join(_predicted((found[part] or {}).get(factor), how) for part, how in columns)
        rows += f'<tr><th scope="row">{_factor(factor, values)}</th>{cells}</tr>'
    return _table(f"<th>style of {_text(name)}, on test</th>{heads}", rows)


def _factor(name: str, values: dict[str, Any]) -> str:
    majority = values.get("majority")
    return _text(name) + ("" if majority is None else f" <small>(most frequent: {majority:.1%})</small>")


def _predicted(values: Any, how: str) -> str:
    """R2, or for categories the accuracy as a percentage."""
    if not isinstance(values, dict) or how not in values:
        return '<td class="number">-</td>'
    form = ".1%" if values.get("kind") == "categorical" else ".2f"
    return f'<td class="number">{values[how]["test"]:{form}}</td>'


def _comparison(runs: Sequence[Any]) -> str:
    """One row a run, above the runs side by side."""
    rows = ""
    for run in runs:
        evaluation = _evaluation(run)
        content = {} if isinstance(evaluation, str) else evaluation.get("content") or {}
        slots = run.config.get("slots") or {}
        rows += f'<tr><th scope="row">{escape(_name(run))}</th>'
        rows += "".join(_cell(content.get(key), "test") for key in PROBES)
        rows += "".join(_code(slots.get(slot)) for slot in SLOTS) + "</tr>"
    heads = "<th>run</th>" + "".join(f'<th class="number">{name}</th>' for name in PROBES.values())
    heads += "".join(f"<th>{slot}</th>" for slot in SLOTS)
    return (
        f"<h1>{len(runs)} runs</h1>{_table(heads, rows)}"
        "<p><small>Accuracy on test, settings chosen on validation. Terms of different kinds are on different scales: "
        "compare curves within a run, not across runs.</small></p>"
    )


def _picture(run: Any, name: str, drawing: Drawing) -> str:
    """The figure inside the page, and as a file beside it; where it does not apply, the reason."""
    heading = f"<h3>{escape(drawing.title)}</h3>"
    path = Path(run.path) / "figures" / f"{name}.png"
    if drawing.figure is None:
        path.unlink(missing_ok=True)  # of an earlier state of the run
        return f'<div>{heading}<p class="soft">{_text(drawing.caption)}</p></div>'
    image = figures.png(drawing.figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, image)
    source = base64.b64encode(image).decode()
    return (
        f'<figure>{heading}<img alt="{escape(drawing.title)}" src="data:image/png;base64,{source}">'
        + (f"<figcaption>{_text(drawing.caption)}</figcaption>" if drawing.caption else "")
        + "</figure>"
    )


def _evaluation(run: Any) -> dict[str, Any] | str:
    """evaluation.json, or why it cannot be shown."""
    path = Path(run.path) / "evaluation.json"
    if not path.exists():
        return "This run has not been evaluated: there is no evaluation.json. `genssl evaluate` writes it."
    try:
        found = read_json(path)
    except GensslError as error:
        return str(error)
    return found if isinstance(found, dict) else f"{path}: damaged; `genssl evaluate` writes it again."


def _name(run: Any) -> str:
    config = run.config
    method = config.get("method") or type(run.method).__name__
    data = (config.get("data_description") or {}).get("name") or config.get("data")
    return f"{method} on {data}" if data else str(method)


def _doc(method: Any) -> str:
    return " ".join((inspect.getdoc(type(method)) or "").split("\n\n")[0].split())


def _pairs(values: dict[str, Any]) -> str:
    known = {name: value for name, value in values.items() if value is not None and value != ""}
    return "<dl>" + "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in known.items()) + "</dl>"


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>"


def _table(heads: str, rows: str) -> str:
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(values: Any, name: str) -> str:
    value = values.get(name) if isinstance(values, dict) else None
    return f'<td class="number">{f"{value:.1%}" if isinstance(value, (int, float)) else "-"}</td>'


def _code(value: Any) -> str:
    return f'<td class="code">{_text(value).replace("(", "(<wbr>")}</td>'


def _text(value: Any) -> str:
    return "-" if value is None else escape(str(value))

"""The tables of known style in evaluation.json: how well each factor is predicted, and whether coordinates stand for factors."""

from __future__ import annotations

from typing import Any

from genssl.kinds import is_number
from genssl.report.markup import head, note, number, row, table, text

STYLE = (
    "R2 of known factors of style predicted from z (accuracy where % stands): 1 is all of a factor, 0 is none. It is predicted linearly, "
    "and by a kernel, which sees fewer points but also finds style that no linear map does. Where style and class go together, a z of "
    "the class alone is above 0 too."
)
OF_GROUPS = (
    " Content is the mean of z over J views of an item, residual is z less that mean: a style that is a linear part of z, and drawn anew "
    "for each view, gives 1/J in the one and 1 - 1/J in the other. Here J is {views}: {content:.2f} and {residual:.2f}."
)

AXES = {
    "disentanglement": "disentanglement",
    "completeness": "completeness",
    "informativeness": "R2, forest",
    "mig": "MIG",
}
AXES_NOTE = (
    "Disentanglement: 1 where no coordinate of z serves two factors; completeness: 1 where one coordinate carries all that is known "
    "of a factor; by importance in random forests, whose R2 on test stands beside (Eastwood and Williams 2018). MIG: how much more "
    "the best coordinate tells of a factor than the second, over its entropy (Chen et al. 2018); near 0 for an angle, which takes two "
    "coordinates. They see axes alone: a rotation of z moves them and loses nothing, so hold them against the random encoder."
)

Evaluation = dict[str, Any]


def style(evaluation: Evaluation) -> str:
    """A table for the style of the items and one for that of the views; nothing where it was not looked for."""
    random = (evaluation.get("random_encoder") or {}).get("style") or {}
    notes, out, tables = evaluation.get("notes") or {}, "", False
    for name, found in (evaluation.get("style") or {}).items():
        if not found:
            out += f"<p>No style of {text(name)}: {text(notes.get(f'style.{name}') or 'not measured')}.</p>"
            continue
        parts = {"z": found.get("z"), "random encoder": (random.get(name) or {}).get("z")}
        groups = {part: found[part] for part in ("content", "residual") if part in found}
        out += _style_table(name, parts, groups) if found.get("z") else ""
        out += "".join(f"<p>{text(factor)}: {text(why)}.</p>" for factor, why in (found.get("left_out") or {}).items())
        tables = tables or bool(found.get("z"))
    views = ((evaluation.get("style") or {}).get("views") or {}).get("num_views")
    told = (
        OF_GROUPS.format(views=views, content=1 / views, residual=1 - 1 / views)
        if is_number(views) and views > 1
        else ""
    )
    return out + (note(STYLE + told) if tables else "") + _axes(evaluation)


def _axes(evaluation: Evaluation) -> str:
    """Whether coordinates stand for factors: of z, of the random encoder, and each factor by itself."""
    random = (evaluation.get("random_encoder") or {}).get("style") or {}
    out = ""
    for name, found in (evaluation.get("style") or {}).items():
        axes = (found or {}).get("axes")
        if not axes:
            continue
        lines = {"z": axes, "random encoder": (random.get(name) or {}).get("axes")} | (axes.get("factors") or {})
        rows = "".join(
            row(line, *(number(part.get(key), ".2f") for key in AXES)) for line, part in lines.items() if part
        )
        out += table(head(f"coordinates of z and style of {name}", numbers=list(AXES.values())), rows)
    return out + (note(AXES_NOTE) if out else "")


def _style_table(name: str, parts: dict[str, Any], groups: dict[str, Any]) -> str:
    """One row a factor: z and the random encoder by both predictors, content and residual of groups by the linear one."""
    columns = [(part, how) for part in parts for how in ("linear", "kernel")] + [(part, "linear") for part in groups]
    heads = head(f"style of {name}, on test", numbers=[f"{part}, {how}" for part, how in columns])
    found, rows = parts | groups, ""
    for factor, values in parts["z"].items():
        cells = "".join(_predicted((found[part] or {}).get(factor), how) for part, how in columns)
        rows += f'<tr><th scope="row">{_factor(factor, values)}</th>{cells}</tr>'
    return table(heads, rows)


def _factor(name: str, values: dict[str, Any]) -> str:
    majority = values.get("majority")
    return text(name) + ("" if majority is None else f" <small>(most frequent: {majority:.1%})</small>")


def _predicted(values: Any, how: str) -> str:
    """R2, or for categories the accuracy as a percentage."""
    values = values or {}
    return number((values.get(how) or {}).get("test"), ".1%" if values.get("kind") == "categorical" else ".2f")

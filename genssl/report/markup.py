"""The pieces of the page: escaped text, tables, lists, figures inside the file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from genssl.files import write_bytes
from genssl.report import figures
from genssl.report.drawing import Drawing


def text(value: Any) -> str:
    """Escaped; a dash for nothing."""
    return "-" if value is None else escape(str(value))


def pairs(values: dict[str, Any]) -> str:
    """Names beside values, without those that are empty."""
    known = {name: value for name, value in values.items() if value is not None and value != ""}
    return "<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in known.items()) + "</dl>"


def listed(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{text(line)}</li>" for line in lines) + "</ul>"


def table(heads: str, rows: str) -> str:
    """heads: th elements; rows: tr elements."""
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def head(*words: str, numbers: Sequence[str] = ()) -> str:
    """th elements: words to the left, numbers to the right."""
    return "".join(f"<th>{text(word)}</th>" for word in words) + "".join(
        f'<th class="number">{text(word)}</th>' for word in numbers
    )


def row(name: str, *cells: str) -> str:
    """A row with its name, escaped, in front of td elements."""
    return f'<tr><th scope="row">{text(name)}</th>{"".join(cells)}</tr>'


def shown(value: Any, form: str = ".3f") -> str:
    """A number written in this form; a dash where there is none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return "-"
    written = f"{value:{form}}"
    return written.removeprefix("-") if set(written) <= set("-0.%") else written  # no -0.00


def number(value: Any, form: str = ".3f") -> str:
    """A td element with a number, as of `shown`."""
    return f'<td class="number">{shown(value, form)}</td>'


def percent(values: Any, name: str = "test") -> str:
    """A td element with values[name], a fraction, in percent."""
    return number(values.get(name) if isinstance(values, dict) else None, ".1%")


def code(value: Any) -> str:
    return f'<td class="code">{text(value).replace("(", "(<wbr>")}</td>'


def note(sentence: str) -> str:
    return f"<p><small>{text(sentence)}</small></p>"


def pictures(folder: Path | None, drawings: Mapping[str, Drawing], wide: bool = True) -> str:
    """Figures inside the page, and as folder/NAME.png where one is given; below them a sentence for each reason why others do not apply."""
    shown, missing = "", dict[str, list[str]]()
    for name, drawing in drawings.items():
        path = None if folder is None else folder / f"{name}.png"
        if drawing.figure is not None:
            shown += _picture(path, drawing, drawing.figure)
            continue
        if path is not None:
            path.unlink(missing_ok=True)  # of an earlier state of the run
        missing.setdefault(drawing.caption, []).append(drawing.title)
    lines = "".join(
        f'<p class="soft">{text(", ".join(titles))}: none. {text(why)}</p>' for why, titles in missing.items()
    )
    return (f'<div class="figures{" wide" if wide else ""}">{shown}</div>' if shown else "") + lines


def _picture(path: Path | None, drawing: Drawing, figure: Figure) -> str:
    image = figures.png(figure)
    if path is not None:
        write_bytes(path, image)
    source = base64.b64encode(image).decode()
    return (
        f'<figure><h3>{text(drawing.title)}</h3><img alt="{text(drawing.title)}" src="data:image/png;base64,{source}">'
        + (f"<figcaption>{text(drawing.caption)}</figcaption>" if drawing.caption else "")
        + "</figure>"
    )

"""The pieces of the page: escaped text, tables, lists, figures inside the file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

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
    return f"{value:{form}}" if isinstance(value, (int, float)) and not isinstance(value, bool) else "-"


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


def picture(folder: Path | None, name: str, drawing: Drawing) -> str:
    """The figure inside the page, and as folder/NAME.png where a folder is given; where it does not apply, the reason."""
    heading = f"<h3>{escape(drawing.title)}</h3>"
    path = None if folder is None else folder / f"{name}.png"
    if drawing.figure is None:
        if path is not None:
            path.unlink(missing_ok=True)  # of an earlier state of the run
        return f'<div>{heading}<p class="soft">{text(drawing.caption)}</p></div>'
    image = figures.png(drawing.figure)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, image)
    source = base64.b64encode(image).decode()
    return (
        f'<figure>{heading}<img alt="{escape(drawing.title)}" src="data:image/png;base64,{source}">'
        + (f"<figcaption>{text(drawing.caption)}</figcaption>" if drawing.caption else "")
        + "</figure>"
    )

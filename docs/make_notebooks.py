"""Make the notebooks in docs/notebooks/ from examples/.

    python docs/make_notebooks.py            # writes them, executed, with what they print
    python docs/make_notebooks.py --check    # exit 1 if the committed ones are not those of the examples as they are now

A notebook is its example: the header as text, imports and settings, functions and classes, then the lines of main() in the pieces that
its blank lines make, comments as text. The arguments of the command line become a cell of settings.
"""

from __future__ import annotations

import argparse
import ast
import codeop
import contextlib
import io
import json
import os
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
NOTEBOOKS: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 200, "limit": None, "out": "runs/digits-notebook"},
    "custom_model": {"epochs": 300, "limit": None, "out": "runs/custom-notebook"},
}
"""Example: the settings in place of its command line."""

Cell = tuple[str, str]  # kind, text


def cells_of(name: str, settings: dict[str, Any]) -> list[Cell]:
    """The cells of an example."""
    source = (ROOT / "examples" / f"{name}.py").read_text()
    lines, tree = source.splitlines(), ast.parse(source)
    cells: list[Cell] = [("markdown", _header(ast.get_docstring(tree) or "", name))]
    setup: list[ast.stmt] = []
    for node in tree.body[1:]:
        text = _text(lines, node)
        if isinstance(node, ast.FunctionDef) and node.name == "main":
            cells += _pieces(lines, node, settings)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            cells.append(("code", text))
        elif not (isinstance(node, ast.If) or text == "import argparse"):
            setup.append(node)
    return [cells[0], ("code", _together(lines, setup)), *cells[1:]]


def _together(lines: list[str], nodes: list[ast.stmt]) -> str:
    """Statements with the blank lines that the source has between them."""
    out = ""
    for before, node in zip([None, *nodes], nodes, strict=False):
        gap = 0 if before is None or before.end_lineno is None else node.lineno - before.end_lineno
        out += "\n" * min(gap, 2) + _text(lines, node)
    return out


def _header(doc: str, name: str) -> str:
    title, _, rest = doc.partition("\n")
    return f"# {title}\n\n{rest.strip(chr(10))}\n\nMade from `examples/{name}.py`."


def _text(lines: list[str], node: ast.stmt) -> str:
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
    return "\n".join(lines[first - 1 : node.end_lineno])


def _pieces(lines: list[str], main: ast.FunctionDef, settings: dict[str, Any]) -> list[Cell]:
    """The body of main() after the command line is read, in the pieces that blank lines make."""
    parsed = next(i for i, node in enumerate(main.body) if "parse_args" in _text(lines, node))
    assert main.body[parsed].end_lineno is not None
    body = textwrap.dedent("\n".join(lines[main.body[parsed].end_lineno : main.end_lineno])).strip("\n")
    arguments = ", ".join(f"{key}={value!r}" for key, value in settings.items())
    cells: list[Cell] = [("code", f"from types import SimpleNamespace\n\nargs = SimpleNamespace({arguments})")]
    for piece in body.split("\n\n"):
        rows = piece.strip("\n").splitlines()
        comment = [row.removeprefix("#").strip() for row in rows if row.startswith("#")]
        leading = len(comment) if all(row.startswith("#") for row in rows[: len(comment)]) else 0
        cells += [("markdown", " ".join(comment))] if leading else []
        cells.append(("code", "\n".join(rows[leading:])))
    return cells


def execute(cells: list[Cell], folder: Path) -> list[str]:
    """What every code cell prints; they run in one namespace, in `folder`."""
    before, names, printed = Path.cwd(), {"__name__": "notebook"}, []
    compiled = codeop.Compile()  # as in Jupyter: what one cell imports from __future__ holds for those after it
    os.chdir(folder)
    try:
        for kind, text in cells:
            if kind == "code":
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(compiled(text, "cell", "exec"), names)
                printed.append(out.getvalue())
    finally:
        os.chdir(before)
    return printed


def notebook(cells: list[Cell], printed: list[str] | None) -> dict[str, Any]:
    """In the format of Jupyter, version 4.5; printed: the output of every code cell."""
    out, outputs = [], iter([] if printed is None else printed)
    for i, (kind, text) in enumerate(cells):
        cell: dict[str, Any] = {
            "cell_type": kind, "id": f"cell-{i}", "metadata": {}, "source": text.splitlines(keepends=True),
        }  # fmt: skip
        if kind == "code":
            shown = next(outputs, "")
            stream = {"output_type": "stream", "name": "stdout", "text": shown.splitlines(keepends=True)}
            cell |= {"execution_count": None, "outputs": [stream] if shown else []}
        out.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": out, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for name, settings in NOTEBOOKS.items():
        path, cells = ROOT / "docs" / "notebooks" / f"{name}.ipynb", cells_of(name, settings)
        if check:
            known = json.loads(path.read_text())["cells"] if path.exists() else []
            same = [(cell["cell_type"], "".join(cell["source"])) for cell in known]
            stale += [] if same == cells else [name]
            continue
        with tempfile.TemporaryDirectory() as folder:
            printed = execute(cells, Path(folder))
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(notebook(cells, printed), indent=1) + "\n")
        print(path)
    if stale:
        sys.exit(f"not those of the examples as they are now: {', '.join(stale)}; run python docs/make_notebooks.py")


if __name__ == "__main__":
    main()

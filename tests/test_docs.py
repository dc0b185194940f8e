"""The code blocks of docs/ run, a page from top to bottom in one process; notebooks are their examples and run too."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(path.stem for path in DOCS.glob("*.md") if "```python" in path.read_text())


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)


def in_process(code, folder):
    """Run code as a user's script, with warnings as errors as in the tests."""
    (folder / "page.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "page.py"],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_page_is_in_the_index():
    index = (DOCS / "README.md").read_text()
    assert set(re.findall(r"\]\((\w+)\.md\)", index)) == {path.stem for path in DOCS.glob("*.md")} - {"README"}
    assert {"quickstart", "groups", "your_model", "slots", "choosing", "uncertainty"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, tmp_path):
    in_process("\n".join(blocks(page)), tmp_path)


@pytest.mark.parametrize("page", sorted(path.stem for path in DOCS.glob("*.md")))
def test_what_a_page_names_exists(page):
    """Files of the project, and names of genssl.terms and genssl.models in the table of equations."""
    text = (DOCS / f"{page}.md").read_text()
    for path in re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r"`((?:examples|results|docs)/[\w./]+)`", text):
        assert (DOCS / path).exists() or (DOCS.parent / path).exists(), path


@pytest.fixture
def notebooks():
    spec = importlib.util.spec_from_file_location("make_notebooks", DOCS / "make_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["digits", "custom_model"])
def test_a_notebook_is_its_example_and_runs(name, notebooks, tmp_path):
    settings = notebooks.NOTEBOOKS[name]
    known = notebooks.json.loads((DOCS / "notebooks" / f"{name}.ipynb").read_text())
    cells = notebooks.cells_of(name, settings)
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in known["cells"]] == cells
    assert sum(bool(cell.get("outputs")) for cell in known["cells"]) >= 1
    small = notebooks.cells_of(name, {"epochs": 1, "limit": 300, "out": str(tmp_path / "run")})
    code = f"import sys; sys.path.insert(0, {str(DOCS)!r})\nfrom pathlib import Path\nimport make_notebooks\n"
    out = in_process(f"{code}print(make_notebooks.execute({small!r}, Path.cwd()))", tmp_path)
    assert len(out) > 100

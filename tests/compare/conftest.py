"""What the tests of comparing share: a folder of their own, and one small grid that is fitted once."""

from __future__ import annotations

import warnings

import pytest
from small_grids import SPEC

from genssl.compare.run import run_grid


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Comparisons without --out go to ./runs."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def grid(tmp_path_factory):
    """The folder of a finished grid, which no test changes."""
    out = tmp_path_factory.mktemp("grids") / "whole"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what theory foretells
        run_grid(SPEC, out, progress=False)
    return out

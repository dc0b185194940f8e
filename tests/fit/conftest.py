"""What the tests of fit share: one thread (bits, and a machine shared with others), a folder of their own, small runs."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Runs without --out go to ./runs."""
    monkeypatch.chdir(tmp_path)

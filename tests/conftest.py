"""What all tests share: Pyro's validation on, a clean parameter store, a fixed generator."""

from __future__ import annotations

import os
from pathlib import Path

import pyro
import pytest
import torch

# Tensors are tiny here: a second thread gains nothing, and waits at every barrier where the machine has other work.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def clean_slate():
    pyro.clear_param_store()
    pyro.enable_validation(True)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def float64():
    """Run a test in double precision."""
    torch.set_default_dtype(torch.float64)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets; a test that needs it is skipped where there is none."""
    given = os.environ.get("GENSSL_DATA")
    beside = Path(__file__).parent.parent.parent / "shared" / "data"
    root = Path(given) if given else beside
    if not root.is_dir():
        pytest.skip("needs real data: set GENSSL_DATA to their folder")
    return root

"""The shim in fresh processes: what it repairs is an import, which this process may have done already."""

import subprocess
import sys

import pytest

REPAIRED = """
import sys, warnings
warnings.simplefilter("error")
if FIRST_TRY:
    try:
        import torchvision
    except RuntimeError as error:
        assert "nms" in str(error)
from genssl.datasets.torchvision_shim import ensure_torchvision
import genssl.datasets
assert FIRST_TRY or "torchvision" not in sys.modules, "slow to import, so only where it is needed"
ensure_torchvision()
import torch, torchvision
from torchvision import datasets, models, transforms
from torchvision.transforms import v2
assert models.resnet18(num_classes=2).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
boxes, scores = torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1)
try:
    kept = torchvision.ops.nms(boxes, scores, 0.5).tolist()
except RuntimeError as error:
    assert not torchvision.extension._has_ops() and "custom C++ ops" in str(error)
else:
    assert kept == [0]
"""


@pytest.mark.parametrize("first_try", [False, True])
def test_torchvision_imports_afterwards(first_try):
    code = REPAIRED.replace("FIRST_TRY", str(first_try))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_operators_that_are_there_are_left_alone(monkeypatch):
    """Beside a fitting torchvision nothing is declared: a second declaration would be an error of torch."""
    import torch

    from genssl.datasets import torchvision_shim

    monkeypatch.setattr(torchvision_shim, "_declared", [])
    torchvision_shim.ensure_torchvision()  # the schemas exist by now, from whichever side
    assert torchvision_shim._declared == []
    assert hasattr(torch.ops.torchvision, "nms")

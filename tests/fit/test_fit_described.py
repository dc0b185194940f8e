"""What a run keeps of a user's callable: equal for equal ones, made anew in whatever process; different where anything in them differs."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest
import torch
from torch import nn

import genssl
from genssl import views as transforms
from genssl.errors import SettingsError
from genssl.fit.described import describe_callable


class Noisy:
    """Views of a user that count how often they are called."""

    def __init__(self, strength, table=None):
        self.strength, self.table, self.calls = strength, table, 0

    def __call__(self, x, index, generator):
        self.calls += 1
        return (x + self.strength * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def closure(strength):
    def views(x, index, generator):
        return x * strength

    return views


def scaled(x, index, generator, strength=1.0):
    return x * strength


MAKERS = {
    "attribute": Noisy,
    "closure": closure,
    "partial": lambda k: functools.partial(scaled, strength=k),
    "method": lambda k: Noisy(k).__call__,
    "array": lambda k: Noisy(1.0, torch.full((5,), k)),
    "inner": lambda k: Noisy(1.0, [Noisy(k)]),
    "module": lambda k: nn.Sequential(nn.Dropout(k)),
    "default": lambda k: eval(f"lambda x, index, generator, strength={k}: x"),
    "constant": lambda k: eval(f"lambda x, index, generator: x * {k}"),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_equal_ones_are_described_alike_and_others_are_not(kind):
    one, again, other = (describe_callable(MAKERS[kind](k)) for k in (0.25, 0.25, 0.75))
    assert one == again
    assert one != other
    assert one.rpartition("#")[0] == other.rpartition("#")[0] != ""
    assert " at 0x" not in one


def test_names_and_transforms_with_settings_are_told_as_they_are():
    assert describe_callable(None) is None
    assert describe_callable("adam") == "adam"
    assert describe_callable(torch.optim.SGD) == "SGD"
    assert describe_callable(transforms.Geometric(crop_scale=(0.5, 1.0))).startswith("Geometric(crop_scale=(0.5, 1.0)")


def test_what_an_object_counts_does_not_change_it():
    views = Noisy(0.5)
    before = [describe_callable(views), describe_callable(views.__call__)]
    views(torch.rand(2, 1, 4, 4), None, torch.Generator())
    assert [describe_callable(views), describe_callable(views.__call__)] == before


def test_another_process_says_the_same():
    code = (
        "import functools, torch\nfrom genssl.fit.described import describe_callable\n"
        "def f(x, table, mode={'a', 'b', 'c'}):\n    return {'one', 'two'}, x in {'one', 'two', 'three'}\n"
        "print(describe_callable(functools.partial(f, table=torch.arange(3), more={'k': print})))"
    )
    told = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(told) == 1


def test_a_run_is_not_resumed_with_other_views_of_the_same_name(tmp_path):
    x, label = torch.rand(60, 1, 6, 6), torch.arange(60) % 3
    given = {
        "settings": {"hidden": (8,), "dim": 2},
        "num_views": 2,
        "batch_size": 16,
        "epochs": 2,
        "progress": False,
        "measure": False,
    }
    out = tmp_path / "run"
    genssl.fit("SimVAE", (x, label), views=Noisy(0.1), max_steps=2, out=out, **given)
    with pytest.raises(SettingsError, match=r"was started with views Noisy#\w+, not Noisy#\w+; pass those"):
        genssl.fit("SimVAE", (x, label), views=Noisy(0.9), out=out, resume=True, **given)
    assert genssl.fit("SimVAE", (x, label), views=Noisy(0.1), out=out, resume=True, **given).finished

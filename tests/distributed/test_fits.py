"""Fits of two processes: the run of one, stopped and gone on with in any number, and an end for all where one fails."""

from __future__ import annotations

import json
import os
import signal
import traceback
from pathlib import Path

import genssl.models
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import genssl
from genssl import datasets, views
from genssl.errors import DataError, GensslError
from genssl.fit import checkpoint, metrics
from genssl.fit.loop import Interrupted

SMALL = {
    "limit": 96, "num_views": 2, "batch_size": 16, "epochs": 2, "progress": False, "measure": False,
    "settings": {"dim": 3, "hidden": (8,)},
}  # fmt: skip
CLOSE = 1e-8  # of weights after 12 steps of Adam in float64, which magnifies the last bits of gradients near 0


class Trouble(genssl.models.SimVAE):
    """In one process of two something happens at the seventh forward (the first is on trial)."""

    what, seen = "", 0

    def guide(self, groups):
        self.seen += 1
        if self.seen == 7 and os.environ.get("RANK") == "1":
            if self.what == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
            elif self.what == "error":
                raise DataError("the file of item 3 is damaged; restore it")
            elif self.what == "nan":
                groups.x[1, 0, 0, 0, 0] = torch.nan
        super().guide(groups)


class Pairs(torch.utils.data.Dataset):
    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def plain_views(x, index, generator):
    """Views of a user: nothing says that they can be made in parts."""
    return x + 0.1 * torch.rand(x.shape, generator=generator)


def fits(place):
    """What is fitted, by name."""
    augmented = views.Compose(
        views.Geometric(crop_scale=(0.5, 1.0)), views.Noise((0.0, 0.1)), views.Erase(), views.PerImage(torch.nn.ReflectionPad2d(0))
    )  # fmt: skip
    images = datasets.load("digits", seed=0, limit=96).train
    pairs = Pairs([(images.x[i], int(images.label[i])) for i in range(len(images))])
    natural = genssl.Groups.by_key(images.x.double() / images.x.max(), torch.arange(len(images)) // 3, 3)
    yield "SimVAE", lambda **more: genssl.fit("SimVAE", "digits", out=place / "SimVAE", **{**SMALL, **more})
    yield (
        "views",
        lambda **more: genssl.fit("SimVAE", "digits", out=place / "views", views=augmented, **{**SMALL, **more}),
    )
    yield (
        "own views",
        lambda **more: genssl.fit("SimVAE", "digits", out=place / "own views", views=plain_views, **{**SMALL, **more}),
    )
    yield (
        "stream",
        lambda **more: genssl.fit("SimVAE", pairs, out=place / "stream", views=augmented, **{**SMALL, **more}),
    )
    ragged = {**SMALL, "num_views": None, "batch_size": 8}
    yield "groups", lambda **more: genssl.fit("DINO", natural, out=place / "groups", **{**ragged, **more})


def troubled(what, out, **more):
    method = Trouble.build(genssl.Groups(torch.rand(2, 2, 1, 8, 8)), **SMALL["settings"])
    method.what = what
    settings = {key: value for key, value in SMALL.items() if key != "settings"}
    return genssl.fit(method, "digits", out=out, **{**settings, **more})


def process(rank, port, place):
    """One of two: every fit, then what goes wrong. What it saw goes to a file."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    place, found = Path(place), {}

    def attempt(function):
        try:
            return function()
        except (GensslError, Interrupted) as error:
            return f"{type(error).__name__}: {error}"

    try:
        for name, fit in fits(place / "two"):
            run = attempt(fit)
            assert not isinstance(run, str), (name, run)
            found[name] = [
                float(v.double().sum()) for v in run.method.state_dict().values() if isinstance(v, torch.Tensor)
            ]
        found["uneven"] = attempt(
            lambda: genssl.fit("SimVAE", "digits", out=place / "uneven", **{**SMALL, "batch_size": 15})
        )
        for what in ("error", "nan", "interrupt"):
            found[what] = attempt(lambda what=what: troubled(what, place / what))
        found["taken"] = attempt(lambda: genssl.fit("SimVAE", "digits", out=place / "two" / "SimVAE", **SMALL))
        step = attempt(lambda: dict(fits(place / "half"))["SimVAE"](max_steps=5)).step
        found["stopped"] = step
        with pytest.warns(UserWarning, match="1 processes"):
            attempt(lambda: dict(fits(place / "one to two"))["SimVAE"](resume=True))
    except BaseException:
        found["failed"] = traceback.format_exc()
    (place / f"found-{rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the runs of two processes in two/, of one in one/."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch.distributed has no gloo here")
    place = tmp_path_factory.mktemp("fits")
    torch.set_default_dtype(torch.float64)
    for _, fit in fits(place / "one"):
        fit()
    dict(fits(place / "one to two"))["SimVAE"](max_steps=5)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    mp.spawn(process, args=(store.port, str(place)), nprocs=2)
    return place


@pytest.fixture
def found(place):
    both = [json.loads((place / f"found-{rank}.json").read_text()) for rank in range(2)]
    for one in both:
        assert "failed" not in one, one["failed"]
    return both


def weights(folder):
    return checkpoint.load(folder / "checkpoint")["method"]


def assert_same_weights(folder, other):
    one, two = weights(folder), weights(other)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=CLOSE, rtol=CLOSE)


def assert_same_run(folder, other):
    assert_same_weights(folder, other)
    for line, same in zip(metrics.read(folder / "metrics.jsonl"), metrics.read(other / "metrics.jsonl"), strict=True):
        for key in ("step", "epoch", "reconstruction", "entropy", "prior", "elbo", "objective", "knn"):
            if same[key] is None:  # not measured at this line
                assert line[key] is None
            else:
                assert line[key] == pytest.approx(same[key], rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("name", ["SimVAE", "views", "own views", "stream", "groups"])
def test_the_run_of_one(place, found, name):
    assert_same_run(place / "one" / name, place / "two" / name)
    assert json.loads((place / "two" / name / "config.json").read_text())["processes"] == 2
    assert found[0][name] == found[1][name]  # both processes hold the same, bit for bit


def test_resumed_by_another_number(place, found, float64):
    assert_same_weights(place / "one" / "SimVAE", place / "one to two" / "SimVAE")
    assert [one["stopped"] for one in found] == [5, 5]
    with pytest.warns(UserWarning, match="2 processes"):
        dict(fits(place / "half"))["SimVAE"](resume=True)
    assert_same_weights(place / "one" / "SimVAE", place / "half" / "SimVAE")


def test_one_fails_and_all_end(place, found):
    first, second = found
    assert second["error"].startswith("DataError: the file of item 3 is damaged; restore it; no checkpoint yet in ")
    assert first["error"].startswith("ProcessError: process 0 of 2 lost another one")
    assert first["nan"] == second["nan"]
    assert first["nan"].startswith("NonFiniteError: step ")
    assert first["uneven"] == second["uneven"]
    assert "multiple of 2" in first["uneven"]
    assert first["taken"] == second["taken"]
    assert "not empty" in first["taken"]


def test_interrupted_together(place, found):
    first, second = found
    assert first["interrupt"] == second["interrupt"]
    assert first["interrupt"].startswith("Interrupted")
    kept = checkpoint.load(place / "interrupt" / "checkpoint")
    assert f"saved at step {kept['step']}" in first["interrupt"]

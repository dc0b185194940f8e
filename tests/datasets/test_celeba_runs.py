"""CelebA from files to figures: two methods fitted on a small tree, attributes read off their z, bars of both in one report."""

from __future__ import annotations

import re

import pytest
import torch
from test_celeba import HAIR, NAMES, SIZE, make

import genssl
from genssl.datasets.celeba import celeba
from genssl.evaluation import known_style
from genssl.files import read_json
from genssl.report import figures, write
from genssl.report.side_by_side import attributes

pytestmark = pytest.mark.filterwarnings("ignore:.*differ from the published:UserWarning")  # the tree is not

ITEMS = 3 * SIZE
PARTS = ("content", "style.items", "generation.mse")


@pytest.fixture
def two_runs(tmp_path, monkeypatch):
    """A generative and a discriminative method, one epoch each, with small networks."""
    monkeypatch.setattr(known_style, "KERNEL_POINTS", 50)
    make(tmp_path, ITEMS)
    out = []
    for name in ("SimVAE", "SimCLR"):
        run = genssl.fit(
            name, "celeba:size=64", data_root=tmp_path, verify=False, num_views=2, batch_size=16, epochs=1,
            settings={"hidden": [16], "dim": 6, "network": "mlp"}, seed=1, out=tmp_path / name, progress=False,
        )  # fmt: skip
        run.evaluate(PARTS)
        out.append(run)
    return out


def test_attributes_of_two_methods_stand_side_by_side_in_a_report(two_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "DPI", 40)
    data = celeba(tmp_path, verify=False)
    assert data.train.x.shape[1:] == (3, 64, 64)
    found = [read_json(run.path / "evaluation.json") for run in two_runs]
    for run, evaluation in zip(two_runs, found, strict=True):
        assert run.config["steps"] == len(data.train) // 16
        assert evaluation["content"]["linear"]["test"] <= 1  # hair colour
        assert evaluation["protocol"]["sizes"] == {name: len(split) for name, split in data.splits()}
        items = evaluation["style"]["items"]
        assert {*items["z"], *items["left_out"]} == set(NAMES)
        assert set(HAIR) <= {*items["z"], *items["left_out"]}
        assert all(values["kind"] == "categorical" for values in items["z"].values())
        male = data.test.style[:, NAMES.index("Male")]
        most = float(data.train.style[:, NAMES.index("Male")].mean()) > 0.5
        assert items["z"]["Male"]["majority"] == pytest.approx(float((male == float(most)).double().mean()))
    # The figure: every attribute that could be scored, a bar a run.
    drawing = attributes(["SimVAE", "SimCLR"], found)
    (axes,) = drawing.figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    scored = list(found[0]["style"]["items"]["z"])
    assert names == [f"mean of {len(scored)}", *scored]
    assert len(axes.patches) == 2 * len(names)
    for i, evaluation in enumerate(found):
        tests = []
        for values in evaluation["style"]["items"]["z"].values():
            better = max((values["linear"], values["kernel"]), key=lambda one: one["validation"])
            tests.append(better["test"])
        widths = [bar.get_width() for bar in axes.patches[i * len(names) : (i + 1) * len(names)]]
        assert widths == pytest.approx([sum(tests) / len(tests), *tests])
    # The report of both.
    page = write(two_runs, tmp_path / "both" / "report.html").read_text()
    assert (tmp_path / "both" / "figures" / "attribute_bars.png").stat().st_size > 1000
    words = re.sub("<[^>]+>", " ", page)
    assert "Attributes of items" in words
    assert "share of the class that is most frequent in training" in words
    assert "coordinates of z and style of items" in words
    assert page.count("Wearing_Necktie") >= 2
    assert torch.isfinite(two_runs[0].represent(data.test.floats()[:4])).all()

"""What tells runs apart in a comparison: views, files, data in memory, instances; seeds alone share a line."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from genssl.models import VICReg
from small_grids import copied

import genssl
from genssl.compare.comparison import of_runs
from genssl.compare.distrust import distrust
from genssl.compare.rows import row_of
from genssl.datasets import from_any
from genssl.views import Compose, Identity


def changed(folder, to, **values):
    """A copy of a run whose config says otherwise, with another seed."""
    copied(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | {"seed": 1} | values))
    return to


@pytest.fixture
def run(grid, tmp_path):
    return copied(grid / "cells" / "own-seed0", tmp_path / "run")


def fitted(to, data, seed=0, sim=25.0, views=None):
    method = VICReg.build(data.example(2), hidden=(8,), dim=3)
    method.sim_coeff = sim
    return genssl.fit(method, data, out=to, seed=seed, epochs=1, batch_size=16, views=views, progress=False).path


def test_seeds_share_a_line_and_other_experiments_do_not(run, tmp_path):
    same = changed(run, tmp_path / "same")
    assert len(of_runs([run, same]).lines) == 1
    stored = changed(run, tmp_path / "s", data="/a/images", seed=0)
    described = json.loads((run / "config.json").read_text())["data_description"]
    for number, (first, values) in enumerate(
        [
            (run, {"views": "Identity()"}),
            (run, {"file": "/a/model.py", "sha256": "ab" * 32}),
            (stored, {"data": "/b/images"}),
            (stored, {"data": "/a/images", "data_description": described | {"digest": "0"}}),
        ]
    ):
        other = changed(first, tmp_path / f"other{number}", **values)
        assert [line.seeds for line in of_runs([first, other]).lines] == [[0], [1]], values
        assert "/a/" not in json.dumps(row_of(other))


def test_instances_and_data_in_memory(tmp_path):
    x = torch.rand(80, 5, generator=torch.Generator().manual_seed(0))
    data, others = from_any(x, seed=0), from_any(1 - x, seed=0)
    first = fitted(tmp_path / "a", data)
    seed = fitted(tmp_path / "b", data, seed=1)
    runs = [first, seed, fitted(tmp_path / "c", data, sim=1.0), fitted(tmp_path / "d", others)]
    runs.append(fitted(tmp_path / "e", data, views=Compose(Identity(), Identity())))
    assert [len(line.runs) for line in of_runs(runs).lines] == [2, 1, 1, 1]
    assert not [doubt for doubt in distrust(of_runs(runs)) if "do not tell" in doubt]
    old = [tmp_path / "old0", tmp_path / "old1"]
    for folder, made in zip(old, (first, runs[2]), strict=True):
        shutil.copytree(made, folder)
        config = json.loads((folder / "config.json").read_text())
        del config["attributes"], config["data_description"]["digest"]
        (folder / "config.json").write_text(json.dumps(config))
    found = of_runs(old)
    assert len(found.lines) == 1
    doubts = " ".join(distrust(found))
    assert "2 runs do not tell the attributes of the instance" in doubts
    assert "2 runs do not tell a digest of the data" in doubts


def test_the_digest_is_of_the_data_before_any_split_is_drawn():
    x, label = torch.rand(80, 5), torch.arange(80) % 4
    told = from_any((x, label), seed=0).describe()["digest"]
    assert told == from_any((x.clone(), label), seed=1).describe()["digest"]
    assert told != from_any((x, label.where(label > 0, -1)), seed=0).describe()["digest"]
    assert told != from_any((x + 1, label), seed=0).describe()["digest"]

"""The grid: what a spec means, what is wrong with it, and that cells share batches and weights."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest
import torch
from small_grids import FITTED, LEFT_OUT, SPEC, copied, spec, toml, without_clock

import genssl
from genssl.compare.grid import cells_of, read_spec
from genssl.compare.run import of_grid, run_grid
from genssl.errors import CheckpointError, NonFiniteError, SettingsError
from genssl.fit.batches import Batches
from genssl.fit.loop import Interrupted
from genssl.fit.run import Run


def test_a_file_and_a_dict_mean_the_same(tmp_path):
    (tmp_path / "a.toml").write_text(toml(SPEC))
    found = read_spec(tmp_path / "a.toml")
    assert found == read_spec(SPEC)
    assert found["base"] == {
        "batch_size": 20, "data": "digits", "epochs": 2, "limit": 60, "method": "SimVAE", "num_views": 2, "set.dim": 3,
        "set.hidden": [8],
    }  # fmt: skip
    assert read_spec(found) == found  # a resolved spec is a spec


def test_cells_are_the_product_with_seeds_outermost():
    lists = {
        "prior": ["own", "CosineAttraction:temperature=0.5"],
        "seed": [3, 4],
        "set.dim": [2, 5],
        "entropy": ["Constant"],
    }
    given = spec(grid=lists)
    given["base"]["set"] = {"hidden": [8]}
    cells = cells_of(read_spec(given))
    assert [cell.name for cell in cells[:3]] == [
        "Constant-own-dim2-seed3",
        "Constant-own-dim5-seed3",
        "Constant-CosineAttraction_temperature_0.5-dim2-seed3",
    ]
    assert [cell.arguments["seed"] for cell in cells] == [3] * 4 + [4] * 4
    assert cells[0].arguments["replace"] == {"entropy": "Constant"}
    assert cells[7].arguments["replace"] == {"entropy": "Constant", "prior": "CosineAttraction:temperature=0.5"}
    assert cells[7].arguments["settings"] == {"hidden": [8], "dim": 5}
    assert cells[7].arguments["num_views"] == 2


def test_names_are_safe_short_and_unlike_each_other():
    texts = ["CosineAttraction:temperature=0.5", "CosineAttraction:temperature=.25", "own"]
    lists = {
        "set.hidden": [[8], [8, 8]],
        "set.network": ["a/b", "a b", "a:b", "ü", "x" * 300],
        "prior": texts,
        "lr": [1e-3, 0.1],
    }
    given = spec(grid=lists)
    given["base"]["set"] = {}
    names = [cell.name for cell in cells_of(read_spec(given))]
    assert len({name.lower() for name in names}) == len(names) == 2 * 2 * 5 * 3 * 2
    assert all(re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name, re.ASCII) and len(name) < 170 for name in names)


WRONG = [
    ({"base": {}, "gird": {}}, "there is no 'gird'; did you mean grid?"),
    ({**SPEC, "grid": {}}, "[grid] lists nothing; give at least one list"),
    (spec(grid={"seed": []}), "[grid] seed: the list is empty"),
    (spec(grid={"seed": 3}), "[grid] seed = 3, expected a list"),
    (spec(grid={"seed": [0, 0]}), "[grid] seed: 0, twice in the list"),
    (spec(grid={"seed": [0, 1.5]}), "seed = 1.5, expected a whole number"),
    (spec(grid={"seed": [0, True]}), "[grid] seed = True, expected a number"),
    (spec(base={"seed": 3}), "[grid] seed: is in [base] too"),
    (spec(base={"lrr": 0.1}), "[base]: there is no 'lrr'; did you mean lr?"),
    (spec(base={"lr": "fast"}), "[base] lr = 'fast', expected a number"),
    (spec(base={"lr": -1}), "lr = -1, expected a positive number"),
    (spec(base={"views": "two"}), "[base] num_views = 'two', expected a number"),
    (spec(base={"num_views": 2}), "num_views is given twice, also as num_views"),
    (spec(base={"data": 3}), "[base] data = 3, expected a text"),
    (spec(base={"method": "SimVEA"}), "there is no method 'SimVEA'; did you mean SimVAE?"),
    (spec(base={"max_steps": 3}), "max_steps has no place here"),
    (spec(base={"device": "tpu"}), "device = 'tpu', expected auto, cpu or cuda"),
    (spec(base={"precision": "16"}), "precision = '16', expected"),
    (spec(base={"verify": 1}), "[base] verify = 1, expected true or false"),
    (spec(base={"validation": 2}), "[base] validation = 2, expected a fraction"),
    (spec(base={"set": 3}), "[base]: set = 3, expected settings of the method"),
    (spec(grid={"device": ["cpu"]}), "[grid]: there is no 'device'"),
    (spec(grid={"set": {"dim": [2, 3]}}), "[grid] set.dim: is in [base] too"),
    (spec(grid={"prior": ["Nothing"]}), "[grid] prior: there is no term 'Nothing'"),
    (spec(grid={"prior": ["LogLikelihood"]}), "[grid] prior: LogLikelihood fills reconstruction, not this slot"),
    (spec(grid={"prior": ["CosineAttraction:heat=1"]}), "term 'CosineAttraction:heat=1'"),
    (spec(grid={"prior": [3]}), "[grid] prior = 3, expected a text"),
    (
        spec(grid={"prior": ["CosineAttraction", "CosineAttraction:temperature = 0.5"]}),
        "'CosineAttraction' and 'CosineAttraction:temperature = 0.5' are the same, twice in the list",
    ),
    (spec(without=["method"]), "there is no method; give it in [base], as in method = 'SimVAE'"),
    (spec(without=["data"]), "there is no data"),
    # What only a look at data and method tells, still before the first fit:
    (spec(base={"set": {"dimm": 3}}), "SimVAE has no setting 'dimm'; did you mean dim?"),
    (spec(base={"batch_size": 61}), "batch_size = 61 groups, but there are 60 to train on"),
    (spec(base={"data": "digit"}), "data set 'digit' is unknown"),
]


@pytest.mark.parametrize(("given", "told"), WRONG, ids=[told[:40] for _, told in WRONG])
def test_a_wrong_spec_is_told_before_anything_is_fitted(given, told, tmp_path):
    with pytest.raises(SettingsError, match=re.escape(told)):
        run_grid(given, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_site_tells_terms_apart_that_have_the_same_words():
    prior = ["AssignmentAttraction", "AssignmentAttraction:site='z'"]
    assert len(cells_of(read_spec(spec(grid={"prior": prior})))) == 4


def test_a_file_that_is_missing_or_no_toml(tmp_path):
    with pytest.raises(SettingsError, match=r"none.toml: no such file"):
        read_spec(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[base\n")
    with pytest.raises(SettingsError, match=r"bad.toml: is no TOML \(Expected"):
        read_spec(tmp_path / "bad.toml")


def test_a_cell_that_does_not_go_together_stops_no_other(grid):
    found = of_grid(grid)
    assert {path.name for path in (grid / "cells").iterdir()} == set(FITTED)
    rows = {row["run"]: row for row in found.rows}
    assert set(rows) == {*FITTED, *LEFT_OUT}
    for name in LEFT_OUT:
        assert rows[name]["note"].startswith("SimVAE.swap: PredictorAttraction needs predictor")
        assert rows[name]["reconstruction"] == "LogLikelihood"  # as in the cells that have it of their own
        assert rows[name]["finished"] is False
    assert json.loads((grid / "grid.json").read_text()) == read_spec(SPEC)


def test_a_finished_grid_is_left_alone(grid):
    before = {path: path.stat().st_mtime_ns for path in grid.rglob("*")}
    again = run_grid(SPEC, grid, progress=False)
    assert {path: path.stat().st_mtime_ns for path in grid.rglob("*")} == before
    assert again.rows == of_grid(grid).rows


def test_another_grid_or_anything_else_in_the_folder_is_refused(grid, tmp_path):
    for other, told in (
        (spec(base={"lr": 0.5}), r"grid.json: is of another grid, with \[base\] lr = nothing, not 0.5"),
        (spec(grid={"seed": [0, 1, 2]}), r"with \[grid\] seed = \[0, 1\], not \[0, 1, 2\]; give another --out"),
    ):
        with pytest.raises(CheckpointError, match=told):
            run_grid(other, grid, progress=False)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="taken: exists, is not empty and holds no grid"):
        run_grid(SPEC, tmp_path / "taken", progress=False)


def test_stopped_twice_and_gone_on_is_the_same_as_never_stopped(grid, tmp_path, monkeypatch):
    """Once within a fit, once while evaluating: rows equal bit for bit, but for the clock."""
    out, run = tmp_path / "stopped", Batches.run
    one_seed = spec(grid={"seed": [0]})

    def stopping(self, first, last):
        for step, groups in run(self, first, last):
            if step == 2:  # its end is that of an epoch, where a line of metrics is written
                os.kill(os.getpid(), signal.SIGINT)
            yield step, groups

    def stopped(self, parts):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "run", stopping)
        with pytest.raises(Interrupted):
            run_grid(one_seed, out, progress=False)
    first = of_grid(out)
    assert [(row["run"], row["step"], row["finished"]) for row in first.rows] == [("own-seed0", 3, False)]
    assert "at step 3/6" in str(first)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "evaluate", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_grid(one_seed, out, progress=False)
    assert genssl.load(out / "cells" / "own-seed0").finished
    assert not (out / "cells" / "own-seed0" / "evaluation.json").exists()
    found = run_grid(one_seed, out, progress=False)
    whole = [row for row in of_grid(grid).rows if row["seed"] == 0]
    assert without_clock(found.rows) == without_clock(whole)
    assert len(whole) == 2


@pytest.mark.filterwarnings("ignore:SimVAE. collapse")
def test_cells_of_a_seed_see_the_same_batches_and_start_from_the_same_encoder(tmp_path, monkeypatch):
    """Cells of two reconstruction terms, which need other parts of the method."""
    seen, run = {}, Batches.run

    def noted(self, first, last):
        for step, groups in run(self, first, last):
            seen.setdefault(current[0], []).append((step, groups.x.clone(), groups.rows.clone()))
            yield step, groups

    monkeypatch.setattr(Batches, "run", noted)
    current, encoders = [""], {}
    terms = {"reconstruction": ["own", "ContrastiveNormaliser"], "prior": ["own"], "seed": [0, 1]}
    for epochs in (0, 1):
        for cell in cells_of(read_spec(spec(grid=terms, base={"epochs": epochs}))):
            current[0] = cell.name
            fitted = genssl.fit(out=tmp_path / f"{epochs}-{cell.name}", progress=False, **cell.arguments)
            if epochs == 0:
                encoders[cell.name] = fitted.method.encoder.state_dict()
                seen.pop(cell.name)  # steps on trial
    for seed in (0, 1):
        one, other = f"own-own-seed{seed}", f"ContrastiveNormaliser-own-seed{seed}"
        assert all(torch.equal(encoders[one][key], encoders[other][key]) for key in encoders[one])
        assert len(seen[one]) == len(seen[other]) >= 3
        for (step, x, rows), (step_of_other, x_of_other, rows_of_other) in zip(seen[one], seen[other], strict=True):
            assert step == step_of_other
            assert torch.equal(x, x_of_other)
            assert torch.equal(rows, rows_of_other)
    assert not torch.equal(seen["own-own-seed0"][0][1], seen["own-own-seed1"][0][1])
    a, b = (next(iter(encoders[f"own-own-seed{seed}"].values())) for seed in (0, 1))
    assert not torch.equal(a, b)


def test_a_run_that_diverged_is_kept_with_its_reason(grid, tmp_path):
    """Weights that are not finite are an error of that cell alone."""
    out = copied(grid, tmp_path / "copy")
    (out / "cells" / "own-seed0" / "evaluation.json").unlink()

    def broken(self, parts):
        raise NonFiniteError("evaluate: the fitted encoder is not finite")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "evaluate", broken)
        found = run_grid(SPEC, out, progress=False)
    row = next(row for row in found.rows if row["run"] == "own-seed0")
    assert row["note"] == "evaluate: the fitted encoder is not finite"
    assert row["finished"]
    assert "content.knn" not in row
    assert found.rows == run_grid(SPEC, out, progress=False).rows  # not tried again

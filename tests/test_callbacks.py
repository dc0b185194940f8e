"""Callbacks: what they get and when they are closed; TensorBoard's files read back, and no bit of the run changed."""

from __future__ import annotations

import copy
import json
import pickle
import sys

import pytest
import torch

import genssl
from genssl.callbacks import TensorBoard
from genssl.cli import main
from genssl.errors import SettingsError
from genssl.files import DiskError
from genssl.fit import checkpoint
from genssl.fit.metrics import SLOTS, Line, read

SMALL = {"settings": {"hidden": [16, 16], "dim": 4}, "num_views": 2, "batch_size": 16, "epochs": 4, "limit": 96}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tensorboard():
    return pytest.importorskip("tensorboard", reason="needs the extra tensorboard")


def fit(out, *callbacks, **settings):
    return genssl.fit("SimVAE", "digits", out=out, progress=False, callbacks=callbacks, **{**SMALL, **settings})


def scalars(folder):
    """{tag: {step: value}} of all that TensorBoard would show of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: {event.step: event.value for event in found.Scalars(tag)} for tag in found.Tags()["scalars"]
    }  # fmt: skip


def weights(run):
    return checkpoint.load(run.path / "checkpoint")["method"]


class Recorder:
    def __init__(self, fail_at=None):
        self.lines, self.closed, self.fail_at = [], 0, fail_at

    def __call__(self, line):
        self.lines.append(line)
        if line["step"] == self.fail_at:
            raise ValueError("of the user")

    def close(self):
        self.closed += 1


def test_a_callback_gets_every_line_and_the_looks_before_it(tmp_path):
    first, second = Recorder(), Recorder()
    run = fit(tmp_path / "run", lambda line: line.clear(), first, second, measure=[5, 7, 24])
    assert first.lines == second.lines == run.metrics
    assert first.lines[0] is not second.lines[0]
    assert all(isinstance(line, Line) and line.folder == run.path for line in first.lines)
    looks = {line["step"]: [look["step"] for look in line.measures] for line in first.lines if line.measures}
    assert looks == {6: [5], 10: [7], 24: [24]}
    assert [look for line in first.lines for look in line.measures] == read(run.path / "measures.jsonl")
    assert json.dumps(first.lines) == json.dumps(run.metrics)
    again = pickle.loads(pickle.dumps(first.lines[0]))
    assert (again, again.folder, again.measures) == (first.lines[0], run.path, first.lines[0].measures)


def test_callbacks_are_closed_however_the_fit_ends(tmp_path):
    good, bad = Recorder(), Recorder(fail_at=10)
    with pytest.raises(ValueError, match="of the user"):
        fit(tmp_path / "run", good, bad)
    assert (good.closed, bad.closed) == (1, 1)
    fit(tmp_path / "run", good, resume=True)
    assert good.closed == 2


def test_tensorboard_shows_what_the_lines_hold_and_changes_no_bit(tensorboard, tmp_path):
    run = fit(tmp_path / "shown", TensorBoard(), measure=[5, 24])
    alone = fit(tmp_path / "alone", measure=[5, 24])
    assert all(torch.equal(value, weights(alone)[key]) for key, value in weights(run).items())
    told = [{k: v for k, v in line.items() if k != "views_per_second"} for line in run.metrics]
    assert told == [{k: v for k, v in line.items() if k != "views_per_second"} for line in alone.metrics]

    found = scalars(run.path / "tensorboard")
    for slot in SLOTS:
        expected = {line["step"]: pytest.approx(line[slot], rel=1e-6) for line in run.metrics}
        assert found[f"terms/{slot}"] == expected
    assert found["knn"] == {24: pytest.approx(run.metrics[-1]["knn"])}
    looks = read(run.path / "measures.jsonl")
    rank = {look["step"]: pytest.approx(look["geometry"]["rankme"], rel=1e-6) for look in looks}
    assert found["measures/geometry/rankme"] == rank
    assert list(rank) == [5, 24]
    assert not {"step", "measures/step", "measures/split"} & set(found)


def test_a_run_that_goes_on_shows_every_step_once(tensorboard, tmp_path):
    board, place = TensorBoard(tmp_path / "board"), tmp_path / "run"
    fit(place, board, max_steps=14)
    # A killed run: what was written after its last checkpoint is done again, here with another value.
    board(Line({"step": 18, "epoch": 3, "elbo": 1e6}, place))
    board.close()
    run = fit(place, board, resume=True)
    found = scalars(tmp_path / "board")["terms/elbo"]
    assert found == {line["step"]: pytest.approx(line["elbo"], rel=1e-6) for line in run.metrics}
    assert not (run.path / "tensorboard").exists()


def test_a_board_that_writes_can_be_copied_and_pickled_between_fits(tensorboard, tmp_path):
    board = TensorBoard(tmp_path / "board")
    fit(tmp_path / "run", board, max_steps=3)
    for other in (copy.deepcopy(board), pickle.loads(pickle.dumps(board))):
        assert other.dir == board.dir


def test_a_folder_that_cannot_be_written(tensorboard, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="file: cannot write"):
        fit(tmp_path / "run", TensorBoard(tmp_path / "file"))


def test_without_tensorboard(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SettingsError, match=r"pip install 'genssl\[tensorboard\]'"):
        TensorBoard()
    assert main(["fit", "SimVAE", "--data", "digits", "--tensorboard"]) == 2
    assert "pip install 'genssl[tensorboard]'" in capsys.readouterr().err


def test_the_command(tensorboard, tmp_path, capsys):
    small = ["--data", "digits", "--limit", "96", "--views", "2", "--batch-size", "16", "--epochs", "1", "--no-report"]
    assert main(["fit", "SimVAE", *small, "--max-steps", "2", "--tensorboard", "--out", "run"]) == 0
    assert "--no-report --tensorboard" in capsys.readouterr().out
    assert list(scalars("run/tensorboard")["terms/elbo"]) == [2]
    assert main(["fit", "SimVAE", *small, "--resume", "--out", "run", "--tensorboard", "board"]) == 0
    assert list(scalars("board")["terms/elbo"]) == [6]

"""A run that is over goes on for longer, and says what ended it."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

import genssl
from genssl.cli import cli
from genssl.errors import SettingsError

SMALL = {"dim": 4, "hidden": [16]}


def fit(out, **given):
    start = {"settings": SMALL, "num_views": 2, "batch_size": 32, "limit": 96, "schedule": "constant"}
    start = {} if given.get("resume") else start
    return genssl.fit("SimVAE", "digits", out=out, progress=False, **start | given)


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.method.parameters()])


def test_more_epochs_are_those_of_a_longer_run_bit_for_bit(tmp_path):
    short = fit(tmp_path / "run", epochs=2)
    (short.path / "evaluation.json").write_text("{}")
    longer = fit(tmp_path / "run", epochs=4, resume=True)
    assert longer.finished
    assert longer.step == 12
    assert not (short.path / "evaluation.json").exists()  # it is of the shorter one
    assert torch.equal(weights(longer), weights(fit(tmp_path / "whole", epochs=4)))
    assert longer.config["lengthened"] == [{"steps": 6, "epochs": 2, "max_seconds": None}]
    again = fit(tmp_path / "run", resume=True)
    assert again.config["epochs"] == 4
    assert torch.equal(weights(again), weights(longer))


def test_a_longer_run_that_is_cut_goes_on_to_its_new_end(tmp_path):
    fit(tmp_path / "run", epochs=2)
    fit(tmp_path / "run", epochs=4, resume=True, max_steps=8)
    assert torch.equal(weights(fit(tmp_path / "run", resume=True)), weights(fit(tmp_path / "whole", epochs=4)))


def test_more_seconds_hold_more_steps(tmp_path):
    fit(tmp_path / "run", epochs=10**6, max_seconds=0.2)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    with pytest.raises(SettingsError, match=r"gives it no more than .* s held these of .* larger --max-seconds"):
        fit(tmp_path / "run", epochs=2 * 10**6, resume=True)
    longer = fit(tmp_path / "run", max_seconds=0.4, resume=True)
    assert longer.finished
    assert longer.step == 2 * config["steps"]
    said = CliRunner().invoke(
        cli, ["fit", "SimVAE", "--data", "digits", "--resume", "--out", str(longer.path), "--no-report"]
    )
    assert f"finished, {longer.step} steps: its 0.4 s held these of {10**6 * 3} steps" in said.output, said.output


def test_a_cosine_that_goes_up_again_is_told(tmp_path):
    fit(tmp_path / "run", epochs=1, schedule="cosine")
    with pytest.warns(UserWarning, match=r"3 steps become 6, and its cosine schedule spans all of them from here on"):
        fit(tmp_path / "run", epochs=2, resume=True)


def test_less_is_refused(tmp_path):
    fit(tmp_path / "run", epochs=2)
    with pytest.raises(SettingsError, match="was started with epochs = 2, not 1"):
        fit(tmp_path / "run", epochs=1, resume=True)

"""Figures of certainty for evaluation.json, and scores of strangeness against other data."""

from __future__ import annotations

import json

import pytest
import torch
from fake_runs import FakeRun, make_data
from genssl.models import SimCLR, SimVAE

from genssl import Groups
from genssl.errors import SettingsError
from genssl.posterior import certainty
from genssl.posterior.against import against
from genssl.posterior.strangeness import auroc, strangeness


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(certainty, "VIEWS", 60)
    monkeypatch.setattr(certainty, "DRAWS", 40)
    monkeypatch.setattr(certainty, "CALIBRATED", 100)


def run_of(path, cls=SimVAE, **settings):
    torch.manual_seed(1)
    return FakeRun(path, cls.build(make_data().example(2), dim=3, hidden=(8, 8), **settings), make_data())


def test_figures_of_a_proper_model(tmp_path):
    run = run_of(tmp_path, content_scale=1.0)
    weights = certainty.weight_figures(run)
    assert 0 <= weights["trusted"] <= 1
    assert 1 <= weights["effective_samples"] <= 40
    calibration = certainty.calibration_figures(run)
    assert set(calibration) == {"z", "y"}
    assert sum(calibration["z"]["histogram"]) == 3 * 100
    coverage = certainty.coverage_figures(run)
    assert set(coverage["observed"]["all"]) == {"0.5", "0.8", "0.9", "0.95"}
    risk = certainty.risk_figures(run)
    assert set(risk["curves"]) == {"confidence", "posterior_scale", "predictive_entropy"}
    last = risk["curves"]["confidence"]["risk"][-1]
    assert last == [1.0, pytest.approx(1 - risk["accuracy"])]
    for figures in (weights, calibration, coverage, risk):
        assert json.loads(json.dumps(figures)) == figures  # and nothing that JSON cannot hold


def test_reasons(tmp_path):
    flat = run_of(tmp_path)
    assert "flat" in certainty.calibration_figures(flat)
    decoderless = run_of(tmp_path, SimCLR)
    for measure in (certainty.weight_figures, certainty.calibration_figures, certainty.coverage_figures):
        assert measure(decoderless) == "the method has no model of x"
    assert set(certainty.risk_figures(decoderless)["curves"]) == {"confidence"}


def test_scores_against_other_data_are_areas_of_the_scores(tmp_path):
    run = run_of(tmp_path)
    g = torch.Generator().manual_seed(0)
    sharp = Groups((torch.rand(30, 2, *run.data.event_shape, generator=g) > 0.5).float())
    found = against(run, sharp, number=30, samples=30)
    assert found == json.loads((tmp_path / "against" / "groups.json").read_text())
    assert found["groups"] == [30, 30]
    assert (
        found["auroc"]["reconstruction"] > 0.9
    )  # an untrained decoder gives about 1/2 everywhere, which is far from 0 and 1
    one = strangeness(run, sharp, 30).scores["distance"]
    assert auroc(one, one) == pytest.approx(0.5)
    assert found == against(run, sharp, number=30, samples=30)


def test_other_shapes_are_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"shape \[1, 3, 3\], expected"):
        against(run_of(tmp_path), Groups(torch.rand(5, 2, 1, 3, 3)), number=5)

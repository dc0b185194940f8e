"""The tables of certainty show the figures they were given, and say what is missing."""

from __future__ import annotations

import json

from genssl.report.certainty import against_of, certainty, risk_drawing

CURVE = {
    "area": 0.123,
    "area_of_random": 0.456,
    "area_of_oracle": 0.078,
    "excess_ratio": 0.77,
    "risk": [[0.5, 0.1], [1.0, 0.2]],
}
FOUND = {
    "risk": {"accuracy": 0.8, "items": 40, "curves": {"confidence": CURVE}, "absent": {}},
    "coverage": {
        "observed": {"all": {"0.5": 0.611, "0.8": 0.7, "0.9": 0.8, "0.95": 0.9}},
        "next_view": {},
        "constant_share": 0.25,
        "absent": {},
    },
    "weights": {"groups": 9, "views": 3, "draws": 100, "trusted": 0.321, "pareto_k": 1.75, "effective_samples": 2.4},
    "calibration": {"y": {"p_value": 0.0123, "coverage": {"0.5": 0.444}, "histogram": [1, 2]}},
}
AGAINST = {
    "data": "<mnist>",
    "groups": [5, 6],
    "views": 3,
    "samples": 64,
    "standard_error": 0.22,
    "auroc": {"negative_elbo": 0.31, "distance": 0.66},
    "absent": {"pareto_k": "too few draws"},
}


def test_every_figure_is_in_its_table():
    page = certainty({"certainty": FOUND}, [AGAINST])
    for shown in (
        "0.123",
        "0.77",
        "0.456",
        "0.078",
        "61.1%",
        "25%",
        "32.1%",
        "1.75",
        "2.4",
        "44.4%",
        "0.012",
        "0.310",
        "0.660",
    ):
        assert shown in page, shown
    assert "LESS strange than the run's own: negative elbo." in page.replace("&#x27;", "'")
    assert "No pareto k: too few draws." in page
    assert "&lt;mnist&gt;" in page
    assert "<mnist>" not in page


def test_what_is_missing_is_told():
    page = certainty(
        {"certainty": {"risk": None}, "notes": {"certainty.risk": "no labels", "certainty.weights": "a & b"}}
    )
    assert "No risk: no labels." in page
    assert "a &amp; b" in page
    assert certainty({}) == ""
    assert risk_drawing({}).figure is None
    assert "accuracy 80.0% on 40 test items" in risk_drawing({"certainty": FOUND}).caption


def test_files_of_other_data_are_read_and_damaged_ones_passed_over(tmp_path):
    (tmp_path / "against").mkdir()
    (tmp_path / "against" / "a.json").write_text(json.dumps(AGAINST))
    (tmp_path / "against" / "b.json").write_text("{")
    (tmp_path / "against" / "c.json").write_text("[]")
    assert against_of(tmp_path) == [AGAINST]

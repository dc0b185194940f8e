"""A run whose evaluation.json or metrics.jsonl is not what a run writes: told in a sentence that names the file, never a traceback."""

from __future__ import annotations

import copy
import json
import random

import pytest
from fake_runs import fake_run
from test_html import CONFIG, EVALUATION, METRICS, page_of, prepared  # noqa: F401

from genssl.compare.rows import row_of
from genssl.evaluation import reading
from genssl.evaluation.reading import problems, read_evaluation
from genssl.fit import metrics
from genssl.kinds import MAYBE, NUMBER, TEXT, fault
from genssl.report import bars, figures
from genssl.report.certainty import certainty, risk_drawing
from genssl.report.distrust import distrust
from genssl.report.drawing import Drawing, draw
from genssl.report.looking import Look
from genssl.report.side_by_side import comparison
from genssl.report.tables import results

ODD = (
    None,
    True,
    -1,
    10**400,
    float("inf"),
    "x",
    "\ud800",
    [],
    [1],
    [[1, 2]],
    {},
    {"a": 1},
    {"test": "x"},
    {"a": None},
)
KEPT = {"method": "SimVAE", "data": "digits", "settings": {}, "replaced": {}, "seed": 0, "num_views": 2, "epochs": 1, "batch_size": 4,
        "lr": 0.1, "optimizer": "adam", "schedule": "cosine", "clip": None, "precision": "32", "device": "cpu", "threads": 1,
        "versions": {}, "steps": 20, "event_shape": [1, 6, 6], "data_description": {}}  # fmt: skip


def made(kind, name=""):
    """A value of a kind, with every name that is read."""
    if isinstance(kind, str):
        return "continuous" if kind == TEXT else 0.25
    if isinstance(kind, dict):
        return {("1" if key[0] == "*" else key): made(each, key) for key, each in kind.items()}
    return [made(each) for each in kind]


def places(value, place=()):
    yield place
    if isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(each, (*place, key))


def changed(value, place, to):
    """A copy with another value there."""
    if not place:
        return to
    value = copy.deepcopy(value)
    at = value
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = to
    return value


def cases(number=150):
    whole, draws = made(reading.EVALUATION), random.Random(0)
    every = [(place, odd) for place in places(whole) for odd in ODD]
    first = [(place, odd) for place, odd in every if len(place) < 3]
    return [changed(whole, place, odd) for place, odd in first + draws.sample(every, number)]


def test_whatever_stands_in_an_evaluation_is_read_or_told(tmp_path, monkeypatch):
    """Every part, replaced by what is no such thing: every reader of it works, or the sentence names file, place and remedy."""
    for drawn in ("grouped", "against"):
        monkeypatch.setattr(bars, drawn, lambda *parts, **_: list(parts))
    monkeypatch.setattr(
        figures, "spectrum", lambda parts: [[value > 0 for value in values] for values in parts.values()]
    )
    monkeypatch.setattr("genssl.report.side_by_side.pictures", lambda *_: "")
    run = fake_run(tmp_path, config=KEPT, metrics=METRICS)
    (tmp_path / "config.json").write_text(json.dumps(KEPT))
    path, told, used = tmp_path / "evaluation.json", 0, 0
    for found in cases():
        path.write_text(json.dumps(found))
        evaluation, wrong = read_evaluation(tmp_path)
        assert row_of(tmp_path)["note"] == wrong
        if wrong:
            assert wrong.startswith(f"{path}: is no evaluation (")
            assert wrong.endswith("; genssl evaluate writes it again")
            assert "\n" not in wrong
            told += 1
            continue
        used += 1
        results(evaluation)
        certainty(evaluation)
        risk_drawing(evaluation)
        drawings = draw(run, Look(why_not="not looked at"), evaluation)
        distrust(run, evaluation, drawings | {"samples": Drawing("", ""), "map": Drawing("", "")})
        comparison(["a", "b"], [run, run], [Look(), Look()], [evaluation, evaluation], tmp_path)
    assert min(told, used) > 50
    assert draw(run, Look(why_not="not looked at"), made(reading.EVALUATION))["spectrum"].figure is not None


def test_what_is_wrong_is_named_by_its_place():
    kind = {"a": {"*": {"b": MAYBE}}, "points": [(NUMBER, NUMBER)]}
    assert fault({"a": {"x": {"b": None}, "y": {}}, "points": [[1, 2.5]], "c": []}, kind) == ""
    assert fault({"a": {"x": {"b": "1"}}}, kind) == "a.x.b is '1', expected a number or null"
    assert fault({"a": {"x": None}}, kind) == "a.x is null, expected an object"
    assert fault({"points": [[1, 2], [1]]}, kind) == "points.1 is a list, expected a list of 2"
    assert fault({"points": [[1, None]]}, kind) == "points.0.1 is null, expected a number"
    assert fault([], kind) == "it is a list, expected an object"


@pytest.mark.parametrize(
    ("evaluation", "told"),
    [
        ('{"content": {"knn"', "damaged (Expecting"),
        ("[1]", "is no evaluation (it is a list, expected an object)"),
        ("null", "is no evaluation (it is null, expected an object)"),
        ('{"content": {"knn": 0.5}}', "is no evaluation (content.knn is 0.5, expected an object)"),
        ('{"generation": {"mse": "low"}}', "is no evaluation (generation.mse is 'low', expected a number or null)"),
    ],
)
def test_the_page_and_a_warning_name_an_evaluation_that_is_none(evaluation, told, tmp_path):
    run = fake_run(tmp_path, config=CONFIG, metrics=METRICS)
    (tmp_path / "evaluation.json").write_text(evaluation)
    with pytest.warns(UserWarning, match="evaluation.json") as seen:
        page = page_of(run, None)
    (sentence,) = {str(each.message) for each in seen}
    assert sentence.startswith(f"{tmp_path / 'evaluation.json'}: {told}")
    assert sentence.endswith("; genssl evaluate writes it again")
    assert (
        " ".join(page.text.split()).count(" ".join(sentence.split())) == 2
    )  # in place of the tables, and under what to distrust


def test_a_torn_last_line_is_nothing_and_a_damaged_one_is_told(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(line) for line in METRICS]
    path.write_text("\n".join(lines)[:-20])
    assert len(metrics.read(path)) == len(METRICS) - 1
    assert problems(tmp_path) == []
    wrong = (
        '{"step": 3, "prior": "x"}', '{"step": true}', "[]", '{"step": 3, "elbo": [1]}', '{"st', f'{{"step": {10**400}}}'
    )  # fmt: skip
    for line in wrong:
        path.write_text("\n".join([*lines[:2], line, *lines[3:]]) + "\n")
        assert [each["step"] for each in metrics.read(path)] == [line["step"] for line in METRICS if line["step"] != 3]
        assert problems(tmp_path) == [
            f"{path}: line 3 is damaged and left out; restore the file, or delete what is damaged"
        ]
    path.write_text("\n".join(["x", "y", *lines, "z"]) + "\n")
    run = fake_run(tmp_path, config=CONFIG, metrics=metrics.read(path))
    with pytest.warns(UserWarning, match="metrics.jsonl: line 1 and 2 more are damaged and left out"):
        page = page_of(run, EVALUATION)
    assert "line 1 and 2 more are damaged and left out" in page.text


def test_measures_may_hold_anything(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(KEPT))
    path = tmp_path / "measures.jsonl"
    for odd in (*ODD, {"deep": {"prior": [1]}}):
        path.write_text(json.dumps({"step": 1, "prior": odd, "entropy": {"posterior": odd}}) + '\n{"step": 2, "pr')
        assert row_of(tmp_path)["note"] == ""
    path.write_text('{"step": 1}\n[2]\n')
    assert row_of(tmp_path)["note"].startswith(f"{path}: line 2 is damaged and left out")

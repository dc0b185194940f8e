"""Rows and tables: what a folder tells, and means and intervals against numpy and scipy."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil

import numpy as np
import pytest
from scipy import stats
from small_grids import copied

from genssl.compare import writers
from genssl.compare.columns import main_columns, written
from genssl.compare.comparison import of_runs
from genssl.compare.page import page
from genssl.compare.rows import flat, row_of
from genssl.compare.run import of_grid
from genssl.compare.table import Spread, aggregate, differing, shared, spread_of
from genssl.errors import CheckpointError, SettingsError


def made(seed=0, **values):
    """A row with little in it."""
    row = {
        "run": f"run{seed}",
        "method": "VAE",
        "data": "digits",
        "seed": seed,
        "reconstruction": "A(t=1)",
        "entropy": "B",
        "prior": "C",
    }
    return row | {"lr": 0.1, "steps": 3, "step": 3, "finished": True, "foretold": [], "note": ""} | values


@pytest.fixture
def run(grid, tmp_path):
    """A copy of one finished run."""
    return copied(grid / "cells" / "own-seed0", tmp_path / "run")


def test_a_row_tells_what_the_folder_holds(run):
    row, config = row_of(run), json.loads((run / "config.json").read_text())
    evaluation = json.loads((run / "evaluation.json").read_text())
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert (row["method"], row["data"], row["seed"], row["views"], row["batch"]) == ("SimVAE", "digits", 0, 2, 20)
    assert (row["steps"], row["step"], row["finished"]) == (6, 6, True)
    assert [row[slot] for slot in ("reconstruction", "entropy", "prior")] == list(config["slots"].values())
    assert row["set.hidden"] == [8]
    assert row["terms.prior"] == pytest.approx(np.mean([line["prior"] for line in metrics]), rel=1e-12)
    seconds = sum(
        (b["step"] - a) * 20 * 2 / b["views_per_second"]
        for a, b in zip([0, *[m["step"] for m in metrics]], metrics, strict=False)
    )
    assert row["seconds"] == pytest.approx(seconds, rel=1e-12)
    for probe in ("knn", "linear", "mlp"):
        assert row[f"content.{probe}"] == evaluation["content"][probe]["test"]
        assert row[f"random.{probe}"] == evaluation["random_encoder"]["content"][probe]["test"]
    for source in ("z", "content", "residual"):
        factors = evaluation["style"]["views"][source]
        for how in ("linear", "kernel"):
            scores = {name: values[how]["test"] for name, values in factors.items()}
            assert row[f"style.views.{source}.{how}"] == pytest.approx(np.mean(list(scores.values())), rel=1e-12)
            assert all(row[f"style.views.{source}.{how}.{name}"] == value for name, value in scores.items())
    assert row["mse"] == evaluation["generation"]["mse"]
    assert str(run.parent) not in json.dumps(row)


def test_a_category_is_no_part_of_the_mean_of_r2(run):
    score = {"linear": {"test": 0.25}, "kernel": {"test": 0.5}}
    factors = {
        "x": {"kind": "continuous", **score},
        "shape": {"kind": "categorical", "linear": {"test": 0.9}, "kernel": {"test": 1.0}},
    }
    (run / "evaluation.json").write_text(json.dumps({"style": {"items": {"z": factors}, "views": None}}))
    row = row_of(run)
    assert (row["style.items.z.linear"], row["style.items.z.kernel"]) == (0.25, 0.5)
    assert row["style.items.z.linear.shape"] == 0.9
    assert row["mse"] is None


def test_axes_and_samples_have_a_table_of_their_own_where_they_were_measured(run):
    axes = {
        "points": 9,
        "disentanglement": 0.31,
        "completeness": 0.22,
        "informativeness": 0.9,
        "mig": 0.13,
        "factors": {},
    }
    sets = {"reconstructions": 0.1, "samples": 0.25, "reference": 0.01}
    kinds = {
        "kernel": {"samples": -0.002},
        "precision": {"samples": 0.612},
        "recall": {"samples": 0.443, "reference": 0.9},
    }
    found = {
        "style": {"items": None, "views": {"axes": axes}},
        "random_encoder": {"style": {"items": None, "views": {"axes": axes | {"disentanglement": 0.07}}}},
        "generation": {"frechet": {"items": 500, "features": "x", **sets, **kinds}},
    }
    (run / "evaluation.json").write_text(json.dumps(found))
    row = row_of(run)
    told = {"axes.views.mig": 0.13, "axes.views.informativeness": 0.9, "axes.views.random.disentanglement": 0.07,
            "frechet.samples": 0.25, "frechet.reference": 0.01, "kernel.samples": -0.002, "recall.reference": 0.9}  # fmt: skip
    assert {name: row[name] for name in told} == told
    main, _, below = writers.text([row]).partition("\n\n")
    head, line, legend = (" ".join(text.split()) for text in below.splitlines())
    assert legend.startswith("rankme, uniformity, alignment, variance within: of what the terms compare")
    assert head.endswith(
        " prior n DCI D views random D views DCI C views MIG views Frechet kernel precision % recall %"
    )
    assert line.endswith(" 1 0.31 0.07 0.22 0.13 0.2500 -0.002000 61.2 44.3")
    assert "DCI" not in main
    assert "### Coordinates of z, and samples" in writers.markdown([row])
    assert "Samples of each class" in page(of_runs([run]))
    (run / "evaluation.json").write_text("{}")
    assert "DCI" not in writers.text([row_of(run)]) + writers.markdown([row_of(run)]) + page(of_runs([run]))


def test_measures_are_taken_as_they_come(run):
    lines = [
        {"step": 1, "old": 1.0},
        {"step": 3, "rank": 2.5, "terms": {"prior": {"mean": -1.0}, "unit": "nats"}, "none": None},
    ]
    (run / "measures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn')
    row = row_of(run)
    told = {name: value for name, value in row.items() if name.startswith("measures.")}
    assert told == {
        "measures.rank": 2.5,
        "measures.terms.prior.mean": -1.0,
        "measures.terms.unit": "nats",
        "measures.none": None,
    }
    (line,) = aggregate([row])
    assert {name for name in line.measures if name.startswith("measures.")} == {
        "measures.rank",
        "measures.terms.prior.mean",
    }
    assert dict(flat({"a": {"b": {"c": 1}}, "d": 2})) == {"a.b.c": 1, "d": 2}


def test_what_is_missing_is_blank_and_what_is_damaged_is_named(run):
    for name in ("evaluation.json", "metrics.jsonl", "measures.jsonl"):
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / "checkpoint")
    config = json.loads((run / "config.json").read_text())
    for name in ("foretold", "slots"):
        config.pop(name, None)
    (run / "config.json").write_text(json.dumps(config))
    row = row_of(run)
    assert (row["step"], row["finished"], row["seconds"], row["foretold"], row["note"]) == (0, False, None, [], "")
    assert "at step 0/6" in writers.text([row])
    (run / "evaluation.json").write_text("{")
    assert "evaluation.json: damaged" in row_of(run)["note"]
    with pytest.raises(CheckpointError, match="no such run folder"):
        row_of(run / "nothing")


def test_means_and_intervals_against_numpy_and_scipy():
    values = [0.81, 0.84, 0.79]
    (line,) = aggregate([made(seed, **{"content.knn": value, "mse": None}) for seed, value in enumerate(values)])
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    found = line.measures["content.knn"]
    assert found.mean == pytest.approx(np.mean(values), rel=1e-14)
    assert found.half == pytest.approx((high - low) / 2, rel=1e-12)
    assert found.n == 3
    assert (line.seeds, "mse" in line.measures, "lr" in line.measures, "seed" in line.measures) == (
        [0, 1, 2],
        False,
        False,
        False,
    )
    assert spread_of([2.0]) == Spread(2.0, None, 1)


def test_what_is_one_line_and_what_is_not():
    rows = [made(0), made(1), made(2, lr=0.2), made(3, prior="D"), made(4, finished=False), made(5, **{"set.dim": 3})]
    assert [line.seeds for line in aggregate(rows)] == [[0, 1], [2], [3], [4], [5]]
    assert differing(rows) == ["lr", "set.dim"]
    assert shared(rows) == {"method": "VAE", "data": "digits", "reconstruction": "A(t=1)", "entropy": "B"}
    assert differing([]) == [] == list(shared([]))


def test_a_seed_run_twice_counts_once_and_gaps_are_no_numbers():
    rows = [made(0, mse=1.0), made(0, run="again", mse=3.0), made(1, mse=6.0), made(2, mse=None), made(3, mse=math.nan)]
    (line,) = aggregate(rows)
    assert line.measures["mse"].mean == 4.0
    assert line.measures["mse"].n == 2
    assert line.measures["mse"].half == pytest.approx(
        stats.t.ppf(0.975, 1) * np.std([2, 6], ddof=1) / np.sqrt(2), rel=1e-12
    )


def test_csv_has_every_number_in_full(grid):
    found = of_grid(grid)
    read = list(csv.DictReader(io.StringIO(writers.csv_of(found.rows))))
    assert [row["run"] for row in read] == [row["run"] for row in found.rows]
    for told, row in zip(read, found.rows, strict=True):
        for name, value in row.items():
            if isinstance(value, float):
                assert float(told[name]) == value
        assert told["set.hidden"] == "[8]"
        assert told["note"] == row["note"]


def test_markdown_is_a_table_whatever_is_in_it():
    rows = [made(0, prior="a|b<c>", mse=0.1), made(1, prior="a|b<c>", mse=0.3, note="why | not")]
    text = writers.markdown(rows)
    head, rule, body = text.splitlines()[:3]
    assert len(head) == len(rule) == len(body)
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["reconstruction", "entropy", "prior", "n", "mse"]
    assert r"a\|b&lt;c>" in body
    assert "0.2000 ±1.2706" in body
    assert r"- why \| not (run1)" in text


def test_the_table_of_a_terminal():
    """Settings of a term where its name alone does not tell which; headings over numbers; what differs beside the slots."""
    rows = [
        made(0, **{"content.knn": 0.8123}), made(1, **{"content.knn": 0.8}), made(0, reconstruction="A(t=2)", lr=0.2),
        made(0, reconstruction="Z(q=1)"),
    ]  # fmt: skip
    lines = writers.text(rows).splitlines()
    assert lines[0].split() == ["reconstruction", "entropy", "prior", "lr", "n", "knn", "%"]
    assert lines[1].split() == ["A(t=1)", "B", "C", "0.1", "2", "80.6", f"±{100 * spread_of([0.8123, 0.8]).half:.1f}"]
    assert lines[2].split() == ["A(t=2)", "B", "C", "0.2", "1"]
    assert lines[3].split()[0] == "Z"
    assert writers.text([]) == "No runs yet."


@pytest.mark.parametrize(
    ("spread", "form", "expected"),
    [
        (Spread(0.8123, 0.0123, 3), "percent", "81.2 ±1.2"),
        (Spread(-0.046, None, 1), "fixed", "-0.05"),
        (Spread(1234.56, 10.0, 2), "figures", "1235 ±10"),
        (Spread(-12.345, None, 1), "figures", "-12.35"),
        (Spread(0.00123456, 0.0001, 2), "figures", "0.001235 ±0.000100"),
        (Spread(1.23e-12, 1e-12, 2), "figures", "1.23e-12 ±1.0e-12"),
        (Spread(0.0, 0.0, 2), "figures", "0.0 ±0.0"),
        (Spread(35.123, None, 1), "short", "35.1"),
        (None, "fixed", ""),
    ],
)
def test_rounding(spread, form, expected):
    assert written(spread, form) == expected


def test_the_measures_that_tell_a_collapse_are_in_the_main_table():
    row = made(
        0, **{"measures.geometry.rankme": 2.0, "measures.geometry.lidar": 3.0, "measures.sphere.uniformity": -1.0}
    )
    assert [column.heading for column in main_columns(aggregate([row]))] == ["rankme", "uniformity"]


def test_the_same_folder_twice_and_names_that_clash(grid, run, tmp_path):
    assert len(of_runs([run, run, tmp_path / "." / "run"]).rows) == 1
    other = copied(run, tmp_path / "deep" / "run")
    assert [row["run"] for row in of_runs([run, other]).rows] == [str(run), str(other)]
    with pytest.raises(SettingsError, match="no runs given"):
        of_runs([])


def test_a_measure_of_fewer_seeds_tells_its_own_number():
    """Its interval is of those alone, whatever the line's n."""
    rows = [made(0, **{"content.knn": 0.9}), made(1, **{"content.knn": 0.92}), made(2)]
    (line,) = aggregate(rows)
    assert (len(line.seeds), line.measures["content.knn"].n) == (3, 2)
    assert f"91.0 ±{100 * spread_of([0.9, 0.92]).half:.1f} (n 2)" in writers.text(rows)
    assert "(n " not in writers.text(rows[:2])

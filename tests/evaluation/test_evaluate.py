"""evaluation.json of a small run: what is in it, what it leaves behind, and what happens where something is missing."""

from __future__ import annotations

import importlib
import json
import shutil

import pytest
import torch
from fake_runs import Blind, Point, fake_run, images, make_data

from genssl.errors import NonFiniteError
from genssl.evaluation import CORE, evaluate, knn, known_style
from genssl.evaluation.items import batches, count, labels_of, spaced
from genssl.files import DiskError
from genssl.groups import Groups


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    """Style has its own tests."""
    monkeypatch.setattr(known_style, "KERNEL_POINTS", 50)


@pytest.fixture
def quick(monkeypatch):
    """Without the MLP probe, which has its own tests."""
    module = importlib.import_module("genssl.evaluation.stages")
    monkeypatch.setattr(module, "mlp_probe", lambda *parts, seed: {"validation": 0.5, "test": 0.5, "test_best": 0.5})


def test_what_is_measured(tmp_path):
    run = fake_run(tmp_path)
    figures = evaluate(run, CORE)
    assert figures == json.loads((tmp_path / "evaluation.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation", "evaluation.json"]
    for content in (figures["content"], figures["random_encoder"]["content"]):
        assert set(content) == {"knn", "linear", "mlp"}
        for values in content.values():
            assert all(0 <= values[name] <= 1 for name in ("validation", "test", "test_best"))
            assert values["test"] <= values["test_best"]
    assert figures["protocol"]["sizes"] == {"train": 300, "validation": 90, "test": 120}
    assert figures["protocol"]["seed"] == 3
    run.method.eval()
    with torch.no_grad():
        parts = [
            part
            for split in (run.data.train, run.data.validation, run.data.test)
            for part in (run.method.encode(split.floats()).mean, split.label)
        ]
        test = run.data.test.floats()
        mse = (run.method.decode(run.method.encode(test).mean) - test).square().mean()
    assert figures["content"]["knn"] == knn(*parts)
    assert figures["generation"]["mse"] == pytest.approx(float(mse), rel=1e-6)


def test_the_random_encoder_is_measured_by_itself(tmp_path, quick):
    run = fake_run(tmp_path)
    before = evaluate(run, CORE)
    shutil.rmtree(tmp_path / "evaluation")
    run.random_encoder = lambda: Blank(run.method.event)
    figures = evaluate(run, CORE)
    assert figures["content"] == before["content"]
    assert figures["random_encoder"]["content"]["linear"]["test"] < 0.5 < figures["content"]["linear"]["test"]


class Blank(Blind):
    """An encoder that sees nothing."""

    def encode(self, x):
        return Point(torch.zeros(len(x), 3))


def test_leaves_the_run_bit_identical(tmp_path, quick):
    run = fake_run(tmp_path)
    run.method.train()
    before = {name: value.clone() for name, value in run.method.state_dict().items()}
    generator = torch.get_rng_state()
    first = evaluate(run)
    assert all(torch.equal(value, before[name]) for name, value in run.method.state_dict().items())
    assert all(child.training for child in run.method.modules())
    assert torch.equal(torch.get_rng_state(), generator)
    shutil.rmtree(tmp_path / "evaluation")
    assert evaluate(run) == first


def test_without_labels_content_is_null_with_a_reason(tmp_path):
    figures = evaluate(fake_run(tmp_path, labelled=False), CORE)
    assert figures["content"] is None
    assert figures["random_encoder"]["content"] is None
    assert "no labels" in figures["notes"]["content"]
    assert figures["generation"]["mse"] > 0


def test_without_a_validation_split_nothing_is_chosen_on_test(tmp_path):
    figures = evaluate(fake_run(tmp_path, validation=None), CORE)
    assert figures["content"] is None
    assert "no validation items" in figures["notes"]["content"]


def test_without_a_decoder_or_with_one_that_was_never_trained(tmp_path, quick):
    run = fake_run(tmp_path, Blind())
    assert evaluate(run, CORE)["generation"]["mse"] is None
    run = fake_run(tmp_path)
    run.method.objective = torch.nn.Module()
    run.method.objective.needs = frozenset({"model"})
    figures = evaluate(run, CORE)
    assert figures["generation"]["mse"] is None
    assert "no trained decoder" in figures["notes"]["generation.mse"]
    run.method.objective.needs = frozenset({"model", "decoder"})
    assert evaluate(run, CORE)["generation"]["mse"] > 0


def test_a_diverged_run_is_an_error_on_one_line(tmp_path):
    run = fake_run(tmp_path)
    with torch.no_grad():
        run.method.encoder[1].weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"encoder\.1\.weight is not finite") as error:
        evaluate(run)
    assert "\n" not in str(error.value)
    run = fake_run(tmp_path)
    run.represent = lambda x: torch.full((len(x), 3), float("inf"))
    with pytest.raises(NonFiniteError, match="300 of 300 train representations"):
        evaluate(run)
    assert not (tmp_path / "evaluation.json").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path, quick, monkeypatch):
    (tmp_path / "evaluation.json").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(DiskError, match="disk is full"):
        evaluate(fake_run(tmp_path), CORE)
    assert (tmp_path / "evaluation.json").read_text() == "old"
    assert [path.name for path in tmp_path.rglob("*.*")] == ["evaluation.json"]


def natural_groups(number, seed):
    items = images(seed, 2 * number)
    mask = torch.ones(number, 2, dtype=torch.bool)
    mask[0, 1] = False
    return Groups(items.floats().unflatten(0, (number, 2)), mask, label=items.label.unflatten(0, (number, 2)))


def test_each_view_of_natural_groups_is_an_item(tmp_path, quick):
    splits = {"train": natural_groups(60, 0), "validation": natural_groups(20, 1), "test": natural_groups(20, 2)}
    run = fake_run(tmp_path)
    run.data = make_data(**splits)
    figures = evaluate(run)
    assert figures["protocol"]["sizes"] == {"train": 119, "validation": 39, "test": 39}
    assert figures["content"]["linear"]["test"] > 0.5


def test_several_modalities_are_told(tmp_path):
    parts = [torch.rand(8, 3), torch.rand(8, 5)]
    run = fake_run(tmp_path)
    run.data = make_data(**{name: Groups(parts, label=torch.zeros(8)) for name in ("train", "validation", "test")})
    figures = evaluate(run)
    assert "several modalities" in figures["notes"]["content"]
    assert figures["generation"]["mse"] is None


def test_a_limited_split_is_drawn_in_order_and_knows_no_grid():
    items = images(0, 100)
    rows = spaced(100, 10)
    assert torch.equal(rows, rows.unique())
    assert (len(rows), spaced(5, 9).tolist(), len(spaced(0, 9))) == (10, [0, 1, 2, 3, 4], 0)
    assert torch.equal(rows, spaced(100, 10))
    for period in (2, 8, 32, 40):  # factors of data that are a grid
        shares = (spaced(320000, 10000) % period).bincount(minlength=period) * period / 10000
        assert (shares - 1).abs().max() < 0.3
    (x, label), *rest = batches(items, 10)
    assert torch.equal(x, items.floats(rows))
    assert torch.equal(label, items.label[rows])
    assert rest == []
    assert sum(len(x) for x, _ in batches(items)) == count(items) == 100
    assert list(batches(None)) == []
    assert labels_of(None) is None

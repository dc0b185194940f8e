"""Stages are measured once for the same weights, data, settings and code, and an interrupted evaluation goes on."""

from __future__ import annotations

import importlib
import importlib.util
import json
import warnings

import pytest
import torch
from fake_runs import FakeRun, fake_run, images, make_data

from genssl.datasets.items import Items
from genssl.errors import SettingsError
from genssl.evaluation import evaluate
from genssl.evaluation.cache import Cache, code_files
from genssl.evaluation.fresh_views import no_groups
from genssl.files import DiskError
from genssl.groups import Groups
from genssl.views import Identity

STAGES = importlib.import_module("genssl.evaluation.stages").STAGES


@pytest.fixture
def measured():
    """Two stages that tell when they run, in place of the real ones."""
    seen: list[str] = []

    def stage(name, found):
        def measure(examined):
            seen.append(name)
            if isinstance(found, BaseException):
                raise found
            return found

        return measure

    before = dict(STAGES)  # in their order, which monkeypatch would turn round
    STAGES.clear()
    STAGES["one"] = stage("one", {"value": float("nan"), "pair": (1, 2)})
    STAGES["two.a"] = stage("two.a", "there is nothing")
    STAGES["two.b"] = stage("two.b", 3.0)
    yield seen
    STAGES.clear()
    STAGES.update(before)


def test_the_second_call_measures_nothing_and_gives_the_same(tmp_path, measured):
    run = fake_run(tmp_path)
    first = evaluate(run)
    assert measured == ["one", "two.a", "two.b"]
    assert first["one"] == {"value": None, "pair": [1, 2]}  # as JSON holds it, the first time too
    assert first["two"] == {"a": None, "b": 3.0}
    assert first["notes"] == {"two.a": "there is nothing"}
    assert evaluate(run) == first == json.loads((tmp_path / "evaluation.json").read_text())
    assert len(measured) == 3


def change_weights(run):
    with torch.no_grad():
        run.method.decoder.bias[0] += 1e-6


def change_buffers(run):
    run.method.encoder[2].running_mean[0] += 1e-6


def change_setting(run):
    run.config = run.config | {"precision": "bf16"}


def change_item(run):
    split = run.data.test
    x = split.x.clone()
    x[5, 0, 0, 0] += 1e-3
    run.data.test = Items(x, split.label)


def change_label(run):
    run.data.train.label[7] = (run.data.train.label[7] + 1) % 3


def change_kind(run):
    splits = {"train": 300, "validation": 90, "test": 120}
    run.data = make_data(**{name: Groups(images(0, n).floats()[:, None]) for name, n in splits.items()})


def change_objective(run):
    run.method.objective = torch.nn.Module()
    run.method.objective.needs = frozenset({"model"})


def change_attribute(run):
    run.method.view_scale = 0.9


def change_attribute_of_a_part(run):
    run.method.encoder[2].eps = 1e-3


def change_style_kinds(run):
    run.data.test.style_kinds = ("circular",)


def change_style_names(run):
    run.data.train.style_names = ("angle",)


def change_views(run):
    run.data.views = Identity()


@pytest.mark.parametrize(
    "change",
    [
        change_weights, change_buffers, change_setting, change_item, change_label, change_kind, change_objective, change_attribute,
        change_attribute_of_a_part, change_style_kinds, change_style_names, change_views,
    ],
)  # fmt: skip
def test_what_figures_depend_on_is_measured_anew(tmp_path, measured, change):
    run = fake_run(tmp_path)
    evaluate(run)
    change(run)
    evaluate(run)
    assert len(measured) == 6


def test_the_index_of_groups_is_measured_anew(tmp_path, measured):
    """Groups of one index are one item."""
    splits = {"train": 300, "validation": 90, "test": 120}
    run = fake_run(tmp_path)
    run.data = make_data(**{name: Groups(images(0, n).floats()[:, None]) for name, n in splits.items()})
    evaluate(run)
    run.data.test.index = run.data.test.index // 2
    evaluate(run)
    assert len(measured) == 6


def test_the_code_is_all_that_figures_come_from():
    names = {path.name for path in code_files()}
    assert {
        "objective.py",
        "groups.py",
        "sites.py",
        "representation.py",
        "precision.py",
        "memory.py",
        "knn.py",
    } <= names
    assert not {"cli.py", "callbacks.py"} & names


def test_other_code_measures_anew(tmp_path, measured, monkeypatch):
    evaluate(fake_run(tmp_path))
    monkeypatch.setattr("genssl.evaluation.cache._code", lambda: "other")
    evaluate(fake_run(tmp_path))
    assert len(measured) == 6


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": 1}', "\xff"])
def test_a_damaged_file_counts_as_none(tmp_path, measured, damage):
    run = fake_run(tmp_path)
    evaluate(run)
    (tmp_path / "evaluation" / "two.b.json").write_text(damage, encoding="latin1")
    assert evaluate(run)["two"]["b"] == 3.0
    assert measured[3:] == ["two.b"]


def test_an_interrupted_evaluation_goes_on_where_it_was_cut(tmp_path, measured, monkeypatch):
    run = fake_run(tmp_path)
    run.method.train()

    def stopped(_):
        raise KeyboardInterrupt

    whole = STAGES["two.a"]
    monkeypatch.setitem(STAGES, "two.a", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run)
    assert not (tmp_path / "evaluation.json").exists()
    assert all(child.training for child in run.method.modules())
    monkeypatch.setitem(STAGES, "two.a", whole)
    evaluate(run)
    assert measured == ["one", "two.a", "two.b"]


def test_parts_that_are_not_asked_for_are_null_unless_they_were_measured(tmp_path, measured):
    run = fake_run(tmp_path)
    figures = evaluate(run, ["two.b"])
    assert figures["one"] is None
    assert figures["two"] == {"a": None, "b": 3.0}
    assert figures["notes"] == {"one": "not measured", "two.a": "not measured"}
    assert evaluate(run, "one")["two"]["b"] == 3.0
    assert measured == ["two.b", "one"]
    with pytest.raises(SettingsError, match=r"no part 'tow'; there are one, two, and two\.a, two\.b"):
        evaluate(run, ["tow"])


def test_the_key_is_that_of_the_stage_too(tmp_path):
    cache = Cache(fake_run(tmp_path))
    assert cache.key("one") != cache.key("two")
    assert cache.read("one") is None
    assert cache.write("one", (1.5, float("inf")), 0.1) == [1.5, None] == Cache(fake_run(tmp_path)).read("one")


class Loaded(FakeRun):
    """Without the views that the run was fitted with."""

    @property
    def views(self):
        warnings.warn("was fitted with views of your own", stacklevel=2)
        return Identity()


def test_a_reason_that_rests_on_how_a_run_was_loaded_is_not_kept_for_others(tmp_path, measured, monkeypatch):
    monkeypatch.setitem(STAGES, "one", lambda examined: no_groups(examined.run, "test") or 1.0)
    run = fake_run(tmp_path)
    found = evaluate(Loaded(tmp_path, run.method, run.data, run.config))
    assert (found["one"], found["notes"]["one"]) == (None, "was fitted with views of your own")
    assert evaluate(run)["one"] == 1.0


def test_a_file_of_the_user_that_was_changed_is_measured_anew(tmp_path, measured):
    """The run tells that its class is another now; its figures must be those of that one."""
    run = fake_run(tmp_path)
    (tmp_path / "mine.py").write_text("import torch\nclass Mine(torch.nn.Identity):\n    pass\n")
    spec = importlib.util.spec_from_file_location("mine", tmp_path / "mine.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run.method.__class__ = type("Mine", (type(run.method),), {"__module__": "mine"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inspect.getfile", lambda cls: str(tmp_path / "mine.py"))
        evaluate(run, progress=False)
        seen = list(measured)
        evaluate(run, progress=False)
        assert measured == seen
        (tmp_path / "mine.py").write_text("import torch\n")
        evaluate(run, progress=False)
    assert len(measured) == 2 * len(seen)


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path, measured, monkeypatch):
    def refuse(path, *parts):
        raise DiskError(f"{path}: cannot write (Read-only file system)")

    monkeypatch.setattr("genssl.files.write_bytes", refuse)
    with pytest.raises(DiskError, match="Read-only"):
        evaluate(fake_run(tmp_path), progress=False)
    assert not measured

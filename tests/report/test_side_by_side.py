"""Several runs: told apart, decoded beside each other, drawn as bars, and against the setting that differs."""

from __future__ import annotations

import pytest
import torch

from genssl.report import bars
from genssl.report.looking import Look
from genssl.report.names import unlike
from genssl.report.side_by_side import accuracy, against_setting, attributes, reconstructions, style


def config(method="SimVAE", **settings):
    return {"method": method, "seed": 0, "num_views": 4, "settings": settings}


def content(value):
    return {"content": {name: {"test": value + i / 100} for i, name in enumerate(("knn", "linear", "mlp"))}}


def widths(figure):
    return [round(bar.get_width(), 3) for bar in figure.axes[0].patches]


def test_names_are_told_apart_by_what_differs():
    configs = [config(dim=8), config(dim=16), config("VAE"), config("VAE")]
    names = unlike(["SimVAE on d", "SimVAE on d", "VAE on d", "VAE on d"], configs)
    assert names == ["SimVAE on d (dim 8)", "SimVAE on d (dim 16)", "VAE on d #1", "VAE on d #2"]
    assert unlike(["A", "B"], [config(), config()]) == ["A", "B"]


def look(images, value, adhoc=False):
    return Look(images=images, decoded=torch.full_like(images, value), adhoc=adhoc)


def test_reconstructions_stand_under_the_same_items():
    images = torch.rand(12, 1, 4, 4)
    drawing = reconstructions(["a", "b", "c"], [look(images, 0.2), look(images, 0.8, adhoc=True), Look()])
    assert drawing.figure is not None
    rows = [text.get_text() for text in drawing.figure.axes[0].get_yticklabels()]
    assert rows == ["test", "a", "b*"]
    page = drawing.figure.axes[0].images[0].get_array()
    assert page[5 + 1, 1] == pytest.approx(0.2)  # pictures of 4 pixels with a gap of 1
    assert page[10 + 1, 1] == pytest.approx(0.8)
    assert page[1, 1] == pytest.approx(float(images[0, 0, 1, 1]))
    assert "fitted to the frozen" in drawing.caption


def test_runs_on_other_items_or_without_images_have_none():
    images = torch.rand(12, 1, 4, 4)
    assert reconstructions(["a", "b"], [look(images, 0.2), look(images.flip(0), 0.8)]) is None
    assert reconstructions(["a", "b"], [look(images, 0.2), Look()]) is None
    vectors = torch.rand(12, 7)
    assert reconstructions(["a", "b"], [look(vectors, 0.2), look(vectors, 0.8)]) is None


def test_accuracy_bars_show_every_probe_of_every_run():
    drawing = accuracy(["a", "b"], [content(0.5), {}])
    assert widths(drawing.figure) == [0.5, 0.51, 0.52]
    assert accuracy(["a"], [{}]) is None


def test_style_takes_the_predictor_that_was_better_on_validation():
    factor = {"linear": {"validation": 0.5, "test": 0.9}, "kernel": {"validation": 0.6, "test": 0.4}}
    negative = {"linear": {"validation": -0.5, "test": -0.9}}
    views = {"style": {"items": None, "views": {"z": {"hue": factor, "crop": negative}}}}
    drawing = style(["a", "b"], [views, {"style": None}])
    assert widths(drawing.figure) == [0.4, 0]
    assert "views" in drawing.title
    assert style(["a"], [{}]) is None


def category(test, majority=0.6):
    return {"kind": "categorical", "majority": majority, "linear": {"validation": test, "test": test}}


def items(**factors):
    return {"style": {"items": {"z": factors}, "views": None}}


def test_attributes_stand_apart_with_their_mean_and_the_most_frequent_class():
    pose = {"kind": "continuous", "linear": {"test": 0.3}}
    found = [items(Male=category(0.9), Young=category(0.7, 0.8), pose=pose), items(Male=category(0.5), pose=pose), {}]
    drawing = attributes(["a", "b", "c"], found)
    (axes,) = drawing.figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Male", "Young"]  # one in common has no mean
    assert widths(drawing.figure) == [0.9, 0.7, 0.5]
    (lines,) = axes.collections
    assert [segment[0, 0] for segment in lines.get_segments()] == pytest.approx([0.6, 0.8])
    assert widths(style(["a", "b", "c"], found).figure) == [0.3, 0.3]  # the pose alone
    found[1] = items(Male=category(0.5), Young=category(0.4, 0.8))
    drawing = attributes(["a", "b", "c"], found)
    assert [label.get_text() for label in drawing.figure.axes[0].get_yticklabels()] == ["mean of 2", "Male", "Young"]
    assert widths(drawing.figure) == [0.8, 0.9, 0.7, 0.45, 0.5, 0.4]
    assert drawing.figure.axes[0].collections[0].get_segments()[0][0, 0] == pytest.approx(0.7)
    other = [items(Male=category(0.9)), items(Male=category(0.5, 0.7))]  # other items: no line for both
    assert not attributes(["a", "b"], other).figure.axes[0].collections
    assert attributes(["a"], [items(pose=pose)]) is None
    assert attributes(["a"], [{}]) is None


def test_categories_of_views_stay_with_their_style():
    views = {"style": {"items": None, "views": {"z": {"flip": category(0.8), "crop": {"linear": {"test": 0.2}}}}}}
    assert widths(style(["a"], [views]).figure) == [0.8, 0.2]
    assert attributes(["a"], [views]) is None


def test_accuracy_against_the_one_setting_that_differs():
    configs = [config(likelihood_scale=s) for s in (0.1, 0.1, 1.0)]
    found = [content(0.5), content(0.6), content(0.7)]
    drawing = against_setting(configs, found)
    assert "likelihood_scale" in drawing.title
    (line, dots) = drawing.figure.axes[0].lines
    assert line.get_xydata().ravel().tolist() == pytest.approx([0.1, 0.57, 1.0, 0.72])
    assert len(dots.get_xydata()) == 3
    assert drawing.figure.axes[0].get_xscale() == "log"
    assert against_setting([config(a=1, b=1), config(a=2, b=2)], found[:2]) is None  # two settings differ
    assert against_setting([config(), config()], found[:2]) is None
    assert against_setting([config(prior="x"), config(prior="y")], found[:2]) is None  # no number
    assert against_setting([config(a=1), config("VAE", a=2)], found[:2]) is None  # no method has two of them


@pytest.mark.parametrize(
    "other",
    [
        {"data": "mnist"}, {"data": "/b/x.npz"}, {"data": None, "data_description": {"name": "data", "digest": "1"}}, {"limit": 10},
        {"validation": 0.2}, {"optimizer": "sgd"}, {"schedule": "constant"}, {"clip": 1.0}, {"views": "Identity()"}, {"epochs": 9},
        {"sha256": "1"}, {"attributes": {"scale": 2.0}},
    ],
    ids=str,
)  # fmt: skip
def test_nothing_is_drawn_against_a_setting_where_others_differ_too(other):
    runs = [config(dim=8), config(dim=16)]
    for run in runs:
        run |= {"data": "/a/x.npz" if other.get("data") else None, "epochs": 1}
        if "data_description" in other:
            run["data_description"] = {"name": "data", "digest": "0"}
    found = [content(0.5), content(0.6)]
    assert "dim" in against_setting(runs, found).title
    assert against_setting([runs[0], runs[1] | other], found) is None


def test_bars_stop_at_zero_and_tell_their_value():
    figure = bars.grouped(["x"], {"a": [-0.5], "b": [None], "$c$": [1.0]}, "R2")
    assert widths(figure) == [0, 1]  # what is not known has no bar, and takes no room
    first, second = (bar.get_y() + bar.get_height() / 2 for bar in figure.axes[0].patches)
    assert (first + second) / 2 == pytest.approx(0)
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["-0.50", "1.00"]


def test_many_names_are_set_closer():
    few, many = (bars.grouped([str(i) for i in range(n)], {"a": [0.5] * n, "b": [0.4] * n}, "R2") for n in (12, 40))
    assert many.get_figheight() < 40 / 12 * few.get_figheight()
    low, high = many.axes[0].get_ylim()
    assert (low, high) == (39.6, -0.6)  # no empty margin

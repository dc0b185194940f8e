"""Which style of a run is measured, from which vectors, on which draws, and what measuring leaves behind."""

from __future__ import annotations

import importlib
import json
import warnings

import pytest
import torch
from fake_runs import FakeRun, Point, fake_run, images, make_data
from torch import nn

import genssl
from genssl.datasets.data import Data
from genssl.datasets.items import Items
from genssl.datasets.sprites import sprites
from genssl.evaluation import disentanglement, evaluate, known_style
from genssl.evaluation.items import spaced
from genssl.evaluation.known_style import item_style, view_style
from genssl.groups import Groups
from genssl.views import Identity

SIZES = {"train": 400, "validation": 200, "test": 300}


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    monkeypatch.setattr(known_style, "KERNEL_POINTS", 50)


class See(nn.Module):
    """An encoder that changes nothing."""

    def encode(self, x):
        return Point(x)


class Twice(See):
    """Another encoder."""

    def encode(self, x):
        return Point(2 * x)


def shifted(x, index, generator):
    """x with a shift of its second coordinate, which is the style."""
    style = torch.randn(len(x), 1, generator=generator)
    return x + style * torch.tensor([0.0, 1.0]), style


def flat(seed, number):
    """Content in the first coordinate and nothing in the second."""
    content = torch.randn(number, 1, generator=torch.Generator().manual_seed(seed))
    return Items(torch.cat([content, 0 * content], 1))


def style_figures(run):
    """Of items and of views; and why one of them is None."""
    found = {"items": item_style(run), "views": view_style(run)}
    notes = {f"style.{name}": value for name, value in found.items() if isinstance(value, str)}
    return {name: None if isinstance(value, str) else value for name, value in found.items()}, notes


def run_of(tmp_path, views=shifted, num_views=2, method=None, **splits):
    made = {name: flat(seed, number) for seed, (name, number) in enumerate(SIZES.items())}
    data = Data("flat", **(made | splits), views=views)
    return FakeRun(tmp_path, method or See(), data, {"seed": 3, "num_views": num_views})


@pytest.mark.parametrize("num_views", [2, 3])
def test_style_sits_in_the_residual_and_a_share_of_it_in_the_mean(tmp_path, num_views):
    figures, notes = style_figures(run_of(tmp_path, num_views=num_views))
    views = figures["views"]
    test = {source: views[source]["factor_0"]["linear"]["test"] for source in ("z", "content", "residual")}
    assert test["z"] == pytest.approx(1, abs=1e-9)
    assert test["content"] == pytest.approx(1 / num_views, abs=0.06)
    assert test["residual"] == pytest.approx(1 - 1 / num_views, abs=0.06)
    assert views["z"]["factor_0"]["kind"] == "continuous"
    assert views["num_views"] == num_views
    assert views["points"] == {name: size * num_views for name, size in SIZES.items()}
    assert figures["items"] is None
    assert notes == {"style.items": "the train items have no known style factors"}


def test_the_content_of_the_method_takes_the_place_of_the_mean(tmp_path):
    class Knows(See):
        def content(self, groups):
            return Point(groups.source)  # nothing of the shifts

    class Silent(See):
        def content(self, groups):
            return None

    plain, knows, silent = (style_figures(run_of(tmp_path, method=m()))[0]["views"] for m in (See, Knows, Silent))
    assert abs(knows["content"]["factor_0"]["linear"]["test"]) < 0.02
    assert knows["residual"] == plain["residual"]
    assert silent == plain


def test_one_view_has_neither_content_nor_residual_and_many_are_four(tmp_path, monkeypatch):
    one = style_figures(run_of(tmp_path, num_views=1))[0]["views"]
    assert set(one) == {"num_views", "points", "z", "left_out"}
    monkeypatch.setattr(known_style, "LIMITS", {"train": 403, "validation": 80, "test": 80})
    many = style_figures(run_of(tmp_path, num_views=10))[0]["views"]
    assert (many["num_views"], many["points"]) == (4, {"train": 400, "validation": 80, "test": 80})


def with_style(seed, number):
    items = flat(seed, number)
    style = torch.stack([2 * items.x[:, 0], (items.x[:, 0] > 0).float(), torch.full((number,), 4.0)], 1)
    return Items(items.x, None, style, ("double", "sign", "still"), ("continuous", "categorical", "continuous"))


def test_style_of_the_items_is_read_off_their_z(tmp_path, monkeypatch):
    monkeypatch.setattr(known_style, "LIMITS", {"train": 200, "validation": 100, "test": 150})
    splits = {name: with_style(seed, number) for seed, (name, number) in enumerate(SIZES.items())}
    figures, notes = style_figures(run_of(tmp_path, None, **splits))
    items = figures["items"]
    assert items["points"] == {"train": 200, "validation": 100, "test": 150}
    assert items["z"]["double"]["linear"]["test"] == pytest.approx(1, abs=1e-9)
    share = float(splits["test"].style[spaced(300, 150), 1].mean())
    most = float(splits["train"].style[spaced(400, 200), 1].mean()) > 0.5
    assert items["z"]["sign"]["majority"] == pytest.approx(share if most else 1 - share)
    assert items["left_out"] == {"still": "the same in all train rows"}
    assert set(items) == {"points", "z", "left_out", "axes"}
    assert figures["views"] is None
    assert notes == {"style.views": "the views come without style"}


def square(seed, number):
    """Two factors that are z, one that varies in training alone, and one that does not vary."""
    x = torch.rand(number, 2, generator=torch.Generator().manual_seed(seed))
    rare = (torch.arange(number) == 1) & (number == SIZES["train"])
    style = torch.stack([-x[:, 1], 5 * x[:, 0], rare.float(), torch.zeros(number)], 1)
    return Items(x, None, style, ("up", "right", "rare", "still"), ("continuous",) * 4)


def test_axes_tell_whether_coordinates_stand_for_factors(tmp_path, monkeypatch):
    class Turn(See):
        def encode(self, x):
            return Point((x - 0.5) @ torch.tensor([[1.0, -1.0], [1.0, 1.0]]))

    splits = {name: square(seed, number) for seed, (name, number) in enumerate(SIZES.items())}
    plain, turned = (style_figures(run_of(tmp_path, None, method=m(), **splits))[0]["items"] for m in (See, Turn))
    assert plain["axes"]["disentanglement"] > 0.97
    assert plain["axes"]["mig"] > 0.8  # of 400 rows in 20 bins
    assert turned["axes"]["disentanglement"] < 0.3
    assert turned["axes"]["mig"] < 0.15
    assert turned["axes"]["informativeness"] > 0.9
    assert turned["z"]["up"]["linear"]["test"] == pytest.approx(1, abs=1e-6)
    assert set(plain["axes"]["factors"]) == {"up", "right"}
    assert all(set(one) == {"completeness", "informativeness", "mig"} for one in plain["axes"]["factors"].values())
    assert json.loads(json.dumps(plain)) == plain
    parts = [(splits[name].x, splits[name].style[:, :2]) for name in ("train", "test")]
    scores = disentanglement.dci(*parts, ("continuous",) * 2)
    gap = disentanglement.mutual_information_gap(*parts[0], ("continuous",) * 2)
    assert plain["axes"]["points"] == 400
    assert plain["axes"]["disentanglement"] == scores.disentanglement
    assert plain["axes"]["factors"]["right"]["mig"] == float(gap.by_factor[1])
    assert plain["axes"]["mig"] == gap.gap
    monkeypatch.setattr(known_style, "POINTS", 100)
    assert style_figures(run_of(tmp_path, None, **splits))[0]["items"]["axes"]["points"] == 100


def natural(seed, number, style=True, singles=()):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(number, 2, 2, generator=generator)
    mask = torch.ones(number, 2, dtype=torch.bool)
    mask[list(singles), 1] = False
    names, kinds = (("second",), ("continuous",)) if style else (None, None)
    return Groups(x, mask, style=x[..., 1:] if style else None, style_names=names, style_kinds=kinds)


def test_natural_groups_bring_the_style_of_their_views(tmp_path):
    splits = {name: natural(seed, 200, singles=[0, 5]) for seed, name in enumerate(SIZES)}
    figures, notes = style_figures(run_of(tmp_path, None, 9, **splits))
    views = figures["views"]
    assert views["num_views"] == 2
    assert views["points"] == dict.fromkeys(SIZES, 398)
    assert views["z"]["second"]["linear"]["test"] == pytest.approx(1, abs=1e-9)
    assert views["residual"]["second"]["linear"]["test"] == pytest.approx(0.5, abs=0.12)
    assert notes == {"style.items": "the items are the views of natural groups"}
    alone = {name: natural(seed, 20, singles=range(20)) for seed, name in enumerate(SIZES)}
    assert "residual" not in style_figures(run_of(tmp_path, None, **alone))[0]["views"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"views": Identity()}, "the views come without style"),
        ({"views": None}, "the views come without style"),
        ({"validation": None}, "the data have no validation items"),
        ({name: natural(0, 20, style=False) for name in SIZES}, "the views come without style"),
        ({name: Groups([torch.rand(8, 3), torch.rand(8, 5)]) for name in SIZES}, "the views are of several modalities"),
    ],
    ids=["no-factors", "copies", "no-validation", "natural", "modalities"],
)
def test_where_there_is_nothing_to_measure_the_reason_is_told(tmp_path, change, reason):
    figures, notes = style_figures(run_of(tmp_path, **change))
    assert figures["views"] is None
    assert notes["style.views"] == reason


def test_views_that_are_not_the_run_s_own_are_not_measured(tmp_path):
    class Lost(FakeRun):
        @property
        def views(self):
            warnings.warn("was fitted with views of your own, here are the data set's", stacklevel=2)
            return self.data.views

    made = run_of(tmp_path)
    figures, notes = style_figures(Lost(made.path, made.method, made.data, made.config))
    assert figures["views"] is None
    assert "was fitted with views of your own" in notes["style.views"]


def careless(x, index, generator):
    """Views of a user, who draws from torch's default generator."""
    style = torch.randn(len(x), 1)
    return x + style, style


def test_leaves_generators_and_method_bit_identical_and_gives_the_same_twice(tmp_path):
    run = fake_run(tmp_path, config={"seed": 3, "num_views": 3})
    run.method.train()
    run.data.views = careless_images
    before = {name: value.clone() for name, value in run.method.state_dict().items()}
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = style_figures(run)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in run.method.state_dict().items())
    assert all(child.training for child in run.method.modules())
    torch.manual_seed(12)
    assert style_figures(run) == first
    assert set(first[0]["views"]["z"]) == {"factor_0"}


def careless_images(x, index, generator):
    style = torch.rand(len(x), 1)
    return x * style[:, :, None, None], style


def test_splits_and_seeds_have_draws_of_their_own_and_every_method_the_same(tmp_path):
    seen = []

    def spy(x, index, generator):
        view, style = careless(x, index, generator)
        seen.append(style.clone())
        return view, style

    def draws(seed, method=None):
        seen.clear()
        run = run_of(tmp_path, spy, method=method, **{name: flat(0, 30) for name in SIZES})
        run.config["seed"] = seed
        style_figures(run)
        return torch.stack(seen)

    first = draws(3)
    assert len(first) == 6  # two views of each split
    assert len({float(style[0]) for style in first}) == 6
    assert torch.equal(first, draws(3, Twice()))
    assert not torch.equal(first, draws(4))


@pytest.fixture
def quick(monkeypatch):
    """Without the MLP probe, which has its own tests."""
    module = importlib.import_module("genssl.evaluation.stages")
    monkeypatch.setattr(module, "mlp_probe", lambda *parts, seed: {"validation": 0.5, "test": 0.5, "test_best": 0.5})


def test_evaluate_holds_the_style_against_the_random_encoder_and_can_leave_it_out(tmp_path, quick):
    run = fake_run(tmp_path)
    parts = ("content", "style", "random_encoder")
    figures = evaluate(run, parts)
    expected, notes = style_figures(run)
    assert figures["style"] == expected
    assert figures["notes"].items() >= notes.items()
    fresh = FakeRun(tmp_path, run.random_encoder(), run.data, run.config)
    torch.manual_seed(0)
    assert set(figures["random_encoder"]["style"]["views"]["z"]) == set(style_figures(fresh)[0]["views"]["z"])
    assert figures["random_encoder"]["style"]["views"]["z"] != expected["views"]["z"]
    (tmp_path / "other").mkdir()
    run.path = tmp_path / "other"
    without = evaluate(run, ["content"])
    assert without["style"] == {"items": None, "views": None}
    assert without["random_encoder"]["style"] == {"items": None, "views": None}
    assert without["notes"]["style.views"] == "not measured"
    assert without["content"] == figures["content"]


def test_style_needs_no_labels(tmp_path):
    figures = evaluate(fake_run(tmp_path, labelled=False), ("content", "style", "random_encoder"))
    assert figures["content"] is None
    assert figures["random_encoder"]["content"] is None
    for encoder in (figures, figures["random_encoder"]):
        assert set(encoder["style"]["views"]["z"]) == {"crop_x", "crop_y", "crop_width", "crop_height"}


def test_nothing_to_measure_builds_no_random_encoder(tmp_path):
    run = fake_run(tmp_path)
    run.data = make_data(**{name: Groups(images(0, 40).floats().unflatten(0, (20, 2))) for name in SIZES})
    run.random_encoder = None
    figures = evaluate(run, ("content", "style", "random_encoder"))
    assert figures["style"] == {"items": None, "views": None}
    assert figures["random_encoder"] == {"content": None, "style": {"items": None, "views": None}}


@pytest.mark.parametrize(("method", "num_views"), [("SimVAE", 3), ("VAE", 1)])
def test_fits_have_style_in_their_evaluation(tmp_path, quick, method, num_views):
    small = {"hidden": [16], "dim": 4}
    run = genssl.fit(
        method, "digits", limit=96, num_views=num_views, batch_size=16, epochs=1, settings=small, out=tmp_path / "run", progress=False
    )  # fmt: skip
    written = (
        json.loads((run.path / "evaluation.json").read_text()) if run.evaluate(["style", "random_encoder"]) else {}
    )
    views = written["style"]["views"]
    assert set(views["z"]) == {"crop_x", "crop_y", "crop_width", "crop_height", "translate_x", "translate_y", "rotate"}
    assert views["z"]["rotate"]["kind"] == "circular"
    assert views["points"] == dict.fromkeys(SIZES, 96 * num_views)
    assert ("residual" in views) == (num_views > 1)
    assert set(written["random_encoder"]["style"]["views"]["z"]) == set(views["z"])


def test_sprites_have_style_of_items_and_of_views(tmp_path, quick):
    small = {"hidden": [16], "dim": 4}
    data = sprites(300, 16)
    run = genssl.fit(
        "SimVAE", data, num_views=2, batch_size=16, epochs=1, settings=small, out=tmp_path / "run", progress=False
    )
    style = run.evaluate(["style"])["style"]
    names = {"position_x", "position_y", "scale", "orientation", "brightness"}
    assert set(style["items"]["z"]) == set(style["views"]["z"]) == set(style["views"]["residual"]) == names
    assert set(style["items"]["axes"]["factors"]) == set(style["views"]["axes"]["factors"]) == names
    assert style["items"]["points"] == {"train": 240, "validation": 30, "test": 30}
    assert style["views"]["points"] == {"train": 480, "validation": 60, "test": 60}

"""Retrieval against plain loops, its chance and its limits, and identity figures of runs."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from fake_runs import FakeRun, Point, fake_run
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch import nn

import genssl
from genssl.datasets.data import Data
from genssl.datasets.items import Items
from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.evaluation import identity as module
from genssl.evaluation.fresh_views import fresh_groups
from genssl.evaluation.identity import identity_figures, retrieval
from genssl.evaluation.items import spaced
from genssl.evaluation.shattering import shattering
from genssl.groups import Groups
from genssl.views import Identity


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ------------------------------------------------------------------ retrieval against plain loops


def by_hand(queries, gallery, owner, label, within, size=None):
    """All figures, query by query: every place that ties leave open, and every draw of `size` candidates."""
    places, drawn, totals = [], [], []
    for q, mine in enumerate(owner):
        rivals = [n for n in range(len(gallery)) if n != mine and (not within or label[n] == label[mine])]
        if not rivals:
            continue
        distance = [float(((queries[q] - g) ** 2).sum()) for g in gallery]
        closer = [n for n in rivals if distance[n] < distance[mine]]
        beside = [n for n in rivals if distance[n] == distance[mine]]
        places.append([len(closer) + 1 + k for k in range(len(beside) + 1)])
        totals.append(len(rivals) + 1)
        if size is not None and totals[-1] >= size:
            draws = list(itertools.combinations(rivals, size - 1))
            hits = [(not set(closer) & set(d)) / (1 + len(set(beside) & set(d))) for d in draws]
            drawn.append(np.mean(hits))
    return {
        "top1": np.mean([np.mean([p == 1 for p in place]) for place in places]),
        "top5": np.mean([np.mean([p <= 5 for p in place]) for place in places]),
        "mean_reciprocal_rank": np.mean([np.mean([1 / p for p in place]) for place in places]),
        "median_rank": np.median([np.mean(place) for place in places]),
        "chance": np.mean([1 / total for total in totals]),
        "queries": len(places),
        "candidates": np.mean(totals),
        "top1_of": np.mean(drawn) if drawn else None,
    } if places else None  # fmt: skip


def agree(found, expected, size):
    if expected is None:
        assert found is None
        return
    top1_of = expected.pop("top1_of")
    assert found["top1_of"].get(str(size)) == (None if top1_of is None else pytest.approx(top1_of, abs=1e-9))
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def level(figures):
    """Nested figures as one dictionary, which pytest.approx can compare."""
    parts = {name: part for name, part in figures.items() if not isinstance(part, dict)}
    for name, part in figures.items():
        if isinstance(part, dict):
            parts |= {f"{name}.{inner}": value for inner, value in level(part).items()}
    return parts


@settings(max_examples=80, deadline=None)
@given(
    st.integers(2, 8).flatmap(
        lambda n: st.tuples(
            st.lists(st.tuples(st.integers(-1, 1), st.integers(-1, 1), st.integers(0, 2)), min_size=n, max_size=n),
            st.lists(st.tuples(st.integers(-1, 1), st.integers(-1, 1), st.integers(0, n - 1)), min_size=1, max_size=9),
            st.integers(1, n),
        )
    ),
    st.sampled_from([4_000_000, 5]),
    st.sampled_from([torch.float16, torch.float32, torch.float64]),
)
def test_retrieval_agrees_with_loops_on_grids_full_of_ties(given, block, dtype):
    items, views, size = given
    gallery, label = torch.tensor([item[:2] for item in items]), torch.tensor([item[2] for item in items])
    queries, owner = torch.tensor([view[:2] for view in views]), torch.tensor([view[2] for view in views])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        found = retrieval(queries.to(dtype), gallery.to(dtype), owner, label, sizes=[size])
    agree(found, by_hand(queries, gallery, owner.tolist(), label.tolist(), False, size), size)
    agree(found["within_class"], by_hand(queries, gallery, owner.tolist(), label.tolist(), True, size), size)


def test_the_cosine_orders_by_direction():
    queries, gallery = normal(40, 3), normal(40, 3, seed=1)
    cosine = torch.nn.functional.cosine_similarity(queries[:, None], gallery[None], dim=-1)
    rank = (cosine > cosine.diagonal()[:, None]).sum(1) + 1
    found = retrieval(queries, gallery, metric="cosine")
    assert found["top1"] == pytest.approx(float((rank == 1).float().mean()))
    assert found["median_rank"] == pytest.approx(np.median(rank))
    scales = normal(40, 1, seed=2).exp()
    assert retrieval(queries * scales, gallery / scales, metric="cosine")["top1_of"] == pytest.approx(found["top1_of"])
    assert retrieval(queries * scales, gallery / scales)["median_rank"] != retrieval(queries, gallery)["median_rank"]
    nothing = retrieval(torch.zeros(40, 3), gallery, metric="cosine")
    assert nothing["top1"] == pytest.approx(1 / 40)


def test_rotations_shifts_and_scale_change_nothing():
    queries, gallery, label = normal(60, 4), normal(60, 4), torch.arange(60) % 3
    queries = queries + 0.5 * normal(60, 4, seed=1)
    turn = torch.linalg.qr(normal(4, 4, seed=2)).Q
    first, moved = (
        retrieval(*parts, label=label)
        for parts in ((queries, gallery), (queries @ turn * 3 + 50, gallery @ turn * 3 + 50))
    )
    assert level(first) == pytest.approx(level(moved))


# ------------------------------------------------------------------ chance and what is above it


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", ["exact", "again", "noisy", "zero"])
def test_a_collapsed_z_scores_chance_and_no_hit_by_ties(metric, kind):
    label = torch.arange(50) % 5
    point = torch.tensor([3.0, -1.0, 0.7])
    views, items = point.expand(70, 3), point.expand(50, 3)
    if kind in ("again", "noisy"):  # what rounding makes of a point is neither the item nor another
        items, views = (point * (1 + torch.finfo(torch.float32).eps * torch.randint(-1, 2, (n, 3))) for n in (50, 70))
    if kind == "again":
        views = items[torch.arange(70) % 50]
    if kind == "zero":
        views, items = 0 * views, 0 * items
    found = retrieval(views, items, torch.arange(70) % 50, label, metric)
    harmonic = sum(1 / k for k in range(1, 51))
    expected = {
        "top1": 1 / 50,
        "chance": 1 / 50,
        "top5": 5 / 50,
        "mean_reciprocal_rank": harmonic / 50,
        "median_rank": 25.5,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["top1_of"] == pytest.approx({"10": 0.1})
    assert found["within_class"]["top1"] == pytest.approx(found["within_class"]["chance"]) == pytest.approx(0.1)


def test_a_z_of_the_class_alone_finds_the_class_and_no_item():
    label = torch.arange(60) % 4
    z = torch.eye(4)[label] + 7
    found = retrieval(z, z, label=label)
    assert found["top1"] == pytest.approx(4 / 60)
    assert found["within_class"]["top1"] == pytest.approx(found["within_class"]["chance"]) == pytest.approx(1 / 15)


def test_views_that_are_independent_given_the_class_are_at_chance_within_it_and_shared_parts_are_above():
    label = torch.arange(1500) % 3
    content = 3 * torch.eye(3)[label]
    item, view, own = normal(1500, 3), normal(1500, 3, seed=1), normal(1500, 3, seed=2)
    apart = retrieval(content + item, content + view, label=label)["within_class"]
    assert abs(apart["top1"] - 1 / 500) < 4 * math.sqrt(1 / 500 / 1500)
    assert apart["median_rank"] == pytest.approx(250.5, abs=30)
    assert apart["top1_of"]["10"] == pytest.approx(0.1, abs=0.02)
    shared = retrieval(content + own + 0.5 * item, content + own + 0.5 * view, label=label)["within_class"]
    assert shared["top1_of"]["10"] > 0.3


def test_a_z_unique_to_the_item_and_free_of_style_finds_it_always_and_duplicates_share_the_hit():
    z = normal(30, 2)
    found = retrieval(z, z, label=torch.zeros(30, dtype=torch.int64))
    for figures in (found, found["within_class"]):
        assert figures["top1"] == figures["top5"] == figures["median_rank"] == 1
        assert figures["mean_reciprocal_rank"] == pytest.approx(1)
    assert found["top1_of"] == pytest.approx({"10": 1})
    twice = torch.cat([z, z[:10]])
    assert retrieval(twice, twice)["top1"] == pytest.approx((20 + 20 / 2) / 40)


def test_two_gaussian_candidates_are_told_apart_as_often_as_quadrature_says():
    noise, nodes, weights = 0.5, *np.polynomial.hermite_e.hermegauss(80)
    g, e = np.meshgrid(nodes, noise * nodes, indexing="ij")
    other_farther = 1 - (norm.cdf(g + e + abs(e)) - norm.cdf(g + e - abs(e)))
    expected = (weights[:, None] * weights * other_farther).sum() / weights.sum() ** 2
    gallery = normal(4000, 1)
    found = retrieval(gallery + noise * normal(4000, 1, seed=1), gallery, sizes=[2, 4000])
    assert found["top1_of"]["2"] == pytest.approx(expected, abs=0.01)
    assert found["top1_of"]["4000"] == pytest.approx(found["top1"], abs=1e-9)


def test_close_items_far_from_zero_are_told_apart():
    gallery = 1000 + normal(50, 3, dtype=torch.float64)
    assert retrieval(gallery, gallery)["top1"] == 1
    assert retrieval(gallery.float(), gallery.float())["top1"] == 1
    scattered = torch.cat([gallery - 1000, torch.full((1, 3), 1e9, dtype=torch.float64)])  # an item far from all
    assert retrieval(scattered, scattered)["top1"] == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"metric": "dot"}, SettingsError, "'dot'"),
        ({"sizes": (0,)}, SettingsError, r"sizes = \(0,\)"),
        ({"queries": torch.zeros(4, 3)}, ShapeError, r"queries \[4, 3\], gallery \[4, 2\]"),
        ({"queries": torch.zeros(0, 2)}, ShapeError, "queries has 0 rows"),
        ({"gallery": torch.zeros(1, 2)}, ShapeError, "gallery has 1 rows"),
        ({"gallery": torch.zeros(4, 2, dtype=torch.int64)}, DataError, "int64"),
        ({"gallery": torch.tensor([[0, math.nan]] * 4)}, NonFiniteError, "4 of 4 rows of gallery"),
        ({"queries": torch.zeros(5, 2)}, DataError, "owner"),
        ({"owner": torch.tensor([0, 1, 2, 4])}, DataError, "one of 4 rows"),
        ({"owner": torch.tensor([0, 1, 2, -1])}, DataError, "owner"),
        ({"owner": torch.zeros(4)}, DataError, "int64"),
        ({"label": torch.zeros(3)}, ShapeError, r"label has shape \[3\]"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        retrieval(**({"queries": torch.zeros(4, 2), "gallery": torch.zeros(4, 2)} | change))


# ------------------------------------------------------------------ runs


@pytest.fixture(autouse=True)
def few_labelings(monkeypatch):
    monkeypatch.setattr(module, "shattering", partial(shattering, labelings=2))


SIZES = {"train": 60, "validation": 30, "test": 40}


class See(nn.Module):
    """An encoder that changes nothing."""

    def encode(self, x):
        return Point(x)


class Content(See):
    """An encoder that sees the class alone."""

    def encode(self, x):
        return Point((x[:, :1] / 10).round())


class Blank(See):
    def encode(self, x):
        return Point(0 * x + 1)


def shifted(x, index, generator):
    """x with a shift of its last coordinate, which is the style, that shows a little in the item's own."""
    style = torch.randn(len(x), 1, generator=generator)
    return x + style * torch.tensor([0.0, 0.1, 1.0]), style


shifted.style_names, shifted.style_kinds = ("shift",), ("continuous",)


def items(seed, number, labelled=True):
    """The class in the first coordinate, the item in the second, nothing in the third."""
    label = torch.arange(number) % 2
    own = normal(number, 1, seed=seed)
    return Items(torch.cat([10.0 * label[:, None], own, 0 * own], 1), label if labelled else None)


def run_of(tmp_path, views=shifted, method=None, num_views=2, labelled=True, **changed):
    made = {name: items(seed, number, labelled) for seed, (name, number) in enumerate(SIZES.items())}
    data = Data("flat", **(made | changed), views=views)
    return FakeRun(tmp_path, method or See(), data, {"seed": 3, "num_views": num_views})


def test_figures_are_those_of_one_fresh_view_of_each_item(tmp_path):
    run = run_of(tmp_path, num_views=5)
    figures = identity_figures(run)
    with torch.random.fork_rng():
        groups = next(fresh_groups(run, "test", "identity", 40, 1))
    test = run.data.test
    assert torch.equal(groups.source, test.x)
    for metric in ("euclidean", "cosine"):
        expected = retrieval(groups.x[:, 0], test.x, label=test.label, metric=metric)
        assert figures["detail"][metric] == expected
    assert 1 / 40 < figures["retrieval"] == figures["detail"]["euclidean"]["top1"] < 1
    assert figures["detail"]["input"] == figures["detail"]["euclidean"]  # z is x
    assert figures["detail"]["reasons"] == {}
    assert figures["detail"]["shattering"]["views"] == 2
    assert figures["detail"]["decoder"]["mse"] < figures["detail"]["decoder"]["class_mean"]
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_an_encoder_of_content_alone_is_at_chance_within_the_class_and_a_blank_one_everywhere(tmp_path):
    detail = identity_figures(run_of(tmp_path, method=Content()))["detail"]
    assert detail["euclidean"]["top1"] == pytest.approx(2 / 40)
    assert detail["euclidean"]["within_class"]["top1"] == pytest.approx(1 / 20)
    assert detail["decoder"]["mse"] >= 0.95 * detail["decoder"]["class_mean"]
    blank = identity_figures(run_of(tmp_path, method=Blank()))
    assert blank["retrieval"] == pytest.approx(1 / 40)
    assert blank["detail"]["shattering"]["dimension"] == 0
    assert blank["detail"]["decoder"]["mse"] >= 0.95 * blank["detail"]["decoder"]["constant"]


def test_items_are_drawn_and_as_many_as_the_limits_allow(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ITEMS", 13)
    monkeypatch.setattr(module, "INPUT_ITEMS", 7)
    monkeypatch.setattr(module, "DECODED", {"train": 9, "validation": 8, "test": 6})
    monkeypatch.setattr("genssl.evaluation.fresh_views.BATCH", 5)  # blocks that 13 is no multiple of
    seen = []

    class Spy(See):
        def encode(self, x):
            seen.append(x)
            return Point(x)

    run = run_of(tmp_path, method=Spy())
    figures = identity_figures(run)["detail"]
    assert (figures["euclidean"]["queries"], figures["euclidean"]["candidates"]) == (13, 13)
    assert (figures["input"]["queries"], figures["decoder"]["neighbours"]) == (7, 9)
    sources = torch.cat([x for x in seen if len(x) <= 5 and bool((x[:, 2] == 0).all())])
    assert torch.equal(sources[:13], run.data.test.x[spaced(40, 13)])


def test_leaves_generators_and_method_bit_identical_and_gives_the_same_twice(tmp_path):
    def careless(x, index, generator):
        return x * torch.rand(len(x), 1, 1, 1)  # from torch's default generator

    run = fake_run(tmp_path, config={"seed": 3, "num_views": 3})
    run.method.train()
    run.data.views = careless
    before = {name: value.clone() for name, value in run.method.state_dict().items()}
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = identity_figures(run)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in run.method.state_dict().items())
    assert all(child.training for child in run.method.modules())
    torch.manual_seed(12)
    assert identity_figures(run) == first
    run.config["seed"] = 4
    assert identity_figures(run)["detail"]["euclidean"] != first["detail"]["euclidean"]


def test_views_of_the_user_may_come_all_at_once_or_as_groups(tmp_path):
    def both(x, index, generator):
        return torch.stack([shifted(x, index, generator)[0] for _ in range(3)], 1)

    def grouped(x, index, generator):
        mask = torch.ones(len(x), 3, dtype=torch.bool)
        mask[::2, 0] = False  # the first view of these groups is the second
        return Groups(both(x, index, generator), mask)

    for views, masked in ((both, False), (grouped, True)):
        run = run_of(tmp_path, views, num_views=3)
        with torch.random.fork_rng():
            x = next(fresh_groups(run, "test", "identity", 120, 3)).x
        second = masked & (torch.arange(40) % 2 == 0)
        expected = retrieval(torch.where(second[:, None], x[:, 1], x[:, 0]), run.data.test.x, label=run.data.test.label)
        assert identity_figures(run)["detail"]["euclidean"] == expected


def natural(views=3, groups=20, seed=0, singles=(), index=None, label=None):
    content = normal(groups, 1, 2, seed=seed)
    x = content + 0.1 * normal(groups, views, 2, seed=seed + 1)
    mask = torch.ones(groups, views, dtype=torch.bool)
    mask[list(singles), 1:] = False
    return Groups(x, mask, index=index, label=label)


def test_natural_groups_are_found_by_their_other_views(tmp_path):
    splits = {name: natural(seed=10 * seed) for seed, name in enumerate(SIZES)}
    test = natural(seed=30, singles=[2, 7], label=torch.arange(20) % 4)
    figures = identity_figures(run_of(tmp_path, None, **(splits | {"test": test})))
    queries = test.x[:, 1:].flatten(0, 1)[test.mask[:, 1:].flatten()]
    owner = torch.arange(20).repeat_interleave(2)[test.mask[:, 1:].flatten()]
    expected = retrieval(queries, test.x[:, 0], owner, torch.arange(20) % 4)
    assert level(figures["detail"]["euclidean"]) == pytest.approx(level(expected))
    assert (expected["queries"], expected["candidates"]) == (36, 20)
    assert figures["detail"]["shattering"]["numbers"][-1] <= 18  # items with a second view


def test_groups_of_one_index_are_one_item_and_classes_within_an_item_are_none(tmp_path):
    splits = {name: natural(seed=10 * seed) for seed, name in enumerate(SIZES)}
    index = torch.arange(20) // 2 * 7 + 3
    test = natural(seed=30, index=index, label=torch.arange(60).reshape(20, 3) % 2)
    figures = identity_figures(run_of(tmp_path, None, **(splits | {"test": test})))["detail"]
    assert (figures["euclidean"]["queries"], figures["euclidean"]["candidates"]) == (50, 10)
    assert "within_class" not in figures["euclidean"]
    assert figures["reasons"]["within_class"] == "the items have no class each"
    first, rest = test.x[::2, 0], torch.cat([test.x[::2, 1:], test.x[1::2]], 1)
    owner = torch.arange(10).repeat_interleave(5)
    assert figures["euclidean"] == retrieval(rest.flatten(0, 1), first, owner)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"views": Identity()}, "the views are copies of their items"),
        ({"views": None}, "the views are copies of their items"),
        ({"test": None}, "the data have no test items"),
        ({"test": items(0, 1)}, "there is one test item, and no other to take it for"),
        ({name: natural(views=1) for name in SIZES}, "the groups have one view each"),
        ({name: natural(groups=1) for name in SIZES}, "there is one test item, and no other to take it for"),
        ({name: Groups([torch.rand(8, 3), torch.rand(8, 5)]) for name in SIZES}, "the views are of several modalities"),
        (
            {name: Groups(torch.arange(24).reshape(6, 2, 2)) for name in SIZES},
            "the items are ids, or of another size than their views",
        ),
    ],
    ids=["copies", "no-views", "no-test", "one-item", "one-view", "one-group", "modalities", "ids"],
)
def test_where_there_is_nothing_to_measure_the_reason_is_told(tmp_path, change, reason):
    assert identity_figures(run_of(tmp_path, **change)) == reason


def test_parts_that_cannot_be_measured_have_their_own_reasons(tmp_path):
    detail = identity_figures(run_of(tmp_path, labelled=False, validation=None))["detail"]
    assert detail["reasons"] == {
        "within_class": "the items have no class each",
        "decoder": "the data have no validation items",
    }
    assert detail["decoder"] is None

    lonely = {name: natural(groups=3, singles=[0, 2]) for name in SIZES}
    detail = identity_figures(run_of(tmp_path, None, **lonely))["detail"]
    assert (detail["euclidean"]["queries"], detail["euclidean"]["candidates"]) == (2, 3)
    assert detail["reasons"]["shattering"] == "one item has views"
    assert detail["shattering"] is None

    class Pooled(See):
        def encode(self, x):
            return Point(x[:, :2].float())

    def cut(x, index, generator):
        return x[:, :2] + 0.1 * torch.randn(len(x), 2, generator=generator)

    detail = identity_figures(run_of(tmp_path, cut, Pooled()))["detail"]
    assert detail["reasons"] == {"input": "the items are ids, or of another size than their views"}
    assert detail["input"] is None
    assert detail["euclidean"]["top1"] > 0.2


def test_views_that_are_not_the_run_s_own_are_not_measured(tmp_path):
    class Lost(FakeRun):
        @property
        def views(self):
            warnings.warn("was fitted with views of your own, here are the data set's", stacklevel=2)
            return self.data.views

    made = run_of(tmp_path)
    assert "was fitted with views of your own" in identity_figures(Lost(made.path, made.method, made.data, made.config))


def test_a_fit_has_identity_figures_in_their_range(tmp_path):
    small = {"hidden": [16], "dim": 4}
    run = genssl.fit(
        "SimCLR", "digits", limit=96, num_views=2, batch_size=16, epochs=1, settings=small, out=tmp_path / "run", progress=False
    )  # fmt: skip
    figures = identity_figures(run)
    detail = figures["detail"]
    assert 1 / 96 < figures["retrieval"] < detail["euclidean"]["top5"] <= 1
    assert detail["euclidean"]["within_class"]["chance"] > detail["euclidean"]["chance"] == pytest.approx(1 / 96)
    assert detail["shattering"]["dimension"] == 4
    assert detail["reasons"] == {}
    json.dumps(figures, allow_nan=False)

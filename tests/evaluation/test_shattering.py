"""Cover's count, exact separability, shattering against both, and the decoder by neighbours against plain loops."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.evaluation import neighbour_decoder
from genssl.evaluation.neighbour_decoder import nonparametric_decoder
from genssl.evaluation.shattering import _half as half
from genssl.evaluation.shattering import cover, separable, shattering


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def every_labelling(number):
    return [np.array(signs) for signs in itertools.product((-1, 1), repeat=number)]


# ------------------------------------------------------------------ Cover's count


def test_cover_obeys_the_recursion_of_a_point_added():
    def count(number, dimension):
        return Fraction(cover(number, dimension)) * 2**number

    for number, dimension in itertools.product(range(1, 12), range(1, 6)):
        assert count(number + 1, dimension) == count(number, dimension) + count(number, dimension - 1)
    assert cover(30, 40) == 1
    assert all(cover(dimension + 1, dimension) == 1 > cover(dimension + 2, dimension) for dimension in range(8))
    assert all(cover(2 * (dimension + 1), dimension) == 0.5 for dimension in range(30))
    assert 0 <= cover(5000, 10) < 1e-300


@pytest.mark.parametrize("arguments", [(0, 2), (3, -1)])
def test_cover_refuses_no_points(arguments):
    with pytest.raises(SettingsError, match=f"number = {arguments[0]}, dimension = {arguments[1]}"):
        cover(*arguments)


# ------------------------------------------------------------------ separability


@pytest.mark.parametrize(("dimension", "number"), [(0, 4), (1, 6), (2, 6), (3, 6)])
def test_the_labellings_of_points_in_general_position_are_exactly_as_many_as_cover_counts(dimension, number):
    points = normal(number, dimension, seed=dimension).numpy()
    found = sum(separable(points, signs) for signs in every_labelling(number))
    assert found == cover(number, dimension) * 2**number


def by_direction(points, signs):
    """Whether integer points [N, 2] are separable: the order along a direction changes only where it is normal to a difference."""
    differences = {tuple(a - b) for a in points for b in points if (a != b).any()} | {(0, 1)}
    for x, y in differences:
        for side in (-1, 1):
            along = points @ (1000 * np.array([-y, x]) + side * np.array([x, y]))
            if along[signs > 0].min(initial=10**9) > along[signs < 0].max(initial=-(10**9)):
                return True
    return False


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.booleans()), min_size=1, max_size=9))
def test_separable_is_exact_on_grids_with_points_that_coincide_or_stand_in_line(rows):
    points = np.array([row[:2] for row in rows])
    signs = np.where([row[2] for row in rows], 1, -1)
    assert separable(points.astype(float), signs) == by_direction(points, signs)


def test_the_reference_on_grids_counts_as_cover_does():
    points = np.array([[0, 0], [3, 1], [1, 4], [5, 5], [7, 2]])  # no three on a line
    assert sum(by_direction(points, signs) for signs in every_labelling(5)) == cover(5, 2) * 32


def test_narrow_margins_are_found_down_to_the_steepest_slope():
    signs = np.array([1, 1, -1, -1])
    for gap, found in ((1e-3, True), (1e-5, True), (1e-7, False)):
        assert separable(np.array([[-1.0], [0.0], [gap], [1.0]]), signs) == found
    assert not separable(np.array([[-1.0], [0.0], [1e-3], [1.0]]), signs, steepest=np.array([100.0]))


def test_separable_refuses_what_is_no_set_of_points():
    with pytest.raises(ShapeError, match=r"points \[3, 2\], signs \[4\]"):
        separable(np.zeros((3, 2)), np.ones(4))
    with pytest.raises(NonFiniteError, match="not finite"):
        separable(np.full((3, 2), np.nan), np.ones(3))


# ------------------------------------------------------------------ shattering


@pytest.mark.parametrize("dimension", range(2, 7))
def test_gaussian_points_follow_cover_within_binomial_error(dimension):
    number, runs = 2 * (dimension + 1), 60
    figures = shattering(normal(200, dimension, seed=dimension), numbers=[number - 2, number + 2], labelings=runs)
    assert figures["dimension"] == dimension
    assert figures["cover_capacity"] == number
    assert figures["cover"] == [cover(number - 2, dimension), cover(number + 2, dimension)]
    for found, share in zip(figures["separable"], figures["cover"], strict=True):
        assert abs(found - share) < 3.5 * math.sqrt(share * (1 - share) / runs)
    assert number - 2 < figures["capacity"] < number + 2


def test_a_point_for_all_items_leaves_the_labellings_of_one_kind():
    for z in (torch.full((50, 3), 2.5), 2.5 + 1e-7 * normal(50, 3, dtype=torch.float32)):
        figures = shattering(z, numbers=[1, 2, 4], labelings=60)
        assert figures["dimension"] == 0
        assert figures["cover"] == [1, 0.5, 0.125]
        assert figures["separable"][0] == 1
        assert figures["separable"][1:] == pytest.approx([0.5, 0.125], abs=0.23)


def test_items_of_a_class_at_one_point_get_no_labels_of_their_own_and_rounding_does_not_part_them():
    label = torch.arange(60) % 6
    centres = normal(6, 5, seed=1, dtype=torch.float32)
    exact = shattering(centres[label], numbers=[2, 4, 6, 8], labelings=25)
    ulp = torch.finfo(torch.float32).eps * (2 * torch.randint(2, (60, 5)) - 1)
    assert shattering(centres[label] * (1 + ulp), numbers=[2, 4, 6, 8], labelings=25) == exact
    # As often as random labels of random items agree within every class, by the same count without hyperplanes.
    generator = torch.Generator().manual_seed(0)
    for number, found in zip(exact["numbers"], exact["separable"], strict=True):
        agree = 0
        for _ in range(25):
            chosen, signs = (
                torch.randperm(60, generator=generator)[:number],
                torch.randint(2, (number,), generator=generator),
            )
            agree += all(len(signs[label[chosen] == one].unique()) < 2 for one in range(6))
        assert found == agree / 25  # six points in five dimensions separate every way
        assert exact["dimension"] == 5


def test_views_of_an_item_count_as_one_point_where_they_coincide_and_cost_labellings_where_they_spread():
    z = normal(60, 4)
    numbers = [6, 10, 14]
    one = shattering(z, numbers=numbers, labelings=20)
    noise = normal(60, 3, 4, seed=1)
    tight = shattering(z[:, None] + 1e-9 * noise, numbers=numbers, labelings=20)
    assert (tight["separable"], tight["capacity"]) == (one["separable"], one["capacity"])
    assert (one["views"], tight["views"]) == (1, 3)
    wide = shattering(z[:, None] + noise, numbers=[3, *numbers], labelings=20)
    assert wide["capacity"] < 0.8 * one["capacity"]


def test_views_that_do_not_exist_say_nothing():
    z, valid = normal(40, 2, 3), torch.ones(40, 2, dtype=torch.bool)
    valid[::2, 1] = False
    padded = torch.where(valid[..., None], z, torch.nan)
    other = torch.where(valid[..., None], z, 1e6)
    given = {"numbers": [3, 5], "labelings": 15}
    found = shattering(padded, valid, **given)
    assert found == shattering(other, valid, **given)
    assert found == shattering(
        torch.where(valid[..., None], z, z[:, :1]), **given
    )  # nor does a view that is there twice
    assert found["separable"] != shattering(z, **given)["separable"]
    with pytest.raises(NonFiniteError, match="views of z are not finite"):
        shattering(padded)


def test_invertible_maps_change_no_answer_and_the_leading_directions_may_be_taken_alone():
    z = normal(50, 4)
    given = {"numbers": [6, 9, 12], "labelings": 15}
    mixed = z @ (normal(4, 4, seed=3) * torch.tensor([1.0, 1e-3, 1.0, 30.0])) + 7
    assert shattering(mixed, **given) == shattering(z, **given)
    flat = z * torch.tensor([5.0, 0.1, 3.0, 0.2])
    two = shattering(flat @ torch.linalg.qr(normal(4, 4, seed=4)).Q, **given, dimension=2)
    _, _, directions = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    assert two == shattering((flat - flat.mean(0)) @ directions[:2].T, **given)
    assert two["dimension"] == 2


def test_default_numbers_reach_past_the_capacity_and_end_at_a_share_of_zero():
    figures = shattering(normal(100, 5), labelings=10)
    assert figures["numbers"] == [2, 3, 4, 6, 8, 9, 10, 12, 14, 15, 18][: len(figures["numbers"])]
    assert figures["separable"][0] == 1
    assert 0 not in figures["separable"][:-1]
    few = shattering(normal(7, 5), labelings=3)
    assert few["numbers"] == [2, 3, 4, 6]
    assert few["capacity"] is None
    assert shattering(normal(100, 5), numbers=[6, 4, 6], labelings=2)["numbers"] == [4, 6]


def test_capacity_is_linear_between_the_numbers():
    assert half([4, 8], [1.0, 0.25]) == pytest.approx(4 + 4 * 0.5 / 0.75)
    assert half([5], [0.0]) == pytest.approx(3)
    assert half([4, 8], [1.0, 0.5]) is None


def test_a_seed_gives_the_same_labellings_and_no_default_generator_moves():
    z = normal(40, 3)
    state = torch.get_rng_state()
    first = shattering(z, numbers=[6, 8], labelings=20, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    assert shattering(z, numbers=[6, 8], labelings=20, seed=5) == first
    assert any(shattering(z, numbers=[6, 8], labelings=20, seed=seed) != first for seed in (6, 7, 8))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labelings": 0}, SettingsError, "labelings = 0"),
        ({"dimension": 0}, SettingsError, "dimension = 0"),
        ({"numbers": []}, SettingsError, "from 1 to the 9 items"),
        ({"numbers": [3, 10]}, SettingsError, r"\[3, 10\]"),
        ({"numbers": [0]}, SettingsError, r"\[0\]"),
        ({"z": torch.zeros(1, 3)}, ShapeError, "1 rows"),
        ({"z": torch.zeros(9)}, ShapeError, r"\[G, J, D\]"),
        ({"z": torch.zeros(9, 2, dtype=torch.int64)}, DataError, "int64"),
        ({"z": torch.full((9, 2), math.inf)}, NonFiniteError, "not finite"),
    ],
)
def test_bad_arguments_of_shattering_are_named(change, error, message):
    with pytest.raises(error, match=message):
        shattering(**({"z": normal(9, 2), "labelings": 1} | change))


# ------------------------------------------------------------------ the decoder by neighbours


def splits(sizes=(50, 20, 30), dim=3, event=(2, 2), seed=0, classes=3):
    """Classes in z and x, and an item's own part in both."""
    out = []
    for place, size in enumerate(sizes):
        y = torch.arange(size) % classes
        own = normal(size, dim, seed=10 * seed + place)
        z = own + 4 * torch.nn.functional.one_hot(y, dim)
        noise = normal(size, math.prod(event), seed=100 + 10 * seed + place)
        x = (z[:, :1] + y[:, None] + noise).unflatten(1, event)
        out.append((z, x.float(), y))
    return out


def flat(parts):
    return [value for z, x, _ in parts for value in (z, x)]


def naive(parts, neighbours, bandwidth, split):
    """Mean squared error of the kernel mean, item by item."""
    (train_z, train_x, _), (z, x, _) = parts[0], parts[split]
    total = 0.0
    for point, image in zip(z.numpy(), x.numpy(), strict=True):
        square = ((train_z.numpy() - point) ** 2).sum(1)
        near = np.argsort(square)[:neighbours]
        weight = np.exp(-(square[near] - square[near[0]]) / (2 * bandwidth**2))
        mean = (weight[:, None, None] * train_x.numpy()[near]).sum(0) / weight.sum()
        total += ((mean - image) ** 2).sum()
    return total / x.numel()


@pytest.mark.parametrize(("neighbours", "block"), [(7, 4_000_000), (7, 60), (1000, 4_000_000)])
def test_the_decoder_is_the_kernel_mean_with_the_bandwidth_of_least_validation_error(neighbours, block, monkeypatch):
    monkeypatch.setattr(neighbour_decoder, "_BLOCK", block)
    parts = splits()
    kept = min(neighbours, 50)
    square = NearestNeighbors(n_neighbors=kept).fit(parts[0][0]).kneighbors(parts[1][0])[0] ** 2
    middle = np.sort(square.mean(1))[(len(square) - 1) // 2]  # torch's median: the lower of two
    grid = [math.sqrt(middle) * 2.0**power for power in range(-6, 4)]
    errors = [naive(parts, kept, bandwidth, 1) for bandwidth in grid]
    figures = nonparametric_decoder(*flat(parts), neighbours=neighbours)
    best = int(np.argmin(errors))
    assert figures["bandwidth"] == pytest.approx(grid[best])
    assert figures["validation_mse"] == pytest.approx(errors[best], rel=1e-5)
    assert figures["mse"] == pytest.approx(naive(parts, kept, grid[best], 2), rel=1e-5)
    assert figures["neighbours"] == kept
    assert figures["constant"] == pytest.approx(((parts[2][1] - parts[0][1].mean(0)) ** 2).mean().item(), rel=1e-5)
    assert figures["nearest"] == pytest.approx(naive(parts, 1, 1.0, 2), rel=1e-5)
    assert figures["class_mean"] is figures["nearest_of_class"] is None


def test_on_the_sphere_the_weights_are_the_softmax_of_cosines():
    z = torch.nn.functional.normalize(normal(20, 3), dim=1)
    views = torch.nn.functional.normalize(z + 0.3 * normal(20, 3, seed=1), dim=1)
    figures = nonparametric_decoder(z, torch.eye(20), views, torch.eye(20), views, torch.eye(20), neighbours=20)
    weights = (views @ z.T / figures["bandwidth"] ** 2).softmax(1)  # of the items, of which x is the indicator
    assert figures["mse"] == pytest.approx(float((weights - torch.eye(20)).square().mean()), rel=1e-5)


def test_the_class_figures_are_those_of_the_own_class_in_training():
    parts = splits()
    figures = nonparametric_decoder(*flat(parts), train_y=parts[0][2], test_y=parts[2][2])
    (train_z, train_x, train_y), (z, x, y) = parts[0], parts[2]
    mean = torch.stack([train_x[train_y == label].mean(0) for label in range(3)])
    assert figures["class_mean"] == pytest.approx(float((x - mean[y]).square().mean()), rel=1e-5)
    distance = np.where(train_y[None] == y[:, None], cdist(z, train_z), np.inf)
    assert figures["nearest_of_class"] == pytest.approx(
        float((x - train_x[distance.argmin(1)]).square().mean()), rel=1e-5
    )
    assert figures["mse"] < figures["class_mean"] < figures["constant"]  # z holds an item's own part
    # A class that training has not is left out, and so are class figures where there is no other.
    some = nonparametric_decoder(*flat(parts), train_y=train_y, test_y=torch.where(y == 2, 9, y))
    kept = y != 2
    assert some["class_mean"] == pytest.approx(float((x - mean[y])[kept].square().mean()), rel=1e-5)
    none = nonparametric_decoder(*flat(parts), train_y=train_y, test_y=y + 10)
    assert none["class_mean"] is none["nearest_of_class"] is None


def test_a_z_of_nothing_or_of_the_class_alone_decodes_to_their_means():
    parts = splits(sizes=(600, 200, 400))
    nothing = [(torch.zeros(len(z), 3), x, y) for z, x, y in parts]
    figures = nonparametric_decoder(*flat(nothing))
    assert figures["mse"] == pytest.approx(figures["constant"] * (1 + 1 / 64), rel=0.05)
    classes = [(torch.nn.functional.one_hot(y, 3).double(), x, y) for _, x, y in parts]
    figures = nonparametric_decoder(*flat(classes), train_y=parts[0][2], test_y=parts[2][2])
    assert figures["mse"] == pytest.approx(figures["class_mean"] * (1 + 1 / 64), rel=0.05)
    shuffled = [(normal(len(z), 3, seed=50 + place), x, y) for place, (z, x, y) in enumerate(parts)]
    figures = nonparametric_decoder(*flat(shuffled), train_y=parts[0][2], test_y=parts[2][2])
    assert figures["nearest_of_class"] == pytest.approx(2 * figures["class_mean"], rel=0.15)
    assert figures["nearest"] == pytest.approx(2 * figures["constant"], rel=0.15)


def test_test_items_choose_nothing_and_distant_means_cost_no_digits():
    parts = splits()
    figures = nonparametric_decoder(*flat(parts))
    other = [*parts[:2], splits(seed=5)[2]]
    changed = nonparametric_decoder(*flat(other))
    for name in ("bandwidth", "validation_mse"):
        assert changed[name] == figures[name]
    assert changed["mse"] != figures["mse"]
    moved = nonparametric_decoder(*flat([(z + 1e4, x, y) for z, x, y in parts]))
    assert moved["mse"] == pytest.approx(figures["mse"], rel=1e-5)


@pytest.mark.parametrize(
    ("place", "value", "error", "message"),
    [
        (1, torch.zeros(49, 2, 2), ShapeError, r"train_x torch.float32 \[49, 2, 2\]"),
        (3, torch.zeros(20, 4), ShapeError, "validation_x"),
        (5, torch.zeros(30, 2, 2, dtype=torch.int64), ShapeError, r"test_x torch.int64"),
        (2, torch.zeros(20, 4), ShapeError, "validation_z"),
        (4, torch.full((30, 3), math.nan), NonFiniteError, "test_z"),
        (4, torch.zeros(0, 3), DataError, "test_z has no rows"),
    ],
)
def test_bad_arguments_of_the_decoder_are_named(place, value, error, message):
    arguments = flat(splits())
    arguments[place] = value
    with pytest.raises(error, match=message):
        nonparametric_decoder(*arguments)
    with pytest.raises(SettingsError, match="neighbours = 0"):
        nonparametric_decoder(*flat(splits()), neighbours=0)

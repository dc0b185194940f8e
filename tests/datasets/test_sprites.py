"""Sprites: pictures against a point-by-point rasteriser, known style, its law given the content, views of the same shape."""

import colorsys
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path

from genssl.datasets import Data, Items, from_any
from genssl.datasets.shapes import SHAPES, outline, signed_distance
from genssl.datasets.sprites import COLOUR, GREY, SpriteViews, render, sprites
from genssl.errors import SettingsError, ShapeError
from genssl.fit.batches import Batches, first_groups
from genssl.fit.described import describe_callable
from genssl.fit.reading import read_data
from genssl.views import Compose, Noise

K = len(SHAPES)
ALL = torch.arange(K)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def styles(x=0.5, y=0.5, scale=0.6, orientation=0.0, paint=1.0, count=K):
    """[count, 5]; numbers or tensors [count]."""
    columns = (torch.as_tensor(value, dtype=torch.float32).expand(count) for value in (x, y, scale, orientation, paint))
    return torch.stack(list(columns), 1)


def placed(points, x, y, scale, orientation, size):
    """Points [M, 2] of an outline in pixels: columns, and rows that go down."""
    turn = np.array([[math.cos(orientation), -math.sin(orientation)], [math.sin(orientation), math.cos(orientation)]])
    return points @ turn.T * 0.5 * scale * size * [1, -1] + [x * size, y * size]


def at_corners(name, x, y, scale, orientation, size):
    """[size, size] whether a pixel's centre is within a pixel of a corner where the outline turns by more than 80 degrees."""
    points = outline(name)
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    cos = (before * after).sum(1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    corners = placed(points[cos < math.cos(math.radians(80))], x, y, scale, orientation, size)
    steps = np.arange(size) + 0.5
    centres = np.stack(np.meshgrid(steps, steps), -1)
    return (np.abs(centres[:, :, None] - corners).max(-1) < 1).any(-1)


def rasterise(name, x, y, scale, orientation, size, fine=8):
    """[size, size] the covered part of every pixel: fine^2 points of it, each inside the turned outline or not."""
    corners = placed(outline(name), x, y, scale, orientation, size)
    steps = (np.arange(size * fine) + 0.5) / fine
    points = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    inside = Path(corners).contains_points(points).reshape(size, fine, size, fine)
    return inside.mean((1, 3))


# ---------------------------------------------------------------------- shapes


@pytest.mark.parametrize("name", SHAPES)
def test_the_distance_is_that_to_the_nearest_point_of_the_outline(name):
    corners = outline(name)
    points = np.random.default_rng(0).uniform(-1.3, 1.3, (400, 2))
    along = np.linspace(0, 1, 200)[:, None, None]
    border = (corners + along * (np.roll(corners, -1, 0) - corners)).reshape(-1, 2)
    nearest = np.sqrt(((points[:, None] - border) ** 2).sum(-1).min(1))
    distance = signed_distance(corners, points)
    np.testing.assert_allclose(np.abs(distance), nearest, atol=5e-3)
    assert ((distance < 0) == Path(corners).contains_points(points)).all()


@pytest.mark.parametrize("name", SHAPES)
def test_outlines_are_centred_with_radius_one(name):
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 400)] * 2), -1).reshape(-1, 2)
    inside = grid[Path(outline(name)).contains_points(grid)]
    np.testing.assert_allclose(inside.mean(0), 0, atol=5e-3)
    assert np.linalg.norm(outline(name), axis=1).max() == pytest.approx(1)


def test_no_shape_is_like_itself_after_a_turn():
    angles = torch.linspace(0, 2 * math.pi, 37)[3:-3]  # 30 to 330 degrees
    for shape in range(K):
        upright = render(ALL[shape : shape + 1], styles(count=1), 32, False)
        turned = render(ALL[shape].expand(len(angles)), styles(orientation=angles, count=len(angles)), 32, False)
        assert ((turned - upright).abs().sum((1, 2, 3)) > 0.15 * upright.sum()).all(), SHAPES[shape]


def test_shapes_are_told_apart_by_their_pixels():
    """Leave-one-out nearest neighbour on upright sprites in the middle, of any scale and brightness."""
    shape, u = ALL.repeat(20), torch.rand(2, 20 * K, generator=generator())
    x = render(shape, styles(scale=0.4 + 0.2 * u[0], paint=0.5 + 0.5 * u[1], count=20 * K), 32, False).flatten(1)
    x = x / x.norm(dim=1, keepdim=True)
    nearest = (x @ x.T).fill_diagonal_(-1).argmax(1)
    assert torch.equal(shape[nearest], shape)


# ---------------------------------------------------------------------- pictures


@settings(max_examples=25, deadline=None)
@given(
    shape=st.integers(0, K - 1),
    size=st.sampled_from([16, 32, 45, 64]),
    place=st.tuples(st.floats(0.34, 0.66), st.floats(0.34, 0.66)),
    scale=st.floats(0.4, 0.6),
    orientation=st.floats(0, 2 * math.pi),
)
def test_pixels_are_as_bright_as_they_are_covered(shape, size, place, scale, orientation):
    image = render(torch.tensor([shape]), styles(*place, scale, orientation, count=1), size, False)[0, 0].numpy()
    covered = rasterise(SHAPES[shape], *place, scale, orientation, size)
    error = np.abs(image - covered)
    corner = at_corners(SHAPES[shape], *place, scale, orientation, size)
    assert error[~corner].max() < 0.2
    # On the tip of a corner the distance is 0 and half of the pixel is painted, however little a sharp one covers.
    assert error.max() < 0.5
    assert error.sum() < 0.6 * math.sqrt(covered.sum())  # a small part of a pixel along the outline
    assert image.sum() == pytest.approx(covered.sum(), rel=2 / size)


def test_a_pixel_to_the_right_and_two_down():
    orientation = torch.linspace(0, 6, K)
    before = render(ALL, styles(0.42, 0.4, 0.5, orientation), 32, False)
    after = render(ALL, styles(0.42 + 1 / 32, 0.4 + 2 / 32, 0.5, orientation), 32, False)
    torch.testing.assert_close(after, before.roll((2, 1), (2, 3)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [16, 33])
def test_orientation_is_counter_clockwise(size):
    u = torch.rand(3, K, generator=generator())
    x, y, angle = 0.4 + 0.2 * u[0], 0.4 + 0.2 * u[1], 6 * u[2]
    before = render(ALL, styles(x, y, 0.5, angle), size, False)
    after = render(ALL, styles(y, 1 - x, 0.5, angle + math.pi / 2), size, False)
    torch.testing.assert_close(after, torch.rot90(before, 1, (2, 3)), rtol=0, atol=1e-4)


def test_area_grows_with_the_square_of_scale():
    scale = torch.tensor([0.4, 0.45, 0.5, 0.55, 0.6])
    for shape in range(K):
        area = render(ALL[shape].expand(5), styles(scale=scale, count=5), 64, False).sum((1, 2, 3))
        torch.testing.assert_close(area / area[0], (scale / 0.4) ** 2, rtol=0.01, atol=0)


def test_antialiasing_keeps_the_light_on_the_way_between_pixels():
    shift = torch.linspace(0, 2 / 32, 41)
    for shape in range(K):
        light = render(ALL[shape].expand(41), styles(x=0.45 + shift, orientation=0.3, count=41), 32, False).sum(
            (1, 2, 3)
        )
        assert (light / light.mean() - 1).abs().max() < 0.02
        assert light.diff().abs().max() < 0.005 * light.mean()


@pytest.mark.parametrize("size", [16, 32, 64])
def test_the_largest_sprite_stays_in_the_image_at_every_edge(size):
    """The same sprite on a canvas of twice the size lights no pixel outside its middle."""
    angle, middle = torch.linspace(0, 6, K), slice(size // 2, size // 2 + size)
    for x, y in ((0.34, 0.34), (0.66, 0.34), (0.34, 0.66), (0.66, 0.66)):
        image = render(ALL, styles(x, y, 0.6, angle), size, False)
        canvas = render(ALL, styles(0.25 + x / 2, 0.25 + y / 2, 0.3, angle), 2 * size, False)
        torch.testing.assert_close(canvas[..., middle, middle], image, rtol=0, atol=1e-4)
        assert canvas.sum() == pytest.approx(image.sum().item(), abs=1e-2)


def test_hue_is_read_off_the_pixels():
    hue = torch.linspace(0, 6.2, K)
    images = render(ALL, styles(paint=hue), 32, True)
    for image, expected in zip(images, hue, strict=True):
        brightest = image.flatten(1)[:, image.sum(0).argmax()].tolist()
        h, s, v = colorsys.rgb_to_hsv(*brightest)
        assert (h * 2 * math.pi, s, v) == pytest.approx((expected.item(), 0.8, 1.0), abs=1e-4)


def test_brightness_is_the_level_of_covered_pixels():
    level = torch.linspace(0.5, 1, K)
    torch.testing.assert_close(render(ALL, styles(paint=level), 32, False).amax((1, 2, 3)), level)


# ---------------------------------------------------------------------- the data set


@settings(max_examples=12, deadline=None)
@given(
    num=st.integers(10, 60),
    size=st.integers(16, 70),
    colour=st.booleans(),
    correlation=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_every_item_is_what_its_label_and_style_say(num, size, colour, correlation, seed):
    data = sprites(num, size, colour, correlation, seed)
    again = sprites(num, size, colour, correlation, seed)
    held = round(0.1 * num)
    assert {name: len(split) for name, split in data.splits()} == {
        "train": num - 2 * held,
        "validation": held,
        "test": held,
    }
    for (_, split), (_, same) in zip(data.splits(), again.splits(), strict=True):
        assert torch.equal(split.x, same.x)
        assert torch.equal(split.style, same.style)
        assert split.event_shape == (3 if colour else 1, size, size)
        assert split.label.tolist() == [i % K for i in range(len(split))]
        for value, (_, low, high) in zip(split.style.T, (COLOUR if colour else GREY).values(), strict=True):
            assert low - 1e-6 <= value.min()
            assert value.max() <= high + 1e-6
        images = render(split.label, split.style, size, colour)
        assert images.min() == 0
        assert images.max() <= 1
        torch.testing.assert_close(split.floats(), images, rtol=0, atol=0.501 / 255)


def test_seeds_and_splits_differ():
    data, other = sprites(100, 16), sprites(100, 16, seed=1)
    assert not torch.equal(data.train.x, other.train.x)
    assert not torch.equal(data.test.x, other.test.x)
    assert len(torch.cat([split.style for _, split in data.splits()]).unique(dim=0)) == 100
    assert data.classes == SHAPES
    assert data.train.style_names == ("position_x", "position_y", "scale", "orientation", "brightness")
    assert sprites(10, 16, colour=True).train.style_names[-1] == "hue"
    assert data.train.style_kinds == ("continuous", "continuous", "continuous", "circular", "continuous")


# ---------------------------------------------------------------------- correlation


def drawn(correlation, count=20000):
    """Shapes, and their style as fractions of its range [count, 5]."""
    shape = torch.arange(count) % K
    style = SpriteViews(correlation=correlation).draw(shape, generator(3)).double()
    low, high = (torch.tensor([law[i] for law in GREY.values()], dtype=torch.float64) for i in (1, 2))
    return shape, (style - low) / (high - low)


def correlation_ratio(shape, q):
    """[5] the part of the variance that lies between classes."""
    means = torch.stack([q[shape == k].mean(0) for k in range(K)])
    return means.var(0, correction=0) / q.var(0, correction=0)


def test_style_is_independent_of_content_at_zero():
    """Chi-square of class by decile: 81 degrees of freedom, 99.99% of the law below 135; and factors are uncorrelated."""
    shape, q = drawn(0.0)
    for factor in q.T:
        counts = torch.zeros(K, 10).index_put_(
            (shape, (10 * factor).long().clamp(max=9)), torch.ones(()), accumulate=True
        )
        assert (((counts - 200) ** 2) / 200).sum() < 135
    assert (torch.corrcoef(q.T) - torch.eye(5)).abs().max() < 0.03
    assert correlation_ratio(shape, q).max() < 0.002


def test_the_correlation_ratio_grows_as_documented():
    last = torch.zeros(5, dtype=torch.float64)
    for r in (0.2, 0.4, 0.6, 0.8, 0.95):
        between = r**2 * (1 - K**-2)
        ratio = correlation_ratio(*drawn(r))
        torch.testing.assert_close(
            ratio, torch.full_like(ratio, between / (between + (1 - r) ** 2)), rtol=0.02, atol=0.005
        )
        ranks = torch.stack([factor.argsort().argsort().double() for factor in drawn(r)[1].T], 1)
        assert (correlation_ratio(drawn(r)[0], ranks) > last).all()
        last = correlation_ratio(drawn(r)[0], ranks)


def test_style_is_a_function_of_content_at_one():
    shape, q = drawn(1.0, 1000)
    centres = torch.stack([q[shape == k].unique(dim=0).squeeze(0) for k in range(K)])
    expected = [(((f + 1) * (k + 1)) % 11 - 0.5) / 10 for k in range(K) for f in range(5)]
    torch.testing.assert_close(centres.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


# ---------------------------------------------------------------------- views


@pytest.mark.parametrize("limit", [None, 203])
@pytest.mark.parametrize("colour", [False, True])
def test_groups_of_fit_show_the_shape_of_their_item(limit, colour):
    data = read_data(sprites(500, 24, colour), 7, None, limit, None)
    assert len(data.train) == (limit or 400)
    batches = Batches(data.train, data.views, 3, 64, 7, torch.device("cpu"))
    for groups in [
        *(batch for _, batch in batches.run(0, 8)),
        *(first_groups(split, len(split), data.views, 3, 7, torch.device("cpu")) for _, split in data.splits()),
    ]:
        style = groups.style.flatten(0, 1)
        expected = render(groups.label.repeat_interleave(3), style, 24, colour)
        assert torch.equal(groups.x.flatten(0, 1), expected)
        assert len(style.unique(dim=0)) == len(style)
        assert groups.style_names == tuple(COLOUR if colour else GREY)


def test_views_are_a_function_of_the_generator_row_by_row():
    data = sprites(100, 16, correlation=0.5)
    x, label = data.train.floats(), data.train.label
    whole, style = data.views(x, None, generator(5), label)
    draws = generator(5)
    parts = [data.views(x[rows], None, draws, label[rows])[0] for rows in torch.arange(80).split(32)]
    assert torch.equal(torch.cat(parts), whole)
    shape, q = data.train.label, (style - style.new_tensor([law[1] for law in GREY.values()]))
    assert ((q[:, 0] / 0.32 - 0.5 * ((shape + 1) % 11 - 0.5) / 10) <= 0.5 + 1e-5).all()  # the class keeps its share
    assert not torch.equal(data.views(x, None, generator(6), label)[0], whole)


def test_views_follow_the_labels_of_any_subset_or_order():
    data = sprites(400, 16)
    order = torch.randperm(len(data.train), generator=generator(0))
    mixed = from_any((data.train.x[order], data.train.label[order]), seed=0)
    groups = Batches(mixed.train, data.views, 2, 64, 0, torch.device("cpu")).at(0)
    expected = render(groups.label.repeat_interleave(2), groups.style.flatten(0, 1), 16, False)
    assert torch.equal(groups.x.flatten(0, 1), expected)
    bare = from_any(data.train.x, seed=0)
    with pytest.raises(SettingsError, match="label is None"):
        Batches(bare.train, data.views, 2, 64, 0, torch.device("cpu")).at(0)


def test_views_can_be_composed():
    data = sprites(200, 16)
    views = Compose(data.views, Noise((0.1, 0.1)))
    groups = Batches(data.train, views, 2, 32, 0, torch.device("cpu")).at(0)
    plain = render(groups.label.repeat_interleave(2), groups.style.flatten(0, 1)[:, :5], 16, False)
    assert 0.02 < (groups.x.flatten(0, 1) - plain).abs().mean() < 0.1


def test_views_are_kept_by_name_and_pickled():
    views = SpriteViews(64, True, 0.3)
    assert describe_callable(views) == "SpriteViews(size=64, colour=True, correlation=0.3)"
    assert pickle.loads(pickle.dumps(views)) == views


def test_double_precision_changes_no_pixel(float64):
    torch.set_default_dtype(torch.float32)
    single = sprites(50, 16)
    torch.set_default_dtype(torch.float64)
    double = sprites(50, 16)
    assert torch.equal(single.train.x, double.train.x)
    views, _ = double.views(double.train.floats(), None, generator(), double.train.label)
    assert views.dtype == torch.float64


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num": 9}, "num is 9"),
        ({"num": 20.0}, "num is 20.0"),
        ({"size": 15}, "size is 15"),
        ({"size": 32.0}, "size is 32.0"),
        ({"colour": "yes"}, "colour is 'yes'"),
        ({"correlation": 1.5}, "correlation is 1.5"),
        ({"correlation": math.nan}, "correlation is nan"),
        ({"correlation": "high"}, "correlation is 'high'"),
    ],
)
def test_bad_settings(given, message):
    with pytest.raises(SettingsError, match=message):
        sprites(**{"num": 20, "size": 16} | given)


def test_bad_arguments_of_views_and_render():
    views, x = SpriteViews(16), torch.zeros(3, 1, 16, 16)
    with pytest.raises(SettingsError, match="label is None"):
        views(x, None, generator())
    with pytest.raises(ShapeError, match=r"\[3, 1, 16, 16\], expected \[3, 3, 16, 16\]"):
        SpriteViews(16, colour=True)(x, None, generator(), torch.arange(3))
    with pytest.raises(ShapeError, match=r"expected \[2, 1, 16, 16\]"):
        views(x, None, generator(), torch.arange(2))
    with pytest.raises(ShapeError, match="hue"):
        render(ALL, torch.zeros(K, 4), 16, True)


def test_the_rest_of_the_library_takes_them_as_any_data():
    data = sprites(50, 16)
    assert isinstance(data, Data)
    assert isinstance(from_any(data, seed=3), type(data))
    assert isinstance(data.train, Items)
    assert data.describe()["sizes"] == {"train": 40, "validation": 5, "test": 5}

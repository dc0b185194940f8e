"""Geometric against torchvision's per-image transforms: the law of its draws, and the pixels of its views."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from genssl.datasets.torchvision_shim import ensure_torchvision
from genssl.errors import DataError, SettingsError, ShapeError
from genssl.host_sync import HostSyncError, NoHostSync
from genssl.views import Geometric

ensure_torchvision()

import torchvision.transforms as T  # noqa: E402
import torchvision.transforms.functional as TF  # noqa: E402
from torchvision.transforms import InterpolationMode  # noqa: E402

EVERYTHING = Geometric(
    crop_scale=(0.3, 1.0), horizontal_flip=0.5, vertical_flip=0.3, translate=(0.2, 0.1), rotate=40, size=(9, 14)
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(batch=64, channels=1, height=28, width=28, seed=1):
    return torch.rand(batch, channels, height, width, generator=seeded(seed))


def boxes(transform, style, height, width):
    """Style -> [B, 4] top, left, height, width in pixels, by their definitions."""
    column = dict(zip(transform.style_names, style.unbind(1), strict=True))
    h, w = column["crop_height"] * height, column["crop_width"] * width
    return torch.stack([column["crop_y"] * height - h / 2, column["crop_x"] * width - w / 2, h, w], 1)


# ---------------------------------------------------------------------- the law of the draws


@pytest.mark.parametrize(
    ("scale", "ratio", "height", "width"),
    [
        ((0.4, 1.0), (0.75, 1.3), 28, 28),  # the paper
        ((0.08, 1.0), (3 / 4, 4 / 3), 20, 33),
        ((0.5, 1.0), (0.3, 0.5), 12, 12),  # candidates often do not fit
        ((0.97, 1.0), (1.05, 1.25), 16, 16),  # most do not: the fallback is common
        ((0.5, 0.9), (1.0, 1.0), 8, 8),
        ((0.6, 0.6), (0.5, 2.0), 9, 16),
    ],
)
def test_crops_have_the_law_of_random_resized_crop(scale, ratio, height, width):
    n = 4000
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        image = torch.zeros(1, height, width)
        reference = np.array([T.RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(n)])
    ours = Geometric(crop_scale=scale, crop_ratio=ratio)
    box = boxes(ours, ours.draw(10 * n, height, width, seeded()), height, width).numpy()
    np.testing.assert_allclose(box, box.round(), atol=1e-4)  # whole pixels
    box = box.round().astype(float)  # ratios tie with the reference's
    for name, of in {
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
        "area": lambda b: b[:, 2] * b[:, 3],
        "ratio": lambda b: b[:, 3] / b[:, 2],
        "room used": lambda b: b[:, 1] / np.maximum(width - b[:, 3], 1),
        "corner": lambda b: b[:, 0] - b[:, 1],
    }.items():
        mine, theirs = of(box), of(reference)
        error = np.sqrt(mine.var() / len(mine) + theirs.var() / n)
        assert abs(mine.mean() - theirs.mean()) <= 4 * error + 1e-9, name
        assert ks_2samp(mine, theirs, method="asymp").pvalue > 1e-3, name


@pytest.mark.parametrize(
    ("ratio", "height", "width"), [((1.5, 2.0), 10, 10), ((0.4, 0.5), 10, 11), ((3.0, 4.0), 7, 19)]
)
def test_the_central_fallback_is_torchvisions(ratio, height, width):
    ours = Geometric(crop_scale=(0.999, 1.0), crop_ratio=ratio)
    expected = T.RandomResizedCrop.get_params(torch.zeros(1, height, width), [0.999, 1.0], list(ratio))
    box = boxes(ours, ours.draw(50, height, width, seeded()), height, width)
    torch.testing.assert_close(box, torch.tensor(expected).float().expand(50, 4), atol=1e-5, rtol=0)


def test_flips_translation_and_rotation_have_the_stated_laws():
    n = 40_000
    transform = Geometric(horizontal_flip=0.25, vertical_flip=0.5, translate=(0.2, 0.1), rotate=30)
    style = transform.draw(n, 28, 28, seeded())
    column = dict(zip(transform.style_names, style.double().unbind(1), strict=True))
    for name, probability in {"horizontal_flip": 0.25, "vertical_flip": 0.5}.items():
        assert set(column[name].tolist()) == {0.0, 1.0}
        assert abs(column[name].mean() - probability) < 4 * math.sqrt(probability * (1 - probability) / n)
    for name, largest in {"translate_x": 0.2, "translate_y": 0.1, "rotate": math.radians(30)}.items():
        assert column[name].abs().max() <= largest * (1 + 1e-6)
        uniform = torch.linspace(-largest, largest, n, dtype=torch.float64)
        assert (column[name].sort().values - uniform).abs().max() < 1.95 * 2 * largest / math.sqrt(
            n
        )  # Kolmogorov-Smirnov
    assert torch.corrcoef(style.T).fill_diagonal_(0).abs().max() < 4.5 / math.sqrt(n)


def test_pixel_statistics_are_torchvisions():
    """Every image with its own parameters: mean and variance of each pixel over views of one image."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 28), torch.linspace(0, 1, 28), indexing="ij")
    image = (0.5 + 0.5 * torch.sin(9 * x + 4 * y * y))[None]  # no symmetry
    n = 3000
    pipeline = T.Compose([T.RandomResizedCrop(28, scale=(0.4, 1.0), ratio=(0.75, 1.3)), T.RandomVerticalFlip(0.5)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        theirs = torch.stack([pipeline(image) for _ in range(n)]).double()
    transform = Geometric(crop_scale=(0.4, 1.0), crop_ratio=(0.75, 1.3), vertical_flip=0.5)
    ours = transform(image.expand(n, 1, 28, 28), None, seeded())[0].double()
    for moment in (lambda v: v, lambda v: (v - v.mean(0)) ** 2):
        a, b = moment(ours), moment(theirs)
        z = (a.mean(0) - b.mean(0)) / (a.var(0) / n + b.var(0) / n).sqrt()
        assert z.abs().max() < 5  # of 784 correlated pixels
        assert z.abs().mean() < 1.6


# ---------------------------------------------------------------------- the pixels


@pytest.mark.parametrize(
    ("channels", "height", "width", "size"), [(1, 28, 28, None), (3, 15, 22, None), (2, 8, 8, (13, 9))]
)
def test_crop_and_flips_are_resized_crop(channels, height, width, size):
    x = images(60, channels, height, width)
    transform = Geometric(crop_scale=(0.2, 1.0), horizontal_flip=0.5, vertical_flip=0.5, size=size)
    views, style = transform(x, None, seeded())
    box = boxes(transform, style, height, width).round().int().tolist()
    flips = style[:, -2:].bool().tolist()
    for view, image, (top, left, h, w), (horizontal, vertical) in zip(views, x, box, flips, strict=True):
        shape = [height, width] if size is None else list(size)
        expected = TF.resized_crop(image, top, left, h, w, shape, InterpolationMode.BILINEAR, antialias=False)
        expected = expected.flip(-1) if horizontal else expected
        expected = expected.flip(-2) if vertical else expected
        torch.testing.assert_close(view, expected, atol=1e-5, rtol=0)
        if size is None:  # nothing shrinks, so antialias changes nothing
            same = TF.resized_crop(image, top, left, h, w, shape, InterpolationMode.BILINEAR, antialias=True)
            torch.testing.assert_close(
                same, TF.resized_crop(image, top, left, h, w, shape, antialias=False), atol=1e-5, rtol=0
            )


@pytest.mark.parametrize(("height", "width"), [(28, 28), (11, 20)])
def test_rotation_and_translation_are_affine(height, width):
    x = images(40, 2, height, width)
    transform = Geometric(translate=(0.3, 0.2), rotate=180)
    views, style = transform(x, None, seeded())
    assert transform.style_names == ("translate_x", "translate_y", "rotate")
    for view, image, (shift_x, shift_y, angle) in zip(views, x, style.tolist(), strict=True):
        expected = TF.affine(
            image,
            angle=-math.degrees(angle),  # torchvision's affine turns clockwise
            translate=[shift_x * width, shift_y * height],
            scale=1.0,
            shear=[0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        torch.testing.assert_close(view, expected, atol=2e-5, rtol=0)


def test_positive_rotation_is_counter_clockwise_and_positive_shifts_go_right_and_down():
    x = torch.arange(9.0).reshape(1, 1, 3, 3) / 8
    transform = Geometric(translate=(1, 1), rotate=90)
    turned = transform.apply(x, torch.tensor([[0.0, 0.0, math.pi / 2]]))
    torch.testing.assert_close(turned, x.rot90(1, (-2, -1)), atol=1e-6, rtol=0)
    shifted = transform.apply(x, torch.tensor([[1 / 3, 0.0, 0.0]]))
    torch.testing.assert_close(shifted[..., 1:], x[..., :-1], atol=1e-6, rtol=0)
    assert shifted[..., 0].abs().max() < 1e-6  # zeros from outside
    down = transform.apply(x, torch.tensor([[0.0, 1 / 3, 0.0]]))
    torch.testing.assert_close(down[..., 1:, :], x[..., :-1, :], atol=1e-6, rtol=0)


def test_order_is_affine_then_crop_then_flip():
    """Shifts of whole pixels lose nothing, so three steps of torchvision equal the one interpolation."""
    x = images(30, 1, 16, 16)
    transform = Geometric(crop_scale=(0.3, 1.0), horizontal_flip=0.5, vertical_flip=0.5, translate=(0.25, 0.25))
    style = transform.draw(30, 16, 16, seeded())
    style[:, -2:] = (style[:, -2:] * 16).round() / 16
    views = transform.apply(x, style)
    box = boxes(transform, style, 16, 16).round().int().tolist()
    for view, image, (top, left, h, w), row in zip(views, x, box, style[:, -4:].tolist(), strict=True):
        horizontal, vertical, shift_x, shift_y = row
        moved = TF.affine(image, 0.0, [round(shift_x * 16), round(shift_y * 16)], 1.0, [0.0])
        expected = TF.resized_crop(moved, top, left, h, w, [16, 16], antialias=False)
        expected = expected.flip(-1) if horizontal else expected
        expected = expected.flip(-2) if vertical else expected
        torch.testing.assert_close(view, expected, atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    channels=st.integers(1, 3),
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    low=st.floats(0.05, 0.99),
    ratio=st.tuples(st.floats(0.2, 1), st.floats(1, 5)),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    translate=st.sampled_from([0.0, 0.3]),
    rotate=st.sampled_from([0.0, 60.0]),
    size=st.none() | st.integers(1, 15) | st.tuples(st.integers(1, 15), st.integers(1, 15)),
    seed=st.integers(0, 2**31),
)
def test_any_size_and_setting(channels, height, width, low, ratio, flip, translate, rotate, size, seed):
    transform = Geometric((low, 1.0), ratio, flip, flip, (translate, translate), rotate, size=size)
    x = images(5, channels, height, width)
    views, style = transform(x, None, seeded(seed))
    h, w = (height, width) if size is None else (size, size) if isinstance(size, int) else size
    assert views.shape == (5, channels, h, w)
    assert style.shape == (5, len(transform.style_names)) == (5, len(transform.style_kinds))
    assert views.min() >= -1e-6
    assert views.max() <= 1 + 1e-6
    box = boxes(transform, style, height, width)
    assert (box[:, :2] > -1e-4).all()
    assert (box[:, 2:] > 1 - 1e-4).all()
    assert (box[:, :2] + box[:, 2:] < torch.tensor([height, width]) + 1e-4).all()
    torch.testing.assert_close(transform.apply(x, style), views, rtol=0, atol=0)
    if translate == rotate == 0:  # no pixel from outside the crop: what is constant stays so
        torch.testing.assert_close(transform(torch.ones_like(x), None, seeded(seed))[0], torch.ones_like(views))


# ---------------------------------------------------------------------- style


def test_style_holds_what_varies_and_only_that():
    assert Geometric().style_names == ()
    assert Geometric(horizontal_flip=1.0, vertical_flip=0.0, threshold=0.5, size=7).style_names == ()
    assert Geometric(translate=(0.1, 0.0)).style_names == ("translate_x",)
    assert Geometric(crop_scale=(0.5, 0.5), crop_ratio=(1, 1)).style_names == ("crop_x", "crop_y")
    assert dict(zip(EVERYTHING.style_names, EVERYTHING.style_kinds, strict=True)) == {
        "crop_x": "continuous",
        "crop_y": "continuous",
        "crop_width": "continuous",
        "crop_height": "continuous",
        "horizontal_flip": "categorical",
        "vertical_flip": "categorical",
        "translate_x": "continuous",
        "translate_y": "continuous",
        "rotate": "circular",
    }


@pytest.mark.parametrize("scale", [0.36, 0.5])
def test_a_crop_of_one_size_is_random_crop(scale):
    transform = Geometric(crop_scale=(scale, scale), crop_ratio=(1, 1))
    x = images(30, 1, 10, 10)
    views, style = transform(x, None, seeded())
    side = round(10 * math.sqrt(scale))
    for view, image, (centre_x, centre_y) in zip(views, x, style.tolist(), strict=True):
        top, left = round(centre_y * 10 - side / 2), round(centre_x * 10 - side / 2)
        expected = TF.resized_crop(image, top, left, side, side, [10, 10], antialias=False)
        torch.testing.assert_close(view, expected, atol=1e-5, rtol=0)


def test_identity_settings_return_the_input():
    x = images()
    views, style = Geometric()(x, None, seeded())
    assert torch.equal(views, x)
    assert style.shape == (64, 0)


def test_certain_flips_are_exact():
    x = images(height=7, width=6)
    views, _ = Geometric(horizontal_flip=1.0, vertical_flip=1.0)(x, None, seeded())
    torch.testing.assert_close(views, x.flip(-1, -2), atol=2e-6, rtol=0)


def test_threshold_comes_last_and_leaves_the_input_alone():
    x = images(seed=4)
    kept = x.clone()
    views, _ = Geometric(threshold=0.5)(x, None, seeded())
    assert torch.equal(views, (kept > 0.5).float())
    assert torch.equal(x, kept)
    crop = {"crop_scale": (0.4, 1.0), "vertical_flip": 0.5}
    soft, hard = (Geometric(**crop, threshold=t)(x, None, seeded())[0] for t in (None, 0.5))
    assert torch.equal(hard, (soft > 0.5).float())
    assert views.dtype == torch.float32


# ---------------------------------------------------------------------- randomness


def test_views_are_a_function_of_the_generator():
    x = images(height=12, width=17)
    first, again, other = (EVERYTHING(x, None, seeded(s)) for s in (7, 7, 8))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    before = torch.get_rng_state()
    EVERYTHING(x, None, seeded())
    assert torch.equal(before, torch.get_rng_state())


def test_rows_are_independent_of_the_split_and_of_each_other():
    x = images(50, 1, 12, 17)
    whole = EVERYTHING(x, None, seeded())
    generator = seeded()
    parts = [EVERYTHING(part, None, generator) for part in x.split([1, 16, 33])]
    for i in (0, 1):
        torch.testing.assert_close(torch.cat([part[i] for part in parts]), whole[i], atol=1e-6, rtol=0)
    changed = x.clone()
    changed[3] = 0
    rows = [i for i in range(50) if i != 3]
    assert torch.equal(EVERYTHING(changed, None, seeded())[0][rows], whole[0][rows])
    assert len({tuple(row) for row in whole[1].tolist()}) == 50


def test_one_setting_does_not_shift_the_draws_of_another():
    crop = Geometric(crop_scale=(0.4, 1.0))
    more = Geometric(crop_scale=(0.4, 1.0), vertical_flip=0.5, rotate=10)
    assert torch.equal(more.draw(20, 28, 28, seeded())[:, :4], crop.draw(20, 28, 28, seeded()))


def test_nothing_waits_for_the_device():
    x = images()
    with NoHostSync():
        EVERYTHING(x, None, seeded())
        Geometric(crop_scale=(0.5, 0.5), crop_ratio=(1, 1), threshold=0.5)(x, None, seeded())
        with pytest.raises(HostSyncError, match="_local_scalar_dense"):
            x[0, 0, 0, 0].item()  # the mode can fail


# ---------------------------------------------------------------------- types and errors


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_views_keep_the_type_of_the_images(dtype, atol):
    x = images(height=12, width=17)
    expected, style = EVERYTHING(x, None, seeded())
    views, same = EVERYTHING(x.to(dtype), None, seeded())
    assert views.dtype == dtype
    assert torch.equal(style, same)
    torch.testing.assert_close(views.float(), expected, atol=atol, rtol=0)


@pytest.mark.parametrize(
    "bad",
    [
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.9, 0.4)},
        {"crop_scale": (0.5, 1.5)},
        {"crop_ratio": (2.0, 1.0)},
        {"horizontal_flip": 1.5},
        {"vertical_flip": -0.1},
        {"translate": (0.1, -0.1)},
        {"rotate": 181},
        {"size": 0},
        {"rotate": float("nan")},
    ],
)
def test_settings_outside_their_range_are_named(bad):
    with pytest.raises(SettingsError, match=f"{next(iter(bad))} is"):
        Geometric(**bad)


def test_what_is_no_batch_of_images_is_an_error():
    with pytest.raises(ShapeError, match=r"\[3, 28, 28\], expected \[B, C, H, W\]"):
        Geometric()(torch.rand(3, 28, 28), None, seeded())
    with pytest.raises(DataError, match="uint8"):
        Geometric()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), None, seeded())
    with pytest.raises(ShapeError, match=r"style has shape \[2, 3\], expected \[2, 1\] \(rotate\)"):
        Geometric(rotate=5).apply(torch.rand(2, 1, 8, 8), torch.zeros(2, 3))

"""Blur, solarisation, noise and erasing against torchvision image by image, and the laws that every transform keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, kstest

from genssl.datasets.torchvision_shim import ensure_torchvision
from genssl.errors import DataError, SettingsError, ShapeError
from genssl.host_sync import HostSyncError, NoHostSync
from genssl.views import ColourJitter, Compose, Erase, GaussianBlur, Noise, Solarise, make_groups

ensure_torchvision()

import torchvision.transforms as T  # noqa: E402
import torchvision.transforms.functional as TF  # noqa: E402

WITH_APPLY = [
    GaussianBlur(5, probability=0.5),
    Solarise(probability=0.5),
    Erase(probability=0.5),
    ColourJitter(0.8, 0.8, 0.8, 0.2, probability=0.8, grayscale=0.2),
]
ALL = [*WITH_APPLY, Noise(probability=0.5)]
BY_NAME = {"ids": lambda transform: type(transform).__name__}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(batch=60, channels=3, height=12, width=9, seed=1):
    return torch.rand(batch, channels, height, width, generator=seeded(seed))


def column(transform, style):
    return dict(zip(transform.style_names, style.unbind(1), strict=True))


# ---------------------------------------------------------------------- blur


@pytest.mark.parametrize(("kernel_size", "channels", "height", "width"), [(3, 3, 12, 9), (7, 1, 8, 4), (1, 2, 3, 3)])
def test_blur_is_torchvisions(kernel_size, channels, height, width):
    x = images(40, channels, height, width)
    transform = GaussianBlur(kernel_size, probability=0.7)
    views, style = transform(x, None, seeded())
    for view, image, (applied, scale) in zip(views, x, style.tolist(), strict=True):
        expected = TF.gaussian_blur(image, [kernel_size] * 2, [scale] * 2) if applied else image
        torch.testing.assert_close(view, expected, atol=1e-6, rtol=0)
    assert torch.equal(views[style[:, 0] == 0], x[style[:, 0] == 0])  # untouched to the last bit
    assert 5 < (style[:, 0] == 0).sum() < 22


def test_blur_scales_are_uniform_and_zero_where_not_applied():
    transform = GaussianBlur(3, scale=(0.1, 2.0), probability=0.5)
    factors = column(transform, transform.draw(20_000, 8, 8, seeded()).double())
    applied = factors["blur"] > 0
    assert abs(applied.double().mean() - 0.5) < 0.015
    assert (factors["blur_scale"][~applied] == 0).all()
    assert kstest(factors["blur_scale"][applied].numpy(), "uniform", args=(0.1, 1.9)).pvalue > 1e-3
    assert transform.style_kinds == ("categorical", "continuous")


def test_one_scale_for_all_is_no_style():
    x = images()
    transform = GaussianBlur(5, scale=(1.5, 1.5))
    views, style = transform(x, None, seeded())
    assert style.shape == (60, 0)
    torch.testing.assert_close(views, TF.gaussian_blur(x, [5, 5], [1.5, 1.5]), atol=1e-6, rtol=0)
    views, style = GaussianBlur(5, scale=(1.5, 1.5), probability=0.5)(x, None, seeded())
    blurred = style[:, 0].bool()
    torch.testing.assert_close(views[blurred], TF.gaussian_blur(x, [5, 5], [1.5, 1.5])[blurred], atol=1e-6, rtol=0)
    assert torch.equal(views[~blurred], x[~blurred])
    assert torch.equal(GaussianBlur(5, probability=0.0)(x, None, seeded())[0], x)


def test_a_kernel_larger_than_the_image_is_an_error():
    GaussianBlur(7)(images(height=4), None, seeded())
    with pytest.raises(ShapeError, match=r"\[60, 3, 3, 9\], kernel_size is 7, expected sides of more than 3"):
        GaussianBlur(7)(images(height=3), None, seeded())


# ---------------------------------------------------------------------- solarise


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
def test_solarise_is_torchvisions(threshold):
    x = images()
    x[:, :, 0, :] = threshold  # at the threshold too
    transform = Solarise(threshold, probability=0.4)
    views, style = transform(x, None, seeded())
    assert transform.style_names == ("solarise",)
    assert transform.style_kinds == ("categorical",)
    assert set(style.flatten().tolist()) == {0.0, 1.0}
    assert abs(transform.draw(20_000, 8, 8, seeded()).mean() - 0.4) < 0.015
    for view, image, applied in zip(views, x, style[:, 0].tolist(), strict=True):
        assert torch.equal(view, TF.solarize(image, threshold) if applied else image)
    always, style = Solarise(threshold)(x, None, seeded())
    assert style.shape == (60, 0)
    assert torch.equal(always, TF.solarize(x, threshold))


# ---------------------------------------------------------------------- noise


def test_noise_is_normal_with_the_scale_of_its_style():
    x = images(300, 3, 16, 16)
    transform = Noise(scale=(0.1, 0.5), probability=0.6, clamp=False)
    views, style = transform(x, None, seeded())
    factors, noise = column(transform, style), views - x
    applied = factors["noise"] > 0
    assert 140 < applied.sum() < 220
    assert (noise[~applied] == 0).all()
    assert (factors["noise_scale"][~applied] == 0).all()
    standard = (noise[applied] / factors["noise_scale"][applied][:, None, None, None]).flatten(1)
    assert kstest(standard.flatten()[::7].double().numpy(), "norm").pvalue > 1e-3
    assert (standard.std(1) - 1).abs().max() < 0.13  # of 768 numbers each
    assert kstest(factors["noise_scale"][applied].double().numpy(), "uniform", args=(0.1, 0.4)).pvalue > 1e-3
    assert views.min() < 0 < 1 < views.max()


def test_noise_is_clamped_where_asked():
    x = images()
    free, _ = Noise((0.5, 0.5), clamp=False)(x, None, seeded())
    views, style = Noise((0.5, 0.5))(x, None, seeded())
    assert torch.equal(views, free.clamp(0, 1))
    assert style.shape == (60, 0)
    views, style = Noise((0.5, 0.5), probability=0.5, clamp=False)(x, None, seeded())
    torch.testing.assert_close(views, torch.where(style[:, :, None, None] > 0, free, x))


# ---------------------------------------------------------------------- erase


def rectangles(transform, style, height, width):
    """Style -> [B, 4] top, left, height, width in pixels, by their definitions."""
    factors = column(transform, style.double())
    h, w = factors["erase_height"] * height, factors["erase_width"] * width
    return torch.stack([factors["erase_y"] * height - h / 2, factors["erase_x"] * width - w / 2, h, w], 1)


@pytest.mark.parametrize(
    ("area", "ratio", "height", "width"),
    [((0.02, 0.33), (0.3, 3.3), 20, 33), ((0.2, 0.9), (0.2, 1.0), 16, 16), ((0.3, 0.8), (2.0, 4.0), 12, 12)],
)
def test_rectangles_have_the_law_of_random_erasing(area, ratio, height, width):
    n = 3000
    image = torch.zeros(1, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        inverted = (1 / ratio[1], 1 / ratio[0])
        theirs = [T.RandomErasing.get_params(image, area, inverted, [0.0]) for _ in range(n)]
    fits = np.array([(h, w) != (height, width) for _, _, h, w, _ in theirs])
    reference = np.array([row[:4] for row in theirs])[fits]
    ours = Erase(area, ratio, probability=1.0)
    box = rectangles(ours, ours.draw(5 * n, height, width, seeded()), height, width).numpy()
    found = box[:, 2] > 0
    assert abs(found.mean() - fits.mean()) < 0.03
    np.testing.assert_allclose(box[found], box[found].round(), atol=1e-4)  # whole pixels
    box = box[found].round()
    for name, of in {
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
        "area": lambda b: b[:, 2] * b[:, 3],
        "ratio": lambda b: b[:, 3] / b[:, 2],
    }.items():
        assert ks_2samp(of(box), of(reference), method="asymp").pvalue > 1e-3, name


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_what_is_erased_is_the_rectangle(value):
    x = images(height=20, width=31)
    transform = Erase(value=value, probability=0.7)
    views, style = transform(x, None, seeded())
    box = rectangles(transform, style, 20, 31).round().int().tolist()
    for view, image, erased, (top, left, h, w) in zip(views, x, style[:, 0].tolist(), box, strict=True):
        expected = image.clone()
        if erased:
            expected[:, top : top + h, left : left + w] = value
        assert torch.equal(view, expected)
        assert bool(erased) == (h > 0 and w > 0) == (not torch.equal(view, image))


def test_one_size_for_all_is_no_style():
    x = images(height=10, width=10)
    transform = Erase(area=(0.12, 0.12), ratio=(3.0, 3.0), probability=1.0)
    assert transform.style_names == ("erase_x", "erase_y")
    views, _ = transform(x + 1, None, seeded())
    erased = (views == 0).all(1)
    assert (erased.any(1).sum(1) == 6).all()  # 2 x 6 pixels
    assert (erased.any(2).sum(1) == 2).all()
    assert (erased.sum((1, 2)) == 12).all()
    nothing_fits = Erase(area=(1.0, 1.0), ratio=(1.0, 1.0), probability=1.0)
    assert torch.equal(nothing_fits(x, None, seeded())[0], x)
    assert torch.equal(Erase(probability=0.0)(x, None, seeded())[0], x)
    assert Erase(probability=0.0).style_names == ()


# ---------------------------------------------------------------------- what all of them keep


@pytest.mark.parametrize("transform", ALL, **BY_NAME)
def test_views_are_a_function_of_the_generator_and_the_input_is_left_alone(transform):
    x = images()
    kept, state = x.clone(), torch.get_rng_state()
    first, again, other = (transform(x, None, seeded(s)) for s in (7, 7, 8))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    assert torch.equal(x, kept)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("transform", WITH_APPLY, **BY_NAME)
def test_rows_are_independent_of_the_split_and_of_each_other(transform):
    x = images(50)
    whole, generator = transform(x, None, seeded()), seeded()
    parts = [transform(part, None, generator) for part in x.split([1, 16, 33])]
    for i in (0, 1):
        torch.testing.assert_close(torch.cat([part[i] for part in parts]), whole[i], atol=1e-6, rtol=0)
    assert torch.equal(transform.apply(x, whole[1]), whole[0])
    changed = x.clone()
    changed[3] = 0
    rows = [i for i in range(50) if i != 3]
    assert torch.equal(transform(changed, None, seeded())[0][rows], whole[0][rows])


@pytest.mark.parametrize("transform", ALL, **BY_NAME)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_views_keep_the_type_of_the_images(transform, dtype, atol):
    x = images().to(dtype)
    expected, style = transform(x.float(), None, seeded())
    views, same = transform(x, None, seeded())
    assert views.dtype == dtype
    assert torch.equal(style, same)
    torch.testing.assert_close(views.float(), expected, atol=atol, rtol=0)


@pytest.mark.parametrize("transform", ALL, **BY_NAME)
def test_nothing_waits_for_the_device(transform):
    x = images()
    with NoHostSync():
        transform(x, None, seeded())
        with pytest.raises(HostSyncError, match="_local_scalar_dense"):
            x[0, 0, 0, 0].item()  # the mode can fail


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 3),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    probability=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_any_size(channels, height, width, probability, seed):
    x = images(5, channels, height, width)
    parts = [
        GaussianBlur(5, (0.3, 1.0), probability),
        Solarise(0.4, probability),
        Noise((0.0, 0.2), probability),
        Erase((0.1, 0.6), (0.5, 2.0), 1.0, probability),
    ]
    transform = Compose(*parts)
    views, style = transform(x, None, seeded(seed))
    assert views.shape == x.shape
    assert style.shape == (5, len(transform.style_names)) == (5, len(transform.style_kinds))
    assert -1e-6 <= views.min() <= views.max() <= 1 + 1e-6
    if probability == 0:
        assert torch.equal(views, x)
        assert style.shape == (5, 0)


@pytest.mark.parametrize("transform", ALL, **BY_NAME)
def test_groups_carry_the_style(transform):
    groups = make_groups(images(6), None, None, transform, 3, seeded())
    assert groups.x.shape == (6, 3, 3, 12, 9)
    assert groups.style.shape == (6, 3, len(transform.style_names))
    assert groups.style_names == transform.style_names
    assert groups.style_kinds == transform.style_kinds


@pytest.mark.parametrize("transform", ALL, **BY_NAME)
def test_what_is_no_batch_of_images_is_an_error(transform):
    name = type(transform).__name__
    with pytest.raises(ShapeError, match=rf"{name}: x has shape \[3, 12, 9\], expected \[B, C, H, W\]"):
        transform(images()[0], None, seeded())
    with pytest.raises(DataError, match=f"{name}: x has dtype torch.uint8"):
        transform(images().byte(), None, seeded())


@pytest.mark.parametrize(
    ("transform", "bad"),
    [
        (GaussianBlur, {"kernel_size": 4}),
        (GaussianBlur, {"kernel_size": -1}),
        (GaussianBlur, {"scale": (0.0, 1.0)}),
        (GaussianBlur, {"scale": (2.0, 1.0)}),
        (GaussianBlur, {"probability": 1.5}),
        (Solarise, {"threshold": 128}),
        (Solarise, {"probability": -0.1}),
        (Noise, {"scale": (-0.1, 0.1)}),
        (Noise, {"scale": (0.2, 0.1)}),
        (Noise, {"probability": float("nan")}),
        (Erase, {"area": (0.0, 0.3)}),
        (Erase, {"area": (0.3, 1.3)}),
        (Erase, {"ratio": (2.0, 1.0)}),
        (Erase, {"probability": 2}),
    ],
)
def test_settings_outside_their_range_are_named(transform, bad):
    needed = {"kernel_size": 3} if transform is GaussianBlur else {}
    with pytest.raises(SettingsError, match=f"{transform.__name__}: {next(iter(bad))} is"):
        transform(**(needed | bad))

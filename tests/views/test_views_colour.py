"""ColourJitter against a loop over images and maps, against torchvision per image, and hue by its laws in YIQ."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from genssl.datasets.torchvision_shim import ensure_torchvision
from genssl.errors import DataError, SettingsError, ShapeError
from genssl.views import ColourJitter

ensure_torchvision()

import torchvision.transforms as T  # noqa: E402
import torchvision.transforms.functional as TF  # noqa: E402

EVERYTHING = ColourJitter(0.8, 0.8, 0.8, 0.2, probability=0.8, grayscale=0.2)
# Y, I and Q of R, G, B as the NTSC standard of 1953 rounds them
YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(batch=64, channels=3, height=9, width=7, seed=1):
    return torch.rand(batch, channels, height, width, generator=seeded(seed))


def one_by_one(x, transform, style):
    """The maps of the docstring in its order, image by image, in double precision; hue through the matrix of YIQ."""
    views = []
    for image, row in zip(x.double(), style.double().tolist(), strict=True):
        factor = dict(zip(transform.style_names, row, strict=True))
        view = factor.get("brightness", 1.0) * image
        luma = (YIQ[0, :, None, None] * view).sum(0)
        contrast, saturation = factor.get("contrast", 1.0), factor.get("saturation", 1.0)
        view = contrast * view + (1 - contrast) * luma.mean()
        luma = (YIQ[0, :, None, None] * view).sum(0)
        view = saturation * view + (1 - saturation) * luma
        y, i, q = torch.einsum("ij,jhw->ihw", YIQ, view)
        cos, sin = math.cos(factor.get("hue", 0.0)), math.sin(factor.get("hue", 0.0))
        turned = torch.stack([y, cos * i + sin * q, cos * q - sin * i])
        view = torch.einsum("ij,jhw->ihw", YIQ.inverse(), turned)
        if factor.get("grayscale"):
            view = (YIQ[0, :, None, None] * view).sum(0).expand_as(view)
        views.append(view.clamp(0, 1))
    return torch.stack(views)


# ---------------------------------------------------------------------- the pixels


@pytest.mark.parametrize(
    "transform",
    [
        EVERYTHING,
        ColourJitter(0.8, 0.8, 0.8, 0.5),
        ColourJitter(brightness=0.4, hue=0.1, probability=0.5),
        ColourJitter(contrast=(0.2, 3.0), saturation=(0.5, 4.0), grayscale=0.5),
        ColourJitter(hue=(0.1, 0.4)),
    ],
)
def test_one_affine_map_is_the_maps_in_a_row(transform):
    x = images()
    views, style = transform(x, None, seeded())
    assert style.shape == (64, len(transform.style_names))
    # the published coefficients of YIQ have four digits
    torch.testing.assert_close(views.double(), one_by_one(x, transform, style), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "adjust"),
    [("brightness", TF.adjust_brightness), ("contrast", TF.adjust_contrast), ("saturation", TF.adjust_saturation)],
)
def test_single_maps_are_torchvisions(name, adjust):
    x = 0.3 + 0.2 * images()  # nothing leaves [0, 1], so the place of the clamp makes no difference
    transform = ColourJitter(**{name: 0.8})
    views, style = transform(x, None, seeded())
    assert transform.style_names == (name,)
    for view, image, factor in zip(views, x, style[:, 0].tolist(), strict=True):
        # torchvision's weights of R, G, B sum to 0.9999
        torch.testing.assert_close(view, adjust(image, factor), atol=1.5e-4, rtol=0)


def test_grayscale_is_torchvisions():
    x = images()
    views, style = ColourJitter(grayscale=0.5)(x, None, seeded())
    grey = style[:, 0].bool()
    assert 15 < grey.sum() < 50
    torch.testing.assert_close(views[grey], TF.rgb_to_grayscale(x, 3)[grey], atol=1.5e-4, rtol=0)
    assert torch.equal(views[~grey], x[~grey])
    assert torch.equal(ColourJitter(grayscale=1.0)(x, None, seeded())[0][grey], views[grey])


def natural(count=6):
    """Smooth images with colours of their own, as photographs have: values in [0.1, 0.9]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 12), torch.linspace(0, 1, 12), indexing="ij")
    phase = 6 * torch.rand(count, 3, 3, 1, 1, generator=seeded(8))
    waves = (
        torch.sin(3 * x + phase[:, :, 0]) + torch.sin(4 * y + phase[:, :, 1]) + torch.sin(5 * x * y + phase[:, :, 2])
    )
    return 0.5 + 0.13 * waves


def moments(views):
    """Of each channel: its mean and standard deviation over draws and pixels, and over draws of its mean."""
    return [views.mean((0, 2, 3)), views.std((0, 2, 3)), views.mean((2, 3)).std(0)]


def of_torchvision(transform, image, n):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return torch.stack([transform(image) for _ in range(n)]).double()


def test_moments_are_torchvisions_where_nothing_is_clamped_and_near_them_elsewhere():
    n = 400
    gentle = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3}
    for image in natural():
        theirs = of_torchvision(T.ColorJitter(**gentle), 0.25 + image / 4, n)  # in any order, without hue: the same law
        ours = ColourJitter(**gentle)((0.25 + image / 4).expand(20 * n, -1, -1, -1), None, seeded())[0].double()
        means, expected = ours.mean((2, 3)), theirs.mean((2, 3))
        error = (means.var(0) / len(ours) + expected.var(0) / n).sqrt()
        assert ((means.mean(0) - expected.mean(0)).abs() < 4.5 * error).all()
        for mine, other in zip(moments(ours), moments(theirs), strict=True):
            torch.testing.assert_close(mine, other, atol=0.012, rtol=0)

        theirs = of_torchvision(T.ColorJitter(0.8, 0.8, 0.8, 0.2), image, n)
        ours = ColourJitter(0.8, 0.8, 0.8, 0.2)(image.expand(10 * n, -1, -1, -1), None, seeded())[0].double()
        for mine, other in zip(moments(ours), moments(theirs), strict=True):
            torch.testing.assert_close(mine, other, atol=0.05, rtol=0)


def turned(x, turns, transform=ColourJitter(hue=0.5)):  # noqa: B008
    return transform.apply(x, torch.full((len(x), 1), 2 * math.pi * turns))


def test_hue_is_a_rotation():
    x = (0.4 + 0.2 * images()).double()  # saturated colours would be clamped
    torch.testing.assert_close(turned(x, 0.0), x, atol=1e-7, rtol=0)
    torch.testing.assert_close(turned(x, 1.0), x, atol=1e-6, rtol=0)
    torch.testing.assert_close(turned(turned(x, 0.2), 0.15), turned(x, 0.35), atol=1e-6, rtol=0)
    before, after = (torch.einsum("ij,bjhw->bihw", YIQ, image) for image in (x, turned(x, 0.3)))
    torch.testing.assert_close(after[:, 0], before[:, 0], atol=1e-6, rtol=0)  # Y stays
    torch.testing.assert_close(after[:, 1:].norm(dim=1), before[:, 1:].norm(dim=1), atol=1e-4, rtol=0)  # so does chroma


def test_positive_hue_goes_as_torchvisions():
    """Red to green to blue to red; YIQ's primaries do not stand at thirds, so the nearest one is asked for."""
    primary = 0.5 + 0.1 * torch.eye(3)[:, :, None, None] - 0.05
    for step, turns in enumerate((0.0, 1 / 3, 2 / 3)):
        largest = turned(primary, turns)[:, :, 0, 0].argmax(1)
        theirs = TF.adjust_hue(primary, turns if turns <= 0.5 else turns - 1)[:, :, 0, 0].argmax(1)
        assert torch.equal(largest, (torch.arange(3) + step) % 3)
        assert torch.equal(largest, theirs)


def test_the_clamp_comes_once_and_last():
    x = torch.full((1, 3, 2, 2), 0.8)
    x[..., 0, 0] = 0.4
    transform = ColourJitter(brightness=(2.0, 2.0), contrast=(0.25, 0.25))
    views, _ = transform(x, None, seeded())
    assert transform.style_names == ()
    torch.testing.assert_close(views, (0.5 * x + 0.75 * 1.4).clamp(max=1))
    assert views.max() == 1


@settings(max_examples=40, deadline=None)
@given(
    brightness=st.floats(0, 2),
    contrast=st.floats(0, 2),
    saturation=st.floats(0, 2),
    hue=st.floats(0, 0.5),
    probability=st.sampled_from([0.0, 0.4, 1.0]),
    grayscale=st.sampled_from([0.0, 0.4, 1.0]),
    height=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
def test_any_setting(brightness, contrast, saturation, hue, probability, grayscale, height, seed):
    transform = ColourJitter(brightness, contrast, saturation, hue, probability, grayscale)
    x = images(6, 3, height, 4)
    kept = x.clone()
    views, style = transform(x, None, seeded(seed))
    assert torch.equal(x, kept)
    assert views.shape == x.shape
    assert style.shape == (6, len(transform.style_names)) == (6, len(transform.style_kinds))
    assert 0 <= views.min() <= views.max() <= 1
    assert torch.equal(transform.apply(x, style), views)
    if grayscale == 0:
        torch.testing.assert_close(views.double(), one_by_one(x, transform, style), atol=3e-3, rtol=0)
    if grayscale == 1:
        assert (views.amax(1) - views.amin(1)).max() < 1e-5


# ---------------------------------------------------------------------- style


def column(transform, style):
    return dict(zip(transform.style_names, style.double().unbind(1), strict=True))


def test_factors_have_the_stated_laws():
    transform = ColourJitter(0.8, 1.5, (0.5, 3.0), 0.2)
    factors = column(transform, transform.draw(40_000, 8, 8, seeded()))
    for name, (low, high) in {
        "brightness": (0.2, 1.8),
        "contrast": (0.0, 2.5),
        "saturation": (0.5, 3.0),
        "hue": (-0.4 * math.pi, 0.4 * math.pi),
    }.items():
        assert kstest(factors[name].numpy(), "uniform", args=(low, high - low)).pvalue > 1e-3, name
    table = torch.stack(list(factors.values()))
    assert (torch.corrcoef(table) - torch.eye(4)).abs().max() < 0.02


def test_factors_are_neutral_where_nothing_was_applied():
    factors = column(EVERYTHING, EVERYTHING.draw(20_000, 8, 8, seeded()))
    applied, grey = factors["jitter"] > 0, factors["grayscale"] > 0
    assert abs(applied.double().mean() - 0.8) < 0.012
    assert abs(grey.double().mean() - 0.2) < 0.012
    assert abs((applied & grey).double().mean() - 0.16) < 0.012
    for name in ("brightness", "contrast", "saturation"):
        assert (factors[name][~applied & ~grey] == 1).all()
        assert (factors[name][applied & ~grey] != 1).double().mean() > 0.99
    assert (factors["brightness"][applied & grey] != 1).double().mean() > 0.99  # grey images are bright or dark too
    assert (factors["hue"][~applied | grey] == 0).all()
    assert (factors["saturation"][grey] == 0).all()


def test_images_that_are_left_alone_are_returned_exactly():
    x = images(200)
    views, style = EVERYTHING(x, None, seeded())
    factors = column(EVERYTHING, style)
    alone = (factors["jitter"] == 0) & (factors["grayscale"] == 0)
    assert 10 < alone.sum() < 60
    assert torch.equal(views[alone], x[alone])
    assert torch.equal(ColourJitter()(x, None, seeded())[0], x)
    assert torch.equal(ColourJitter(0.8, 0.8, 0.8, 0.2, probability=0.0)(x, None, seeded())[0], x)


def test_style_holds_what_varies_and_only_that():
    assert ColourJitter().style_names == ()
    assert ColourJitter(brightness=(0.5, 0.5), hue=(0.1, 0.1), grayscale=1.0).style_names == ()
    assert ColourJitter(0.8, 0.8, 0.8, 0.2, probability=0.0).style_names == ()
    assert ColourJitter(brightness=(0.5, 0.5), probability=0.5).style_names == ("jitter",)
    assert dict(zip(EVERYTHING.style_names, EVERYTHING.style_kinds, strict=True)) == {
        "jitter": "categorical",
        "brightness": "continuous",
        "contrast": "continuous",
        "saturation": "continuous",
        "hue": "circular",
        "grayscale": "categorical",
    }


def test_factors_that_do_not_vary_are_applied_all_the_same():
    x = images()
    halved, style = ColourJitter(brightness=(0.5, 0.5), probability=0.5)(x, None, seeded())
    torch.testing.assert_close(halved, x * (1 - 0.5 * style[:, :, None, None]))
    views, _ = ColourJitter(hue=(0.25, 0.25))(0.4 + 0.2 * x, None, seeded())
    torch.testing.assert_close(views, turned(0.4 + 0.2 * x, 0.25))


# ---------------------------------------------------------------------- other images, errors


def test_one_channel_has_brightness_and_contrast():
    x = 0.3 + 0.2 * images(channels=1)
    transform = ColourJitter(0.5, 0.5)
    views, style = transform(x, None, seeded())
    for view, image, (brightness, contrast) in zip(views, x, style.tolist(), strict=True):
        expected = TF.adjust_contrast(TF.adjust_brightness(image, brightness), contrast)
        torch.testing.assert_close(view, expected, atol=1e-6, rtol=0)
    as_colour, _ = transform(x.expand(-1, 3, -1, -1), None, seeded())
    torch.testing.assert_close(as_colour, views.expand(-1, 3, -1, -1))


def test_colour_needs_three_channels():
    with pytest.raises(ShapeError, match=r"1 channels, expected 3 .* leave out saturation, hue, grayscale"):
        EVERYTHING(images(channels=1), None, seeded())
    with pytest.raises(ShapeError, match="leave out grayscale"):
        ColourJitter(grayscale=0.1)(images(channels=1), None, seeded())
    for transform in (EVERYTHING, ColourJitter(0.5)):
        with pytest.raises(ShapeError, match=r"\[64, 4, 9, 7\], 4 channels, expected 3"):
            transform(images(channels=4), None, seeded())
    with pytest.raises(ShapeError, match=r"ColourJitter: x has shape \[3, 9, 7\], expected \[B, C, H, W\]"):
        EVERYTHING(images()[0], None, seeded())
    with pytest.raises(DataError, match="ColourJitter: x has dtype torch.uint8"):
        EVERYTHING(images().byte(), None, seeded())
    with pytest.raises(ShapeError, match=r"style has shape \[64, 2\], expected \[64, 1\] \(hue\)"):
        ColourJitter(hue=0.1).apply(images(), torch.zeros(64, 2))


@pytest.mark.parametrize(
    "bad",
    [
        {"brightness": -0.1},
        {"contrast": (2.0, 1.0)},
        {"saturation": (-0.5, 1.0)},
        {"hue": 0.6},
        {"hue": (-0.1, -0.2)},
        {"probability": 1.1},
        {"grayscale": -0.1},
        {"brightness": float("nan")},
    ],
)
def test_settings_outside_their_range_are_named(bad):
    with pytest.raises(SettingsError, match=f"ColourJitter: {next(iter(bad))} is"):
        ColourJitter(**bad)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_views_keep_the_type_of_the_images(dtype, atol):
    x = images().to(dtype)
    expected, style = EVERYTHING(x.float(), None, seeded())
    views, same = EVERYTHING(x, None, seeded())
    assert views.dtype == dtype
    assert torch.equal(style, same)
    torch.testing.assert_close(views.float(), expected, atol=atol, rtol=0)


def test_the_layout_in_memory_does_not_matter():
    x = images(channels=6)[:, ::2].transpose(-1, -2)
    for layout in (torch.contiguous_format, torch.channels_last):
        views, _ = EVERYTHING(x.contiguous(memory_format=layout), None, seeded())
        torch.testing.assert_close(views, EVERYTHING(x, None, seeded())[0])

"""The presets against the paper's pipeline as its released code has it, and digits kept legible."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from genssl.datasets.torchvision_shim import ensure_torchvision
from genssl.errors import SettingsError, ShapeError
from genssl.views import (
    ColourJitter,
    GaussianBlur,
    Geometric,
    celeba,
    cifar10,
    digits,
    fashion_mnist,
    mnist,
    simclr,
    simclr_grey,
)

ensure_torchvision()

import torchvision.transforms as T  # noqa: E402


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def stroke():
    """A 28 x 28 digit of sorts, 8 bits, without symmetry."""
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    distance = torch.minimum(((x - 11).square() + (y - 9).square()).sqrt().sub(5).abs(), (x - 17 + (y - 14) / 3).abs())
    return (255 * (2.2 - distance).clamp(0, 1)).to(torch.uint8)[None]


@pytest.mark.parametrize(("preset", "threshold"), [(mnist, True), (fashion_mnist, False)])
def test_the_papers_views(preset, threshold):
    pil = T.ToPILImage()(stroke())
    pipeline = T.Compose(
        [T.RandomResizedCrop(28, scale=(0.4, 1.0), ratio=(0.75, 1.3)), T.RandomVerticalFlip(0.5), T.ToTensor()]
    )
    n = 3000
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        theirs = torch.stack([pipeline(pil) for _ in range(n)]).double()
    theirs = (theirs > 0.5).double() if threshold else theirs
    ours, style = preset()((stroke() / 255).expand(n, 1, 28, 28), None, seeded())
    ours = ours.double()
    assert preset().style_names == ("crop_x", "crop_y", "crop_width", "crop_height", "vertical_flip")
    assert set(ours.unique().tolist()) == {0.0, 1.0} if threshold else len(ours.unique()) > 255
    # PIL rounds to 1/255, so the means may differ by half of that
    error = (ours.var(0) / n + theirs.var(0) / n).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4.5 * error + 0.5 / 255 + 1e-3).all()
    area = style[:, 2] * style[:, 3]
    assert 0.37 < area.min() < 0.42  # 0.4, rounded to whole pixels
    assert area.max() > 0.97


def photograph(size=32, seed=0):
    """A smooth 8-bit image with colours of its own and no symmetry."""
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    phase = 6 * torch.rand(3, 2, 1, 1, generator=seeded(seed))
    waves = torch.sin(3 * x + 2 * y + phase[:, 0]) + torch.sin(4 * y * y - x + phase[:, 1])
    return (255 * (0.5 + 0.18 * waves)).to(torch.uint8)


def compare(preset, pipeline, image, n, within):
    """Mean of each pixel, and standard deviation over draws of each channel's mean, against the pipeline in PIL.

    The noise of a pixel's mean over n = 600 draws is about 0.01; the rest of `within` is for clamps and the hue of HSV.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        theirs = torch.stack([pipeline(T.ToPILImage()(image)) for _ in range(n)]).double()
    ours, _ = preset((image / 255).expand(5 * n, -1, -1, -1), None, seeded())
    ours = ours.double()
    assert ours.shape[1:] == theirs.shape[1:]
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), atol=within, rtol=0)
    torch.testing.assert_close(ours.mean((2, 3)).std(0), theirs.mean((2, 3)).std(0), atol=within / 2, rtol=0)


def test_the_papers_views_of_colour_images():
    """As the released code, but for its enlargement to 256 x 256, with the probability of the paper."""
    jitter = T.RandomApply([T.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8)
    crop = T.RandomResizedCrop(32, scale=(0.6, 1))
    pipeline = T.Compose([jitter, crop, T.RandomVerticalFlip(0.5), T.ToTensor()])
    compare(cifar10(), pipeline, photograph(), 600, 0.07)


def test_the_enlargement_of_the_released_code_changes_little():
    crop, flip = T.RandomResizedCrop(32, scale=(0.6, 1)), T.RandomVerticalFlip(0.5)
    geometry = cifar10().transforms[1]
    compare(geometry, T.Compose([T.Resize(256), crop, flip, T.ToTensor()]), photograph(), 600, 0.03)


def test_the_papers_colour_presets_are_what_table_2_says():
    jitter, geometry = cifar10().transforms
    assert jitter == ColourJitter(0.8, 0.8, 0.8, 0.2, probability=0.8)
    assert geometry == Geometric(crop_scale=(0.6, 1.0), vertical_flip=0.5)
    assert celeba().transforms == cifar10().transforms
    for size in (32, 64):
        views, style = celeba()(photograph(size).expand(4, 3, size, size) / 255, None, seeded())
        assert views.shape == (4, 3, size, size)
        assert style.shape == (4, 10)


def test_contrast_and_crop_do_not_commute():
    """What the docstring of cifar10 says of the order: it matters through the mean luma of the image."""
    image = photograph()[None].expand(50, 3, 32, 32) / 255
    crop = Geometric(crop_scale=(0.3, 0.5))
    style = crop.draw(50, 32, 32, seeded())
    for jitter, same in ((ColourJitter(0.3, 0.0, 0.3, 0.1), True), (ColourJitter(contrast=0.5), False)):
        colour = jitter.draw(50, 32, 32, seeded(1))
        first = crop.apply(jitter.apply(0.3 + image / 3, colour), style)
        last = jitter.apply(crop.apply(0.3 + image / 3, style), colour)
        assert torch.allclose(first, last, atol=1e-5) == same


@pytest.mark.parametrize(("size", "strength"), [(32, 0.5), (24, 1.0)])
def test_simclrs_views(size, strength):
    amount = 0.8 * strength
    jitter = T.RandomApply([T.ColorJitter(amount, amount, amount, 0.2 * strength)], 0.8)
    crop, flip = T.RandomResizedCrop(size), T.RandomHorizontalFlip()
    pipeline = T.Compose([crop, flip, jitter, T.RandomGrayscale(0.2), T.ToTensor()])
    compare(simclr(size, strength), pipeline, photograph(), 600, 0.07)


def test_simclr_with_blur_and_for_grey_images():
    assert simclr().transforms == simclr(None, 0.5, False).transforms
    same, _ = simclr()(torch.rand(3, 3, 28, 20), None, seeded())
    assert same.shape == (3, 3, 28, 20)
    with pytest.raises(SettingsError, match="size="):
        simclr(blur=True)
    assert simclr(224, 1.0, blur=True).transforms[2] == GaussianBlur(23, (0.1, 2.0), 0.5)
    assert simclr(64, blur=True).transforms[2] == GaussianBlur(7, (0.1, 2.0), 0.5)
    assert simclr(8, blur=True).transforms[2].kernel_size == 1
    grey = photograph()[None, :1].expand(10, 1, 32, 32) / 255
    with pytest.raises(ShapeError, match="1 channels, expected 3.*simclr_grey"):
        simclr()(grey, None, seeded())
    transform = simclr_grey(20, blur=True)
    views, style = transform(grey, None, seeded())
    assert views.shape == (10, 1, 20, 20)
    assert style.shape == (10, len(transform.style_names))
    assert {"brightness", "contrast", "horizontal_flip", "blur"} < set(transform.style_names)
    assert not {"saturation", "hue", "grayscale", "vertical_flip"} & set(transform.style_names)


def test_digits_stay_legible():
    data = load_digits()
    x, label = torch.tensor(data.images / 16).float()[:, None], data.target
    views = torch.cat([digits()(x, None, seeded(s))[0] for s in range(4)]).flatten(1)
    train, label = torch.arange(len(views)) % 1797 < 1200, list(label) * 4
    label = torch.tensor(label)
    reader = SVC(gamma=0.5, C=10).fit(views[train], label[train])
    assert reader.score(views[~train], label[~train]) > 0.9
    assert not {"horizontal_flip", "vertical_flip"} & set(digits().style_names)
    assert isinstance(digits(), Geometric)

"""Compose is its parts in order; PerImage is its transform image by image, and moves no global generator."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from genssl.datasets.torchvision_shim import ensure_torchvision
from genssl.errors import SettingsError, ShapeError
from genssl.views import Compose, Geometric, Identity, PerImage

ensure_torchvision()

import torchvision.transforms as T  # noqa: E402
from torchvision.transforms import v2  # noqa: E402


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(batch=20, channels=1, height=9, width=12):
    return torch.rand(batch, channels, height, width, generator=seeded(1))


class Gain:
    """A transform of a user's own."""

    style_names = ("gain",)
    style_kinds = ("continuous",)

    def __call__(self, x, index, generator):
        gain = torch.rand(len(x), 1, generator=generator)
        return x * gain[:, :, None, None], gain


def test_identity_and_the_empty_compose_change_nothing():
    x = images()
    for transform in (Identity(), Compose()):
        views, style = transform(x, None, seeded())
        assert torch.equal(views, x)
        assert style.shape == (20, 0)
        assert transform.style_names == transform.style_kinds == ()


def test_compose_chains_and_joins_style():
    x, first, last = images(), Geometric(crop_scale=(0.5, 1.0), size=7), Geometric(rotate=20)
    transform = Compose(first, Gain(), Identity(), last)
    views, style = transform(x, torch.arange(20), seeded())
    generator = seeded()
    step, style_1 = first(x, None, generator)
    step, style_2 = Gain()(step, None, generator)
    step, style_3 = last(step, None, generator)
    assert torch.equal(views, step)
    assert torch.equal(style, torch.cat([style_1, style_2, style_3], 1))
    assert transform.style_names == ("crop_x", "crop_y", "crop_width", "crop_height", "gain", "rotate")
    assert transform.style_kinds == ("continuous",) * 5 + ("circular",)


def test_names_that_come_again_are_numbered():
    turn = Geometric(rotate=5)
    assert Compose(turn, Compose(Gain(), turn), turn).style_names == ("rotate", "gain", "rotate_2", "rotate_3")


def test_compose_names_what_is_no_transform():
    with pytest.raises(SettingsError, match=r"transform 1 is a RandomVerticalFlip .* PerImage"):
        Compose(Identity(), T.RandomVerticalFlip())


@pytest.mark.parametrize("flip", [T.RandomVerticalFlip(0.5), v2.RandomVerticalFlip(0.5)])
def test_per_image_runs_torchvision_on_each_image(flip):
    x = images(200)
    views, style = PerImage(flip)(x, None, seeded())
    same, flipped = ((views == other).flatten(1).all(1) for other in (x, x.flip(-2)))
    assert (same ^ flipped).all()
    assert 70 < flipped.sum() < 130
    assert style.shape == (200, 0)


def noisy(image):
    """Draws from all three global generators."""
    return image + random.random() + float(np.random.rand()) + torch.rand(())  # noqa: NPY002


def test_per_image_is_a_function_of_the_generator_and_of_nothing_else():
    x, transform = images(), PerImage(noisy)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (transform(x, None, seeded(s))[0] for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len((first - x).flatten(1).mean(1).mul(1e4).round().unique()) == 20  # each image its own noise
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()  # noqa: NPY002
    generator = seeded(5)
    parts = torch.cat([transform(part, None, generator)[0] for part in x.split([3, 17])])
    assert torch.equal(parts, first)


def test_per_image_restores_the_generators_after_an_error():
    def broken(image):
        random.random()
        torch.rand(())
        raise RuntimeError("mine")

    states = torch.get_rng_state(), random.getstate()
    with pytest.raises(RuntimeError, match="mine"):
        PerImage(broken)(images(), None, seeded())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()


def test_per_image_goes_into_compose():
    transform = Compose(PerImage(T.CenterCrop(6)), Geometric(horizontal_flip=0.5))
    views, style = transform(images(), None, seeded())
    assert views.shape == (20, 1, 6, 6)
    assert style.shape == (20, 1)


def test_per_image_says_what_the_transform_did_wrong():
    with pytest.raises(ShapeError, match=r"returned a Image, expected a tensor .* ToTensor"):
        PerImage(T.ToPILImage())(images(), None, seeded())
    with pytest.raises(ShapeError, match=r"shapes \[\(1, 9, 12\), \(1, 12, 9\)\], expected one"):
        PerImage(lambda image: image if random.random() < 0.5 else image.mT)(images(), None, seeded())
    with pytest.raises(SettingsError, match="PerImage: transform is a str"):
        PerImage("flip")

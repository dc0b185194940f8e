"""The presets against the paper's pipeline as its released code has it, and digits kept legible."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from genssl.datasets.torchvision_shim import ensure_torchvision
from genssl.views import Geometric, digits, fashion_mnist, mnist

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

"""How far apart two sets of items are as distributions: the Frechet distance, and features to take it in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from genssl.datasets.arrays import as_floats
from genssl.errors import DataError, NonFiniteError, ShapeError
from genssl.estimators.rows import rows
from genssl.evaluation.items import spaced
from genssl.fit.randomness import generators_kept, seed_weights, stream_seed
from genssl.networks.blocks import MemoryFormat

FEATURES = 64
WIDTHS = (16, 32, 64)  # channels of the three convolutions
RULER_ITEMS, STEPS, EPOCHS, BATCH, RATE = 20000, 500, 15, 128, 5e-3


@torch.no_grad()
def frechet_distance(a: Tensor, b: Tensor) -> float:
    r"""||m_a - m_b||^2 + tr(C_a + C_b - 2 (C_a C_b)^{1/2}), m and C (divisor N - 1) of the rows of a [N, F], b [M, F].

    The squared 2-Wasserstein distance between the Gaussians with these moments (Dowson and Landau 1982). Of features of
    Inception-v3 it is the FID (Heusel et al. 2017, arXiv:1706.08500, Eq. 6); of any others it is not, and is not to be
    called so. In units of the features squared: scaling all of them by s scales it by s^2.

    With C_a = A^T A and C_b = B^T B (A, B from QR of the centred rows) its second part is the least ||A - O B||^2 over
    orthogonal O (Bhatia, Jain, Lim 2019), O from the singular vectors of A B^T. That is what is computed, in float64:
    no square root of a matrix, never negative, and singular covariances (N <= F) lose no digits.

    Loose: laws with equal means and covariances are at 0, however different; copies of the items pass for good samples.
    Biased upwards by about c / N, where c depends on both laws (Chong and Forsyth 2020, arXiv:1911.07023): two samples
    of one Gaussian of variance v in F dimensions are about v F (F + 5) / 4 (1 / N + 1 / M) apart. So compare figures of
    one N, hold them against the distance between two sets of real items of that N, and take N well above 10 F (50000 is
    usual for the 2048 features of FID).

    Raises ShapeError (axes, fewer than 2 rows, different F), DataError (integers), NonFiniteError.
    """
    for name, features in (("a", a), ("b", b)):
        rows("frechet_distance", features, name=name, axes="[N, F]", least=2)
        if not bool(torch.isfinite(features).all()):
            bad = int((~torch.isfinite(features).all(1)).sum())
            raise NonFiniteError(
                f"frechet_distance: {bad} of {len(features)} rows of {name} are not finite; "
                "the run that made these items has diverged, lower lr"
            )
    if a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"frechet_distance: b has {b.shape[1]} features, expected {a.shape[1]} as a has; use one network"
        )
    (mean_a, root_a), (mean_b, root_b) = _moments(a), _moments(b.to(a.device))
    left, _, right = torch.linalg.svd(root_a @ root_b.T)
    return float((mean_a - mean_b).square().sum() + (root_a - left @ right @ root_b).square().sum())


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [F] and some R [F, F] with R^T R the covariance."""
    x = x.double()
    mean = x.mean(0)
    root = torch.linalg.qr((x - mean) / math.sqrt(len(x) - 1)).R
    return mean, nn.functional.pad(root, (0, 0, 0, x.shape[1] - len(root)))


class Classifier(nn.Module):
    """A small classifier. forward gives its penultimate layer before the ReLU, features [N, F] of items [N, *event].

    Images pass three convolutions of stride 2 (16, 32, 64 channels, BatchNorm, ReLU), other events, standardised, a
    layer of 256. `centre` and `scale` make the mean of the features of its training items 0 and their total variance 1,
    so that a distance of 1 is what all of that spread is worth.
    """

    classes: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, event_shape: Sequence[int], classes: Tensor, num_features: int = FEATURES) -> None:
        super().__init__()
        self.num_features, self.trained_on = num_features, 0
        body = _convolutions(event_shape[0]) if len(event_shape) == 3 else _layers(math.prod(event_shape))
        size = nn.Sequential(*body).eval()(torch.zeros(1, *event_shape)).shape[1]
        self.body = nn.Sequential(*body, nn.Linear(size, num_features))
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(num_features, len(classes)))
        self.register_buffer("classes", classes)
        self.register_buffer("centre", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """[N, F] features of x [N, *event] (floats, or uint8 read as v / 255)."""
        return self.scale * (self.body(as_floats(x)) - self.centre)

    def classify(self, x: Tensor) -> Tensor:
        """[N] the likeliest label of each item."""
        return self.classes[self.head(self.body(as_floats(x))).argmax(1)]


def _convolutions(channels: int) -> list[nn.Module]:
    widths = (channels, *WIDTHS)
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        size, layout = (5, [MemoryFormat()]) if i == 0 else (3, [])
        layers += [
            nn.Conv2d(inputs, outputs, size, 2, size // 2, bias=False),
            *layout,
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return [*layers, nn.Flatten()]


def _layers(inputs: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.BatchNorm1d(inputs, affine=False), nn.Linear(inputs, 256), nn.ReLU()]


def classifier_features(train_x: Tensor, train_label: Tensor, seed: int = 0) -> Classifier:
    r"""A small classifier of labelled TRAINING items x [N, *event], label [N], in eval mode, for its features.

    A distance in them sees what tells these classes apart and little else (as FID sees what tells the classes of
    ImageNet apart). Say so beside each figure, "Frechet distance in the features of a small classifier", and compare
    figures of one network only: other seeds and items make another.

    Cross-entropy, Adam under a one-cycle rate up to 5e-3, 500 batches of 128 (of small sets smaller and fewer). Of more
    than 20000 labelled items 20000 drawn ones are taken; a negative label is none. On one machine two calls
    give the same bits; torch's default generators are left as they were. (FashionMNIST: test accuracy 0.89, in 15 s on
    one busy core. CIFAR-10: above 0.54 after half of the steps.)

    Raises ShapeError, DataError (fewer than two classes, or ids), NonFiniteError.
    """
    who = "classifier_features"
    if train_x.dim() < 2 or tuple(train_label.shape) != (len(train_x),):
        raise ShapeError(
            f"{who}: train_x {list(train_x.shape)} and train_label {list(train_label.shape)}, expected [N, *event] and"
            " [N], one label for each item"
        )
    if not (train_x.is_floating_point() or train_x.dtype == torch.uint8):
        raise DataError(f"{who}: train_x holds {train_x.dtype}, expected floats or uint8; ids have no features here")
    known = (train_label.to(train_x.device) >= 0).nonzero()[:, 0]
    known = known[spaced(len(known), RULER_ITEMS).to(known.device)]
    x, label = train_x[known], train_label.to(train_x.device)[known]
    classes, target = torch.unique(label, return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"{who}: {len(classes)} classes in {len(train_x)} items, expected at least 2; give labels")
    if not bool(torch.isfinite(x).all()):
        raise NonFiniteError(f"{who}: train_x is not finite; remove the items that are not")
    with generators_kept():
        network = Classifier(x.shape[1:], classes).to(x.device)
        seed_weights(network, seed, who)
    with _reproducible():
        _fit(network, x, target, stream_seed(seed, who))
    network.trained_on = len(x)
    return network


@torch.enable_grad()
def _fit(network: Classifier, x: Tensor, target: Tensor, seed: int) -> None:
    """Train, scale the features, and leave the network in eval mode without gradients."""
    batch = min(len(x), max(16, min(BATCH, len(x) // 40)))
    steps = min(STEPS, EPOCHS * (len(x) // batch))
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    network.train()
    for place in _places(len(x), batch, steps, seed):
        rows_of = place.to(x.device)
        loss = nn.functional.cross_entropy(network.head(network.body(as_floats(x[rows_of]))), target[rows_of])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval().requires_grad_(False)
    features = torch.cat([network(part) for part in x.split(1024)]).double()
    variance = float(features.var(0).sum())
    network.centre.copy_(features.mean(0))
    network.scale.fill_(1 / math.sqrt(variance) if variance > 0 else 1.0)


def _places(size: int, batch: int, steps: int, seed: int) -> Iterator[Tensor]:
    """The items of every step: permutations without their last incomplete batch."""
    generator = torch.Generator().manual_seed(seed)
    step = 0
    while True:
        for place in torch.randperm(size, generator=generator)[: size // batch * batch].split(batch):
            if step == steps:
                return
            step += 1
            yield place


@contextmanager
def _reproducible() -> Iterator[None]:
    """Convolutions on a GPU by algorithms that give the same bits each time."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before

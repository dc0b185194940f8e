"""A small run with all that evaluation and report read, and no fit behind it."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributions import Independent, Normal

from genssl.datasets.data import Data
from genssl.datasets.items import Items


class Tiny(nn.Module):
    """A linear auto-encoder of images.

    The second paragraph is not in the report.
    """

    view_scale = 0.4

    def __init__(self, event=(1, 6, 6), dim=3, scale=0.1):
        super().__init__()
        size = torch.Size(event).numel()
        self.event, self.scale = event, scale
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(size, dim), nn.BatchNorm1d(dim))
        self.decoder = nn.Linear(dim, size)

    def encode(self, x):
        mean = self.encoder(x)
        return Independent(Normal(mean, self.scale * mean.abs().add(0.1)), 1)

    def decode(self, z):
        return self.decoder(z).sigmoid().unflatten(-1, self.event)

    def content(self, groups):
        return None


class Blind(Tiny):
    """No decoder, and a guide without spread."""

    decode = None

    def encode(self, x):
        return Point(self.encoder(x))


class Point:
    def __init__(self, mean):
        self.mean = mean

    @property
    def stddev(self):
        return torch.zeros_like(self.mean)


class FakeRun:
    def __init__(self, path, method, data, config=None, metrics=()):
        self.path, self.method, self.data = path, method, data
        self.config, self.metrics = config or {"seed": 3, "num_views": 2}, list(metrics)

    @property
    def views(self):
        return self.data.views

    @property
    def device(self):
        return torch.device("cpu")

    def represent(self, x):
        return self.method.encode(x).mean.detach()

    def random_encoder(self):
        return type(self.method)(self.method.event)


def images(seed, number, event=(1, 6, 6), labelled=True):
    """Noisy images of three classes: a bright row, a bright column, neither."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (number,), generator=generator)
    x = 0.4 * torch.rand(number, *event, generator=generator)
    if len(event) == 3:
        x[y == 0, :, 2] += 0.5
        x[y == 1, :, :, 3] += 0.5
    else:
        x[y == 0, 0] += 0.5
    return Items(x.clamp(0, 1), y if labelled else None)


def make_data(event=(1, 6, 6), labelled=True, classes=("row", "column", "neither"), **kept):
    splits = {"train": (0, 300), "validation": (1, 90), "test": (2, 120)}
    made = {name: images(seed, number, event, labelled) for name, (seed, number) in splits.items()}
    return Data("tiny", **(made | kept), classes=classes)


def fake_run(path, method=None, config=None, metrics=(), seed=0, **data):
    torch.manual_seed(seed)
    made = make_data(**data)
    method = Tiny(made.event_shape) if method is None else method
    method.encoder.train()(made.train.floats())  # statistics of BatchNorm that are not the initial ones
    return FakeRun(path, method, made, config, metrics)

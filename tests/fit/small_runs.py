"""Runs of a second: 6 steps an epoch, 4 epochs, networks of 16 units; and a method of a user with BatchNorm and a stateful part."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import genssl
from genssl.fit import checkpoint

SMALL = {"hidden": [16, 16], "dim": 4}
STEPS = 24


def fit(out=None, method="SimVAE", data="digits", **settings):
    defaults = {"num_views": 2, "batch_size": 16, "epochs": 4, "progress": False}
    if data == "digits":
        defaults["limit"] = 96
    if method in ("SimVAE", "VAE"):
        defaults["settings"] = SMALL
    return genssl.fit(method, data, out=out, **{**defaults, **settings})


def state(run):
    """The last checkpoint of a run, but for the settings that it holds."""
    return {key: value for key, value in checkpoint.load(run.path / "checkpoint").items() if key != "config"}


def same(a, b):
    """Whether two states are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


class Normed(nn.Module):
    """An autoencoder with BatchNorm, Dropout, a buffer that no checkpoint keeps, and a queue that `update` turns."""

    def __init__(self, event=(1, 8, 8), dim=4):
        super().__init__()
        size = torch.Size(event).numel()
        self.event = event
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(size, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2 * dim)
        )
        self.decoder = nn.Sequential(nn.Linear(dim, size), nn.Sigmoid(), nn.Unflatten(-1, event))
        self.shift = nn.Parameter(torch.zeros(dim))
        self.register_buffer("queue", torch.zeros(3, dim))
        self.register_buffer("scratch", torch.zeros(()), persistent=False)
        self.objective = genssl.Objective()

    @classmethod
    def build(cls, example, **settings):
        return cls(example.event_shape, **settings)

    def model(self, groups):
        with groups.plate:
            shape = (len(groups), groups.num_views, self.shift.numel())
            prior = dist.Normal(
                self.queue.mean(0).expand(shape), self.shift.new_ones(())
            )  # a number would be sent to a GPU
            z = pyro.sample("z", prior.to_event(2))
            mean = self.decoder(z.flatten(0, 1)).unflatten(0, shape[:2])
            pyro.sample("x", dist.Normal(mean, mean.new_full((), 0.3)).to_event(1 + len(self.event)), obs=groups.x)

    def guide(self, groups):
        loc, log_scale = groups.map(self.encoder).chunk(2, -1)
        self.latest = loc.detach()
        with groups.plate:
            pyro.sample("z", dist.Normal(loc + self.shift, log_scale.exp()).to_event(2))

    def encode(self, x):
        loc, log_scale = self.encoder(x).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def update(self):
        self.queue.copy_(torch.cat([self.latest.mean((0, 1))[None], self.queue[:-1]]))
        self.scratch += 1

"""Measuring leaves a run bit-identical."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genssl.evaluation import measuring


def module():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    net.register_buffer("queue", torch.zeros(5))
    net.register_buffer("nothing", None)
    net[2].eval()  # a part that the user froze in eval mode
    return net.train()


def state(net):
    flags = [child.training for child in net.modules()]
    return flags, {name: value.clone() for name, value in net.named_buffers()}, torch.get_rng_state()


def same(first, second):
    return (
        first[0] == second[0]
        and first[1].keys() == second[1].keys()
        and all(torch.equal(value, second[1][name]) for name, value in first[1].items())
        and torch.equal(first[2], second[2])
    )


def disturb(net):
    net.train()(torch.randn(8, 3))  # moves BatchNorm's statistics and the default generator
    net.queue += 1
    net.extra = nn.Buffer(torch.ones(1)) if hasattr(nn, "Buffer") else None


def test_everything_is_put_back():
    net = module()
    net[2].training = False
    before, queue = state(net), net.queue
    with measuring(net) as inside:
        assert inside is net
        assert not any(child.training for child in net.modules())
        assert not torch.is_grad_enabled()
        disturb(net)
        net.queue = torch.full((5,), 7.0)  # a buffer may also be replaced
        assert not same(before, state(net))
    assert same(before, state(net))
    assert net.queue is queue
    assert torch.is_grad_enabled()


def test_also_after_an_error():
    net = module()
    before = state(net)

    def fail():
        with measuring(net):
            disturb(net)
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        fail()
    assert same(before, state(net))


def test_training_goes_on_as_if_nothing_had_been_measured():
    def train(measure):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
        optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
        for _ in range(3):
            if measure:
                with measuring(net):
                    net(torch.randn(6, 3))
            optimizer.zero_grad()
            net(torch.randn(6, 3)).square().mean().backward()
            optimizer.step()
        return [value.clone() for value in net.state_dict().values()]

    assert all(torch.equal(a, b) for a, b in zip(train(True), train(False), strict=True))

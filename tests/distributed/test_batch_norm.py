"""Batch statistics of parts of unequal size are those of the whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from genssl.distributed.batch_norm import Synced, batch_norm


@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 4, 5)])
@pytest.mark.parametrize("affine", [False, True])
def test_parts_are_the_whole(shape, affine, float64):
    x = 100 + torch.randn(shape)
    weight, bias = (torch.randn(3), torch.randn(3)) if affine else (None, None)
    mean, variance = torch.zeros(3), torch.ones(3)
    expected = F.batch_norm(x, mean, variance, weight, bias, True, 0.3)
    sent = []
    batch_norm(lambda moments: (sent.append(moments), moments)[1], x[3:], None, None, training=True)
    seen, spread = torch.zeros(3), torch.ones(3)
    found = batch_norm(lambda moments: torch.cat([moments, sent[0]]), x[:3], seen, spread, weight, bias, True, 0.3)
    torch.testing.assert_close(found, expected[:3])
    torch.testing.assert_close(seen, mean)
    torch.testing.assert_close(spread, variance)


def test_it_meets_every_module_and_eval_is_left_alone():
    layer, x, calls = torch.nn.BatchNorm2d(2), torch.randn(5, 2, 3, 3), []
    expected = torch.nn.BatchNorm2d(2)(x)
    with Synced(lambda moments: (calls.append(1), moments)[1]):
        torch.testing.assert_close(layer(x), expected)
        layer.eval()(x)
    assert len(calls) == 1

"""Calibration tells an exact posterior from one that is half as wide, and a factorised guide by its known coverage."""

from __future__ import annotations

import math

import pytest
import torch
from genssl.models import ContentSimVAE, SimCLR, SimVAE
from genssl.models.group_guides import ProductOfExperts
from scipy.stats import norm
from torch import nn

from genssl.errors import SettingsError
from genssl.groups import Groups
from genssl.posterior import calibrate

VIEW, CONTENT, NOISE = 0.15**0.5, 1.0, 0.02**0.5


class Message(nn.Module):
    """loc gain * x, a fixed scale."""

    def __init__(self, gain, scale):
        super().__init__()
        self.gain, self.scale = gain, scale

    def forward(self, x):
        return torch.cat([self.gain * x, torch.full_like(x, math.log(self.scale))], -1)


def method_of(gain, scale, guide=None, cls=SimVAE, dim=1):
    return cls(Message(gain, scale), nn.Identity(), VIEW, NOISE, CONTENT, group_guide=guide, dim=dim)


def like(views, dim=1):
    return Groups(torch.zeros(2, views, dim))


def test_the_exact_posterior_is_calibrated_and_one_half_as_wide_is_not():
    exact = calibrate(method_of(1.0, NOISE, ProductOfExperts(start=0.0)), like(3), groups=2000)
    assert set(exact) == {"z", "y"}
    assert all(found.p_value > 0.01 for found in exact.values())
    assert all(abs(found.coverage[0.9] - 0.9) < 0.03 for found in exact.values())
    # Central intervals between order statistics: at S + 1 = 200 the ranks 10 to 189, nothing interpolated.
    counts = exact["z"].histogram[0]
    assert exact["z"].coverage[0.9] == pytest.approx(float(counts[1:-1].sum()) / 2000)
    assert all(int(found.histogram.sum()) == 2000 for found in exact.values())
    # At J = 1 and this prior the posterior of z is N(shrunk x, v).
    variance = 1 / (1 / NOISE**2 + 1 / (VIEW**2 + CONTENT**2))
    gain = variance / NOISE**2
    one = calibrate(method_of(gain, variance**0.5), like(1), groups=2000)
    assert one["z"].p_value > 0.01
    half = calibrate(method_of(gain, variance**0.5 / 2), like(1), groups=2000)
    assert half["z"].p_value < 1e-6
    assert abs(half["z"].coverage[0.9] - (2 * norm.cdf(norm.ppf(0.95) / 2) - 1)) < 0.03


def test_a_guide_that_is_off_to_one_side_shows_it():
    variance = 1 / (1 / NOISE**2 + 1 / (VIEW**2 + CONTENT**2))
    method = method_of(variance / NOISE**2, variance**0.5)
    encoder = method.encoder

    class Shifted(nn.Module):
        def forward(self, x):
            return encoder(x) + torch.tensor([0.5 * NOISE, 0.0])

    method.encoder = Shifted()
    found = calibrate(method, like(1), groups=1000)["z"]
    assert found.p_value < 1e-6
    assert found.histogram[0, :5].sum() > found.histogram[0, -5:].sum()  # the truth is below the draws


@pytest.mark.parametrize("cls", [SimVAE, ContentSimVAE])
def test_several_dimensions_and_an_explicit_content(cls):
    found = calibrate(method_of(1.0, NOISE, cls=cls, dim=2), like(2, 2), groups=500)
    assert found["z"].histogram.shape == found["y"].histogram.shape == (2, 20)
    assert found["z"].p.shape == (2,)


def test_wrong_uses_are_errors():
    method = method_of(1.0, NOISE)
    with pytest.raises(SettingsError, match=r"samples \+ 1 = 101, expected a multiple of bins = 20"):
        calibrate(method, like(2), samples=100)
    method.content_scale = None
    with pytest.raises(SettingsError, match="content_scale"):
        calibrate(method, like(2), groups=10)
    with pytest.raises(SettingsError, match="SimCLR has no model"):
        calibrate(SimCLR(nn.Linear(3, 2)), like(2))

"""Coverage is that of a loop over sorted draws, exact for data of the model itself, and the closed form where views chose z."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from genssl.models import VAE, ContentSimVAE, NeuralStatistician, SimCLR, SimVAE
from genssl.models.group_guides import ProductOfExperts
from scipy.stats import norm
from torch import nn

from genssl.datasets.data import Data
from genssl.distributions import Gaussian
from genssl.distributions.pixels import IsotropicNormal
from genssl.errors import SettingsError
from genssl.evaluation.measuring import measuring
from genssl.groups import Groups
from genssl.posterior.calibration import simulate
from genssl.posterior.predictive_coverage import predictive_coverage
from genssl.terms import ContrastiveNormaliser, CosineAttraction

module = importlib.import_module("genssl.posterior.predictive_coverage")

VIEW, CONTENT, NOISE, DIM = 0.4, 1.0, 0.3, 4
LEVELS = (0.5, 0.8, 0.9, 0.95)


class FakeRun:
    def __init__(self, method, train, **config):
        self.method, self.device = method.eval(), torch.device("cpu")
        self.config = {"seed": 5, "num_views": train.num_views} | config
        self.data = Data("natural", train, None, train)


class Message(nn.Module):
    """loc gain * x, a fixed scale."""

    def __init__(self, gain=1.0, scale=NOISE):
        super().__init__()
        self.gain, self.scale = nn.Parameter(torch.tensor(gain)), scale

    def forward(self, x):
        return torch.cat([self.gain * x, torch.full_like(x, math.log(self.scale))], -1)


def linear(guide=None, content=CONTENT, encoder=None, likelihood=None, cls=SimVAE):
    encoder = Message() if encoder is None else encoder
    return cls(encoder, nn.Identity(), VIEW, NOISE, content, group_guide=guide, dim=DIM, likelihood=likelihood)


def simulated(number, views, ragged=False):
    method = linear(ProductOfExperts(start=0.0))
    with measuring(method):
        torch.manual_seed(3)
        groups, _ = simulate(method, Groups(torch.zeros(2, views, DIM)), number)
    mask = torch.arange(views) < torch.randint(1, views + 1, (number, 1))
    return Groups(groups.x, mask) if ragged else groups


@pytest.mark.parametrize("samples", [39, 10])
@pytest.mark.parametrize("ragged", [False, True])
def test_a_further_view_is_covered_at_the_level_under_the_exact_posterior(samples, ragged):
    """At 39 draws no gap is cut, at 10 all are."""
    groups = simulated(4000, 3, ragged)
    found = predictive_coverage(FakeRun(linear(ProductOfExperts(start=0.0)), groups), groups, samples=samples)
    number = DIM * int((groups.count > 1).sum())
    assert not found.absent
    for level, share in found.next_view["all"].items():
        assert abs(share - level) < 3.5 * (level * (1 - level) / number) ** 0.5
        assert found.observed["all"][level] > level + 0.01


def test_a_likelihood_of_another_width_shows():
    groups = simulated(2000, 3)
    narrow = linear(ProductOfExperts(start=0.0), likelihood=Gaussian(NOISE / 2))
    found = predictive_coverage(FakeRun(narrow, groups), groups, samples=39)
    assert found.next_view["all"][0.9] < 0.88
    assert (
        found.observed["all"][0.9]
        < predictive_coverage(FakeRun(linear(ProductOfExperts(start=0.0)), groups), groups).observed["all"][0.9]
    )


def test_observed_views_have_the_coverage_of_their_closed_form():
    groups = simulated(4000, 1)
    marginal = VIEW**2 + CONTENT**2
    variance = 1 / (1 / NOISE**2 + 1 / marginal)
    gain = variance / NOISE**2
    encoder = Message(gain, variance**0.5)
    found = predictive_coverage(FakeRun(linear(encoder=encoder), groups), groups, samples=399)
    # x - gain x against N(0, variance + noise): x itself has chosen the mean.
    ratio = ((variance + NOISE**2) / ((1 - gain) ** 2 * (marginal + NOISE**2))) ** 0.5
    for level, share in found.observed["all"].items():
        assert share == pytest.approx(2 * norm.cdf(norm.ppf((1 + level) / 2) * ratio) - 1, abs=0.012)
    assert found.absent == {"next_view": "no group has two views, of which one could be predicted from the other"}
    assert found.next_view == {}


class Recorded(nn.Module):
    """A Gaussian likelihood that keeps what is drawn from it."""

    def __init__(self, step=0.0):
        super().__init__()
        self.drawn, self.step = [], step

    def forward(self, output, event_dim):
        kept, step = self.drawn, self.step

        class Kept(IsotropicNormal):
            def sample(self, sample_shape=()):
                x = super().sample(sample_shape)
                kept.append((x / step).round() * step if step else x)
                return kept[-1]

        return Kept(output, NOISE, event_dim)


@pytest.mark.parametrize("step", [0.0, 0.5])
def test_it_is_that_of_a_loop_over_sorted_draws(step):
    groups = simulated(7, 2)
    groups = Groups((groups.x / step).round() * step if step else groups.x)
    likelihood = Recorded(step)
    run = FakeRun(linear(likelihood=likelihood), groups)
    found = predictive_coverage(run, groups, LEVELS, 19)
    draws = {"observed": torch.stack(likelihood.drawn[:19]), "next_view": torch.stack(likelihood.drawn[19:])}
    assert len(likelihood.drawn) == 38
    target = {"observed": groups.x, "next_view": groups.x[:, 1:]}
    for name, drawn in draws.items():
        for level, share in getattr(found, name)["all"].items():
            low, high = (1 - level) / 2 * 20, 20 - (1 - level) / 2 * 20
            total = []
            for values, x in zip(drawn.flatten(1).T.tolist(), target[name].flatten().tolist(), strict=True):
                gaps = [g for g in range(20) if sum(v < x for v in values) <= g <= sum(v <= x for v in values)]
                total.append(sum(max(0.0, min(high, g + 1) - max(low, g)) for g in gaps) / len(gaps))
            assert share == pytest.approx(sum(total) / len(total), abs=1e-6)
            if step == 0 and level in (0.5, 0.8, 0.9):  # whole gaps: between order statistics, nothing cut
                edge = round(low)
                ordered = drawn.sort(0).values
                inside = (ordered[edge - 1] < target[name]) & (target[name] < ordered[19 - edge])
                assert share == pytest.approx(float(inside.double().mean()), abs=1e-6)


def test_padded_views_do_not_count():
    groups, likelihood = simulated(30, 3, ragged=True), Recorded()
    off = linear(encoder=Message(0.3), likelihood=likelihood)  # so that views are missed, and zeros are not
    found = predictive_coverage(FakeRun(off, groups), groups, (0.8,), 19)
    ordered = torch.stack(likelihood.drawn[:19]).sort(0).values
    inside = (ordered[1] < groups.x) & (groups.x < ordered[17])
    assert found.observed["all"][0.8] == pytest.approx(float(inside[groups.mask].double().mean()))


def test_constant_pixels_stand_apart():
    train, groups = simulated(300, 2), simulated(300, 2)
    train.x[..., 0], groups.x[..., 0] = 0.25, 0.25
    train.x[..., 1] = 0.25 + 1e-3 * torch.randn(300, 2)
    found = predictive_coverage(FakeRun(linear(), train), groups, samples=39)
    assert found.constant_share == 0.5
    for part in (found.observed, found.next_view):
        assert set(part) == {"all", "constant", "varying"}
        for level in LEVELS:
            assert part["all"][level] == pytest.approx((part["constant"][level] + part["varying"][level]) / 2)
    only = predictive_coverage(
        FakeRun(linear(encoder=Message(1.0, 1e-3)), train), Groups(torch.full((50, 2, DIM), 0.25))
    )
    assert only.observed["constant"][0.5] > 0.999
    run = FakeRun(linear(), train)
    run.data = Data("none", Groups((torch.zeros(3, 2), torch.zeros(3, 3))))
    bare = predictive_coverage(run, groups, samples=5)
    assert set(bare.observed) == {"all"}
    assert bare.constant_share is None
    assert "several modalities" in bare.absent["constant_share"]


# ------------------------------------------------------------------ other methods


def built(cls, **settings):
    groups = Groups(torch.rand(6, 3, 1, 4, 4))
    return FakeRun(cls.build(groups, dim=2, hidden=(8,), **settings), groups), groups


@pytest.mark.parametrize("cls", [ContentSimVAE, NeuralStatistician])
def test_methods_that_know_of_a_further_view(cls):
    run, groups = built(cls)
    found = predictive_coverage(run, groups, samples=5)
    assert set(found.observed) == set(found.next_view) == {"all", "varying"}
    assert not found.absent


def test_reasons():
    run, groups = built(SimCLR)
    found = predictive_coverage(run, groups, samples=3)
    assert found[:3] == ({}, {}, None)
    assert set(found.absent.values()) == {"the method has no model of x"}
    run, groups = built(VAE)
    found = predictive_coverage(run, groups, samples=3)
    assert found.observed
    assert "has no prior that ties" in found.absent["next_view"]
    run, groups = built(SimVAE, likelihood="bernoulli")
    found = predictive_coverage(run, groups, samples=3)
    assert found.observed == found.next_view == {}
    assert "discrete values" in found.absent["observed"]
    assert "discrete values" in found.absent["next_view"]
    assert predictive_coverage(built(SimVAE, likelihood="continuous_bernoulli")[0], groups, samples=3).absent == {}
    run, groups = built(SimVAE)
    run.method.swap(prior=CosineAttraction(0.5))
    assert "CosineAttraction" in predictive_coverage(run, groups, samples=3).absent["next_view"]
    run.method.swap(reconstruction=ContrastiveNormaliser())
    assert "no likelihood was fitted" in predictive_coverage(run, groups, samples=3).absent["observed"]


def test_the_run_is_left_as_it_was_and_a_second_call_says_the_same(monkeypatch):
    asked, plain = [], module.networks_in
    monkeypatch.setattr(module, "networks_in", lambda precision, *rest: asked.append(precision) or plain("32", *rest))
    run, groups = built(SimVAE)
    run.config["precision"] = "bf16"
    run.method.encoder = nn.Sequential(run.method.encoder, nn.BatchNorm1d(4))
    run.method.train()
    state, generator = {n: v.clone() for n, v in run.method.state_dict().items()}, torch.get_rng_state()
    found = predictive_coverage(run, groups, samples=5)
    assert asked == ["bf16"]
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in run.method.state_dict().items())
    assert all(part.training for part in run.method.modules())
    assert groups.label is None
    torch.rand(3)
    assert predictive_coverage(run, groups, samples=5) == found
    run.config["seed"] = 6
    assert predictive_coverage(run, groups, samples=5) != found


def test_wrong_arguments():
    run, groups = built(SimVAE)
    for samples in (0, 2.0, True):
        with pytest.raises(SettingsError, match="samples = .*at least 1"):
            predictive_coverage(run, groups, samples=samples)
    for levels in ((), (0.5, 1.0), (0,)):
        with pytest.raises(SettingsError, match=r"levels = .*shares in \(0, 1\)"):
            predictive_coverage(run, groups, levels)
    with pytest.raises(SettingsError, match="several modalities"):
        predictive_coverage(run, Groups((torch.zeros(3, 2), torch.zeros(3, 4))))

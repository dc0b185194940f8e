"""Scores of strange inputs against dense normals, closed forms and loops over pairs; what a run cannot have says why."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
import xarray
from genssl.models import VAE, ContentSimVAE, MCInfoNCE, MixtureSimVAE, SimCLR, SimVAE, VISimSiam
from genssl.models.group_guides import ProductOfExperts
from torch import nn
from torch.distributions import MultivariateNormal

from genssl.datasets.data import Data
from genssl.datasets.items import Items
from genssl.errors import NonFiniteError, SettingsError, ShapeError
from genssl.evaluation import bound
from genssl.evaluation.bound import held_out_bound
from genssl.evaluation.measuring import measuring
from genssl.evaluation.weights import log_weights
from genssl.fit.randomness import stream_seed
from genssl.groups import Groups
from genssl.posterior import diagnose
from genssl.posterior.strangeness import Strangeness, auroc, strangeness
from genssl.posterior.tail import pareto_k
from genssl.terms import Constant, ContrastiveNormaliser

module = importlib.import_module("genssl.posterior.strangeness")

VIEW, CONTENT, NOISE, VIEWS, DIM = 0.4, 1.2, 0.3, 3, 2
NAMES = {*module.OF_MODEL, "posterior_scale", "distance"}


class FakeRun:
    """A method with its weights as they are, and natural groups."""

    def __init__(self, method, train, **config):
        self.method, self.config, self.device = (
            method.eval(),
            {"seed": 5, "num_views": VIEWS} | config,
            torch.device("cpu"),
        )
        self.data = train if isinstance(train, Data) else Data("natural", train, None, train)

    @property
    def views(self):
        return self.data.views

    def represent(self, x):
        with torch.no_grad():
            return self.method.encode(x).mean


class Message(nn.Module):
    """loc = gain x, log scale = start + slope |x|."""

    def __init__(self, gain, scale, slope=0.0):
        super().__init__()
        self.gain, self.start, self.slope = nn.Parameter(torch.tensor(gain)), math.log(scale), slope

    def forward(self, x):
        return torch.cat([self.gain * x, self.start + self.slope * x.abs()], -1)


def linear(guide=None, content=CONTENT, gain=1.0, scale=NOISE, slope=0.0):
    return SimVAE(Message(gain, scale, slope), nn.Identity(), VIEW, NOISE, content, group_guide=guide, dim=DIM)


def natural(seed, number, wide=1.0, ragged=False):
    generator = torch.Generator().manual_seed(seed)
    y = wide * CONTENT * torch.randn(number, 1, DIM, generator=generator)
    x = y + (VIEW**2 + NOISE**2) ** 0.5 * torch.randn(number, VIEWS, DIM, generator=generator)
    mask = torch.arange(VIEWS) < torch.randint(1, VIEWS + 1, (number, 1), generator=generator)
    return Groups(x, mask if ragged else None)


def evidence(groups):
    """log p(x_1..x_J) [G] by a dense covariance of the views that exist."""
    found = []
    for x, valid in zip(groups.x, groups.valid, strict=True):
        n = int(valid.sum())
        covariance = CONTENT**2 * torch.ones(n, n) + (VIEW**2 + NOISE**2) * torch.eye(n)
        found.append(MultivariateNormal(torch.zeros(n), covariance).log_prob(x[valid].T).sum())
    return torch.stack(found)


def close(found, expected, rtol=1e-9, atol=1e-9):
    torch.testing.assert_close(found, expected.double(), rtol=rtol, atol=atol)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("ragged", [False, True])
def test_with_the_exact_posterior_bounds_are_the_evidence(ragged):
    train, inside = natural(0, 60, ragged=ragged), natural(1, 20, ragged=ragged)
    found = strangeness(FakeRun(linear(ProductOfExperts(start=0.0)), train), inside, samples=30)
    close(found.scores["negative_elbo"], -evidence(inside))
    close(found.scores["negative_bound"], -evidence(inside))
    rate = (-evidence(train) / train.count).mean()
    close(found.scores["typicality"], (-evidence(inside) - inside.count * rate).abs())


@pytest.mark.usefixtures("float64")
def test_with_a_factorised_guide_they_are_the_closed_forms():
    inside = natural(1, 20)
    method = linear(gain=0.9)
    found = strangeness(FakeRun(method, natural(0, 60)), inside, samples=300).scores
    loc, scale = 0.9 * inside.x, torch.tensor(NOISE)
    squares = ((inside.x - loc).square() + scale**2) / (2 * NOISE**2)
    views = (0.5 * math.log(2 * math.pi * NOISE**2) + squares).sum(-1)
    close(found["reconstruction"], views.mean(1), 0, 0.3)
    entropy = VIEWS * DIM * (0.5 * math.log(2 * math.pi * math.e) + scale.log())
    prior = method.prior(inside).expected_log_prob(loc, scale.expand_as(loc))
    close(found["negative_elbo"], views.sum(1) - entropy - prior, 0, 0.7)
    close(found["negative_bound"], -evidence(inside), 0, 0.6)
    assert (found["negative_bound"] < found["negative_elbo"]).all()


@pytest.mark.usefixtures("float64")
def test_k_hat_is_that_of_diagnose_and_of_weights_without_a_tail_infinite():
    groups = natural(1, 12)
    run = FakeRun(linear(scale=0.2), natural(0, 60))
    found = strangeness(run, groups, samples=100).scores["pareto_k"]
    weights = log_weights(run.method, groups, 100, seed=stream_seed(5, "strangeness")).log_weight
    data = xarray.Dataset({"log_weight": (("sample", "group"), weights.numpy())}, {"group": np.arange(12)})
    tree = xarray.DataTree.from_dict({"/sample_stats": data})
    assert np.array_equal(found.numpy(), diagnose(tree)["pareto_k"].values)
    wide = torch.zeros(50, 4)
    wide[:, 1] = 1e5 * torch.randn(50)
    wide[4:, 2] = -math.inf
    wide[:, 3] = torch.linspace(0, 3000, 50)
    assert pareto_k(wide[:, :3]).tolist() == [-math.inf, math.inf, math.inf]
    assert 20 < pareto_k(wide)[3] < math.inf


@pytest.mark.usefixtures("float64")
def test_distance_and_posterior_scale():
    train, groups = natural(0, 60, ragged=True), natural(1, 12, wide=3, ragged=True)
    found = strangeness(FakeRun(linear(gain=0.8, slope=0.5), train), groups, samples=2).scores
    z = 0.8 * train.x[train.mask]
    covariance = torch.tensor(np.cov(z.T.numpy(), bias=True))
    law = MultivariateNormal(z.mean(0), covariance)
    for g, (x, valid) in enumerate(zip(groups.x, groups.mask, strict=True)):
        assert found["distance"][g] == pytest.approx(-law.log_prob(0.8 * x[valid]).mean().item(), rel=1e-4)
        assert found["posterior_scale"][g] == pytest.approx((math.log(NOISE) + 0.5 * x[valid].abs()).mean().item())


def test_a_guide_that_sees_the_group_has_its_scale_of_the_group():
    groups = natural(1, 12, ragged=True)
    method = linear(ProductOfExperts(start=0.0), slope=0.5)
    found = strangeness(FakeRun(method, natural(0, 60)), groups, samples=2)
    with torch.no_grad():
        scale = method.joint(groups).variance.sqrt()
    by_hand = torch.stack([one[valid].log().mean() for one, valid in zip(scale, groups.mask, strict=True)])
    close(found.scores["posterior_scale"], by_hand, 1e-5, 1e-6)
    assert "25 have one" in found.absent["pareto_k"]


def test_strange_inputs_are_told_apart():
    train, inside, outside = natural(0, 200), natural(1, 60), natural(2, 60, wide=5)
    run = FakeRun(linear(slope=0.3), train)
    found, strange = strangeness(run, inside, 30), strangeness(run, outside, 30)
    assert set(found.scores) == NAMES
    assert not found.absent
    assert all(score.shape == (60,) and score.dtype == torch.float64 for score in found.scores.values())
    assert all(auroc(found.scores[name], strange.scores[name]) > 0.7 for name in NAMES - {"pareto_k"})


@pytest.mark.usefixtures("float64")
def test_a_flat_content_is_replaced_by_the_gaussian_of_the_held_out_bound():
    run = FakeRun(linear(content=None), natural(0, 400))
    prior, groups = held_out_bound(run, groups=3, samples=2, ks=(1,))["content_prior"], natural(1, 12)
    found = strangeness(run, groups, samples=30)
    loc = run.data.train.x.mean((0, 1))
    weights = log_weights(run.method, groups, 30, (loc, prior["scale"]), seed=stream_seed(5, "strangeness"))
    close(found.scores["negative_elbo"], -weights.log_weight.mean(0))
    run.data.train = Groups((torch.zeros(4, 2), torch.zeros(4, 3)))
    alone = strangeness(run, groups, samples=30)
    assert set(alone.scores) == {"reconstruction"}  # the scale of this guide is one number
    assert all("several modalities" in alone.absent[name] for name in ("negative_elbo", "typicality", "distance"))
    close(alone.scores["reconstruction"], found.scores["reconstruction"])


def test_a_sampled_content_is_that_of_the_held_out_bound_too():
    method = ContentSimVAE(Message(1.0, NOISE, 0.3), nn.Identity(), VIEW, NOISE, None, dim=DIM)
    run, groups, own = FakeRun(method, natural(0, 60)), natural(1, 12), stream_seed(5, "strangeness")
    found = strangeness(run, groups, samples=2)
    with measuring(method):
        prior, _ = bound.fitted_content_prior(run, VIEWS, stream_seed(5, "bound"))
    weights = log_weights(method, groups, 2, prior, seed=own)
    close(found.scores["negative_elbo"], -weights.log_weight.mean(0))


# ------------------------------------------------------------------ what other methods have


def items(seed, number):
    return Items(torch.rand(number, 1, 4, 4, generator=torch.Generator().manual_seed(seed)))


def built(cls, **settings):
    data = Data("tiny", items(0, 90), items(1, 9), items(2, 9), views=lambda x, index, generator: x)
    torch.manual_seed(1)
    return FakeRun(cls.build(data.example(VIEWS), dim=DIM, hidden=(8,), **settings), data)


def some():
    return Groups(torch.rand(6, VIEWS, 1, 4, 4))


@pytest.mark.parametrize("cls", [VISimSiam, MCInfoNCE])
def test_guides_on_the_sphere_have_their_concentration(cls):
    run, groups = built(cls), some()
    found = strangeness(run, groups, samples=2)
    assert set(found.scores) == {"posterior_scale", "distance"}
    assert set(found.absent) == set(module.OF_MODEL)
    with torch.no_grad():
        kappa = run.method.encode(groups.x).concentration
    close(found.scores["posterior_scale"], -0.5 * kappa.log().mean(1), 1e-5, 1e-6)


def test_reasons():
    found = strangeness(built(SimCLR), some(), samples=2)
    assert set(found.scores) == {"distance"}
    assert found.absent["negative_bound"] == "the method has no model of x"
    assert found.absent["posterior_scale"] == "the guide of SimCLR is a point mass"
    run = built(SimVAE)
    run.method.swap(reconstruction=ContrastiveNormaliser())
    found = strangeness(run, some(), samples=2)
    assert set(found.scores) == {"posterior_scale", "distance"}
    assert found.absent["reconstruction"].startswith("no likelihood was fitted")
    run.method.swap(entropy=Constant(), scale=0.1)
    assert "same for every input" in strangeness(run, some(), samples=2).absent["posterior_scale"]
    grey = strangeness(built(VAE, likelihood="bernoulli"), some(), samples=2)
    assert set(grey.scores) == {"posterior_scale", "distance", "reconstruction"}
    assert "is no density" in grey.absent["typicality"]
    run = built(SimVAE)
    run.data = Data("few", items(0, 1), views=run.views)
    run.config["num_views"] = 1
    assert strangeness(run, Groups(some().x[:, :1]), 2).absent["distance"] == (
        "1 training views have no covariance in 2 dimensions"
    )
    run.method.encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    nn.init.zeros_(run.method.encoder[1].weight)
    run.data = Data("same", items(0, 20), views=run.views)
    assert "all the same" in strangeness(run, some(), 2).absent["distance"]


def test_labels_are_not_read():
    run = built(MixtureSimVAE, labels=None)
    run.data = Data("tiny", Items(items(0, 90).x, torch.arange(90) % 3), views=run.views)
    groups = some()
    plain = strangeness(run, groups, samples=30)
    groups.label = torch.arange(6) % 3
    other = strangeness(run, groups, samples=30)
    assert set(plain.scores) == NAMES
    assert all(torch.equal(value, other.scores[name]) for name, value in plain.scores.items())
    assert groups.label.tolist() == [0, 1, 2, 0, 1, 2]


def test_the_run_is_left_as_it_was_and_a_second_call_says_the_same():
    run, groups = built(SimVAE), some()
    run.method.encoder = nn.Sequential(run.method.encoder, nn.BatchNorm1d(2 * DIM))
    run.method.train()
    state = {name: value.clone() for name, value in run.method.state_dict().items()}
    generator = torch.get_rng_state()
    found = strangeness(run, groups, samples=3)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in run.method.state_dict().items())
    assert all(part.training for part in run.method.modules())
    torch.rand(3)
    again = strangeness(run, groups, samples=3)
    assert all(torch.equal(value, again.scores[name]) for name, value in found.scores.items())
    run.config["seed"] = 6
    assert not torch.equal(strangeness(run, groups, samples=3).scores["negative_elbo"], found.scores["negative_elbo"])


def test_networks_run_in_the_precision_of_the_run(monkeypatch):
    asked, plain = [], module.networks_in
    monkeypatch.setattr(module, "networks_in", lambda precision, *rest: asked.append(precision) or plain("32", *rest))
    run = built(SimCLR)
    run.config["precision"] = "bf16"
    strangeness(run, some(), 2)
    assert asked == ["bf16"]


def test_wrong_arguments():
    run = FakeRun(linear(), natural(0, 9))
    for wrong in (0, 2.0, True):
        with pytest.raises(SettingsError, match="samples = .*at least 1"):
            strangeness(run, natural(1, 3), wrong)
    with pytest.raises(SettingsError, match="of several modalities"):
        strangeness(run, Groups((torch.zeros(3, 2), torch.zeros(3, 4))))
    with pytest.raises(SettingsError, match="groups is a Tensor"):
        strangeness(run, torch.zeros(3, 2, 2))
    run.represent = lambda x: torch.full((len(x), DIM), math.nan)
    with pytest.raises(NonFiniteError, match="27 of 27 representations are not finite"):
        strangeness(run, natural(1, 3), 2)


# ------------------------------------------------------------------ auroc


def test_auroc_counts_pairs_and_halves_ties():
    generator = torch.Generator().manual_seed(0)
    inside = torch.randint(6, (40,), generator=generator).double()
    outside = torch.randint(2, 8, (30,), generator=generator).double()
    inside[0], outside[:2] = -math.inf, math.inf
    pairs = [(b > a) + 0.5 * (a == b) for a in inside.tolist() for b in outside.tolist()]
    assert auroc(inside, outside) == pytest.approx(sum(pairs) / len(pairs))
    assert auroc(outside, inside) == pytest.approx(1 - sum(pairs) / len(pairs))
    assert auroc(torch.zeros(3), torch.ones(5)) == 1
    assert auroc(torch.ones(3), torch.ones(5)) == 0.5


def test_auroc_refuses_what_has_no_order():
    with pytest.raises(NonFiniteError, match="1 of 3 scores outside are NaN"):
        auroc(torch.zeros(2), torch.tensor([1.0, math.nan, 2.0]))
    with pytest.raises(ShapeError, match=r"inside has shape \[2, 1\]"):
        auroc(torch.zeros(2, 1), torch.zeros(2))
    with pytest.raises(ShapeError, match=r"outside has shape \[0\]"):
        auroc(torch.zeros(2), torch.zeros(0))
    assert Strangeness({}, {}).absent == {}

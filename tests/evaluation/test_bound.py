"""The held-out bound against exact evidence, weights taken by hand, and direct maximisation; and why there may be none."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from fake_runs import FakeRun, fake_run, images, make_data
from genssl.models import AAVAE, VAE, ContentSimVAE, MixtureSimVAE, SimCLR, SimVAE
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn

from genssl import Groups, Objective
from genssl.datasets.data import Data
from genssl.datasets.items import Items
from genssl.distributions import GroupNormal
from genssl.errors import SettingsError
from genssl.evaluation import bound as module
from genssl.evaluation.bound import fit_content_prior, held_out_bound
from genssl.evaluation.fresh_views import fresh_groups
from genssl.evaluation.measuring import measuring
from genssl.evaluation.weights import importance_bound, log_weights
from genssl.fit.randomness import stream_seed
from genssl.terms import Constant, ContrastiveNormaliser, CosineAttraction

SIZES = {"groups": 24, "samples": 8, "ks": (1, 4, 8)}


def run_of(path, cls=SimVAE, **settings):
    torch.manual_seed(1)
    method = cls.build(make_data().example(2), dim=3, hidden=(8, 8), **settings)
    return FakeRun(path, method, make_data())


def close_to(value):
    return pytest.approx(value, rel=1e-6, abs=1e-6)


# ------------------------------------------------------------------ the content prior


def direct(loc, scale, view_scale, mask, start):
    """m and c by maximising the closed-form E_q log p(z_1..z_J) of GroupNormal itself."""

    def loss(parameters):
        m, c = torch.tensor(parameters[:-1]), math.exp(parameters[-1])
        prior = GroupNormal(view_scale, *loc.shape[1:], c, mask)
        return -float(prior.expected_log_prob(loc - m, scale).sum())

    return minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000})


def statistics(loc, scale, view_scale, mask):
    mask = torch.ones(loc.shape[:2], dtype=torch.bool) if mask is None else mask
    count, kept = mask.sum(1), mask[..., None]
    mean = (loc * kept).sum(1) / count[:, None]
    return mean, (scale.square() * kept).sum((1, 2)) / count**2, view_scale**2 / count


@pytest.mark.parametrize("ragged", [False, True])
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000), view_scale=st.floats(0.2, 1.0))
def test_it_is_the_maximum_of_the_prior_term(ragged, seed, view_scale):
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(7, 3, 2, generator=generator, dtype=torch.float64)
    loc = loc * view_scale + 1.5 * torch.randn(7, 1, 2, generator=generator, dtype=torch.float64) + 3
    scale = 0.1 + torch.rand(7, 3, 2, generator=generator, dtype=torch.float64)
    mask = torch.arange(3) < torch.randint(1, 4, (7, 1), generator=generator) if ragged else None
    found = fit_content_prior(*statistics(loc, scale, view_scale, mask))
    best = direct(loc, scale, view_scale, mask, [*(found.loc + 0.1).tolist(), math.log(found.scale) + 0.2])
    np.testing.assert_allclose(best.x[:2], found.loc.numpy(), atol=1e-4)
    assert math.exp(best.x[2]) == pytest.approx(found.scale, abs=1e-4)


def test_ragged_groups_of_one_size_are_the_closed_form():
    generator = torch.Generator().manual_seed(1)
    mean, variance = torch.randn(40, 3, generator=generator) * 2, torch.rand(40, generator=generator)
    equal = fit_content_prior(mean, variance, torch.full((40,), 0.1))
    almost = fit_content_prior(mean, variance, torch.full((40,), 0.1) + 1e-6 * torch.rand(40, generator=generator))
    assert almost.scale == pytest.approx(equal.scale, rel=1e-5)
    by_hand = (mean - mean.mean(0)).square().sum(1).add(variance).mean() / 3 - 0.1
    assert equal.scale == pytest.approx(math.sqrt(by_hand), rel=1e-5)


@pytest.mark.parametrize(("number", "far"), [(5, True), (16, False)])
def test_of_two_local_maxima_it_is_the_higher(number, far):
    """Many groups that do not differ at all, and one of large noise that is far off."""
    noise, variance = torch.tensor([0.01] * number + [1.0]), torch.tensor([0.0] * number + [300.0])
    found = fit_content_prior(torch.zeros(number + 1, 3), variance, noise)
    square = torch.logspace(-9, 4, 100001, dtype=torch.float64)[:, None] + noise
    values = (variance / square + 3 * square.log()).sum(1)
    best = square[values.argmin(), 0] - noise[0]
    assert (found.scale > 1) == (best > 1) == far
    assert found.scale**2 == pytest.approx(best.item(), rel=1e-3, abs=1e-6)


def test_it_recovers_the_prior_that_groups_were_drawn_from():
    """Posterior spread, view noise and content each have their place: with one of them left out, or counted twice, c is off."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    m, c, s, q = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), 0.8, 1.2, 0.7
    # Means of a guide of scale q whose draws have, over all groups, the law of the prior.
    loc = m + c * normal(20000, 1, 3) + (s**2 - q**2) ** 0.5 * normal(20000, 4, 3)
    found = fit_content_prior(loc.mean(1), torch.full((20000,), 3 * q**2 / 4), torch.full((20000,), s**2 / 4))
    assert found.scale == pytest.approx(c, abs=0.01)
    torch.testing.assert_close(found.loc, m, rtol=0, atol=0.03)


@pytest.mark.parametrize("ragged", [False, True])
def test_contents_that_do_not_differ_have_next_to_no_scale(ragged):
    noise = torch.tensor([0.1, 0.2]).repeat(10) if ragged else torch.full((20,), 0.1)
    found = fit_content_prior(torch.ones(20, 3), torch.zeros(20), noise)
    assert 0 < found.scale < 1e-5
    torch.testing.assert_close(found.loc, torch.ones(3, dtype=torch.float64))


# ------------------------------------------------------------------ figures


def by_hand(run, prior, groups=24, samples=8):
    """The log weights of the test groups, block by block."""
    seed, columns = stream_seed(3, "bound"), []
    with measuring(run.method):
        for number, block in enumerate(fresh_groups(run, "test", "bound/test", 2 * groups, 2)):
            given_seed = stream_seed(seed, "draws", number)
            columns.append(log_weights(run.method, block, samples, prior, seed=given_seed, block=len(block)).log_weight)
    return torch.cat(columns, 1)


@pytest.mark.parametrize("cls", [SimVAE, ContentSimVAE, VAE, MixtureSimVAE])
def test_figures_of_a_proper_model_are_those_of_its_weights(tmp_path, monkeypatch, cls):
    monkeypatch.setattr("genssl.evaluation.fresh_views.BATCH", 20)  # blocks of 10, 10 and 4 groups
    run = run_of(tmp_path, cls, **({"content_scale": 1.1} if cls in (SimVAE, ContentSimVAE) else {}))
    found, weights = held_out_bound(run, **SIZES), by_hand(run, None)
    assert weights.shape == (8, 24)
    bounds = {str(k): importance_bound(weights, k) for k in (1, 4, 8)}
    assert found["elbo"] == found["importance_weighted"]["1"] == close_to(weights.mean().item())
    for name, value in bounds.items():
        assert found["importance_weighted"][name] == close_to(value.mean().item())
        assert found["standard_error"][name] == close_to(np.std(value.numpy(), ddof=1) / 24**0.5)
    assert found["standard_error"]["elbo"] == found["standard_error"]["1"]
    assert found["importance_weighted"]["1"] < found["importance_weighted"]["4"] < found["importance_weighted"]["8"]
    assert found["bits_per_dimension"] == close_to(-bounds["8"].mean().item() / (2 * 36 * math.log(2)))
    assert 1 <= found["effective_samples"] <= 8
    assert found["content_prior"] == {"fitted": False, "scale": None, "loc_norm": None, "groups": None}
    assert (found["observed"], found["views"], found["groups"], found["samples"]) == (["x"], 2, 24, 8)
    assert "7.994" in found["note"]


@pytest.mark.parametrize("cls", [SimVAE, ContentSimVAE])
def test_a_flat_content_is_fitted_to_training_groups(tmp_path, cls):
    run = run_of(tmp_path, cls)
    found = held_out_bound(run, **SIZES)
    prior = found["content_prior"]
    assert prior["fitted"]
    assert found["note"].startswith("p(y), flat in the fit, is a Gaussian")
    assert prior["groups"] == 300
    with measuring(run.method):
        groups = next(fresh_groups(run, "train", "bound/train", 600, 2))
        content = run.method.content(groups)
    total = content.mean.var(0, correction=0).mean().item() + content.variance.mean().item()
    # The variance of E[y | x] and of q(y | x) under the flat p(y); the collapsed model takes the noise off twice, see the docstring.
    expected = total if cls is ContentSimVAE else total - 2 * 0.15 / 2
    assert prior["scale"] ** 2 == pytest.approx(expected, rel=0.02)  # of ContentSimVAE: at draws of z
    assert prior["loc_norm"] == pytest.approx(content.mean.mean(0).norm().item(), rel=0.1)
    if cls is SimVAE:
        loc = content.mean.double().mean(0)
        assert found["elbo"] == pytest.approx(by_hand(run, (loc, prior["scale"])).mean().item(), rel=1e-5)


def test_no_other_content_prior_has_a_higher_training_elbo(tmp_path):
    run = run_of(tmp_path)
    with measuring(run.method):
        prior, _ = module.fitted_content_prior(run, 2, 0)
        groups = next(fresh_groups(run, "train", "bound/train", 600, 2))

        def elbo(loc, scale):  # at the same draws, so that they differ by the prior alone
            return log_weights(run.method, groups, 8, (loc, scale), block=300).log_weight.mean().item()

        best = elbo(*prior)
        for other in (0.8, 1.25):
            assert elbo(prior.loc, prior.scale * other) < best
        assert elbo(prior.loc + 0.3, prior.scale) < best


def test_test_items_do_not_choose_the_content_prior_and_validation_has_no_part(tmp_path):
    run = run_of(tmp_path)
    first = held_out_bound(run, **SIZES)
    run.data = make_data(test=images(9, 60), validation=None)
    other = held_out_bound(run, **SIZES)
    assert other["content_prior"] == first["content_prior"]
    assert other["elbo"] != first["elbo"]


class Linear(nn.Module):
    """x = z + noise in R^6: the evidence of a group is that of a GroupNormal whose views have the noise too."""

    def __init__(self, content_scale=1.5, pull=0.37):
        super().__init__()
        self.content_scale, self.pull, self.objective = content_scale, pull, Objective()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def model(self, groups):
        with groups.plate:
            z = pyro.sample("z", GroupNormal(0.6, groups.num_views, 6, self.content_scale, groups.mask))
            law = dist.Normal(self.gain * z, 0.5)
            law = law if groups.mask is None else law.mask(groups.mask[..., None])
            pyro.sample("x", law.to_event(2), obs=groups.x)

    def guide(self, groups):
        with groups.plate:
            mean = groups.x.sum(1, keepdim=True) / groups.count[:, None, None]
            law = dist.Normal(0.6 * groups.x + self.pull * mean, 0.4)
            law = law if groups.mask is None else law.mask(groups.mask[..., None])
            pyro.sample("z", law.to_event(2))


def natural(seed, number, ragged):
    generator = torch.Generator().manual_seed(seed)
    y = 1.5 * torch.randn(number, 1, 6, generator=generator)
    x = y + (0.6**2 + 0.5**2) ** 0.5 * torch.randn(number, 3, 6, generator=generator)
    mask = torch.arange(3) < torch.randint(1, 4, (number, 1), generator=generator)
    return Groups(x, mask=mask if ragged else None, label=torch.zeros(number, dtype=torch.long))


@pytest.mark.parametrize("ragged", [False, True])
def test_it_is_below_the_exact_evidence_of_natural_groups(tmp_path, ragged):
    parts = [natural(seed, number, ragged) for seed, number in enumerate((50, 10, 200))]
    run = FakeRun(tmp_path, Linear(), Data("natural", *parts))
    found = held_out_bound(run, groups=200, samples=64, ks=(1, 8, 64))
    test = parts[2]
    evidence = GroupNormal((0.6**2 + 0.5**2) ** 0.5, 3, 6, 1.5, test.mask).log_prob(test.x).mean().item()
    values = list(found["importance_weighted"].values())
    assert found["elbo"] == values[0] < values[1] < values[2] < evidence + 0.02
    assert values[0] < evidence - 0.2
    assert values[2] == pytest.approx(evidence, abs=0.05)
    numbers = 6 * int(test.count.sum())
    assert found["bits_per_dimension"] == close_to(-200 * values[2] / numbers / math.log(2))
    assert (found["views"], found["groups"]) == (3, 200)


def test_ragged_natural_groups_have_a_fitted_content(tmp_path):
    parts = [natural(seed, number, True) for seed, number in enumerate((4000, 10, 50))]
    method = Linear(content_scale=None, pull=0.0)
    found = held_out_bound(FakeRun(tmp_path, method, Data("natural", *parts)), groups=50, samples=4, ks=(1,))
    assert found["content_prior"]["groups"] == 4000
    # E_q ||zbar - m||^2 with zbar = 0.6 xbar: 0.36 (1.5^2 + (0.6^2 + 0.5^2) / n) + 0.4^2 / n - 0.6^2 / n = 0.81 + 0.02 / n.
    assert found["content_prior"]["scale"] ** 2 == pytest.approx(0.82, abs=0.04)


# ------------------------------------------------------------------ views, scales, labels


def test_views_and_sizes(tmp_path):
    run = run_of(tmp_path, content_scale=1.0)
    assert held_out_bound(run, groups=5, samples=2, ks=(2,), num_views=3)["views"] == 3
    everything = held_out_bound(run, groups=10**6, samples=2, ks=[2, 1, 2])
    assert everything["groups"] == 120  # all there are
    assert list(everything["importance_weighted"]) == ["1", "2"]
    single = held_out_bound(run, groups=1, samples=2, ks=(1,))
    assert single["standard_error"] == {"elbo": None, "1": None}


def test_a_scaled_likelihood_counts_once(tmp_path):
    plain, heavy = (run_of(tmp_path, content_scale=1.0, likelihood_weight=w) for w in (1.0, 99.5))
    one, other = held_out_bound(plain, **SIZES), held_out_bound(heavy, **SIZES)
    assert "scaled in the fit" not in one["note"]
    assert "'x': counts once here, scaled in the fit" in other["note"]
    assert other["elbo"] == close_to(one["elbo"])


def test_labels_that_are_observed_are_told(tmp_path):
    run = run_of(tmp_path, MixtureSimVAE, labels=None, label_weight=5.0)
    found = held_out_bound(run, **SIZES)
    assert found["observed"] == ["x", "label"]
    assert found["bits_per_dimension"] is None
    assert "'label': probabilities of discrete values" in found["note"]
    assert "'label': counts once here" in found["note"]
    assert held_out_bound(run_of(tmp_path, MixtureSimVAE, labels=0), **SIZES)["observed"] == ["x"]


def test_binary_values_are_probabilities_and_grey_ones_are_not(tmp_path):
    grey = held_out_bound(run_of(tmp_path, VAE, likelihood="bernoulli"), **SIZES)
    assert grey.startswith("site 'x': a Bernoulli of values between 0 and 1")

    def binary(seed, number):
        return Items((images(seed, number).x > 0.5).float())

    data = Data("binary", binary(0, 40), binary(1, 20), binary(2, 20), views=lambda x, index, generator: x)
    method = VAE.build(data.example(2), dim=3, hidden=(8,), likelihood="bernoulli")
    found = held_out_bound(FakeRun(tmp_path, method, data), **SIZES)
    assert found["bits_per_dimension"] > 0
    assert found["note"] == "'x': probabilities of discrete values"
    assert isinstance(held_out_bound(run_of(tmp_path, VAE, likelihood="continuous_bernoulli"), **SIZES), dict)


def test_items_as_targets_and_a_substitute_for_the_prior(tmp_path):
    found = held_out_bound(run_of(tmp_path, AAVAE), **SIZES)
    assert found["observed"] == ["x"]
    assert "'x' is not the views" in found["note"]
    assert "is not the views" not in held_out_bound(run_of(tmp_path, VAE), **SIZES)["note"]
    run = run_of(tmp_path, content_scale=1.0)
    run.method.swap(prior=CosineAttraction(0.5))
    assert "the prior slot was fitted as CosineAttraction" in held_out_bound(run, **SIZES)["note"]


# ------------------------------------------------------------------ why there is none


def test_reasons(tmp_path):
    run = FakeRun(tmp_path, SimCLR.build(make_data().example(2), dim=3, hidden=(8,)), make_data())
    assert held_out_bound(run, **SIZES) == "the method has no model of x"
    run = run_of(tmp_path)
    run.method.swap(reconstruction=ContrastiveNormaliser(0.5))
    assert held_out_bound(run, **SIZES).startswith("no likelihood was fitted: the reconstruction slot is Contrastive")
    run = run_of(tmp_path)
    run.method.swap(entropy=Constant())
    assert "guide site 'z' is a point mass" in held_out_bound(run, **SIZES)
    run = run_of(tmp_path)
    run.data = make_data(test=None)
    assert held_out_bound(run, **SIZES) == "the data have no test items"
    pair = Groups([torch.rand(8, 6), torch.rand(8, 4)])
    run.data = Data("pair", pair, pair, pair)
    assert held_out_bound(run, **SIZES) == "the views are of several modalities"


def test_a_latent_that_all_groups_share_is_a_reason(tmp_path):
    class Shared(Linear):
        def model(self, groups):
            pyro.sample("shift", dist.Normal(0.0, 1.0))
            super().model(groups)

        def guide(self, groups):
            pyro.sample("shift", dist.Normal(0.0, 1.0))
            super().guide(groups)

    parts = [natural(seed, 20, False) for seed in range(3)]
    found = held_out_bound(FakeRun(tmp_path, Shared(), Data("natural", *parts)), **SIZES)
    assert "site 'shift' stands outside the plate 'groups'" in found


def test_views_that_are_not_here_are_a_reason(tmp_path):
    class Warning_(FakeRun):
        @property
        def views(self):
            import warnings

            warnings.warn("fitted with views of your own", stacklevel=2)
            return self.data.views

    run = run_of(tmp_path)
    assert held_out_bound(Warning_(tmp_path, run.method, run.data), **SIZES) == "fitted with views of your own"


# ------------------------------------------------------------------ state and arguments


def test_the_run_is_left_as_it_was_and_a_second_call_says_the_same(tmp_path):
    run = run_of(tmp_path)
    run.method.encoder = nn.Sequential(run.method.encoder, nn.BatchNorm1d(6))
    run.method.train()
    state = {name: value.clone() for name, value in run.method.state_dict().items()}
    generator = torch.get_rng_state()
    found = held_out_bound(run, **SIZES)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in run.method.state_dict().items())
    assert all(part.training for part in run.method.modules())
    torch.rand(3)
    assert held_out_bound(run, **SIZES) == found
    run.config["seed"] = 4
    assert held_out_bound(run, **SIZES)["elbo"] != found["elbo"]


def test_networks_run_in_the_precision_of_the_run(tmp_path, monkeypatch):
    asked, plain = [], module.networks_in
    monkeypatch.setattr(module, "networks_in", lambda precision, *rest: asked.append(precision) or plain("32", *rest))
    run = run_of(tmp_path)
    run.config["precision"] = "bf16"
    held_out_bound(run, **SIZES)
    assert asked == ["bf16"]


def test_wrong_arguments(tmp_path):
    run = fake_run(tmp_path)
    for wrong in ({"groups": 0}, {"samples": 0}, {"samples": 2.0}, {"num_views": 0}, {"groups": True}):
        with pytest.raises(SettingsError, match=f"{next(iter(wrong))} = .*at least 1"):
            held_out_bound(run, **wrong)
    for ks in ((), (0,), (9,), (1.0,), (True,)):
        with pytest.raises(SettingsError, match="ks = .*from 1 to samples = 8"):
            held_out_bound(run, samples=8, ks=ks)

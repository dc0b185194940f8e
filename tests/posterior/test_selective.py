"""Risk against coverage by loops over all orders; a perfect, a random and a reversed uncertainty; those of a representation."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from genssl.models import MCInfoNCE, SimCLR, SimVAE
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.distributions import Independent, Normal

from genssl.datasets.data import Data
from genssl.datasets.items import Items
from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.posterior import selective as module
from genssl.posterior.selective import representation_risk, risk_coverage


def test_it_is_the_expectation_over_all_orders_of_ties():
    loss = torch.tensor([1.0, 0.0, 3.0, 0.5, 2.0, 0.0])
    unsure = torch.tensor([2.0, 1.0, 2.0, 2.0, 0.0, math.inf])
    curves = []
    for order in itertools.permutations(range(6)):
        if all(unsure[a] <= unsure[b] for a, b in itertools.pairwise(order)):
            kept = loss[list(order)].double()
            curves.append([float(kept[: k + 1].mean()) for k in range(6)])
    assert len(curves) == 6
    expected = torch.tensor(curves, dtype=torch.float64).mean(0)
    found = risk_coverage(loss, unsure)
    torch.testing.assert_close(found.risk, expected)
    torch.testing.assert_close(found.coverage, torch.arange(1, 7, dtype=torch.float64) / 6)
    best = min(sum(sum(order[:k]) / k for k in range(1, 7)) / 6 for order in itertools.permutations(loss.tolist()))
    assert found.area == pytest.approx(float(expected.mean()))
    assert found.area_of_oracle == pytest.approx(best)
    assert found.area_of_random == pytest.approx(6.5 / 6)
    assert found.excess_ratio == pytest.approx((found.area - best) / (6.5 / 6 - best))


def test_perfect_random_and_reversed():
    wrong = torch.rand(4000) < 0.3
    perfect, reverse = risk_coverage(wrong, wrong.float()), risk_coverage(wrong, -wrong.float())
    none, random = risk_coverage(wrong, torch.zeros(4000)), risk_coverage(wrong, torch.rand(4000))
    assert perfect.excess_ratio == 0
    assert none.excess_ratio == pytest.approx(1)
    assert random.excess_ratio == pytest.approx(1, abs=0.1)
    assert reverse.excess_ratio > 2
    assert bool((none.risk - wrong.double().mean()).abs().max() < 1e-12)
    # r = share wrong: 0 up to coverage 1 - r, then 1 - (1 - r) / coverage.
    share = float(wrong.double().mean())
    assert perfect.area == pytest.approx(share + (1 - share) * math.log(1 - share), abs=1e-3)
    assert perfect.area_of_random == none.area_of_random == pytest.approx(share)


def test_the_order_of_the_rows_does_not_matter():
    wrong, unsure, order = torch.rand(50) < 0.4, torch.randint(5, (50,)).float(), torch.randperm(50)
    first, other = risk_coverage(wrong, unsure), risk_coverage(wrong[order], unsure[order])
    torch.testing.assert_close(first.risk, other.risk)
    assert math.isnan(risk_coverage(torch.ones(5), torch.rand(5)).excess_ratio)


def test_wrong_curves():
    with pytest.raises(ShapeError, match=r"wrong has shape \[3\] and uncertainty \[4\]"):
        risk_coverage(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ShapeError, match=r"\[0\]"):
        risk_coverage(torch.zeros(0), torch.zeros(0))
    with pytest.raises(NonFiniteError, match="1 of 3 uncertainties are NaN"):
        risk_coverage(torch.zeros(3), torch.tensor([0.0, math.nan, 1.0]))
    with pytest.raises(NonFiniteError, match="2 of 3 losses are not finite"):
        risk_coverage(torch.tensor([0.0, math.nan, math.inf]), torch.zeros(3))


# ------------------------------------------------------------------ of a representation


class Known(nn.Module):
    """z = the first two features, with the third as its standard deviation."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def encode(self, x):
        return Independent(Normal(self.gain * x[:, :2], x[:, 2:].expand(-1, 2)), 1)


class FakeRun:
    def __init__(self, method, data, **config):
        self.method, self.data, self.config, self.device = (
            method.eval(),
            data,
            {"seed": 1} | config,
            torch.device("cpu"),
        )


def items(seed, number, labelled=True):
    """Two classes on a line; what is near the border is blurred, and of the wrong class as often."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(number, 2, generator=generator)
    flip = torch.rand(number, generator=generator) < 0.5 * torch.exp(-z[:, 0].abs() * 3)
    y = (z[:, 0] > 0) ^ flip
    noise = (0.2 + torch.exp(-2 * z[:, :1].abs())) * torch.exp(0.3 * torch.randn(number, 1, generator=generator))
    return Items(torch.cat([z, noise], 1), y.long() if labelled else None)


def data(**changed):
    return Data("known", **({"train": items(0, 600), "validation": items(1, 200), "test": items(2, 400)} | changed))


def test_it_is_the_probe_of_scikit_learn_at_means_and_at_draws(monkeypatch):
    monkeypatch.setattr(module, "DRAWS", 400)
    run = FakeRun(Known(), data())
    found = representation_risk(run)
    train, test = run.data.train, run.data.test
    scaler = StandardScaler().fit(train.x[:, :2].double())
    probe = LogisticRegression(C=1 / (found.l2 * 600), tol=1e-8).fit(
        scaler.transform(train.x[:, :2].double()), train.label
    )
    probability = torch.tensor(probe.predict_proba(scaler.transform(test.x[:, :2].double())))
    wrong = probability.argmax(1) != test.label
    assert (found.items, found.accuracy) == (400, pytest.approx(1 - float(wrong.double().mean())))
    confidence = risk_coverage(wrong, 1 - probability.max(1).values)
    assert found.curves["confidence"].area == pytest.approx(confidence.area, rel=1e-3)
    assert found.curves["posterior_scale"].area == pytest.approx(risk_coverage(wrong, test.x[:, 2]).area)
    z = test.x[:, None, :2] + test.x[:, None, 2:] * torch.randn(400, 2000, 2)
    mean = (
        torch.tensor(probe.predict_proba(scaler.transform(z.flatten(0, 1).double()))).unflatten(0, (400, 2000)).mean(1)
    )
    entropy = -(mean * mean.log()).sum(1)
    assert found.curves["predictive_entropy"].area == pytest.approx(risk_coverage(wrong, entropy).area, abs=0.004)
    assert all(curve.excess_ratio < 0.8 for curve in found.curves.values())
    assert not found.absent


def test_number_of_items_and_unknown_labels():
    test = items(2, 400)
    test.label[:100] = -1
    run = FakeRun(Known(), data(test=test))
    found = representation_risk(run)
    assert found.items == 300
    run.data.test = Items(test.x[100:], test.label[100:])
    assert representation_risk(run).curves["posterior_scale"].area == pytest.approx(
        found.curves["posterior_scale"].area
    )
    assert representation_risk(run, number=50).items == 50


def images(seed, number):
    generator = torch.Generator().manual_seed(seed)
    return Items(torch.rand(number, 1, 4, 4, generator=generator), torch.arange(number) % 3)


def test_of_other_guides():
    made = Data("tiny", images(0, 90), images(1, 30), images(2, 30))
    point = FakeRun(SimCLR.build(made.example(2), dim=3, hidden=(8,)), made)
    found = representation_risk(point)
    assert set(found.curves) == {"confidence"}
    assert "without a scale" in found.absent["posterior_scale"]
    assert "point mass" in found.absent["predictive_entropy"]
    sphere = FakeRun(MCInfoNCE.build(made.example(2), dim=3, hidden=(8,)), made)
    assert set(representation_risk(sphere).curves) == {"confidence", "posterior_scale", "predictive_entropy"}
    fixed = Known()
    fixed.encode = lambda x: Independent(Normal(x[:, :2], 0.1), 1)
    assert "same for every item" in representation_risk(FakeRun(fixed, data())).absent["posterior_scale"]


def test_the_run_is_left_as_it_was_and_a_second_call_says_the_same():
    made = Data("tiny", images(0, 90), images(1, 30), images(2, 30))
    method = SimVAE.build(made.example(2), dim=3, hidden=(8,))
    method.encoder = nn.Sequential(method.encoder, nn.BatchNorm1d(6))
    run = FakeRun(method, made)
    method.train()
    state, generator = {name: value.clone() for name, value in method.state_dict().items()}, torch.get_rng_state()
    first = representation_risk(run).curves["predictive_entropy"].risk
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in method.state_dict().items())
    assert all(part.training for part in method.modules())
    torch.rand(3)
    assert torch.equal(representation_risk(run).curves["predictive_entropy"].risk, first)
    run.config["seed"] = 2
    assert not torch.equal(representation_risk(run).curves["predictive_entropy"].risk, first)


def test_wrong_arguments():
    with pytest.raises(SettingsError, match="number = 0, expected a whole number"):
        representation_risk(FakeRun(Known(), data()), 0)
    with pytest.raises(DataError, match="the test items have no labels"):
        representation_risk(FakeRun(Known(), data(test=items(2, 9, labelled=False))))
    with pytest.raises(DataError, match="no validation items"):
        representation_risk(FakeRun(Known(), data(validation=None)))

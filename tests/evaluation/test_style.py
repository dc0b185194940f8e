"""Scores of known style against scikit-learn, naive loops and cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

from genssl.errors import NonFiniteError, SettingsError, ShapeError
from genssl.evaluation import kernel_ridge, style, style_scores
from genssl.evaluation.items import spaced
from genssl.evaluation.probes import linear_probe

SIZES = (300, 150, 200)


def points(dim=4, seed=0, sizes=SIZES):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-2, 2, dim, dtype=torch.float64)  # that only standardising makes harmless
    return [torch.randn(n, dim, generator=generator, dtype=torch.float64) * scales + 7 for n in sizes]


def noise(seed=1, sizes=SIZES):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 1, generator=generator, dtype=torch.float64) for n in sizes]


def unit(z):
    """Without the scales of `points`."""
    return (z - 7) / torch.logspace(-2, 2, z.shape[1], dtype=torch.float64)


def scored(z, factors, kinds=None, **options):
    """The scores of factors given as functions of the unit z, or as a tensor for each split."""
    columns = [[f(unit(part)) for part in z] if callable(f) else f for f in factors.values()]
    parts = [(part, torch.cat([column[i].reshape(-1, 1) for column in columns], 1)) for i, part in enumerate(z)]
    kinds = kinds or ["continuous"] * len(factors)
    return style_scores(*parts, kinds=kinds, names=list(factors), **options)


def arrays(z, targets):
    scaler = StandardScaler().fit(z[0].numpy())
    return [scaler.transform(part.numpy()) for part in z], [part.numpy() for part in targets]


def test_linear_functions_are_recovered_and_independent_noise_is_not():
    sizes = (2000, 1000, 1000)
    z, weight = points(sizes=sizes), torch.tensor([1.0, -2, 3, 0.5], dtype=torch.float64)
    factors = {"sum": lambda u: u @ weight + 5, "noise": noise(sizes=sizes)}
    found = scored(z, factors, kernel_points=300).factors
    assert found["sum"]["kind"] == "continuous"
    assert found["sum"]["linear"]["validation"] == pytest.approx(1, abs=1e-9)
    assert found["sum"]["linear"]["test"] == pytest.approx(1, abs=1e-9)
    assert found["sum"]["kernel"]["test"] > 0.95
    # The share that 4 dimensions fit by chance is 4 / 2000 in training, and the mean is off by its own error on test.
    assert -0.03 < found["noise"]["linear"]["test"] < 0.03
    assert -0.2 < found["noise"]["kernel"]["test"] < 0.03


def test_what_only_the_kernel_finds():
    """A square is uncorrelated with a symmetric z, so that no linear map finds it."""
    found = scored(points(2), {"square": lambda u: u[:, 0].square()}).factors["square"]
    assert found["linear"]["test"] < 0.05
    assert found["kernel"]["test"] > 0.9


@pytest.mark.parametrize("penalty", [1e-3, 0.3, 10.0])
def test_ridge_is_that_of_scikit_learn(monkeypatch, penalty):
    monkeypatch.setattr(style, "PENALTIES", (penalty,))
    z, other = points(), noise()
    targets = [part[:, 0] ** 2 / 50 + part[:, 1] + 30 * more[:, 0] for part, more in zip(z, other, strict=True)]
    found = scored(z, {"t": targets}).factors["t"]["linear"]
    scaled, truth = arrays(z, targets)
    model = Ridge(alpha=penalty * len(truth[0])).fit(scaled[0], truth[0])
    assert found["l2"] == penalty
    assert found["validation"] == pytest.approx(r2_score(truth[1], model.predict(scaled[1])), abs=1e-9)
    assert found["test"] == pytest.approx(r2_score(truth[2], model.predict(scaled[2])), abs=1e-9)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.1, 0.2154), (1.0, 0.01), (0.001, 4.64), (0.01, 1e9)])
def test_kernel_ridge_is_that_of_scikit_learn(monkeypatch, alpha, gamma):
    monkeypatch.setattr(kernel_ridge, "ALPHAS", (alpha,))
    monkeypatch.setattr(kernel_ridge, "GAMMAS", (gamma,))
    z = points(3)
    targets = [unit(part).prod(1) + 4 for part in z]
    found = scored(z, {"t": targets}, kernel_points=120).factors["t"]["kernel"]
    scaled, truth = arrays(z, targets)
    rows = spaced(len(truth[0]), 120).numpy()
    mean = truth[0][rows].mean()
    model = KernelRidge(alpha=alpha, gamma=gamma, kernel="rbf").fit(scaled[0][rows], truth[0][rows] - mean)
    assert found["validation"] == pytest.approx(r2_score(truth[1], mean + model.predict(scaled[1])), abs=1e-9)
    assert found["test"] == pytest.approx(r2_score(truth[2], mean + model.predict(scaled[2])), abs=1e-9)


def test_the_grid_is_that_of_von_kuegelgen():
    assert kernel_ridge.ALPHAS == (1.0, 0.1, 0.01, 0.001)
    assert pytest.approx(np.logspace(-2, 2, 4)) == kernel_ridge.GAMMAS


def test_settings_are_the_best_on_validation_and_each_factor_has_its_own():
    sizes = (60, 200, 200)
    z = points(sizes=sizes)
    noisy = [unit(part)[:, 1] + 3 * n[:, 0] for part, n in zip(z, noise(sizes=sizes), strict=True)]
    factors = {"clean": lambda u: u[:, 0], "noisy": noisy}
    found = scored(z, factors).factors
    assert found["clean"]["linear"]["l2"] < found["noisy"]["linear"]["l2"]
    scaled, truth = arrays(z, noisy)
    by_hand = {}
    for penalty in style.PENALTIES:
        model = Ridge(alpha=60 * penalty).fit(scaled[0], truth[0])
        by_hand[penalty] = r2_score(truth[1], model.predict(scaled[1]))
    assert found["noisy"]["linear"]["l2"] == max(by_hand, key=by_hand.get)


def test_the_test_style_chooses_nothing():
    z, kinds = points(), ["continuous", "circular", "categorical"]
    factors = [[n[:, 0] + unit(part)[:, 0] for part, n in zip(z, noise(seed), strict=True)] for seed in range(3)]
    factors[2] = [(value > 0).double() for value in factors[2]]
    turned = [[train, validation, test.flip(0)] for train, validation, test in factors]
    first, second = (scored(z, dict(zip("abc", each, strict=True)), kinds).factors for each in (factors, turned))
    for name in "abc":
        for how in ("linear", "kernel"):
            same = set(first[name][how]) - {"test", "angle"}
            assert {key: first[name][how][key] for key in same} == {key: second[name][how][key] for key in same}
            assert first[name][how]["test"] != second[name][how]["test"]


def test_circular_factors_against_a_loop():
    generator = torch.Generator().manual_seed(3)
    angle = [2 * math.pi * torch.rand(n, generator=generator, dtype=torch.float64) for n in SIZES]
    z = [torch.stack([a.cos() + 0.3 * n[:, 0], a.sin()], 1) for a, n in zip(angle, noise(), strict=True)]
    parts = [(part, a[:, None]) for part, a in zip(z, angle, strict=True)]
    found = style_scores(*parts, kinds=["circular"], names=["turn"]).factors["turn"]["linear"]
    scaled, truth = arrays(z, angle)
    pair = np.stack([np.cos(truth[0]), np.sin(truth[0])], 1)
    predicted = Ridge(alpha=found["l2"] * len(pair)).fit(scaled[0], pair).predict(scaled[2])
    centre = [np.cos(truth[2]).mean(), np.sin(truth[2]).mean()]
    residual = total = error = 0.0
    for (c, s), t in zip(predicted, truth[2], strict=True):
        residual += (math.cos(t) - c) ** 2 + (math.sin(t) - s) ** 2
        total += (math.cos(t) - centre[0]) ** 2 + (math.sin(t) - centre[1]) ** 2
        distance = abs(math.atan2(s, c) - t) % (2 * math.pi)
        error += min(distance, 2 * math.pi - distance)
    assert found["test"] == pytest.approx(1 - residual / total, abs=1e-9)
    assert found["angle"] == pytest.approx(error / len(truth[2]), abs=1e-9)


def test_an_angle_that_wraps_is_recovered_from_its_direction():
    """Around 0 and 2 pi, where a regression of the number itself would fail."""
    generator = torch.Generator().manual_seed(3)
    angle = [(torch.rand(n, generator=generator, dtype=torch.float64) - 0.5) % (2 * math.pi) for n in SIZES]
    parts = [(torch.stack([a.cos(), a.sin()], 1), a[:, None]) for a in angle]
    circular = style_scores(*parts, kinds=["circular"], names=["turn"]).factors["turn"]["linear"]
    assert circular["test"] == pytest.approx(1, abs=1e-9)
    assert circular["angle"] < 1e-5


def test_a_random_angle_is_a_quarter_turn_off():
    generator = torch.Generator().manual_seed(4)
    angle = [2 * math.pi * torch.rand(n, generator=generator) for n in (1000, 500, 1000)]
    found = scored(points(sizes=(1000, 500, 1000)), {"turn": angle}, ["circular"], kernel_points=200).factors["turn"]
    # The error is uniform on [0, pi]: a standard deviation of pi / sqrt(12) each.
    assert found["linear"]["angle"] == pytest.approx(math.pi / 2, abs=4 * math.pi / 12**0.5 / 1000**0.5)
    assert abs(found["linear"]["test"]) < 0.03


def test_categories_have_the_accuracy_of_the_probe_beside_the_majority():
    z = points(2)
    classes = [
        torch.bucketize(unit(part)[:, 0].contiguous(), torch.tensor([-1.0, 1.0], dtype=torch.float64)) * 3 for part in z
    ]
    found = scored(z, {"bin": classes}, ["categorical"]).factors["bin"]
    flat = [part for pair in zip(z, classes, strict=True) for part in pair]
    probe = linear_probe(*flat)
    assert found["linear"] == {name: probe[name] for name in ("validation", "test", "l2")}
    assert found["majority"] == float((classes[2] == 3).double().mean())
    assert found["majority"] + 0.2 < found["kernel"]["test"] <= 1


def test_majority_is_the_training_class_and_unseen_classes_are_wrong():
    z = points(2)
    classes = [torch.zeros(n) for n in SIZES]
    for values in classes:
        values[: len(values) // 4] = 1
    classes[2][:] = 0
    classes[2][:40] = 2  # a class that training never showed
    classes[2][40:60] = 1
    found = scored(z, {"kind": classes}, ["categorical"]).factors["kind"]
    assert found["majority"] == 140 / 200
    assert max(found["linear"]["test"], found["kernel"]["test"]) <= 160 / 200


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_scores_do_not_depend_on_the_scale_and_place_of_each_dimension(seed):
    generator = torch.Generator().manual_seed(seed)
    z = points(3, seed, (80, 40, 50))
    scale = 10 ** (4 * torch.rand(3, generator=generator, dtype=torch.float64) - 2)
    moved = [part * scale * torch.tensor([1.0, -1, 1]) - 3 * scale for part in z]
    values = [unit(part)[:, 0] * unit(part)[:, 1] + unit(part)[:, 2] for part in z]
    first, second = (
        style_scores(*[(p, v[:, None]) for p, v in zip(each, values, strict=True)], kinds=["continuous"], names=["t"])
        for each in (z, moved)
    )
    for how in ("linear", "kernel"):
        assert first.factors["t"][how] == pytest.approx(second.factors["t"][how], abs=1e-6)


def test_the_linear_score_does_not_depend_on_the_basis():
    z, other = points(sizes=(1000, 500, 500)), noise(sizes=(1000, 500, 500))
    mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    values = [unit(part).sum(1) + n[:, 0] for part, n in zip(z, other, strict=True)]
    mixed = [7 + (unit(part) @ mix) * torch.logspace(-2, 2, 4, dtype=torch.float64) for part in z]
    first, second = (scored(each, {"t": values}, kernel_points=50).factors["t"]["linear"] for each in (z, mixed))
    assert first["test"] == pytest.approx(0.8, abs=0.05)  # variance 4 of 5
    assert second["test"] == pytest.approx(first["test"], abs=5e-3)


def test_dead_dimensions_and_float32_are_fine():
    z = [torch.cat([part, torch.full((len(part), 1), 3.0)], 1).float() for part in points()]
    found = scored([part[:, :4].double() for part in z], {"t": lambda u: u[:, 0]}).factors["t"]["linear"]["test"]
    parts = [(part, unit(part[:, :4].double())[:, :1]) for part in z]
    assert style_scores(*parts, kinds=["continuous"], names=["t"]).factors["t"]["linear"]["test"] == pytest.approx(
        found
    )
    blank = style_scores(*[(torch.zeros_like(p), s) for p, s in parts], kinds=["continuous"], names=["t"])
    assert blank.factors["t"]["linear"]["test"] == pytest.approx(0, abs=0.05)
    assert blank.factors["t"]["linear"]["test"] <= 0


def test_constant_and_unknown_factors_are_left_out_with_a_word():
    z = points()
    unknown, still = noise(), [torch.ones(n) for n in SIZES]
    unknown[1][7] = float("nan")
    still[0][0] = 2.0
    found = scored(z, {"x": noise(2), "unknown": unknown, "still": still})
    assert set(found.factors) == {"x"}
    assert found.left_out == {
        "unknown": "not known for 1 of 150 validation rows",
        "still": "the same in all validation rows",
    }
    assert scored(z, {"still": still}) == ({}, {"still": "the same in all validation rows"})


def test_bad_arguments_are_told():
    z, t = points(), {"t": noise()}
    with pytest.raises(SettingsError, match=r"kinds \('linear',\), expected each one of continuous"):
        scored(z, t, ["linear"])
    with pytest.raises(SettingsError, match="2 kinds, expected a name of its own"):
        scored(z, t, ["continuous", "circular"])
    with pytest.raises(SettingsError, match="kernel_points = 0"):
        scored(z, t, kernel_points=0)
    parts = [(part, value[:, 0]) for part, value in zip(z, noise(), strict=True)]
    with pytest.raises(ShapeError, match=r"train style has shape \[300\], expected \[300, 1\]"):
        style_scores(*parts, kinds=["continuous"], names=["t"])
    z[2][3, 1] = float("inf")
    with pytest.raises(NonFiniteError, match="1 of 200 rows of test_z"):
        scored(z, t)


def test_leaves_its_arguments_and_the_generators_alone():
    z, values = points(), noise()
    kept, state = [part.clone() for part in (*z, *values)], torch.get_rng_state()
    assert scored(z, {"t": values}) == scored(z, {"t": values})
    assert all(torch.equal(part, before) for part, before in zip((*z, *values), kept, strict=True))
    assert torch.equal(torch.get_rng_state(), state)

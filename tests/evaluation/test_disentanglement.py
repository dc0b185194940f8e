"""DCI and the mutual information gap: hand-made representations, naive loops, scikit-learn, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.evaluation import disentanglement
from genssl.evaluation.disentanglement import concentration, dci, mutual_information_gap
from genssl.evaluation.items import spaced

CONTINUOUS = ("continuous",) * 4


def uniform(number, factors=4, seed=0):
    return torch.rand(number, factors, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turned(z, seed=0):
    noise = torch.randn(z.shape[1], z.shape[1], generator=torch.Generator().manual_seed(seed), dtype=z.dtype)
    return (z - z.mean(0)) @ torch.linalg.qr(noise).Q


def split(z, factors):
    """Two thirds to fit, a third to test."""
    cut = 2 * len(z) // 3
    return (z[:cut], factors[:cut]), (z[cut:], factors[cut:])


# ---------------------------------------------------------------------- DCI


@pytest.mark.parametrize("warp", [lambda v: v, lambda v: -3 * v.pow(3) + 50, lambda v: (v - 0.5).exp()])
def test_permuted_factors_are_disentangled_whatever_the_scale(warp):
    factors = uniform(3000)
    z = warp(factors[:, [2, 0, 3, 1]]) * torch.tensor([1e-3, 1.0, 1e3, 7.0])
    found = dci(*split(z, factors), CONTINUOUS)
    assert found.disentanglement == pytest.approx(1, abs=0.01)
    assert found.completeness == pytest.approx(1, abs=0.01)
    assert found.informativeness == pytest.approx(1, abs=0.01)
    assert found.importance.argmax(0).tolist() == [1, 3, 0, 2]
    torch.testing.assert_close(found.importance.sum(0), torch.ones(4, dtype=torch.float64))


def test_rotated_factors_are_not_though_as_much_is_known_of_them():
    factors = uniform(3000)
    plain, other = (dci(*split(z, factors), CONTINUOUS) for z in (factors, turned(factors)))
    assert max(other.disentanglement, other.completeness) < 0.6 < min(plain.disentanglement, plain.completeness)
    assert other.informativeness > 0.9


def test_noise_beside_and_two_coordinates_of_one_factor():
    factors = uniform(3000, 2)
    noise = torch.randn(3000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = dci(*split(torch.cat([factors, noise], 1), factors), CONTINUOUS[:2])
    assert found.disentanglement > 0.98  # coordinates of noise weigh nothing
    assert found.completeness > 0.98
    half = (factors[:, :1] > 0.5).double()
    shared = torch.cat([half, factors[:, :1] - half / 2, factors[:, 1:]], 1)  # a factor in two, a factor in one
    found = dci(*split(shared, factors), CONTINUOUS[:2])
    assert found.disentanglement > 0.98
    assert found.by_factor[0] < 0.75
    assert found.by_factor[1] > 0.98
    mixed = dci(*split(torch.cat([factors.sum(1, keepdim=True), noise], 1), factors), CONTINUOUS[:2])
    assert mixed.by_dim[0] < 0.1  # one coordinate of two factors
    assert mixed.informativeness < 0.8


def test_what_nothing_predicts_is_incomplete_and_uninformed():
    factors, z = uniform(3000), uniform(3000, 6, seed=1)
    found = dci(*split(z, factors), CONTINUOUS)
    assert found.disentanglement < 0.1
    assert found.completeness < 0.1
    assert found.informativeness < 0.02
    silent = dci(*split(torch.ones(3000, 6), factors), CONTINUOUS)  # collapsed: no split anywhere
    assert silent[:2] == (0, 0)
    assert silent.informativeness == pytest.approx(0, abs=0.02)
    assert float(silent.importance.abs().sum()) == 0


def test_circular_and_categorical_factors():
    factors = uniform(3000, 3)
    angle = 2 * math.pi * factors[:, 0]
    kind = (3 * factors[:, 1]).floor() + 4
    known = torch.stack([angle, kind, factors[:, 2]], 1)
    z = torch.stack([angle.cos(), angle.sin(), factors[:, 1], factors[:, 2]], 1)
    found = dci(*split(z, known), ("circular", "categorical", "continuous"))
    assert found.disentanglement > 0.97
    assert found.by_factor.tolist() == pytest.approx([0.5, 1, 1], abs=0.03)  # a circle is half of four dimensions
    assert float(found.r2.min()) > 0.98
    shifted = torch.stack([angle + 40 * math.pi, kind, factors[:, 2]], 1)
    assert dci(*split(z, shifted), ("circular", "categorical", "continuous")).r2[0] == pytest.approx(float(found.r2[0]))


def test_scores_are_the_formulas_on_the_importance_by_loops():
    factors = uniform(900)
    found = dci(*split(turned(factors)[:, :3], factors), CONTINUOUS)
    weights = found.importance.numpy()
    total = weights.sum()
    by_dim = [1 + sum(w / row.sum() * math.log(w / row.sum()) for w in row if w > 0) / math.log(4) for row in weights]
    by_factor = [1 + sum(w / c.sum() * math.log(w / c.sum()) for w in c if w > 0) / math.log(3) for c in weights.T]
    assert found.by_dim.tolist() == pytest.approx(by_dim)
    assert found.by_factor.tolist() == pytest.approx(by_factor)
    assert found.disentanglement == pytest.approx(
        sum(d * row.sum() / total for d, row in zip(by_dim, weights, strict=True))
    )
    assert found.completeness == pytest.approx(np.mean(by_factor))
    assert found.informativeness == pytest.approx(float(found.r2.mean()))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(2, 6), st.integers(0, 100), st.floats(1e-6, 1e6))
def test_concentration_is_between_even_and_alone(rows, columns, seed, scale):
    weights = scale * uniform(rows, columns, seed=seed)
    found = concentration(weights)
    assert found.shape == (rows,)
    assert bool(((found >= 0) & (found <= 1)).all())
    order = torch.randperm(columns)
    torch.testing.assert_close(concentration(weights[:, order]), found)
    alone = torch.nn.functional.one_hot(torch.arange(rows) % columns, columns).double()
    assert concentration(scale * alone).tolist() == pytest.approx([1] * rows)
    assert concentration(torch.full((rows, columns), scale)).tolist() == pytest.approx([0] * rows, abs=1e-6)
    assert concentration(torch.zeros(rows, columns)).tolist() == [0] * rows


def test_few_rows_are_drawn_ones_and_seeds_decide(monkeypatch):
    factors = uniform(900)
    train, test = split(turned(factors), factors)
    first = dci(train, test, CONTINUOUS, seed=1)
    state = torch.get_rng_state()
    assert torch.equal(dci(train, test, CONTINUOUS, seed=1).importance, first.importance)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(dci(train, test, CONTINUOUS, seed=2).importance, first.importance)
    few = dci(train, test, CONTINUOUS, points=200)
    drawn = tuple(part[spaced(len(part), 200)] for part in train)
    assert torch.equal(few.importance, dci(drawn, test, CONTINUOUS).importance)
    torch.set_num_threads(2)
    try:
        assert dci(train, test, CONTINUOUS, seed=1)[:3] == first[:3]
    finally:
        torch.set_num_threads(1)


def test_values_beyond_float32_are_compared():
    factors = uniform(900)
    (z, known), (test_z, asked) = split(factors, factors)
    far = dci((1e100 * z, known), (1e100 * test_z, asked), CONTINUOUS)
    assert far.disentanglement > 0.98
    assert math.isfinite(dci((z, known), (1e300 * test_z, asked), CONTINUOUS).informativeness)


# ---------------------------------------------------------------------- the gap


def gap_by_loops(z, factors, kinds, bins):
    """With scikit-learn's mutual information of classes, and numpy's digitize."""

    def classes(values):
        edges = np.linspace(values.min(), values.max(), bins + 1)
        return np.digitize(values, edges[1:-1])

    out = []
    for values, kind in zip(factors.T, kinds, strict=True):
        known = values if kind == "categorical" else classes(values)
        counts = np.unique(known, return_counts=True)[1] / len(known)
        found = sorted(mutual_info_score(classes(column), known) for column in z.T)
        out.append((found[-1] - found[-2]) / -(counts * np.log(counts)).sum())
    return out


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 4), st.integers(1, 3), st.integers(2, 12), st.integers(20, 120), st.integers(0, 100))
def test_the_gap_is_that_of_scikit_learn_s_mutual_information(dims, factors, bins, number, seed):
    z, known = turned(uniform(number, dims, seed)), uniform(number, factors, seed)
    known[:, 0] = (4 * known[:, 0]).floor()
    known[:2, 0] = torch.tensor([0.0, 1.0])
    kinds = ("categorical", "continuous", "continuous")[:factors]
    found = mutual_information_gap(z, known, kinds, bins)
    assert found.by_factor.tolist() == pytest.approx(gap_by_loops(z.numpy(), known.numpy(), kinds, bins), abs=1e-9)
    assert found.gap == pytest.approx(float(found.by_factor.mean()))
    assert found.information.shape == (dims, factors)
    assert 0 <= found.gap <= 1
    assert bool((found.information <= found.entropy + 1e-9).all())


def test_permuted_factors_have_a_gap_of_one_copies_of_zero_and_rotations_a_small_one():
    factors = uniform(5000)
    known = factors.clone()
    known[:, 3] = (5 * factors[:, 3]).floor()
    kinds = (*CONTINUOUS[:3], "categorical")
    permuted = mutual_information_gap(factors[:, [2, 0, 3, 1]], known, kinds)
    assert permuted.gap == pytest.approx(1, abs=0.03)
    assert permuted.information.argmax(0).tolist() == [1, 3, 0, 2]
    assert permuted.entropy.tolist() == pytest.approx([math.log(20)] * 3 + [math.log(5)], abs=0.01)
    assert mutual_information_gap(factors.repeat(1, 2), known, kinds).gap == pytest.approx(0, abs=1e-9)
    copied = mutual_information_gap(torch.cat([factors, 5 - 3 * factors[:, :1]], 1), known, kinds)
    assert copied.by_factor.tolist() == pytest.approx([0, *permuted.by_factor.tolist()[1:]], abs=0.03)
    assert mutual_information_gap(turned(factors), known, kinds).gap < 0.2
    assert mutual_information_gap(uniform(5000, 4, seed=1), known, kinds).gap < 0.01
    assert mutual_information_gap(torch.ones(5000, 3), known, kinds).gap == 0  # collapsed


def test_a_circle_is_cut_where_nothing_is():
    turn = 2 * math.pi * uniform(5000, 1)
    arc = torch.cat([0.4 * turn - 0.5, uniform(5000, 1, seed=1)], 1)
    plain = mutual_information_gap(arc, arc[:, :1], ("continuous",))
    for shift in (0.0, 2.0, -9.0):
        found = mutual_information_gap(arc, arc[:, :1] + shift, ("circular",))
        assert found.gap == pytest.approx(plain.gap, abs=1e-6)
    whole = mutual_information_gap(torch.cat([turn.cos(), turn.sin()], 1), turn, ("circular",))
    assert whole.gap < 0.05  # it takes both
    assert float(whole.information.min()) > 1
    assert float(whole.entropy[0]) == pytest.approx(math.log(20), abs=0.01)


def test_scales_and_the_order_of_rows_do_not_matter_and_bent_coordinates_lose_some():
    factors = uniform(3000, 3)
    kinds = CONTINUOUS[:3]
    plain = mutual_information_gap(2 * factors, factors, kinds)
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    assert mutual_information_gap(2 * factors[order], factors[order], kinds).gap == pytest.approx(plain.gap)
    assert mutual_information_gap(factors.float(), factors, kinds).gap == pytest.approx(plain.gap, abs=0.01)
    assert mutual_information_gap(factors.exp(), factors, kinds).gap == pytest.approx(0.8, abs=0.03)


# ---------------------------------------------------------------------- what is refused


def test_errors():
    z, factors = uniform(60), uniform(60)
    train, test = split(z, factors)

    def both(z=z, factors=factors, kinds=CONTINUOUS):
        yield lambda: mutual_information_gap(z, factors, kinds)
        yield lambda: dci((z, factors), test, kinds)

    bad = torch.where(torch.arange(60)[:, None] == 4, torch.nan, z)
    constant = torch.cat([factors[:, :3], torch.ones(60, 1)], 1)
    unknown = torch.cat([torch.where(torch.arange(60)[:, None] < 2, torch.nan, factors[:, :1]), factors[:, 1:]], 1)
    for change, error, told in (
        ({"z": z[:, 0]}, ShapeError, r"z has shape \[60\], expected \[N, D\]"),
        ({"z": z[:, :1]}, ShapeError, "z has 1 dimension, expected at least two"),
        ({"z": z[:1], "factors": factors[:1]}, ShapeError, "z has 1 rows"),
        ({"z": z.long()}, DataError, "z holds torch.int64"),
        ({"z": bad}, NonFiniteError, "1 of 60 rows of (train )?z are not finite"),
        ({"factors": factors[:50]}, ShapeError, r"factors have shape \[50, 4\], expected \[60, S\]"),
        ({"kinds": CONTINUOUS[:3]}, ShapeError, r"factors have shape \[60, 4\].*3 kinds"),
        ({"kinds": ("round",) * 4}, SettingsError, r"kinds \('round'.*continuous, circular, categorical"),
        ({"factors": constant}, DataError, "factor 3 is the same in all (train|given) rows; leave it out"),
        ({"factors": unknown}, DataError, "factor 0 is not known for 2 of 60 (train|given) rows"),
    ):
        for call in both(**change):
            with pytest.raises(error, match=told):
                call()
    with pytest.raises(SettingsError, match="bins = 1"):
        mutual_information_gap(z, factors, CONTINUOUS, 1)
    with pytest.raises(SettingsError, match="points = 1"):
        dci(train, test, CONTINUOUS, points=1)
    with pytest.raises(ShapeError, match="1 factor, expected at least two"):
        dci((z, factors[:, :1]), (z, factors[:, :1]), CONTINUOUS[:1])
    with pytest.raises(ShapeError, match="test z has 3 dimensions, expected 4"):
        dci(train, (test[0][:, :3], test[1]), CONTINUOUS)
    with pytest.raises(DataError, match="factor 1 is the same in all test rows"):
        dci(train, (test[0], test[1] * torch.tensor([1.0, 0, 1, 1])), CONTINUOUS)


@settings(max_examples=10, deadline=None)
@given(st.integers(12, 60), st.integers(2, 5), st.integers(2, 4), st.integers(0, 50), st.booleans())
def test_shapes_and_ranges(number, dims, factors, seed, half):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disentanglement, "TREES", 2)
        z, known = uniform(number, dims, seed), uniform(number, factors, seed + 1)
        z = z.half() if half else z
        found = dci((z, known), (z, known), CONTINUOUS[:factors])
    assert found.importance.shape == (dims, factors)
    assert (found.by_dim.shape, found.by_factor.shape, found.r2.shape) == ((dims,), (factors,), (factors,))
    assert 0 <= found.disentanglement <= 1
    assert 0 <= found.completeness <= 1
    assert found.informativeness <= 1
    gap = mutual_information_gap(z, known, CONTINUOUS[:factors])
    assert gap.information.shape == (dims, factors)
    assert 0 <= gap.gap <= 1

"""Few labels: against scikit-learn on rows drawn by a loop, with nested draws and no choice on validation or test."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import genssl.evaluation.low_label as module
from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.evaluation.low_label import PENALTY, low_label_probe
from genssl.evaluation.probes import linear_probe


def made(seed=0, size=240, dim=5, classes=4, spread=1.2):
    generator = torch.Generator().manual_seed(seed)
    centres = spread * torch.randn(classes, dim, generator=generator)
    out = []
    for number in (size, size // 4, size):
        y = torch.randint(classes, (number,), generator=generator)
        z = centres[y] + torch.randn(number, dim, generator=generator)
        out += [z * torch.logspace(-2, 2, dim) + 50, 10 * y + 3]  # scales and labels that need care
    return out


def drawn(y, k, draws, seed):
    """The rows of every draw, one by one: the first k of each class in a random order."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draws):
        order, taken, rows = torch.randperm(len(y), generator=generator).tolist(), {}, []
        for row in order:
            label = int(y[row])
            if taken.setdefault(label, 0) < k:
                taken[label] += 1
                rows.append(row)
        yield rows


def seen(monkeypatch, *parts, **kept):
    """The training rows (z [n, D], as tuples) of every fit, in order."""
    rows, real = [], module.minimise
    monkeypatch.setattr(
        module, "minimise", lambda layer, train, l2: rows.append(train.z.tolist()) or real(layer, train, l2)
    )
    low_label_probe(*parts, **kept)
    return [{tuple(row) for row in fit} for fit in rows]


@pytest.mark.parametrize("k", [1, 4])
def test_agrees_with_scikit_learn(k):
    parts = made()
    found = low_label_probe(*parts, per_class=[k], draws=3, seed=5)[str(k)]
    scale = StandardScaler().fit(parts[0].double().numpy())
    train, test = (scale.transform(z.double().numpy()) for z in (parts[0], parts[4]))
    scores = []
    for rows in drawn(parts[1], k, 3, 5):
        model = LogisticRegression(C=1 / PENALTY, max_iter=2000, tol=1e-9).fit(train[rows], parts[1][rows].numpy())
        scores.append(model.score(test, parts[5].numpy()))
    assert found["test"] == pytest.approx(sum(scores) / 3, abs=0.003)
    assert found["lowest"] == pytest.approx(min(scores), abs=0.005)
    assert found["highest"] == pytest.approx(max(scores), abs=0.005)
    assert found["std"] == pytest.approx(float(torch.tensor(scores).std()), abs=0.005)
    assert (found["labels"], found["short"], found["draws"]) == (4 * k, 0, 3)


def test_draws_are_nested_and_have_k_of_each_class(monkeypatch):
    parts = made(1)
    fits = seen(monkeypatch, *parts, per_class=[5, 1, 2], draws=4)
    assert [len(fit) for fit in fits] == [4, 8, 20] * 4
    for one, two, five in zip(fits[::3], fits[1::3], fits[2::3], strict=True):
        assert one < two < five
    assert len({frozenset(fit) for fit in fits}) == 12  # no draw twice


def test_all_rows_are_the_linear_probe_at_this_penalty():
    parts = made(2, size=120)
    found = low_label_probe(*parts, per_class=[120], draws=2)["120"]
    assert found["test"] == linear_probe(*parts, l2=[PENALTY / 120])["test"]
    assert (found["std"], found["labels"], found["short"]) == (0, 120, 4)
    assert found["lowest"] == found["highest"] == found["test"]


def test_more_labels_read_more_and_the_spread_shrinks():
    parts = made(3, size=1200, spread=1.0)
    found = low_label_probe(*parts, per_class=[1, 10, 100], draws=8)
    assert found["1"]["test"] + 0.05 < found["10"]["test"] < found["100"]["test"]
    assert found["100"]["std"] < found["1"]["std"] / 2
    for figures in found.values():
        assert figures["lowest"] < figures["test"] < figures["highest"]


def test_separable_classes_and_random_labels():
    parts = made(4, spread=40.0)
    assert low_label_probe(*parts, per_class=[1])["1"]["test"] == 1
    noise = [part if i % 2 == 0 else torch.arange(len(part)) % 4 for i, part in enumerate(made(4, size=1000))]
    # A probe of labels without content is right in a quarter of 1000 rows, give or take 1.4 points a draw.
    assert low_label_probe(*noise, per_class=[5], draws=4)["5"]["test"] == pytest.approx(0.25, abs=0.03)


def test_validation_and_test_choose_nothing():
    parts = made(5)
    first = low_label_probe(*parts)
    other = [*parts[:2], parts[2][:7] * 3, parts[3][:7].flip(0), *parts[4:]]
    assert low_label_probe(*other) == first
    half = low_label_probe(*parts[:4], parts[4][:120], parts[5][:120])
    rest = low_label_probe(*parts[:4], parts[4][120:], parts[5][120:])
    for k in ("1", "5", "10"):  # the same classifiers, whatever the test rows
        assert first[k]["test"] == pytest.approx((half[k]["test"] + rest[k]["test"]) / 2)


def test_a_function_of_its_seed_that_leaves_torch_alone():
    parts = made(6)
    before = torch.get_rng_state()
    first = low_label_probe(*parts, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert low_label_probe(*parts, seed=1) == first
    assert low_label_probe(*parts, seed=2) != first
    assert low_label_probe(*parts, seed=1, per_class=[5])["5"] == first["5"]
    assert list(first) == ["1", "5", "10"]
    single = low_label_probe(*parts, seed=1, draws=1)["5"]
    assert single["std"] == 0
    assert first["5"]["lowest"] <= single["test"] <= first["5"]["highest"]


def test_small_classes_give_all_they_have_and_unseen_ones_are_wrong(monkeypatch):
    parts = made(7)
    keep = (parts[1] != 3) | (torch.arange(240) < 8)
    parts[0], parts[1] = parts[0][keep], parts[1][keep]
    small = int((parts[1] == 3).sum())
    assert 0 < small < 5
    found = low_label_probe(*parts, per_class=[5])["5"]
    assert (found["labels"], found["short"]) == (15 + small, 1)
    assert low_label_probe(*parts, per_class=[small], draws=1)[str(small)]["short"] == 0
    assert [len(fit) for fit in seen(monkeypatch, *parts, per_class=[5], draws=2)] == [15 + small] * 2
    parts[5] = torch.where(torch.arange(240) < 60, 77, parts[5])
    assert low_label_probe(*parts, per_class=[10])["10"]["highest"] <= 0.75


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 4), st.integers(1, 6), st.integers(1, 40))
def test_any_size(seed, size, dim, classes, k):
    parts = made(seed, 4 * size, dim, classes)
    found = low_label_probe(*parts, per_class=[k], draws=2)[str(k)]
    number = torch.unique(parts[1], return_counts=True)[1]
    assert found["labels"] == int(number.clamp(max=k).sum())
    assert found["short"] == int((number < k).sum())
    assert 0 <= found["lowest"] <= found["test"] <= found["highest"] <= 1


def test_constant_dimensions_one_point_and_inference_tensors():
    parts = made(8)
    wide = [part if i % 2 else torch.cat([part, torch.ones(len(part), 1)], 1) for i, part in enumerate(parts)]
    assert low_label_probe(*wide) == low_label_probe(*parts)
    point = [part if i % 2 else torch.ones_like(part) for i, part in enumerate(parts)]
    shares = torch.unique(parts[5], return_counts=True)[1] / 240
    found = low_label_probe(*point, per_class=[5])["5"]
    assert any(found["test"] == pytest.approx(float(share)) for share in shares)
    with torch.inference_mode():
        frozen = [part.clone() for part in parts]
    assert low_label_probe(*frozen) == low_label_probe(*parts)


def test_errors():
    parts = made(9)
    for kept in ({"per_class": []}, {"per_class": [0, 5]}, {"draws": 0}):
        with pytest.raises(SettingsError, match="low_label_probe: per_class = "):
            low_label_probe(*parts, **kept)
    with pytest.raises(ShapeError, match="low_label_probe: train_y has shape"):
        low_label_probe(parts[0], parts[1][:-1], *parts[2:])
    with pytest.raises(DataError, match="test_z has no rows"):
        low_label_probe(*parts[:4], parts[4][:0], parts[5][:0])
    with pytest.raises(NonFiniteError, match="train_z"):
        low_label_probe(parts[0] / 0, *parts[1:])

"""Gaussian mixtures against scikit-learn and torch, matchings against all permutations, clusterings that are known."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture as Reference
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import genssl.evaluation.clustering as module
from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.evaluation.clustering import GaussianMixture, clustering_scores, gaussian_mixture, hungarian_accuracy


def clusters(seed=0, size=600, dim=3, number=4, apart=2.0):
    """(z [size, dim] float64, cluster [size]) of stretched Gaussians; apart: how far their means lie."""
    generator = torch.Generator().manual_seed(seed)
    means = apart * torch.randn(number, dim, generator=generator, dtype=torch.float64)
    shapes = torch.randn(number, dim, dim, generator=generator, dtype=torch.float64) / dim**0.5
    y = torch.randint(number, (size,), generator=generator)
    noise = torch.randn(size, dim, 1, generator=generator, dtype=torch.float64)
    return means[y] + (shapes[y] @ noise)[..., 0], y


def standard(z):
    return (z - z.mean(0)) / z.std(0, correction=0)


def crossed(dim=3, apart=8.0, sizes=(400, 80, 200), number=4, seed=3):
    """train, validation, test of clusters that are the classes, in float32 and with scales that need care."""
    z, y = clusters(seed, sum(sizes), dim, number, apart)
    z = (z * torch.logspace(-3, 1, dim, dtype=torch.float64) + 5).float()
    return [part for pair in zip(z.split(sizes), (10 * y + 7).split(sizes), strict=True) for part in pair]


def some_start(z, number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(number, generator=generator, dtype=torch.float64) + 0.2
    means = z[torch.randperm(len(z), generator=generator)[:number]]
    covariances = torch.stack([(0.5 + k) * z.T @ z / len(z) for k in range(number)])
    return GaussianMixture(weights / weights.sum(), means, covariances, 0.0, 0, False)


def scikit_learn(z, start, **kept):
    model = Reference(
        len(start.weights),
        weights_init=start.weights.numpy(),
        means_init=start.means.numpy(),
        precisions_init=torch.linalg.inv(start.covariances).numpy(),
        random_state=0,
        **kept,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(z.numpy())


@pytest.mark.parametrize("steps", [1, 2, 25])
@pytest.mark.parametrize(("dim", "number"), [(1, 3), (3, 4), (6, 2)])
def test_the_steps_are_those_of_scikit_learn(steps, dim, number):
    z = standard(clusters(steps, 500, dim)[0])
    start = some_start(z, number)
    ours = gaussian_mixture(z, number, start=start, max_iterations=steps, tolerance=0.0)
    theirs = scikit_learn(z, start, max_iter=steps, tol=0.0)
    assert (ours.iterations, ours.converged, theirs.n_iter_) == (steps, False, steps)
    for mine, other in ((ours.weights, theirs.weights_), (ours.means, theirs.means_)):
        torch.testing.assert_close(mine, torch.from_numpy(other), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(ours.covariances, torch.from_numpy(theirs.covariances_), rtol=1e-6, atol=1e-8)
    assert ours.log_likelihood == pytest.approx(theirs.score(z.numpy()), abs=1e-8)
    assert torch.equal(ours.predict(z), torch.from_numpy(theirs.predict(z.numpy())))
    torch.testing.assert_close(ours.log_prob(z), torch.from_numpy(theirs.score_samples(z.numpy())))


def test_it_stops_where_scikit_learn_stops():
    z = standard(clusters(1, apart=1.0)[0])
    start = some_start(z, 4)
    ours, theirs = gaussian_mixture(z, 4, start=start), scikit_learn(z, start, max_iter=200, tol=1e-3)
    assert theirs.n_iter_ > 5
    assert (ours.iterations, ours.converged) == (theirs.n_iter_, True)
    torch.testing.assert_close(ours.means, torch.from_numpy(theirs.means_), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("apart", [0.7, 1.5])
def test_the_best_restart_is_as_likely_as_scikit_learns(apart):
    z = standard(clusters(2, 800, 4, 6, apart)[0])
    theirs = Reference(6, n_init=10, random_state=0, max_iter=300).fit(z.numpy())
    ours = gaussian_mixture(z, 6, restarts=10)
    assert ours.converged
    assert ours.log_likelihood > theirs.score(z.numpy()) - 0.01


def test_restarts_at_once_are_each_by_itself():
    """The batched steps, with restarts that converge at different times, against one after the other."""
    z = standard(clusters(4, 300, apart=1.0)[0])
    starts = [some_start(z, 4, seed) for seed in range(5)]
    begun = module.Mixtures(*(torch.stack([start[part] for start in starts]) for part in range(3)))
    found, _, steps, converged = module.expectation_maximisation(z, begun, 1e-3, 40)
    assert len(set(steps.tolist())) > 1
    for number, start in enumerate(starts):
        alone = gaussian_mixture(z, 4, start=start, max_iterations=40)
        assert (alone.iterations, alone.converged) == (int(steps[number]), bool(converged[number]))
        torch.testing.assert_close(alone.means, found.means[number], rtol=1e-9, atol=1e-9)


def test_log_prob_is_that_of_torch_and_predict_its_largest_component():
    z = clusters(5)[0] * torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64) + 7
    ours = gaussian_mixture(z, 4, restarts=3)
    parts = MultivariateNormal(ours.means, ours.covariances)
    law = MixtureSameFamily(Categorical(ours.weights), parts)
    torch.testing.assert_close(ours.log_prob(z), law.log_prob(z))
    assert torch.equal(ours.predict(z), (parts.log_prob(z[:, None]) + ours.weights.log()).argmax(1))
    assert ours.log_likelihood == pytest.approx(float(law.log_prob(z).mean()))
    assert ours.weights.sum() == pytest.approx(1)


def test_scales_and_shifts_move_the_mixture_and_change_nothing_else():
    z = clusters(6)[0]
    scale, shift = torch.tensor([1e-5, 1.0, 1e4], dtype=torch.float64), torch.tensor([3.0, -1e3, 0.0])
    before, after = gaussian_mixture(z, 4, restarts=4), gaussian_mixture(scale * z + shift, 4, restarts=4)
    torch.testing.assert_close(after.means, scale * before.means + shift, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(after.covariances / scale / scale[:, None], before.covariances, rtol=1e-5, atol=1e-6)
    assert torch.equal(after.predict(scale * z + shift), before.predict(z))
    assert after.log_likelihood == pytest.approx(before.log_likelihood - float(scale.log().sum()), abs=1e-6)


def test_every_step_is_likelier_and_more_restarts_are_not_less_likely():
    z = standard(clusters(7, apart=0.8)[0])
    start = some_start(z, 4)
    path = [
        gaussian_mixture(z, 4, start=start, max_iterations=n, tolerance=0.0).log_likelihood
        for n in (1, 2, 3, 5, 10, 40)
    ]
    assert all(after > before - 1e-6 for before, after in itertools.pairwise(path))  # the ridge may cost a little
    assert path[-1] > path[0] + 0.05
    levels = [gaussian_mixture(z, 6, restarts=1, seed=seed).log_likelihood for seed in range(4)]
    assert max(levels) - min(levels) > 1e-3  # there is something to choose
    assert gaussian_mixture(z, 6, restarts=20).log_likelihood >= max(levels) - 0.02


def test_recovers_the_mixture_that_made_the_rows():
    z, y = clusters(8, 4000, apart=6.0)
    found = gaussian_mixture(z, 4)
    assert hungarian_accuracy(found.predict(z), y) > 0.995
    for label in range(4):
        near = int((found.means - z[y == label].mean(0)).norm(dim=1).argmin())
        torch.testing.assert_close(found.means[near], z[y == label].mean(0), rtol=0.05, atol=0.02)
        torch.testing.assert_close(found.covariances[near], torch.cov(z[y == label].T), rtol=0.1, atol=0.02)
        assert found.weights[near] == pytest.approx(float((y == label).double().mean()), abs=0.01)


def test_restarts_begin_far_apart():
    """Twelve tight clusters have a start each, which equal chances would give once in 18 000 times."""
    z = 100 * torch.eye(12, dtype=torch.float64).repeat(50, 1)
    z = z + torch.randn(600, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = module._spread(z, 12, 5, torch.Generator().manual_seed(0))
    assert all(len(means.argmax(1).unique()) == 12 for means in start.means)
    assert len({float(means[0, 0]) for means in start.means}) == 5  # other restarts begin elsewhere
    assert all((means[:, None] == z).all(2).any(1).all() for means in start.means)  # at rows of z


def test_constant_dimensions_change_no_cluster():
    z = clusters(10)[0]
    wide = torch.cat([z, torch.full((600, 2), 3.0, dtype=torch.float64)], 1)
    before, after = gaussian_mixture(z, 4, restarts=5), gaussian_mixture(wide, 4, restarts=5)
    assert torch.equal(before.predict(z), after.predict(wide))
    torch.testing.assert_close(after.means[:, 3:], torch.full((4, 2), 3.0, dtype=torch.float64))
    torch.testing.assert_close(after.covariances[:, 3:, 3:], 1e-6 * torch.eye(2, dtype=torch.float64).expand(4, 2, 2))


@pytest.mark.parametrize("rows", [4, 50])
def test_one_point_is_one_cluster(rows):
    found = gaussian_mixture(torch.full((rows, 3), 0.1), 4, restarts=3)
    assert len(found.predict(torch.full((9, 3), 0.1)).unique()) == 1
    assert torch.isfinite(torch.tensor(found.log_likelihood))


def test_duplicates_and_as_many_components_as_rows():
    """Fewer different rows than components: the matrices are singular but for the ridge."""
    z = torch.tensor([[0.0, 1.0], [5.0, 2.0], [9.0, -3.0]]).repeat(20, 1)
    found = gaussian_mixture(z, 5, restarts=4)
    assert torch.isfinite(found.covariances).all()
    assert len(found.predict(z[:3]).unique()) == 3
    assert hungarian_accuracy(found.predict(z[:3]), torch.arange(3)) == 1
    assert gaussian_mixture(z[:5], 5, restarts=2).weights.sum() == pytest.approx(1)
    flat = torch.cat([clusters(11)[0], clusters(11)[0]], 1)  # a flat set: every covariance has rank 3 of 6
    assert torch.isfinite(gaussian_mixture(flat, 4, restarts=3).means).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5))
def test_the_matching_is_the_best_of_all(seed, size, number, classes):
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(number, (size,), generator=generator)
    labels = torch.randint(classes, (size,), generator=generator)
    wide = max(number, classes)
    best = max(
        sum(int(order[cluster] == label) for cluster, label in zip(found.tolist(), labels.tolist(), strict=True))
        for order in itertools.permutations(range(wide))
    )
    accuracy = hungarian_accuracy(found, labels)
    assert accuracy == pytest.approx(best / size)
    assert accuracy >= 1 / wide - 1e-12
    assert hungarian_accuracy(labels, found) == accuracy
    assert hungarian_accuracy(-3 * found + 100, labels.int()) == accuracy


def test_one_cluster_and_too_many():
    y = torch.tensor([0, 0, 0, 1, 1, 2])
    assert hungarian_accuracy(torch.zeros(6), y) == 0.5
    assert hungarian_accuracy(torch.arange(6), y) == 0.5  # three of six clusters have a class
    assert hungarian_accuracy(torch.tensor([5, 5, 6, 7, 7, 8]), y) == pytest.approx(5 / 6)  # a class cut in two


def test_clusters_that_are_the_classes():
    parts = crossed()
    found = clustering_scores(*parts)
    for name in ("accuracy", "accuracy_assigned_on_train", "nmi", "ari"):
        assert found[name] == pytest.approx(1)
    assert (found["components"], found["restarts"], found["converged"]) == (4, 20, True)
    mixture = gaussian_mixture(parts[0], 4)
    assert found["train_log_likelihood"] == mixture.log_likelihood
    assert found["log_likelihood"] == pytest.approx(float(mixture.log_prob(parts[4]).mean()))
    assert all(isinstance(value, float | int) for value in found.values())


def test_labels_that_say_nothing_about_z():
    parts = crossed(sizes=(1000, 10, 1000))
    generator = torch.Generator().manual_seed(1)
    noise = [part if i % 2 == 0 else torch.randint(4, part.shape, generator=generator) for i, part in enumerate(parts)]
    found = clustering_scores(*noise, restarts=4)
    assert abs(found["ari"]) < 0.01
    assert 0 <= found["nmi"] < 0.02
    assert found["accuracy_assigned_on_train"] == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 1000) ** 0.5)
    assert 0.25 <= found["accuracy"] < 0.34


def test_the_figures_are_those_of_the_predicted_clusters():
    parts = crossed(apart=1.2)
    found = clustering_scores(*parts, components=6, restarts=3, seed=4)
    mixture = gaussian_mixture(parts[0], 6, restarts=3, seed=4)
    train, test = mixture.predict(parts[0]).tolist(), mixture.predict(parts[4])
    assert found["accuracy"] == hungarian_accuracy(test, parts[5])
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(parts[5].numpy(), test.numpy()))
    assert found["ari"] == pytest.approx(adjusted_rand_score(parts[5].numpy(), test.numpy()))
    assert 0.3 < found["accuracy"] < 0.95
    # The matching on train, by trying all.
    labels, classes = parts[1].tolist(), parts[1].unique().tolist()
    orders = itertools.permutations([*classes, -1, -1])
    best = max(orders, key=lambda order: sum(order[c] == label for c, label in zip(train, labels, strict=True)))
    right = [best[c] == label for c, label in zip(test.tolist(), parts[5].tolist(), strict=True)]
    assert found["accuracy_assigned_on_train"] == pytest.approx(sum(right) / 200)
    assert found["accuracy_assigned_on_train"] <= found["accuracy"]


def test_no_label_enters_the_fit_and_no_test_label_the_matching_on_train():
    parts = crossed(apart=1.2)
    first = clustering_scores(*parts, restarts=3)
    shuffled = [part if i % 2 == 0 else part[torch.randperm(len(part))] for i, part in enumerate(parts)]
    other = clustering_scores(*shuffled[:4], *parts[4:], restarts=3)
    unmatched = ("accuracy", "nmi", "ari", "log_likelihood", "train_log_likelihood")
    assert [other[name] for name in unmatched] == [first[name] for name in unmatched]
    assert other["accuracy_assigned_on_train"] != first["accuracy_assigned_on_train"]
    renamed = clustering_scores(*parts[:5], parts[5] // 10 * 10 + 8, restarts=3)  # classes that training never showed
    assert [renamed[name] for name in unmatched] == [first[name] for name in unmatched]
    assert renamed["accuracy_assigned_on_train"] == 0


def test_one_point_has_the_share_of_the_largest_class():
    parts = [part if i % 2 else torch.zeros_like(part) for i, part in enumerate(crossed())]
    found = clustering_scores(*parts, restarts=2)
    largest = float(torch.unique(parts[5], return_counts=True)[1].max()) / 200
    assert (found["accuracy"], found["nmi"], found["ari"]) == (pytest.approx(largest), 0, 0)


def test_a_function_of_its_seed_that_leaves_torch_alone():
    parts = crossed(apart=0.7)
    before = torch.get_rng_state()
    first = clustering_scores(*parts, restarts=2, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    with torch.inference_mode():
        frozen = [part.clone() for part in parts]
    assert clustering_scores(*frozen, restarts=2, seed=1) == first
    assert any(clustering_scores(*parts, restarts=2, seed=seed) != first for seed in (2, 3))


def test_errors():
    z = clusters(12, 20)[0]
    with pytest.raises(DataError, match="3 rows for components = 4"):
        gaussian_mixture(z[:3], 4)
    for kept in ({"components": 0}, {"components": 2, "restarts": 0}, {"components": 2, "max_iterations": 0}):
        with pytest.raises(SettingsError, match="gaussian_mixture: components = "):
            gaussian_mixture(z, **kept)
    with pytest.raises(SettingsError, match="tolerance = -1"):
        gaussian_mixture(z, 2, tolerance=-1)
    with pytest.raises(ShapeError, match=r"shape \[20\]"):
        gaussian_mixture(z[:, 0], 2)
    with pytest.raises(NonFiniteError, match="20 of 20 rows"):
        gaussian_mixture(z / 0, 2)
    with pytest.raises(ShapeError, match=r"means of start have shape \[2, 3\], expected \[3, 3\]"):
        gaussian_mixture(z, 3, start=some_start(z, 2))
    with pytest.raises(ShapeError, match=r"expected \[N, 3\]"):
        gaussian_mixture(z, 2, restarts=1).predict(z[:, :2])
    with pytest.raises(ShapeError, match="clusters have shape"):
        hungarian_accuracy(torch.zeros(3), torch.zeros(4))
    with pytest.raises(DataError, match="no rows"):
        hungarian_accuracy(torch.zeros(0), torch.zeros(0))
    parts = crossed()
    with pytest.raises(DataError, match="rows for components = 500"):
        clustering_scores(*parts, components=500)
    with pytest.raises(ShapeError, match="clustering_scores: test_y"):
        clustering_scores(*parts[:5], parts[5][:-1])

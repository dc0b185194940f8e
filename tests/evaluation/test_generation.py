"""What a run generates: the laws that z is drawn from, what is decoded, the figures, and that nothing stays behind."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from fake_runs import Blind, FakeRun, Point, fake_run, images
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Independent, Normal

import genssl
from genssl import terms
from genssl.datasets.data import Data
from genssl.datasets.items import Items
from genssl.distributions import GroupMixture, GroupNormal
from genssl.errors import DataError, NonFiniteError, SettingsError
from genssl.evaluation import frechet, generated, generation, predictive
from genssl.evaluation.adhoc_decoder import adhoc_decoder
from genssl.evaluation.frechet import classifier_features, frechet_distance
from genssl.evaluation.generation import (
    class_samples,
    gaussian_samples,
    generation_figures,
    next_views,
    samples,
    traversals,
)
from genssl.evaluation.items import spaced
from genssl.evaluation.sample_quality import kernel_distance, precision_recall
from genssl.groups import Groups


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(frechet, "STEPS", 40)


class Plain(nn.Module):
    """z is x, with a spread that is known, and is decoded to itself."""

    def __init__(self, spread=0.0, prior=None):
        super().__init__()
        self.spread, self.make_prior = spread, prior
        if prior is not None:
            self.prior = lambda groups: self.make_prior(groups)

    def encode(self, x):
        if self.spread == 0:
            return Point(x)
        return Independent(Normal(x, torch.full_like(x, self.spread)), 1)

    def decode(self, z):
        return z


def clusters(seed, number, dim=3):
    """Vectors of three classes, numbered 2, 5 and 9, of other centres and covariances."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(number) % 3
    shape = torch.eye(dim) + 0.5 * torch.arange(3.0)[:, None, None] * torch.ones(dim, dim).triu(1)
    x = torch.einsum("nd,nde->ne", torch.randn(number, dim, generator=generator), shape[label]) + 8 * label[:, None]
    return Items(x, torch.tensor([2, 5, 9])[label])


def plain_run(tmp_path, method=None, seed=3, **splits):
    made = {name: clusters(number, number) for name, number in (("train", 300), ("validation", 60), ("test", 150))}
    data = Data("clusters", **(made | splits))
    return FakeRun(tmp_path, method or Plain(), data, {"seed": seed, "num_views": 2})


# ---------------------------------------------------------------------- samples


def test_gaussian_samples_have_the_moments_also_where_they_are_singular():
    z = torch.randn(200, 3) @ torch.tensor([[2.0, 1, 0], [0, 1, 0.5], [0, 0, 0.1]]) + torch.tensor([1.0, -2, 30])
    drawn = gaussian_samples(z, 100_000, seed=1)
    assert drawn.dtype == z.dtype
    torch.testing.assert_close(drawn.mean(0), z.mean(0), rtol=0, atol=0.03)
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(z.T, correction=0), rtol=0.03, atol=0.01)
    line = torch.randn(50, 1) * torch.tensor([[1.0, 2.0, -1.0]])
    on_it = gaussian_samples(line, 1000, seed=2)
    torch.testing.assert_close(on_it[:, 1], 2 * on_it[:, 0], rtol=1e-4, atol=1e-5)
    assert float(on_it.std(0)[0]) == pytest.approx(float(line.std(0)[0]), rel=0.1)
    torch.testing.assert_close(gaussian_samples(z[:1], 4, seed=0), z[:1].expand(4, -1))
    assert torch.equal(gaussian_samples(z, 5, seed=1), gaussian_samples(z, 5, seed=1))
    assert not torch.equal(gaussian_samples(z, 5, seed=1), gaussian_samples(z, 5, seed=2))


def test_class_samples_have_the_moments_of_their_class(tmp_path):
    run = plain_run(tmp_path)
    out = class_samples(run, 20_000)
    assert out.label.tolist() == [2, 5, 9]
    assert out.images.shape == out.z.shape == (3, 20_000, 3)
    assert torch.equal(out.images, out.z)
    assert "300" in out.law
    assert "not the model's prior" in out.law
    train = run.data.train
    for label, drawn in zip((2, 5, 9), out.z, strict=True):
        rows = train.x[train.label == label].double().numpy()
        np.testing.assert_allclose(drawn.double().mean(0), rows.mean(0), atol=0.06)
        np.testing.assert_allclose(np.cov(drawn.double().numpy().T), np.cov(rows.T, bias=True), rtol=0.06, atol=0.06)


def test_a_class_is_drawn_whatever_the_others_are_and_negative_labels_are_none(tmp_path):
    run = plain_run(tmp_path)
    whole = class_samples(run, 6)
    train = run.data.train
    marked = torch.where(train.label == 5, -1, train.label)
    part = class_samples(plain_run(tmp_path, train=Items(train.x, marked)), 6)
    assert part.label.tolist() == [2, 9]
    assert torch.equal(part.z, whole.z[[0, 2]])


def test_samples_have_the_moments_of_all(tmp_path):
    run = plain_run(tmp_path)
    out = samples(run, 20_000)
    rows = run.data.train.x.double().numpy()
    np.testing.assert_allclose(out.z.double().mean(0), rows.mean(0), atol=0.2)
    np.testing.assert_allclose(np.cov(out.z.double().numpy().T), np.cov(rows.T, bias=True), rtol=0.05)
    assert torch.equal(out.images, out.z)
    assert out.label is None
    few = samples(run, 7, limit=30)
    assert torch.equal(few.z, samples(plain_run(tmp_path, train=Items(run.data.train.x[spaced(300, 30)])), 7).z)
    assert "30 training" in few.law


def test_views_of_natural_groups_are_items(tmp_path):
    items = clusters(0, 61)
    mask = torch.ones(31, 2, dtype=torch.bool)
    mask[30, 1] = False
    x, label = torch.full((31, 2, 3), torch.nan), torch.zeros(31, 2, dtype=torch.long)
    x[mask], label[mask] = items.x, items.label
    grouped, plain = (
        plain_run(tmp_path, train=split, validation=None, test=None) for split in (Groups(x, mask, label=label), items)
    )
    assert torch.equal(class_samples(grouped, 4).z, class_samples(plain, 4).z)


def test_decodes_in_blocks_with_the_methods_decoder_or_the_one_that_is_given(tmp_path, monkeypatch):
    run = fake_run(tmp_path)
    whole = class_samples(run, 5)
    assert whole.images.shape == (3, 5, 1, 6, 6)
    run.method.eval()
    torch.testing.assert_close(whole.images, run.method.decode(whole.z).detach())
    monkeypatch.setattr(generated, "BLOCK", 4)
    torch.testing.assert_close(class_samples(run, 5).images, whole.images)
    blind = fake_run(tmp_path, Blind())
    for make in (
        lambda: samples(blind, 3),
        lambda: class_samples(blind, 3),
        lambda: traversals(blind, torch.rand(2, 1, 6, 6)),
    ):
        with pytest.raises(SettingsError, match="Blind has no trained decoder; give decode="):
            make()
    decoder, _ = adhoc_decoder(blind, epochs=1)
    out = samples(blind, 3, decode=decoder)
    torch.testing.assert_close(out.images, decoder(out.z).detach())


# ---------------------------------------------------------------------- further views


def joint_covariance(count, view, content):
    return view**2 * np.eye(count) + content**2 * np.ones((count, count))


@pytest.mark.parametrize("content_scale", [None, 1.5])
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_next_views_have_the_law_of_a_further_row_of_the_joint_normal(tmp_path, content_scale, spread):
    """For each number of views, one dimension: condition the dense normal of J + 1 views on J, then mix over q."""
    view, number = 0.8, 40_000
    method = Plain(spread, lambda groups: GroupNormal(view, groups.num_views, 1, content_scale, groups.mask))
    x = torch.tensor([[1.0, 3.0, -1.0], [2.0, 5.0, 0.0], [4.0, 0.0, 0.0]])[..., None]
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    groups = Groups(torch.where(mask[..., None], x, torch.nan), mask, label=torch.tensor([7, 8, 9]))
    run = plain_run(tmp_path, method)
    out = next_views(run, groups, number, means=spread == 0)
    assert out.images.shape == (3, number, 1)
    assert torch.equal(out.images, out.z)
    assert torch.equal(out.label, groups.label)
    for row, count in enumerate((3, 2, 1)):
        joint = joint_covariance(count + 1, view, 1e4 if content_scale is None else content_scale)
        gain = np.linalg.solve(joint[:-1, :-1], joint[:-1, -1])
        mean = gain @ x[row, :count, 0].double().numpy()
        variance = joint[-1, -1] - gain @ joint[:-1, -1] + (gain**2).sum() * spread**2
        drawn = out.z[row].double()
        assert float(drawn.mean()) == pytest.approx(mean, abs=4 * (variance / number) ** 0.5)
        assert float(drawn.var()) == pytest.approx(variance, rel=0.04)


def test_means_leave_the_spread_of_q_out(tmp_path):
    method = Plain(5.0, lambda groups: GroupNormal(0.1, groups.num_views, 3, 1.0, groups.mask))
    run, groups = plain_run(tmp_path, method), Groups(torch.zeros(4, 2, 3))
    assert float(next_views(run, groups, 500, means=True).z.std()) < 0.2
    assert float(next_views(run, groups, 500).z.std()) > 2


@pytest.mark.parametrize("masked", [False, True])
def test_next_view_of_a_mixture_is_the_ratio_of_joint_densities(masked, float64):
    """p(z_{J+1} | z_1..z_J) = p(z_1..z_{J+1}) / p(z_1..z_J)."""
    parts = (torch.randn(4), torch.randn(4, 3), torch.rand(4, 3) + 0.3)
    z, extra = torch.randn(5, 2, 3), torch.randn(5, 3)
    mask = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1], [1, 0]]).bool() if masked else None
    longer = None if mask is None else torch.cat([mask, torch.ones(5, 1, dtype=torch.bool)], 1)
    joint = GroupMixture(0.6, 3, *parts, mask=longer).log_prob(torch.cat([z, extra[:, None]], 1))
    prior = GroupMixture(0.6, 2, *parts, mask=mask)
    law = predictive._next_of_mixture(prior, z)
    torch.testing.assert_close(law.log_prob(extra), joint - prior.log_prob(z))
    several = predictive._next_of_mixture(prior, torch.stack([z, z + 1]))
    torch.testing.assert_close(several.log_prob(extra)[0], law.log_prob(extra))


def tiny(method, tmp_path, num_views=2, **more):
    return genssl.fit(
        method, "digits", limit=96, num_views=num_views, batch_size=16, max_steps=6, epochs=1, progress=False,
        settings={"hidden": [16], "dim": 4} | more, out=tmp_path / "run",
    )  # fmt: skip


@pytest.mark.parametrize("method", ["SimVAE", "ContentSimVAE", "MixtureSimVAE", "NeuralStatistician"])
def test_methods_with_content_give_further_views_of_ragged_groups(tmp_path, method):
    run = tiny(method, tmp_path)
    groups = run.groups("test", 5, num_views=3)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]]).bool()
    ragged = Groups(groups.x, mask)
    out = next_views(run, ragged, 300)
    assert out.images.shape == (5, 300, 1, 8, 8)
    torch.testing.assert_close(out.images[:, :3], run.method.decode(out.z[:, :3]).detach())
    assert bool(torch.isfinite(out.z).all())
    other = Groups(torch.where(mask[..., None, None, None], groups.x, torch.rand_like(groups.x)), mask)
    assert torch.equal(next_views(run, other, 300).z, out.z)  # padding is not seen
    assert method in out.law
    # Around the content that the method itself gives, as far as 300 draws can tell.
    content = run.method.content(ragged).mean.detach()
    if method == "NeuralStatistician":
        loc, log_scale = run.method.prior_network(content).detach().chunk(2, -1)
        drawn = next_views(run, ragged, 2000, means=True).z
        torch.testing.assert_close(drawn.mean(1), loc, rtol=0, atol=0.15)
        torch.testing.assert_close(drawn.std(1), log_scale.exp(), rtol=0.1, atol=0)
    else:
        torch.testing.assert_close(out.z.mean(1), content, rtol=0, atol=0.4)


def test_views_that_no_prior_ties_together_are_refused_but_for_a_view_scale(tmp_path):
    run = tiny("VAE", tmp_path, num_views=1)
    groups = run.groups("test", 3, num_views=2)
    with pytest.raises(SettingsError, match="VAE has no prior that ties the views of a group together"):
        next_views(run, groups, 2)
    assert next_views(run, groups, 2, view_scale=0.5).images.shape == (3, 2, 1, 8, 8)
    run = tiny("SimVAE", tmp_path / "swapped")
    run.method.swap(prior=terms.CosineAttraction(0.5))
    with pytest.raises(SettingsError, match="CosineAttraction.* in the prior slot"):
        next_views(run, groups, 2)


def test_a_method_without_a_prior_takes_a_flat_one(tmp_path):
    run = plain_run(tmp_path)
    groups = Groups(
        torch.tensor([[[1.0, 2, 3], [3, 2, 1]], [[5, 5, 5], [0, 0, 0]]]), torch.tensor([[True] * 2, [True, False]])
    )
    out = next_views(run, groups, 40_000, means=True, view_scale=0.5)
    assert "view_scale 0.5 and flat p(y)" in out.law
    torch.testing.assert_close(out.z.mean(1), torch.tensor([[2.0, 2, 2], [5, 5, 5]]), rtol=0, atol=0.02)
    expected = torch.tensor([0.25 * (1 + 1 / 2), 0.25 * 2])[:, None].expand(2, 3)
    torch.testing.assert_close(out.z.var(1), expected, rtol=0.04, atol=0)
    with pytest.raises(SettingsError, match="view_scale = -1"):
        next_views(run, groups, 3, means=True, view_scale=-1)


# ---------------------------------------------------------------------- traversals


def test_traversals_move_one_coordinate_by_deviations_of_the_aggregate(tmp_path):
    run = plain_run(tmp_path, Plain(0.7))
    x = run.data.test.x[:4]
    out = traversals(run, x, dims=[2, 0], steps=5, span=2)
    expected = (run.data.train.x.double().var(0, correction=0) + 0.7**2).sqrt()[[2, 0]]
    torch.testing.assert_close(out.scale.double(), expected, rtol=1e-5, atol=0)
    assert out.dims.tolist() == [2, 0]
    assert out.offsets.tolist() == [-2, -1, 0, 1, 2]
    assert out.images.shape == (4, 2, 5, 3)
    for n in range(4):
        for k, dim in enumerate((2, 0)):
            for s in range(5):
                z = x[n].clone()
                z[dim] += float(out.offsets[s] * out.scale[k])
                torch.testing.assert_close(out.images[n, k, s], z)


def test_traversals_of_images_have_the_reconstruction_in_their_middle(tmp_path):
    run = fake_run(tmp_path)
    x = run.data.test.floats()[:2]
    out = traversals(run, x, steps=3)
    assert out.images.shape == (2, 3, 3, 1, 6, 6)
    run.method.eval()
    expected = run.method.decode(run.represent(x)).detach()
    torch.testing.assert_close(out.images[:, :, 1], expected[:, None].expand(-1, 3, -1, -1, -1))
    assert not torch.equal(out.images[:, 0, 0], out.images[:, 1, 0])
    blind = plain_run(tmp_path)  # a point mass
    torch.testing.assert_close(traversals(blind, clusters(0, 3).x).scale, blind.data.train.x.std(0, correction=0))


def test_settings_are_checked(tmp_path):
    run = plain_run(tmp_path)
    x = torch.rand(2, 3)
    with pytest.raises(SettingsError, match="dims has 3, expected coordinates from 0 to 2"):
        traversals(run, x, dims=[0, 3])
    with pytest.raises(SettingsError, match="dims is empty"):
        traversals(run, x, dims=[])
    with pytest.raises(SettingsError, match="steps = 1, expected at least 2"):
        traversals(run, x, steps=1)
    with pytest.raises(SettingsError, match="span = 0"):
        traversals(run, x, span=0)
    with pytest.raises(SettingsError, match="number = 0"):
        samples(run, 0)
    with pytest.raises(SettingsError, match="per_class = -1"):
        class_samples(run, -1)
    with pytest.raises(SettingsError, match="draws = 0"):
        next_views(run, Groups(x[:, None]), 0)
    with pytest.raises(SettingsError, match="limit = 0"):
        samples(run, 3, limit=0)


def test_data_that_cannot_be_generated(tmp_path):
    pairs = Groups([torch.rand(9, 4), torch.rand(9, 5)])
    run = plain_run(tmp_path, train=pairs, validation=None, test=None)
    for make in (lambda: samples(run, 3), lambda: class_samples(run, 3), lambda: next_views(run, pairs, 3)):
        with pytest.raises(DataError, match="several modalities"):
            make()
    with pytest.raises(DataError, match="no labels"):
        class_samples(fake_run(tmp_path, labelled=False), 3)
    run = plain_run(tmp_path)
    run.represent = lambda x: torch.full((len(x), 3), float("nan"))
    with pytest.raises(NonFiniteError, match="300 of 300 training representations"):
        samples(run, 3)


# ---------------------------------------------------------------------- the figures


def test_figures_are_those_of_a_naive_computation(tmp_path):
    run = fake_run(tmp_path)
    run.method.eval()
    train, test = run.data.train, run.data.test
    figures = generation_figures(run)
    network = classifier_features(train.floats(), train.label, 0)
    with torch.no_grad():
        decoded = run.method.decode(run.represent(test.floats()))
    real = network(test.floats())
    assert figures["items"] == 120
    assert figures["accuracy"] == pytest.approx(float((network.classify(test.floats()) == test.label).double().mean()))
    assert figures["reconstructions"] == pytest.approx(frechet_distance(real, network(decoded)), rel=1e-4)
    spread = train.floats()[spaced(300, 120)]
    assert figures["reference"] == pytest.approx(frechet_distance(real, network(spread)), rel=1e-4)
    unconditional = samples(run, 120)
    assert figures["unconditional"] == pytest.approx(frechet_distance(real, network(unconditional.images)), rel=1e-4)
    sizes = {label: int((train.label == label).sum()) for label in range(3)}
    shares = generation._shares(sizes, 120)
    of_class = [run.represent(train.floats()[train.label == label]) for label in shares]
    drawn = [
        gaussian_samples(z, number, _class_seed(run, label))
        for z, (label, number) in zip(of_class, shares.items(), strict=True)
    ]
    with torch.no_grad():
        expected = frechet_distance(real, network(run.method.decode(torch.cat(drawn))))
    assert figures["samples"] == pytest.approx(expected, rel=1e-3)
    unit = 64**0.5
    assert figures["kernel"]["reference"] == pytest.approx(
        kernel_distance(unit * real, unit * network(spread)), abs=1e-4
    )
    with torch.no_grad():
        assert figures["kernel"]["reconstructions"] == pytest.approx(
            kernel_distance(unit * real, unit * network(decoded)), rel=1e-3
        )
        covered = precision_recall(real, network(decoded))
    assert figures["precision"]["reconstructions"] == pytest.approx(covered.precision, abs=0.02)
    assert figures["recall"]["reconstructions"] == pytest.approx(covered.recall, abs=0.02)
    sets = ["reconstructions", "samples", "unconditional", "reference"]
    assert all(list(figures[name]) == sets for name in ("kernel", "precision", "recall"))
    assert json.loads(json.dumps(figures)) == figures
    assert "small classifier of 300 training items: no FID" in figures["features"]
    assert "not the model's prior" in figures["law"]


def _class_seed(run, label):
    return generated.stream_seed(generated._seed(run, "class_samples"), "class", label)


def test_figures_see_what_is_lost_and_which_law_fits(tmp_path):
    perfect = generation_figures(plain_run(tmp_path))
    assert perfect["reconstructions"] == pytest.approx(0, abs=1e-9)
    assert perfect["accuracy"] > 0.95
    assert perfect["samples"] < 0.01
    assert perfect["unconditional"] > 10 * perfect["samples"]  # one Gaussian over three clusters
    assert perfect["precision"]["reconstructions"] == perfect["recall"]["reconstructions"] == 1
    assert perfect["precision"]["unconditional"] < perfect["precision"]["samples"] - 0.2
    assert perfect["recall"]["samples"] > 0.8
    # The classes of both sets have fixed shares, which takes the kernel distance below 0 at few items.
    assert -0.2 < perfect["kernel"]["samples"] < 0.02 < perfect["kernel"]["unconditional"]

    class Constant(Plain):
        def decode(self, z):
            return 0 * z + 8

    collapsed = generation_figures(plain_run(tmp_path, Constant()))
    assert (
        collapsed["samples"] == pytest.approx(collapsed["reconstructions"]) == pytest.approx(collapsed["unconditional"])
    )
    assert collapsed["samples"] > 0.8
    assert collapsed["recall"]["samples"] < 0.02
    assert collapsed["kernel"]["samples"] > 10 * perfect["kernel"]["unconditional"]
    assert collapsed["reference"] == perfect["reference"]


def test_labels_of_test_choose_nothing_and_the_ruler_is_one_for_all_seeds(tmp_path):
    run = plain_run(tmp_path)
    figures = generation_figures(run)
    test = run.data.test
    without = generation_figures(plain_run(tmp_path, test=Items(test.x)))
    assert without.pop("accuracy") is None
    assert without == {name: value for name, value in figures.items() if name != "accuracy"}
    other = generation_figures(plain_run(tmp_path, seed=4))
    assert {name for name in figures if figures[name] == other[name]} == set(figures) - {
        "samples", "unconditional", "kernel", "precision", "recall"
    }  # fmt: skip
    for name in ("kernel", "precision", "recall"):
        assert figures[name]["reference"] == other[name]["reference"]


def test_all_sets_have_as_many_items_and_a_network_may_be_given(tmp_path, monkeypatch):
    run = plain_run(tmp_path)
    network = classifier_features(run.data.train.x, run.data.train.label, 5)
    sizes = []
    monkeypatch.setattr(generation, "frechet_distance", lambda a, b: sizes.append((len(a), len(b))) or 0.0)
    monkeypatch.setattr(generation, "classifier_features", None)
    assert generation_figures(run, limit=97, features=network)["items"] == 97
    assert sizes == [(97, 97)] * 4
    monkeypatch.setattr(generation, "BLOCK", 10)
    assert generation_figures(run, features=network)["items"] == 150
    assert sizes[4:] == [(150, 150)] * 4


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.integers(0, 50), st.integers(1, 300), min_size=1), st.integers(1, 500))
def test_shares_are_fair(counts, number):
    shares = generation._shares(counts, number)
    total = sum(counts.values())
    assert sum(shares.values()) == number
    assert shares.keys() == counts.keys()
    assert all(abs(shares[label] - number * size / total) < 1 for label, size in counts.items())


def test_an_ad_hoc_decoder_stands_in(tmp_path):
    run = fake_run(tmp_path, Blind())
    decoder, _ = adhoc_decoder(run, epochs=1)
    figures = generation_figures(run, decode=decoder)
    assert all(math.isfinite(figures[name]) for name in ("reconstructions", "samples", "unconditional", "reference"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"test": None}, "the data have no test items"),
        ({"train": Items(torch.rand(90, 3))}, "the training items have no labels"),
        ({"train": Items(torch.rand(90, 3), torch.zeros(90, dtype=torch.long))}, "fewer than two classes"),
        ({"train": Items(torch.rand(90, 3), -torch.ones(90, dtype=torch.long))}, "fewer than two classes"),
        ({"test": clusters(0, 64)}, "64 items of training and test, and 64 features need more"),
        ({name: Items(torch.randint(5, (90, 3))) for name in ("train", "validation", "test")}, "the items are ids"),
        ({name: Groups([torch.rand(9, 4), torch.rand(9, 5)]) for name in ("train", "validation", "test")}, "modalit"),
    ],
)  # fmt: skip
def test_why_there_are_no_figures(tmp_path, change, reason):
    assert reason in generation_figures(plain_run(tmp_path, **change))


def test_no_decoder_no_figures(tmp_path):
    assert "no trained decoder" in generation_figures(fake_run(tmp_path, Blind()))
    run = tiny("SimVAE", tmp_path)
    run.method.swap(reconstruction=terms.ContrastiveNormaliser(0.5))
    assert "no trained decoder" in generation_figures(run)


# ---------------------------------------------------------------------- nothing is left behind


class Noisy(nn.Module):
    """A decoder with a state that training mode would change."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 36), nn.BatchNorm1d(36), nn.Dropout(0.5), nn.Unflatten(1, (1, 6, 6)))

    def forward(self, z):
        return self.layers(z)


@pytest.mark.parametrize("given", ["own", "module", "method of a module"])
def test_the_run_and_the_generators_are_left_bit_identical_and_a_second_call_is_the_same(tmp_path, given):
    run = fake_run(tmp_path)
    run.method.prior = lambda groups: GroupNormal(0.4, groups.num_views, 3, None, groups.mask)
    decoder = Noisy().train()
    decode = {"own": None, "module": decoder, "method of a module": decoder.forward}[given]
    run.method.train()
    groups = Groups(images(9, 30).x.unflatten(0, (15, 2)))
    calls = [
        lambda: samples(run, 9, decode),
        lambda: class_samples(run, 4, decode),
        lambda: next_views(run, groups, 3, decode),
        lambda: traversals(run, run.data.test.floats()[:3], decode=decode),
        lambda: generation_figures(run, decode),
    ]
    modules = (run.method, decoder)
    before = [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]
    for call in calls:
        torch.manual_seed(5)
        state = torch.get_rng_state()
        first = call()
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(6)
        again = call()
        if isinstance(first, dict):
            assert first == again
        else:
            assert torch.equal(first.images, again.images)
            assert not first.images.requires_grad
    for module, kept in zip(modules, before, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())
        assert all(child.training for child in module.modules())
        assert all(parameter.grad is None for parameter in module.parameters())


def test_streams_of_the_seed(tmp_path):
    """Samples, classes and further views draw from streams of their own, and from others for another seed."""
    run, other = plain_run(tmp_path), plain_run(tmp_path, seed=4)
    groups = Groups(run.data.test.x[:6].unflatten(0, (3, 2)))
    assert not torch.equal(samples(run, 3).z, samples(other, 3).z)
    assert not torch.equal(class_samples(run, 3).z, class_samples(other, 3).z)
    views = [next_views(which, groups, 3, means=True, view_scale=1.0).z for which in (run, other)]
    assert not torch.equal(*views)
    one = plain_run(tmp_path, train=Items(run.data.train.x, torch.zeros(300, dtype=torch.long)))
    assert not torch.equal(class_samples(one, 3).z[0], samples(one, 3).z)

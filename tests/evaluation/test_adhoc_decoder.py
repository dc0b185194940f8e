"""The ad-hoc decoder: what its figures are, what it can and cannot learn, and that it leaves nothing behind."""

from __future__ import annotations

import pytest
import torch
from fake_runs import Blind, FakeRun, Point, fake_run, images, make_data
from torch import nn
from torch.distributions import Normal

from genssl.datasets.items import Items
from genssl.errors import NonFiniteError, SettingsError
from genssl.evaluation.adhoc_decoder import Standardised, adhoc_decoder, affordable
from genssl.evaluation.items import spaced
from genssl.groups import Groups


class Whole(nn.Module):
    """An encoder that keeps everything, in odd units."""

    def encode(self, x):
        return Point(100 * x.flatten(1) - 7)


class Nothing(nn.Module):
    def encode(self, x):
        return Point(torch.full((len(x), 3), 0.1))


def run_with(method, tmp_path, **data):
    return FakeRun(tmp_path, method, make_data(**data))


def test_figures_are_those_of_the_decoder_that_is_returned(tmp_path):
    run = fake_run(tmp_path)
    run.method.eval()
    decoder, figures = adhoc_decoder(run, epochs=6, limit=400)
    train, validation, test = (split.floats() for split in (run.data.train, run.data.validation, run.data.test))
    with torch.no_grad():
        decoded, on_validation = decoder(run.represent(test)), decoder(run.represent(validation))
    assert not decoder.training
    assert decoded.shape == test.shape
    assert figures["mse"] == pytest.approx(float((decoded - test).square().mean()), rel=1e-5)
    assert figures["validation_mse"] == pytest.approx(float((on_validation - validation).square().mean()), rel=1e-5)
    assert figures["baseline_mse"] == pytest.approx(float((test - train.mean(0)).square().mean()), rel=1e-5)
    assert figures["likelihood_scale"] == pytest.approx(figures["validation_mse"] ** 0.5)
    expected = Normal(decoded, figures["likelihood_scale"]).log_prob(test).sum((1, 2, 3)).mean()
    assert figures["log_likelihood"] == pytest.approx(float(expected), rel=1e-5)
    assert figures["items"] == {"train": 300, "validation": 90, "test": 120}
    assert 1 <= figures["epochs"] <= 6


@pytest.mark.parametrize(
    ("share", "expected"),
    [(2.0, (15, 4000)), (1.0, (15, 4000)), (0.5, (7, 4000)), (0.1, (3, 2000)), (0.01, (3, 1000)), (0.0, (3, 1000))],
)
def test_large_decoders_get_fewer_epochs_then_fewer_items(share, expected):
    z = torch.randn(4000, 5)
    decoder = nn.Sequential(nn.Linear(5, 30), nn.ReLU(), nn.Linear(30, 7))
    whole = 3 * 2 * (5 * 30 + 30 * 7) * len(z) * 15  # multiplications and additions, forward and two gradients
    assert affordable(decoder, z, 15, share * whole) == expected
    assert affordable(decoder, z[:500], 2, 0.0) == (2, 500)


def test_the_scale_is_the_best_one_on_validation(tmp_path):
    run = fake_run(tmp_path)
    run.data.test = run.data.validation
    _, figures = adhoc_decoder(run, epochs=3, limit=400)
    run.method.eval()
    decoder, _ = adhoc_decoder(run, epochs=3, limit=400)
    x = run.data.validation.floats()
    with torch.no_grad():
        decoded = decoder(run.represent(x))
    for factor in (0.97, 1.03):
        other = Normal(decoded, factor * figures["likelihood_scale"]).log_prob(x).sum((1, 2, 3)).mean()
        assert float(other) < figures["log_likelihood"]


def test_it_learns_what_z_holds_and_no_more(tmp_path):
    _, whole = adhoc_decoder(run_with(Whole(), tmp_path))
    _, nothing = adhoc_decoder(run_with(Nothing(), tmp_path))
    assert whole["mse"] < 0.5 * whole["baseline_mse"]
    assert 0.98 < nothing["mse"] / nothing["baseline_mse"] < 1.03
    assert whole["log_likelihood"] > nothing["log_likelihood"] + 5
    _, random = adhoc_decoder(fake_run(tmp_path, Blind()))
    assert whole["mse"] < random["mse"] < random["baseline_mse"]


def test_it_stops_behind_the_least_validation_error(tmp_path, monkeypatch):
    run = run_with(Whole(), tmp_path)
    errors = [0.5, 0.3, 0.4, 0.2, 0.6, 0.7, 0.8, 0.9, 1.0, 0.1, 0.1]
    asked = iter(errors)
    kept = []

    def next_error(decoder, pair):
        kept.append(decoder[1][0].weight.detach().clone())
        return next(asked)

    monkeypatch.setattr("genssl.evaluation.adhoc_decoder._mse", next_error)
    decoder, figures = adhoc_decoder(run)
    assert figures["epochs"] == 4
    assert figures["validation_mse"] == 0.2
    assert len(kept) == 4 + 5 + 1  # five without a better one, then the test
    assert torch.equal(decoder[1][0].weight, kept[3])
    assert not torch.equal(kept[8], kept[3])


def test_leaves_the_run_and_the_generators_bit_identical(tmp_path):
    run = fake_run(tmp_path)
    run.method.train()
    before = {name: value.clone() for name, value in run.method.state_dict().items()}
    generator = torch.get_rng_state()
    adhoc_decoder(run, epochs=2)
    assert all(torch.equal(value, before[name]) for name, value in run.method.state_dict().items())
    assert all(child.training for child in run.method.modules())
    assert all(parameter.grad is None for parameter in run.method.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_seeds(tmp_path):
    run = fake_run(tmp_path)
    one, first = adhoc_decoder(run, epochs=2)
    torch.manual_seed(123)
    with torch.no_grad():  # as within a measurement
        other, again = adhoc_decoder(run, epochs=2, seed=run.config["seed"])
    assert first == again
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert adhoc_decoder(run, epochs=2, seed=8)[1]["mse"] != first["mse"]


def test_limit_takes_items_evenly(tmp_path):
    run = run_with(Whole(), tmp_path)
    decoder, figures = adhoc_decoder(run, epochs=1, limit=40)
    assert figures["items"] == {"train": 40, "validation": 10, "test": 40}
    x = run.data.train.floats()[spaced(300, 40)].flatten(1)
    torch.testing.assert_close(decoder[0].mean, 100 * x.mean(0) - 7)


def test_vectors_have_no_sigmoid(tmp_path):
    splits = {}
    for seed, (name, size) in enumerate({"train": 400, "validation": 100, "test": 100}.items()):
        generator = torch.Generator().manual_seed(seed)
        splits[name] = Items(
            5 + torch.randn(size, 2, generator=generator) @ torch.tensor([[3.0, 1, 0, 2], [0, 1, 4, 1]])
        )
    _, figures = adhoc_decoder(run_with(Whole(), tmp_path, **splits))
    assert figures["mse"] < 0.2 * figures["baseline_mse"]


def test_uint8_and_colour_images_get_the_convolutional_decoder(tmp_path):
    splits = {name: images(0, 12, (3, 32, 32)) for name in ("train", "validation", "test")}
    splits["train"] = Items((255 * splits["train"].x).to(torch.uint8))
    decoder, figures = adhoc_decoder(run_with(Nothing(), tmp_path, **splits), epochs=1, limit=8)
    assert any(isinstance(part, nn.Conv2d) for part in decoder.modules())
    assert decoder(torch.zeros(2, 3)).shape == (2, 3, 32, 32)
    assert 0 < figures["mse"] < 1


def test_each_view_of_natural_groups_is_an_item(tmp_path):
    mask = torch.ones(30, 2, dtype=torch.bool)
    mask[0, 1] = False
    groups = Groups(images(0, 60).floats().unflatten(0, (30, 2)), mask)
    run = run_with(Whole(), tmp_path, train=groups, validation=groups, test=groups)
    assert adhoc_decoder(run, epochs=1)[1]["items"] == {"train": 59, "validation": 59, "test": 59}


def test_items_without_one_shape_give_a_reason(tmp_path):
    run = fake_run(tmp_path, validation=None)
    assert adhoc_decoder(run) == (None, {"reason": "the data have no validation items"})
    pairs = Groups([torch.rand(9, 4), torch.rand(9, 5)])
    decoder, figures = adhoc_decoder(run_with(Whole(), tmp_path, train=pairs, validation=pairs, test=pairs))
    assert decoder is None
    assert "several modalities" in figures["reason"]
    ids = Items(torch.randint(5, (20, 4)))
    decoder, figures = adhoc_decoder(run_with(Whole(), tmp_path, train=ids, validation=ids, test=ids))
    assert decoder is None
    assert "ids" in figures["reason"]


def test_standardised_by_training_and_dead_dimensions_are_zero():
    z = torch.randn(50, 3) * torch.tensor([1000.0, 1e-3, 1.0]) + 5
    z[:, 2] = 0.1
    layer = Standardised(z)
    out = layer(z)
    torch.testing.assert_close(out[:, :2].mean(0), torch.zeros(2), rtol=0, atol=1e-3)
    torch.testing.assert_close(out[:, :2].std(0, correction=0), torch.ones(2), rtol=1e-3, atol=0)
    assert out[:, 2].abs().max() == 0
    assert layer(z + 1)[:, 2].abs().max() == 0


def test_errors(tmp_path, monkeypatch):
    run = fake_run(tmp_path)
    with pytest.raises(SettingsError, match="epochs = 0"):
        adhoc_decoder(run, epochs=0)
    with pytest.raises(SettingsError, match="limit = 3"):
        adhoc_decoder(run, limit=3)
    monkeypatch.setattr("genssl.evaluation.adhoc_decoder._mse", lambda *_: float("nan"))
    with pytest.raises(NonFiniteError, match="decoder diverged"):
        adhoc_decoder(run, epochs=1)
    run.represent = lambda x: torch.full((len(x), 3), float("nan"))
    with pytest.raises(NonFiniteError, match="300 of 300 train representations"):
        adhoc_decoder(run)

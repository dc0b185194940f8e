"""Randomness is a function of (seed, stream, step): batches, weights, noise; and measuring changes no bit of a run."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from genssl.models import VAE, SimVAE
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import SMALL, Normed, fit, same, state
from torch import nn

import genssl
from genssl.datasets import Items, Stream
from genssl.errors import SettingsError
from genssl.evaluation import measuring
from genssl.fit.batches import Batches, first_groups
from genssl.fit.build import build
from genssl.fit.randomness import seed_weights

CPU = torch.device("cpu")


def test_same_seed_same_parameters_other_seed_others(tmp_path):
    runs = [fit(tmp_path / name, seed=seed, max_steps=4) for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    assert same(state(runs[0]), state(runs[1]))
    weights = [run.method.state_dict() for run in runs]
    assert not any(torch.equal(weights[0][key], weights[2][key]) for key in weights[0])


def test_generators_of_the_user_are_left_alone(tmp_path):
    def states():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    torch.manual_seed(7)
    before = states()
    fit(tmp_path / "run", max_steps=3, max_seconds=5)
    assert states() == before


def test_weights_are_shared_by_name():
    """The encoder of SimVAE and that of VAE start alike, whatever else the methods hold."""
    example = genssl.Groups(torch.rand(2, 2, 1, 8, 8))
    one, other = (build(cls, example, 5, SMALL).encoder.state_dict() for cls in (SimVAE, VAE))
    assert same(one, other)
    another = build(VAE, example, 6, SMALL).encoder.state_dict()
    assert not same(one, another)


class Target(nn.Module):
    """An encoder, an EMA copy of it, and a part that initialises its child itself."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
        self.zeroed = Zeroed()
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)


class Zeroed(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 4)
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.zeros_(self.last.weight)


def test_a_copy_stays_a_copy_and_a_parent_has_the_last_word():
    method = Target()
    before = copy.deepcopy(method.encoder.state_dict())
    seed_weights(method, 0)
    assert same(method.encoder.state_dict(), method.target.state_dict())
    assert not torch.equal(method.encoder[0].weight, before["0.weight"])
    assert not torch.equal(method.encoder[0].weight[:, :3], method.encoder[2].weight[:, :3])
    assert method.zeroed.last.weight.count_nonzero() == 0


class Pretrained(Normed):
    @classmethod
    def build(cls, example, **settings):
        made = super().build(example, **settings)
        nn.init.constant_(made.encoder[1].weight, 0.25)
        return made


def test_what_the_users_build_made_is_left_as_it_is():
    """It may have loaded weights; what it drew is still a function of the seed."""
    example = genssl.Groups(torch.rand(2, 2, 1, 8, 8))
    one, again, other = (build(Pretrained, example, seed, {}) for seed in (0, 0, 1))
    assert bool((one.encoder[1].weight == 0.25).all())
    assert same(one.state_dict(), again.state_dict())
    assert not torch.equal(one.decoder[0].weight, other.decoder[0].weight)


def collect(batches, first, last):
    return [(step, groups.x, groups.index, groups.label) for step, groups in batches.run(first, last)]


def jitter(x, index, generator):
    """Views that draw from their generator and, as torchvision's transforms do, from torch's default one."""
    return x + 0.1 * torch.rand(x.shape, generator=generator) + 0.1 * torch.rand_like(x)


class Numbered(torch.utils.data.Dataset):
    def __len__(self):
        return 23

    def __getitem__(self, index):
        return torch.rand(2) + index, index % 4


SPLITS = {
    "items": (Items(torch.rand(23, 2), torch.arange(23) % 4), 0),
    "stream": (Stream(Numbered()), 0),
    "stream, 2 workers": (Stream(Numbered()), 2),
    "groups": (genssl.Groups(torch.rand(23, 3, 2)), 0),
}


@pytest.mark.parametrize("kind", SPLITS)
def test_a_batch_is_a_function_of_the_step(kind):
    """From any point on, in any process, after anything else was drawn."""
    split, workers = SPLITS[kind]
    batches = Batches(split, jitter, 3, 5, 1, CPU, workers)
    whole = collect(batches, 0, 9)
    torch.rand(17)
    later = collect(Batches(split, jitter, 3, 5, 1, CPU, 0), 6, 9)
    assert [step for step, *_ in whole] == list(range(9))
    for one, other in zip(whole[6:], later, strict=True):
        assert same(one, other)
    assert same(batches.at(7).x, whole[7][1])
    assert not torch.equal(whole[0][2], whole[4][2])  # the next epoch has another order


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 40), batch=st.integers(1, 40), seed=st.integers(0, 3), epoch=st.integers(0, 3))
def test_an_epoch_takes_every_group_at_most_once(size, batch, seed, epoch):
    if batch > size:
        with pytest.raises(SettingsError, match="give a smaller --batch-size"):
            Batches(Items(torch.rand(size, 1)), None, 1, batch, seed, CPU)
        return
    batches = Batches(Items(torch.rand(size, 1)), None, 1, batch, seed, CPU)
    order = batches.order(epoch)
    rows = torch.cat(order)
    assert len(order) == batches.steps_per_epoch == size // batch
    assert {len(part) for part in order} == {batch}
    assert len(rows.unique()) == len(rows) == size - size % batch
    assert 0 <= int(rows.min()) <= int(rows.max()) < size


def test_plates_know_the_size_of_the_training_set():
    items = Items(torch.rand(23, 2))
    for split in (items, genssl.Groups(torch.rand(23, 3, 2))):
        assert {groups.total for _, groups in Batches(split, None, 3, 5, 0, CPU).run(0, 9)} == {23}
    groups = first_groups(items, 4, jitter, 3, 0, CPU)
    assert groups.x.shape == (4, 3, 2)
    assert torch.equal(groups.index, torch.arange(4))


@pytest.mark.parametrize("method", ["SimVAE", "Normed"])
def test_measuring_leaves_the_run_bit_identical(method, tmp_path):
    """Callbacks that encode, take terms and draw, and a validation split to follow: not one bit differs."""

    def go(out, **more):
        torch.manual_seed(1)
        made = Normed() if method == "Normed" else build(SimVAE, genssl.Groups(torch.rand(2, 2, 1, 8, 8)), 0, SMALL)
        return fit(out, made, precision="bf16", **({"callbacks": [lambda line: measure(made)]} if more else {}))

    x = torch.rand(7, 1, 8, 8)
    seen = []

    def measure(made):
        run = genssl.Run(tmp_path, {"precision": "bf16"}, made)
        seen.append(run.represent(x).sum())
        made.objective.terms(made.model, made.guide, genssl.Groups(torch.rand(4, 2, 1, 8, 8)))
        copy.deepcopy(made).encode(x)
        torch.randn(5)
        with measuring(made):
            made.encode(x).rsample()
        made.eval()

    plain, measured = go(tmp_path / "plain"), go(tmp_path / "measured", measure=True)
    assert len(seen) == len(measured.metrics) > 3
    assert [line["knn"] is None for line in measured.metrics][-1] is False
    assert same(state(plain), state(measured))
    unlabelled = Items(plain.data.train.x), Items(plain.data.validation.x)
    assert unlabelled[0].label is None
    from genssl.datasets import Data

    data = Data("digits", *unlabelled, views=plain.data.views)
    torch.manual_seed(1)
    made = Normed() if method == "Normed" else build(SimVAE, genssl.Groups(torch.rand(2, 2, 1, 8, 8)), 0, SMALL)
    blind = fit(tmp_path / "blind", made, data=data, precision="bf16")
    assert {line["knn"] for line in blind.metrics} == {None}
    assert same(state(plain), state(blind))


def test_random_encoder(tmp_path):
    """The initial weights; for an instance, fresh ones."""
    start = fit(tmp_path / "start", max_steps=0)
    run = fit(tmp_path / "run")
    assert same(run.random_encoder().state_dict(), start.method.state_dict())
    method = Normed()
    run = fit(tmp_path / "normed", method, max_steps=4)
    fresh = run.random_encoder()
    assert not any(
        torch.equal(a, b) for a, b in zip(fresh.encoder[1].parameters(), method.encoder[1].parameters(), strict=True)
    )
    assert bool((fresh.encoder[2].running_mean == 0).all())


def test_limit_takes_the_same_items_from_every_split(tmp_path):
    run = fit(tmp_path / "run", limit=40, batch_size=8, max_steps=1)
    assert {name: len(split) for name, split in run.data.splits()} == {"train": 40, "validation": 40, "test": 40}
    assert run.config["data_description"]["sizes"]["train"] == 40


def test_default_batch_size_never_exceeds_the_data(tmp_path):
    run = genssl.fit(
        "SimVAE", "digits", settings=SMALL, num_views=2, limit=40, max_steps=1, out=tmp_path / "run", progress=False
    )
    assert run.config["batch_size"] == 40
    assert run.config["steps_per_epoch"] == 1

"""Data and from_any: splits are disjoint, complete, fixed by the seed; every form of data; bad values are told."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_items import IMAGES, LABELS, Mapped, noisy
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from genssl import Groups
from genssl.datasets import Data, Items, Stream, from_any
from genssl.datasets import data as data_module
from genssl.errors import DataError, GensslError, SettingsError


def held(split):
    """The items of a split as a tensor, whichever it is."""
    if isinstance(split, Groups):
        return split.x
    return (
        split.x if isinstance(split, Items) else torch.cat([x for x, _, _ in split.batches([torch.arange(len(split))])])
    )


# ---------------------------------------------------------------------- splits


@settings(max_examples=60, deadline=None)
@given(size=st.integers(4, 300), seed=st.integers(0, 2**40), fraction=st.sampled_from([None, 0.0, 0.1, 0.33, 0.6]))
def test_splits_are_disjoint_complete_and_fixed_by_the_seed(size, seed, fraction):
    x = torch.arange(float(size))[:, None]
    data, again = (from_any((x, torch.arange(size)), seed=seed, validation=fraction) for _ in range(2))
    rows = [split.x.flatten().tolist() for _, split in data.splits()]
    assert sorted(row for part in rows for row in part) == x.flatten().tolist()
    assert all(rows)
    assert len(data.test) == max(1, round(size / 10))
    assert (data.validation is None) == (fraction == 0.0)
    assert data.validation is None or len(data.validation) == max(1, round((fraction or 0.1) * size))
    for name, split in data.splits():
        assert torch.equal(split.x.flatten().long(), split.label)
        assert torch.equal(split.x, getattr(again, name).x)


def test_another_seed_draws_others():
    first, other = (from_any(torch.arange(100.0)[:, None], seed=seed) for seed in (0, 1))
    assert not torch.equal(first.test.x, other.test.x)


def test_too_few_items_to_split():
    for data in (torch.zeros(2, 3), Groups(torch.zeros(2, 2, 3)), TensorDataset(torch.zeros(1, 3))):
        with pytest.raises(DataError, match="leave none for training beside 1 for validation and 1 for test"):
            from_any(data, seed=0)
    assert len(from_any(torch.zeros(2, 3), seed=0, validation=0.0).train) == 1


@pytest.mark.parametrize("validation", [-0.1, 0.9, 1, 5000, True, float("nan")])
def test_bad_fractions(validation):
    with pytest.raises(SettingsError, match="validation: fraction"):
        from_any(torch.zeros(20, 3), seed=0, validation=validation)


def test_given_validation_and_test_are_kept_whole():
    data = from_any((IMAGES, LABELS), seed=0, validation=(IMAGES[:4], LABELS[:4]), test=IMAGES[:2])
    assert (len(data.train), len(data.validation), len(data.test)) == (23, 4, 2)
    data = from_any(IMAGES, seed=0, validation=IMAGES[:4].numpy())
    assert (len(data.train), len(data.validation), len(data.test)) == (21, 4, 2)
    own = Data("own", Items(IMAGES))
    assert from_any(own, seed=0).validation is None
    assert len(from_any(own, seed=0, validation=0.2).validation) == 5
    with pytest.raises(SettingsError, match="has a validation split"):
        from_any(Data("own", Items(IMAGES), Items(IMAGES)), seed=0, validation=0.2)
    with pytest.raises(DataError, match="one event shape"):
        from_any(IMAGES, seed=0, validation=torch.zeros(4, 2))


# ---------------------------------------------------------------------- forms


@pytest.mark.parametrize(
    "form", ["tensor", "array", "pair", "tensor dataset", "dataset", "transform", "groups", "modalities"]
)
def test_every_form_of_data(form):
    dataset = Mapped(lambda i: (IMAGES[i], LABELS[i]))
    if form == "transform":
        dataset.transform = str
    data = from_any(
        {
            "tensor": IMAGES,
            "array": IMAGES.numpy(),
            "pair": (IMAGES.numpy(), LABELS.int().numpy()),
            "tensor dataset": TensorDataset(IMAGES, LABELS),
            "dataset": dataset,
            "transform": Subset(ConcatDataset([dataset]), range(23)),
            "groups": Groups(IMAGES[:, None], label=LABELS.int()),
            "modalities": Groups((IMAGES, torch.zeros(23, 2))),
        }[form],
        seed=0,
    )
    kinds = {"transform": Stream, "groups": Groups, "modalities": Groups}
    assert all(isinstance(split, kinds.get(form, Items)) for _, split in data.splits())
    assert data.describe()["sizes"] == {"train": 19, "validation": 2, "test": 2}
    assert data.describe()["dtype"] == ("float32" if form in ("groups", "modalities") else "uint8")
    example = data.example(3)
    assert len(example) == 2
    if form not in ("groups", "modalities"):
        assert tuple(example.x.shape) == (2, 3, 3, 6, 5)
        assert torch.equal(example.x[:, 0], example.x[:, 2])
    floats = example.x if isinstance(example.x, torch.Tensor) else example.x[0]
    assert floats.dtype == torch.float32
    assert 0.5 < floats.max() <= 1
    if data.train.__class__ is not Stream and form not in ("tensor", "array", "modalities"):
        assert data.train.label.dtype == torch.int64


def test_what_is_too_large_or_varies_is_a_stream(monkeypatch):
    dataset = Mapped(lambda i: IMAGES[i])
    assert isinstance(from_any(dataset, seed=0).train, Items)
    assert isinstance(from_any(Mapped(noisy), seed=0).train, Stream)
    monkeypatch.setattr(data_module, "MEMORY_LIMIT", IMAGES.nbytes - 1)
    streamed = from_any(dataset, seed=0)
    assert isinstance(streamed.train, Stream)
    monkeypatch.undo()
    for name, split in from_any(dataset, seed=0).splits():
        assert torch.equal(held(getattr(streamed, name)), split.floats())


@pytest.mark.parametrize("value", [None, 3, "mnist", [1, 2], {"x": 1}, (1,), (IMAGES, LABELS, LABELS), object()])
def test_other_things_are_told_what_is_accepted(value):
    with pytest.raises(DataError, match="expected Data, Groups, a tensor"):
        from_any(value, seed=0)


# ---------------------------------------------------------------------- values


@settings(max_examples=80, deadline=None)
@given(
    row=st.integers(0, 11),
    bad=st.sampled_from([float("nan"), float("inf"), -float("inf")]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    event=st.sampled_from([(4,), (2, 3), (1, 4, 4), (2, 1, 4, 4)]),
    place=st.integers(0, 100),
    form=st.sampled_from(["tensor", "array", "groups", "data", "dataset"]),
)
def test_a_value_that_is_not_finite_is_named_by_its_row(row, bad, dtype, event, place, form):
    x = torch.rand(12, *event).to(dtype)
    x.flatten(1)[row, place % x[0].numel()] = bad
    x.flatten(1)[min(row + 1, 11)] = torch.nan
    with pytest.raises(DataError, match=f"row {row} has NaN or inf"):
        from_any(
            {
                "tensor": x,
                "array": x if dtype == torch.bfloat16 else x.numpy(),
                "groups": Groups(x[:, None]),
                "data": Data("own", Items(x)),
                "dataset": Mapped(lambda i: x[i], size=12) if row else x,
            }[form],
            seed=0,
        )


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.linspace(0, 255, 32).reshape(2, 1, 4, 4), r"from 0 to 255, expected \[0, 1\]; divide by 255"),
        (torch.linspace(-1, 1, 32).reshape(2, 1, 4, 4), "from -1 to 1, .*scale"),
        (torch.full((2, 1, 4, 4), 1000.0), "scale"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.int64), "convert them to uint8"),
        (torch.zeros(2, 28, 28, 3), "channels last"),
        (torch.zeros(2, 28, 28, 1, dtype=torch.uint8), "channels last"),
    ],
)
def test_images_that_are_not_in_the_unit_interval_or_turned(x, message):
    for data in (x, Groups(x[:, None]), Data("own", Items(x))):
        with pytest.raises(DataError, match=message):
            from_any(data, seed=0)


def test_features_may_have_any_range():
    assert from_any(torch.randn(10, 5) * 1000, seed=0).train.x.abs().max() > 100


@settings(max_examples=100, deadline=None)
@given(
    shape=st.lists(st.integers(0, 6), max_size=4),
    dtype=st.sampled_from(["f4", "f8", "u1", "i8", "?", "c8", "O", "U3", "M8[s]", "u2"]),
    label=st.sampled_from([None, "right", "short", "floats", "text"]),
    seed=st.integers(0, 9),
)
def test_any_array_is_taken_or_refused_in_one_line(shape, dtype, label, seed):
    x = np.random.default_rng(seed).normal(0, 2, shape).astype("i8" if dtype[0] == "M" else "f8").astype(dtype)
    size = shape[0] if shape else 0
    labels = {
        "right": np.arange(size),
        "short": np.arange(size + 1),
        "floats": np.full(size, 0.5),
        "text": ["a"] * size,
    }
    try:
        data = from_any(x if label is None else (x, labels[label]), seed=0)
    except GensslError as error:
        assert "\n" not in str(error)  # noqa: PT017  (either outcome is right)
    else:
        assert sum(len(split) for _, split in data.splits()) == size >= 3
        assert label in (None, "right")
        assert dtype not in ("c8", "O", "U3", "M8[s]")
        for _, split in data.splits():
            assert split.floats().isfinite().all()


# ---------------------------------------------------------------------- Data


def test_data_refuses_splits_that_do_not_fit():
    with pytest.raises(DataError, match="train is NoneType"):
        Data("own", None)
    with pytest.raises(DataError, match="validation is Tensor"):
        Data("own", Items(IMAGES), IMAGES)
    with pytest.raises(DataError, match="one event shape"):
        Data("own", Items(IMAGES), test=Items(torch.zeros(2, 2)))
    with pytest.raises(DataError, match="one event shape"):
        Data("own", Items(IMAGES), test=Groups(IMAGES[:, None]))


def test_limit_keeps_order_and_classes():
    x, label = torch.arange(100.0)[:, None], torch.arange(100) // 10
    data = Data("own", Items(x, label), test=Items(x[:5]), notes="exact").limit(30)
    assert len(data.train) == 30
    assert len(data.test) == 5
    assert data.train.x.flatten().tolist() == sorted(data.train.x.flatten().tolist())
    assert len(data.train.label.unique()) >= 8
    assert data.notes == "exact; limited to 30 of train 100, test 5"
    groups = Data("own", Groups(x[:, None])).limit(3)
    assert len(groups.train) == 3
    with pytest.raises(SettingsError, match="limit: 0"):
        data.limit(0)


def test_to_moves_items_as_stored():
    data = Data("own", Items(IMAGES, LABELS), Items(IMAGES[:3])).to("meta")
    assert data.train.x.device.type == data.train.label.device.type == data.validation.x.device.type == "meta"
    assert data.train.x.dtype == torch.uint8
    stream = Data("own", Stream(TensorDataset(IMAGES))).to("meta").train
    assert next(stream.batches([torch.arange(2)]))[0].device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_no_batch_waits(monkeypatch):
    data = Data("own", Items(IMAGES, LABELS)).to("cuda")
    order = list(torch.randperm(23).split(5))
    expected = list(Items(IMAGES, LABELS).batches(order))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(data.train.batches(order))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for batch, wanted in zip(batches, expected, strict=True):
        for a, b in zip(batch, wanted, strict=True):
            torch.testing.assert_close(a.cpu(), b)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (IMAGES.nbytes, IMAGES.nbytes))
    assert Data("own", Items(IMAGES)).to("cuda").train.x.device.type == "cpu"


def test_images_get_views_and_features_none():
    from genssl import views

    assert from_any(torch.rand(40, 1, 8, 8), seed=0).views == views.images()
    assert from_any(torch.rand(40, 8), seed=0).views is None
    with pytest.raises(DataError, match="without a channel"):
        from_any(torch.zeros(40, 8, 8, dtype=torch.uint8), seed=0)

"""Items and Stream: one result from memory and through a DataLoader, in the order asked, for any number of workers."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from genssl.datasets import Items, Stream
from genssl.errors import DataError

IMAGES = torch.randint(0, 256, (23, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(23) % 4


class Mapped(Dataset):
    """Items made by a function of the index."""

    def __init__(self, function, size=23):
        self.function, self.size = function, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return self.function(index)


def orders(size, batch, seed=0):
    return list(torch.randperm(size, generator=torch.Generator().manual_seed(seed)).split(batch))


def assert_same(ones, others):
    ones, others = list(ones), list(others)
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        for a, b in zip(one, other, strict=True):
            assert (a is None and b is None) or (a.dtype == b.dtype and torch.equal(a, b))


# ---------------------------------------------------------------------- Items


def test_floats_are_v_over_255_and_ids_stay():
    items = Items(IMAGES, LABELS)
    expected = torch.tensor(IMAGES.numpy() / 255, dtype=torch.float32)
    assert items.x.dtype == torch.uint8
    assert torch.equal(items.floats(), expected)
    assert torch.equal(items.floats(slice(3, 9)), expected[3:9])
    assert torch.equal(items.floats(torch.tensor([4, 4, 0])), expected[[4, 4, 0]])
    assert Items(torch.tensor([[1, 300]])).floats().dtype == torch.int64
    assert Items(torch.tensor([[1.0]], dtype=torch.float16)).floats().dtype == torch.float32
    assert torch.equal(Items(torch.tensor([[True, False]])).floats(), torch.tensor([[1.0, 0.0]]))


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 30), seed=st.integers(0, 99), labelled=st.booleans())
def test_batches_are_the_items_in_the_order_asked(batch, seed, labelled):
    items = Items(IMAGES, LABELS if labelled else None)
    order = orders(23, batch, seed)
    for (x, label, index), rows in zip(items.batches(order), order, strict=True):
        assert torch.equal(index, rows)
        assert torch.equal(x, IMAGES[rows].float() / 255)
        assert (label is None) != labelled
        assert label is None or torch.equal(label, LABELS[rows])
    assert list(items.batches([])) == []


def test_subset_keeps_rows_together():
    items = Items(IMAGES, LABELS, style=torch.arange(23.0)[:, None], style_names=["row"], style_kinds=["continuous"])
    index = torch.tensor([5, 2])
    part = items.subset(index)
    assert torch.equal(part.x, IMAGES[index])
    assert torch.equal(part.label, LABELS[index])
    assert part.style.flatten().tolist() == [5, 2]
    assert part.style_names == ("row",)
    assert len(items) == 23


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(5),), r"shape \[5\]"),
        ((torch.zeros(0, 3),), r"shape \[0, 3\]"),
        ((torch.zeros(5, 0),), r"shape \[5, 0\]"),
        ((torch.zeros(5, 2), torch.zeros(4)), r"expected \[5\]"),
        ((torch.zeros(5, 2), torch.zeros(5, 1)), r"expected \[5\]"),
        ((torch.zeros(2, 2), torch.tensor([0.0, 0.5])), "label 1 is 0.5"),
        ((torch.zeros(2, 2), torch.tensor([0.0, torch.nan])), "label 1 is nan"),
        ((torch.zeros(2, 2), np.array(["cat", "dog"])), "expected integers"),
        ((torch.zeros(2, 2, dtype=torch.complex64),), "complex"),
        ((torch.zeros(2, 2).to_sparse(),), "sparse"),
        ((np.array([{}, {}]),), "object"),
        (([[1, 2], [3]],), "same shape"),
        (("text",), "expected integers or floats"),
        ((None,), "expected integers or floats"),
        ((torch.zeros(2, 2), None, torch.zeros(3, 1)), "style"),
    ],
)
def test_bad_items(arguments, message):
    with pytest.raises(DataError, match=message) as caught:
        Items(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["u1", "i1", ">i2", "u2", "<u4", "u8", "i8", "?", ">f4", "f2", "f8"])
def test_any_numpy_array_keeps_its_values(dtype):
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    array.setflags(write=False)
    for each in (array, array[:, ::-1], np.asfortranarray(array)):
        values = Items(each).x.double() / (255 if dtype == "?" else 1)
        assert values.tolist() == each.astype(float).tolist()


# ---------------------------------------------------------------------- Stream


FORMS = {
    "pil": lambda i: (Image.fromarray(IMAGES[i].permute(1, 2, 0).numpy()), int(LABELS[i])),
    "array": lambda i: (IMAGES[i].numpy(), LABELS[i].numpy()),
    "tensor": lambda i: [IMAGES[i], LABELS[i]],
    "floats": lambda i: (IMAGES[i].float() / 255, LABELS[i].item()),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_the_dataloader_path_gives_what_memory_gives(form):
    order = orders(23, 5)
    stream = Stream(Mapped(FORMS[form]))
    assert stream.event_shape == (3, 6, 5)
    assert_same(stream.batches(order), Items(IMAGES, LABELS).batches(order))
    held = stream.materialise()
    assert held.x.dtype == (torch.float32 if form == "floats" else torch.uint8)
    assert_same(held.batches(order), Items(IMAGES, LABELS).batches(order))
    assert len(stream.materialise(limit=7)) == 7


def test_without_labels_and_with_subsets():
    stream = Stream(TensorDataset(IMAGES)).subset(torch.arange(3, 23)).subset(slice(0, 10, 2))
    expected = Items(IMAGES[3:13:2])
    order = orders(5, 2)
    assert_same(stream.batches(order), expected.batches(order))
    assert torch.equal(stream.materialise().x, expected.x)


def test_style_of_a_stream_follows_its_items():
    style = torch.stack([torch.arange(23.0), torch.arange(23.0) % 2], 1)
    names, kinds = ["row", "odd"], ["continuous", "categorical"]
    stream = Stream(TensorDataset(IMAGES), style=style, style_names=names, style_kinds=kinds)
    part = stream.subset(torch.tensor([5, 2, 9])).to("cpu").subset(slice(1, None))
    assert part.rows.tolist() == part.style[:, 0].tolist() == [2, 9]
    held = part.materialise(limit=1)
    assert torch.equal(held.x, IMAGES[2:3])
    assert torch.equal(held.style, style[2:3])
    assert (held.style_names, held.style_kinds) == (("row", "odd"), ("continuous", "categorical"))
    assert Stream(TensorDataset(IMAGES)).style is Stream(TensorDataset(IMAGES)).style_names is None
    with pytest.raises(DataError, match=r"style: shape \[22, 2\], expected \[23, S\]"):
        Stream(TensorDataset(IMAGES), style=style[1:])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA"])
def test_images_of_every_mode(mode):
    image = Image.fromarray(IMAGES[0].permute(1, 2, 0).numpy()).convert(mode)
    x = Stream(Mapped(lambda i: image)).materialise(1).x[0]
    channels = {"1": "L", "L": "L", "RGBA": "RGBA"}.get(mode, "RGB")
    expected = np.asarray(image.convert(channels)).reshape(6, 5, -1)
    assert x.dtype == torch.uint8
    assert torch.equal(x, torch.from_numpy(expected.copy()).permute(2, 0, 1))


def noisy(index):
    """An item that draws from every generator that a transform may use."""
    return torch.stack([torch.rand(()), torch.tensor(random.random()), torch.tensor(np.random.rand())]).float(), index  # noqa: NPY002


def test_randomness_of_items_is_a_function_of_seed_and_index():
    stream = Stream(Mapped(noisy))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    order = orders(23, 6)
    first = torch.cat([x for x, _, _ in stream.batches(order, seed=1)])
    again = torch.cat([x for x, _, _ in stream.batches(list(torch.arange(23).split(4)), seed=1)])
    other = torch.cat([x for x, _, _ in stream.batches(order, seed=2)])
    assert torch.equal(first, again[torch.cat(order)])
    assert (first != other).all()
    assert len(first.unique()) > 60, "items draw differently from each other, in all three generators"
    torch.manual_seed(1)
    assert torch.equal(torch.cat([x for x, _, _ in stream.batches(order)]), first)
    torch.set_rng_state(states[0])
    Stream(Mapped(noisy)).materialise()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()  # noqa: NPY002


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_change_nothing():
    order = orders(23, 4)
    stream = Stream(Mapped(noisy))
    assert_same(stream.batches(order, num_workers=2, seed=3), stream.batches(order, seed=3))
    broken = Stream(Mapped(lambda i: torch.full((2,), torch.nan if i == 9 else 0.0)))
    with pytest.raises(DataError, match="row 9 has NaN") as caught:
        list(broken.batches(order, num_workers=1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (lambda i: torch.zeros(3 if i == 4 else 2), r"item 4: \[3\]"),
        (lambda i: torch.zeros(2, dtype=torch.float64 if i == 4 else torch.float32), "item 4: .*float64"),
        (lambda i: (torch.zeros(2), None if i == 4 else 1), "item 4: no label"),
        (lambda i: (torch.zeros(2), 1) if i == 4 else torch.zeros(2), "item 4: a label"),
        (lambda i: (torch.zeros(2), 0.5 if i == 4 else 1), "item 4: label 0 is 0.5"),
        (lambda i: (torch.zeros(2), "cat" if i == 4 else 1), "item 4: label 'cat'"),
        (lambda i: torch.full((2,), torch.inf if i == 4 else 0.0), "row 4 has NaN or inf"),
        (lambda i: torch.full((1, 3, 3), 255.0 if i == 4 else 0.0), "divide by 255"),
    ],
)
def test_bad_items_of_a_dataset_are_named(item, message):
    stream = Stream(Mapped(item, size=6)).subset(slice(1, None))
    with pytest.raises(DataError, match=message) as caught:
        list(stream.batches([torch.arange(5)]))
    assert "\n" not in str(caught.value)


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(2)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Endless(), "map-style"),
        (Mapped(lambda i: torch.zeros(2), size=0), "no items"),
        (Mapped(lambda i: {"x": 1}), "dict"),
        (Mapped(lambda i: (torch.zeros(2), 1, 2)), "a tuple of 3"),
        (Mapped(lambda i: 1 / 0), "item 0 failed with ZeroDivisionError"),
        (Mapped(lambda i: torch.zeros(0)), r"shape \[0\]"),
        (Mapped(lambda i: Image.new("I;16", (2, 2))), "I;16"),
    ],
)
def test_bad_datasets(dataset, message):
    with pytest.raises(DataError, match=message):
        Stream(dataset)

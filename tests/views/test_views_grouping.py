"""make_groups: every form that a user's views may have, and what is said of any other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from genssl.datasets.torchvision_shim import ensure_torchvision
from genssl.errors import SettingsError, ShapeError
from genssl.groups import Groups
from genssl.views import Compose, Geometric, Identity, PerImage, make_groups

ensure_torchvision()

import torchvision.transforms as T  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

G, INDEX, LABEL = 6, torch.arange(6) + 40, torch.arange(6) % 3
EVENTS = pytest.mark.parametrize("event", [(5,), (1, 8, 8), (2, 3, 4, 5)])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def items(*event):
    return torch.rand(G, *event, generator=seeded(1))


def make(x, views, num_views=3, seed=0):
    groups = make_groups(x, INDEX, LABEL, views, num_views, seeded(seed))
    assert isinstance(groups, Groups)
    assert groups.x.shape[:2] == (G, num_views)
    assert torch.equal(groups.index, INDEX)
    assert torch.equal(groups.label, LABEL)
    assert torch.equal(groups.source, x)
    return groups


@EVENTS
@pytest.mark.parametrize("num_views", [1, 3])
@pytest.mark.parametrize("views", [None, Identity()])
def test_none_and_identity_make_copies(event, num_views, views):
    x = items(*event)
    groups = make(x, views, num_views)
    assert torch.equal(groups.x, x[:, None].expand(-1, num_views, *event))
    assert groups.style is groups.style_names is groups.style_kinds is None


@pytest.mark.parametrize("num_views", [1, 4])
def test_a_transform_is_called_once_on_all_rows(num_views):
    x, calls = items(1, 8, 8), []

    class Counted(Geometric):
        def __call__(self, x, index, generator):
            calls.append(index)
            return super().__call__(x, index, generator)

    transform = Counted(crop_scale=(0.4, 1.0), rotate=10)
    groups = make(x, transform, num_views)
    assert [index.tolist() for index in calls] == [[i for i in INDEX.tolist() for _ in range(num_views)]]
    assert groups.style_names == transform.style_names
    assert groups.style_kinds == transform.style_kinds
    for j in range(num_views):  # view j of item g has style j of item g
        expected = transform.apply(x, groups.style[:, j])
        torch.testing.assert_close(groups.x[:, j], expected, atol=1e-6, rtol=0)
    assert len({tuple(row) for row in groups.style.flatten(0, 1).tolist()}) == G * num_views


def test_transforms_may_change_the_size_and_lack_an_index():
    groups = make_groups(items(1, 8, 8), None, None, Compose(Geometric(rotate=5), Geometric(size=(4, 6))), 2, seeded())
    assert groups.x.shape == (G, 2, 1, 4, 6)
    assert groups.style_names == ("rotate",)
    assert groups.label is None
    assert torch.equal(groups.index, torch.arange(G))


def test_per_image_transforms_of_torchvision():
    groups = make(items(1, 8, 8), PerImage(T.RandomResizedCrop(6)), 2)
    assert groups.x.shape == (G, 2, 1, 6, 6)
    assert groups.style is None
    assert not torch.equal(groups.x[:, 0], groups.x[:, 1])


def noise(x, generator):
    return torch.rand(x.shape, generator=generator)


@EVENTS
@pytest.mark.parametrize("num_views", [1, 3])
def test_one_view_a_call_is_called_for_every_view(event, num_views):
    x, generator, calls = items(*event), seeded(), []

    def jitter(x, index, generator):
        calls.append(index)
        return x + noise(x, generator)

    groups = make(x, jitter, num_views)
    assert len(calls) == num_views
    assert all(torch.equal(index, INDEX) for index in calls)
    for j in range(num_views):
        assert torch.equal(groups.x[:, j], x + noise(x, generator))


@EVENTS
@pytest.mark.parametrize("num_views", [1, 3])
def test_all_views_in_one_call(event, num_views):
    x = items(*event)
    groups = make(x, lambda x, index, generator: torch.stack([x * j for j in range(num_views)], 1), num_views)
    assert torch.equal(groups.x, torch.stack([x * j for j in range(num_views)], 1))


@EVENTS
def test_views_with_style(event):
    x = items(*event)

    def one(x, index, generator):
        gain = torch.rand(G, 2, generator=generator)
        return x * gain[:, :1].reshape(-1, *[1] * len(event)), gain

    groups, generator = make(x, one), seeded()
    expected = [one(x, INDEX, generator) for _ in range(3)]
    assert torch.equal(groups.x, torch.stack([view for view, _ in expected], 1))
    assert torch.equal(groups.style, torch.stack([style for _, style in expected], 1))

    every = torch.rand(G, 3, 4)
    groups = make(x, lambda x, index, generator: (x[:, None].expand(-1, 3, *event), every))
    assert torch.equal(groups.style, every)


def test_the_views_may_have_another_size_than_the_items():
    assert make(items(1, 8, 8), lambda x, index, generator: x[..., :4, :5]).x.shape == (G, 3, 1, 4, 5)
    assert make(items(5), lambda x, index, generator: x[:, None, :2].expand(-1, 3, 2)).x.shape == (G, 3, 2)


def test_a_module_may_be_the_views():
    class Jitter(nn.Module):
        def forward(self, x, index, generator):
            return x + noise(x, generator)

    assert make(items(5), Jitter()).x.shape == (G, 3, 5)


def test_groups_are_used_as_they_are():
    x = items(5)
    mask = torch.tensor([[True, True], [True, False]]).repeat(3, 1)
    own = Groups(torch.rand(G, 2, 5), mask=mask, index=INDEX + 1)
    groups = make_groups(x, INDEX, LABEL, lambda x, index, generator: own, 7, seeded())
    assert torch.equal(groups.x, own.x)
    assert torch.equal(groups.mask, mask)
    assert torch.equal(groups.index, INDEX + 1)
    assert torch.equal(groups.label, LABEL)
    assert torch.equal(groups.source, x)
    assert own.label is own.source is None  # the user's object is not written to
    labelled = Groups(torch.rand(G, 2, 5), label=LABEL + 5)
    groups = make_groups(x, INDEX, LABEL, lambda x, index, generator: labelled, 2, seeded())
    assert torch.equal(groups.label, LABEL + 5)
    other = make_groups(x, INDEX, LABEL, lambda x, index, generator: Groups(torch.rand(4, 2, 5)), 2, seeded())
    assert other.label is other.source is None  # other groups than the items


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 4), num_views=st.integers(1, 4), event=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_the_form_is_told_by_dimensions_even_where_sizes_agree(size, num_views, event):
    x = torch.rand(size, *event)
    for views in (lambda x, i, g: x, lambda x, i, g: x[:, None].expand(-1, num_views, *event)):
        groups = make_groups(x, torch.arange(size), None, views, num_views, seeded())
        assert torch.equal(groups.x, x[:, None].expand(-1, num_views, *event))


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (lambda x: [x, x, x], r"a list of a tensor \[6, 5\], .* torch.stack"),
        (lambda x: (x, x, x), r"a tuple of a tensor \[6, 5\], .* torch.stack"),
        (lambda x: None, "a NoneType"),
        (lambda x: x[:4], r"a tensor \[4, 5\], expected a tensor \[6, 3, 5\], or one view \[6, 5\]"),
        (lambda x: x[:, None].expand(-1, 2, 5), r"a tensor \[6, 2, 5\]"),
        (lambda x: x.sum(), r"a tensor \[\]"),
        (lambda x: (x, x[:, 0]), r"a tuple of a tensor \[6, 5\], a tensor \[6\]"),
        (lambda x: (x[:, None].expand(-1, 3, 5), x), r"a tensor \[6, 3, 5\], a tensor \[6, 5\]"),
        (lambda x: (x, {"gain": 1}), "a dict"),
        (lambda x: x.numpy(), "a ndarray"),
    ],
)
def test_other_results_are_described(result, said):
    with pytest.raises(ShapeError, match=f"^views returned .*{said}") as told:
        make(items(5), lambda x, index, generator: result(x))
    assert "\n" not in str(told.value)


def test_a_form_that_changes_between_calls_is_an_error():
    results = iter([items(5), (items(5), torch.zeros(G, 1)), items(5)])
    with pytest.raises(ShapeError, match="same form every time"):
        make(items(5), lambda x, index, generator: next(results))


def test_a_transform_that_breaks_its_promise_is_an_error():
    class Broken(Identity):
        style_names = ("gain",)

    with pytest.raises(ShapeError, match=r"\(Broken\) returned .*\[18, 0\], expected .* style \[18, 1\]"):
        make(items(1, 8, 8), Broken())


def test_what_cannot_be_called_so_is_named():
    x = items(1, 8, 8)
    for transform in (lambda image: image, T.RandomVerticalFlip(), T.Compose([T.RandomVerticalFlip()])):
        with pytest.raises(SettingsError, match=r"does not take the arguments \(x, index, generator\); .* PerImage"):
            make(x, transform)
    with pytest.raises(ShapeError, match="PerImage"):  # takes anything
        make(x, v2.RandomVerticalFlip())
    with pytest.raises(SettingsError, match="views is a str"):
        make(x, "crop")
    with pytest.raises(SettingsError, match="num_views is 0"):
        make(x, None, 0)


def test_a_type_error_inside_the_callable_stays_its_own():
    with pytest.raises(TypeError, match="unsupported operand"):
        make(items(5), lambda x, index, generator: x + "noise")

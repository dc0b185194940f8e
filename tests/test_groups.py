"""Groups: construction, ragged data, natural groups, collation, plates, and bad input."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from genssl import Groups
from genssl.errors import DataError, ShapeError


def test_fields_and_subset():
    x = torch.rand(6, 3, 1, 4, 4)
    groups = Groups(x, label=torch.arange(6), style=torch.rand(6, 3, 2), source=x[:, 0], style_names=("a", "b"))
    assert (len(groups), groups.num_views, groups.event_shape, groups.total) == (6, 3, (1, 4, 4), 6)
    assert groups.view_labels.tolist() == [[k] * 3 for k in range(6)]
    part = groups[torch.tensor([4, 1])]
    assert part.label.tolist() == [4, 1]
    assert part.index.tolist() == [4, 1]
    assert part.total == 2
    assert torch.equal(part.source, x[[4, 1], 0])
    assert groups[1:3].x.shape == (2, 3, 1, 4, 4)
    assert groups.to("cpu").total == 6
    assert "6 groups x 3 views" in repr(groups)


def test_padding_is_zeroed_whatever_was_in_it():
    x = torch.full((2, 3, 4), float("nan"))
    mask = torch.tensor([[True, False, True], [True, True, False]])
    x[mask] = 1.0
    groups = Groups(x, mask=mask)
    assert groups.x[~mask].abs().max() == 0
    assert groups.x[mask].min() == 1
    assert groups.count.tolist() == [2, 2]


def test_map_never_shows_padding_to_a_network():
    mask = torch.tensor([[True, False, True], [True, True, True]])
    groups = Groups(torch.randn(2, 3, 4), mask=mask)
    norm = nn.BatchNorm1d(4, momentum=1.0)
    out = groups.map(norm)
    assert out.shape == (2, 3, 4)
    assert out[~mask].abs().max() == 0
    torch.testing.assert_close(norm.running_mean, groups.x[mask].mean(0))
    torch.testing.assert_close(groups.unpack(groups.pack(groups.x)), groups.x)


def test_valid_is_there_with_and_without_a_mask():
    mask = torch.tensor([[True, False], [True, True]])
    assert torch.equal(Groups(torch.rand(2, 2, 4), mask=mask).valid, mask)
    assert Groups(torch.rand(2, 2, 4)).valid.all()


def test_modalities():
    groups = Groups((torch.rand(5, 3), torch.rand(5, 1, 8, 8)), mask=torch.tensor([[True, True]] * 4 + [[True, False]]))
    assert groups.num_views == 2
    assert groups.event_shape == ((3,), (1, 8, 8))
    assert groups.x[1][4].abs().max() == 0
    assert [part.shape[0] for part in groups[:2].x] == [2, 2]
    with pytest.raises(ShapeError, match="modalities"):
        groups.map(nn.Identity())
    with pytest.raises(ShapeError, match="same number"):
        Groups((torch.rand(5, 3), torch.rand(4, 3)))


@settings(deadline=None, max_examples=60)
@given(keys=st.lists(st.integers(-3, 6), min_size=1, max_size=40), views=st.none() | st.integers(1, 5))
def test_by_key_loses_and_mixes_nothing(keys, views):
    x = torch.arange(len(keys), dtype=torch.float32)[:, None] + 1
    groups = Groups.by_key(x, torch.tensor(keys), views, label=torch.tensor(keys))
    mask = groups.mask if groups.mask is not None else torch.ones(len(groups), groups.num_views, dtype=torch.bool)
    rows = (groups.x[..., 0][mask] - 1).long()
    assert sorted(rows.tolist()) == list(range(len(keys)))
    of_rows = torch.tensor(keys)
    uniques = sorted(set(keys))
    for g in range(len(groups)):
        members = (groups.x[g, :, 0][mask[g]] - 1).long()
        assert len({keys[int(r)] for r in members}) == 1
        assert members.tolist() == sorted(members.tolist())
        assert uniques[int(groups.index[g])] == int(of_rows[members[0]])
        assert int(groups.view_labels[g][mask[g]][0]) == int(of_rows[members[0]])
    assert groups.num_views == (views or max(keys.count(k) for k in keys))


def test_collate_pads_the_shorter():
    parts = [Groups(torch.rand(2, 3, 4), label=torch.zeros(2)), Groups(torch.rand(1, 1, 4), label=torch.ones(1))]
    joined = Groups.collate(parts)
    assert joined.x.shape == (3, 3, 4)
    assert joined.mask.tolist() == [[True] * 3, [True] * 3, [True, False, False]]
    assert joined.label.tolist() == [0, 0, 1]
    same = Groups.collate([parts[0], parts[0]])
    assert same.mask is None
    with pytest.raises(DataError, match="label"):
        Groups.collate([parts[0], Groups(torch.rand(2, 3, 4))])
    with pytest.raises(DataError, match="nothing"):
        Groups.collate([])


def test_plates():
    groups = Groups(torch.rand(4, 3, 2))
    groups.total = 40
    with pyro.poutine.trace() as trace, groups.plate:
        pyro.sample("joint", dist.Normal(torch.zeros(4, 3, 2), 1).to_event(2))
    assert trace.trace.nodes["joint"]["scale"] == 10
    assert [(f.name, f.dim) for f in trace.trace.nodes["joint"]["cond_indep_stack"]] == [("groups", -1)]
    with pyro.poutine.trace() as trace:
        outer, inner = groups.plates
        with outer:
            pyro.sample("y", dist.Normal(torch.zeros(4, 1, 2), 1).to_event(1))
            with inner:
                pyro.sample("z", dist.Normal(torch.zeros(4, 3, 2), 1).to_event(1))
    nodes = trace.trace.nodes
    assert nodes["y"]["scale"] == 10
    assert nodes["y"]["value"].shape == (4, 1, 2)
    assert {f.name: (f.dim, f.size) for f in nodes["z"]["cond_indep_stack"]} == {"groups": (-2, 4), "views": (-1, 3)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.rand(3)}, "expected \\[G, J"),
        ({"x": torch.rand(0, 2, 3)}, "at least one group"),
        ({"x": torch.rand(3, 0, 3)}, "at least one group"),
        ({"x": torch.rand(3, 2, 3), "mask": torch.ones(3, 3, dtype=torch.bool)}, "mask has shape"),
        ({"x": torch.rand(3, 2, 3), "mask": torch.ones(3, 2)}, "torch.bool"),
        (
            {"x": torch.rand(3, 2, 3), "mask": torch.tensor([[True, True], [False, False], [True, True]])},
            "group 1 has no view",
        ),
        ({"x": torch.rand(3, 2, 3), "label": torch.zeros(4)}, "label has shape \\[4\\]"),
        ({"x": torch.rand(3, 2, 3), "index": torch.zeros(2)}, "index has shape"),
        ({"x": torch.rand(3, 2, 3), "style": torch.zeros(3, 2)}, "style has shape"),
        ({"x": torch.rand(3, 2, 3), "source": torch.zeros(2, 3)}, "source has 2"),
        ({"x": torch.rand(3, 2, 3), "style_names": ["a"]}, "no style"),
        ({"x": torch.rand(3, 2, 3), "style": torch.zeros(3, 2, 1), "style_names": ["a", "b"]}, "1 style factors"),
        ({"x": torch.rand(3, 2, 3), "style": torch.zeros(3, 2, 1), "style_kinds": ["wavy"]}, "wavy"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises((ShapeError, DataError), match=message) as error:
        Groups(**arguments)
    assert "\n" not in str(error.value)


def test_by_key_bad_input():
    with pytest.raises(ShapeError, match="one key for each row"):
        Groups.by_key(torch.rand(3, 2), torch.zeros(4))
    with pytest.raises(DataError, match="no rows"):
        Groups.by_key(torch.rand(0, 2), torch.zeros(0))
    with pytest.raises(DataError, match="num_views"):
        Groups.by_key(torch.rand(3, 2), torch.zeros(3), 0)

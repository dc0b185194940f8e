"""The t-SNE map: near points stay near, and it is placed once."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from genssl.report import neighbours


@pytest.fixture
def z():
    generator = torch.Generator().manual_seed(0)
    centres = 20 * torch.randn(6, 5, generator=generator)
    return centres.repeat_interleave(40, 0) + torch.randn(240, 5, generator=generator), torch.arange(
        6
    ).repeat_interleave(40)


def test_points_of_a_cluster_stay_together(z, tmp_path):
    points, rows = neighbours.placed(z[0], tmp_path)
    assert rows.tolist() == list(range(240))
    near = NearestNeighbors(n_neighbors=6).fit(points).kneighbors(return_distance=False)[:, 1:]
    assert (z[1].numpy()[near] == z[1].numpy()[:, None]).all()


def test_placed_once_while_z_is_the_same(z, tmp_path, monkeypatch):
    first, _ = neighbours.placed(z[0], tmp_path)
    calls = []
    monkeypatch.setattr(neighbours, "tsne", lambda points: calls.append(1) or np.zeros((len(points), 2)))
    again, _ = neighbours.placed(z[0].clone(), tmp_path)
    np.testing.assert_allclose(again, first, atol=1e-4)
    assert not calls
    neighbours.placed(z[0] + 1e-3, tmp_path)
    (tmp_path / "evaluation" / "neighbours.json").write_text('{"key": "')  # cut short
    neighbours.placed(z[0] + 1e-3, tmp_path)
    assert len(calls) == 2


def test_many_points_are_thinned_evenly(monkeypatch, tmp_path):
    monkeypatch.setattr(neighbours, "tsne", lambda points: points[:, :2])
    _, rows = neighbours.placed(torch.randn(5000, 3), tmp_path)
    assert len(rows) == 2000
    assert rows[0] == 0
    assert rows[-1] >= 4990
    assert int(rows.diff().max()) <= 3

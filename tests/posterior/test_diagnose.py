"""k-hat is ArviZ's, bounds grow with K, and what cannot be trusted is not shown."""

from __future__ import annotations

import numpy as np
import pytest
import xarray
from arviz_stats.base import array_stats
from scipy.special import logsumexp

from genssl.errors import SettingsError
from genssl.posterior import diagnose


def tree_of(log_weight):
    weights = xarray.Dataset(
        {"log_weight": (("sample", "group"), log_weight)}, coords={"group": np.arange(log_weight.shape[1])}
    )
    return xarray.DataTree.from_dict({"/sample_stats": weights})


def test_light_tails_are_trusted_and_heavy_ones_are_not():
    rng = np.random.default_rng(0)
    light = 0.3 * rng.normal(size=(400, 3))
    heavy = 1.5 * rng.exponential(size=(400, 3))  # weights exp(1.5 e): Pareto of shape 1.5
    found = diagnose(tree_of(np.concatenate([light, heavy], 1)))
    assert (found["pareto_k"][:3] < 0.5).all()
    assert (abs(found["pareto_k"][3:] - 1.5) < 0.5).all()
    assert found["trusted"].values.tolist() == [True] * 3 + [False] * 3
    assert np.isnan(found["importance_weighted"].values[:, 3:]).all()
    expected = array_stats.psislw(-light.T, r_eff=1.0, axis=-1)[1]
    assert np.array_equal(found["pareto_k"].values[:3], expected)


def test_bounds_and_effective_samples_are_those_of_the_definition():
    weight = np.random.default_rng(1).normal(size=(64, 2))
    found = diagnose(tree_of(weight))
    bounds = found["importance_weighted"]
    assert bounds["num_draws"].values.tolist() == [1, 2, 4, 8, 16, 32, 64]
    shown = found["trusted"].values
    assert np.allclose(bounds.sel(num_draws=64).values[shown], (logsumexp(weight, 0) - np.log(64))[shown])
    assert np.allclose(bounds.sel(num_draws=1).values[shown], weight.mean(0)[shown])
    assert (np.diff(bounds.values[:, shown], axis=0) >= 0).all()
    ratio = np.exp(weight).sum(0) ** 2 / np.exp(2 * weight).sum(0)
    assert np.allclose(found["effective_samples"], ratio)
    assert np.allclose(found["elbo"], weight.mean(0))


def test_trees_without_weights_or_with_few_draws_are_errors():
    with pytest.raises(SettingsError, match="no log_weight"):
        diagnose(xarray.DataTree.from_dict({"/posterior": xarray.Dataset()}))
    with pytest.raises(SettingsError, match="19 draws a group"):
        diagnose(tree_of(np.zeros((19, 2))))

"""knn_entropy against loops, known entropies, and its laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import digamma
from scipy.stats import multivariate_normal, vonmises_fisher

from genssl.errors import DataError, SettingsError, ShapeError
from genssl.estimators import knn_entropy


def looped(z, k, clip=None):
    n, dim = z.shape
    distances = [sorted(float((z[i] - z[j]).norm()) for j in range(n) if j != i)[k - 1] for i in range(n)]
    if clip is not None:
        distances = np.minimum(distances, np.quantile(distances, clip))
    ball = 0.5 * dim * math.log(math.pi) - math.lgamma(dim / 2 + 1)
    return digamma(n) - digamma(k) + ball + dim * np.log(distances).mean()


@pytest.mark.parametrize(("k", "clip"), [(1, None), (3, None), (5, None), (3, 0.9), (2, 0.37)])
@pytest.mark.parametrize("dim", [1, 4])
def test_equals_a_double_loop(dim, k, clip):
    z = torch.randn(25, dim, dtype=torch.float64) + 3
    assert float(knn_entropy(z, k, clip)) == pytest.approx(looped(z, k, clip), abs=1e-10)


def correlated(dim):
    """A factor of determinant 1."""
    return torch.tril(0.2 * torch.randn(dim, dim, dtype=torch.float64), -1) + torch.eye(dim)


@pytest.mark.parametrize(("dim", "tolerance"), [(1, 0.08), (2, 0.1), (5, 0.2), (10, 0.5)])
def test_correlated_gaussians(dim, tolerance):
    factor = correlated(dim)
    truth = multivariate_normal(np.zeros(dim), (factor @ factor.T).numpy()).entropy()
    seen = [float(knn_entropy(torch.randn(2000, dim, dtype=torch.float64) @ factor.T)) for _ in range(3)]
    assert np.mean(seen) == pytest.approx(truth, abs=tolerance)


def test_the_error_falls_with_the_sample():
    factor = correlated(10)

    def error(n):
        values = [float(knn_entropy(torch.randn(n, 10, dtype=torch.float64) @ factor.T)) for _ in range(4)]
        return abs(np.mean(values) - 5 * (1 + math.log(2 * math.pi)))

    assert error(64) > 2 * error(2000)


@pytest.mark.parametrize("clip", [None, 0.8])
def test_scaling_translation_and_rotation(clip):
    z = torch.randn(60, 4, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    reference = knn_entropy(z, clip=clip)
    for moved, shift in ((2.5 * z, 4 * math.log(2.5)), (1e-3 * z, 4 * math.log(1e-3)), (z + 7, 0.0), (z @ rotation, 0)):
        assert float(knn_entropy(moved, clip=clip) - reference) == pytest.approx(shift, abs=1e-9)


def test_folding_loses_log_two():
    """z = |x| of a symmetric x: H[z] = H[x] - log 2."""
    x = torch.randn(4000, 1, dtype=torch.float64)
    assert float(knn_entropy(x, 5) - knn_entropy(x.abs(), 5)) == pytest.approx(math.log(2), abs=0.06)


def test_on_a_manifold_of_fewer_dimensions():
    circle = torch.nn.functional.normalize(torch.randn(2000, 2, dtype=torch.float64), dim=1)
    assert float(knn_entropy(circle, manifold_dim=1)) == pytest.approx(math.log(2 * math.pi), abs=0.06)
    fisher = vonmises_fisher(np.array([0.0, 1.0, 0.0]), 3.0)
    draws = torch.from_numpy(fisher.rvs(2000, random_state=0))
    assert float(knn_entropy(draws, manifold_dim=2)) == pytest.approx(float(fisher.entropy()), abs=0.1)
    assert float(knn_entropy(draws)) < float(fisher.entropy()) - 1  # three dimensions are not there


@pytest.mark.parametrize(("dtype", "nats"), [(torch.float32, -43.67), (torch.float64, -354.2)])
def test_duplicates_give_a_low_finite_value_and_no_gradient(dtype, nats):
    z = torch.randn(40, 2, dtype=dtype)
    z[:6] = z[0].clone()
    z.requires_grad_()
    value = knn_entropy(z)
    assert value.isfinite()
    assert value.item() < float(knn_entropy(torch.randn(40, 2, dtype=dtype))) + 0.5 * 6 * 2 / 40 * nats
    value.backward()
    assert z.grad.isfinite().all()
    assert z.grad[6:].abs().sum() > 0

    collapsed = torch.ones(8, 2, dtype=dtype, requires_grad=True)
    value = knn_entropy(collapsed, 1)
    constant = digamma(8) - digamma(1) + math.log(math.pi)
    assert value.item() == pytest.approx(constant + 2 * nats, abs=0.1)
    value.backward()
    assert collapsed.grad.abs().max() == 0


def test_clipped_distances_have_no_gradient():
    z = torch.cat([torch.randn(39, 2, dtype=torch.float64), torch.full((1, 2), 50.0, dtype=torch.float64)])
    z.requires_grad_()
    knn_entropy(z).backward()
    assert z.grad[-1].abs().sum() > 0
    z.grad = None
    knn_entropy(z, clip=0.9).backward()
    assert z.grad[-1].abs().max() == 0
    assert z.grad[:-1].abs().sum() > 0
    assert knn_entropy(z, clip=0.9) < knn_entropy(z)
    torch.testing.assert_close(knn_entropy(z, clip=1.0), knn_entropy(z))


def test_the_gradient_under_clipping_holds_the_quantile_still():
    z = torch.randn(20, 3, dtype=torch.float64, requires_grad=True)
    distances = torch.stack([(a - z[torch.arange(20) != i]).norm(dim=1).sort().values[1] for i, a in enumerate(z)])
    limit = distances.detach().quantile(0.7)
    (expected,) = torch.autograd.grad(3 * distances.clamp(max=limit).log().mean(), z)
    (seen,) = torch.autograd.grad(knn_entropy(z, 2, clip=0.7), z)
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-12)


def test_float32_finds_neighbours_that_a_float32_product_would_mix_up():
    """Two tight clouds far apart: squared distances of 1e-8 beside norms of 100."""
    generator = torch.Generator().manual_seed(3)
    cloud = 1e-4 * torch.randn(60, 3, generator=generator, dtype=torch.float64)
    cloud[::2] += 10
    z = cloud.float()
    torch.testing.assert_close(knn_entropy(z), knn_entropy(z.double()).float(), rtol=0, atol=1e-4)


def test_too_few_valid_rows_is_nan_not_a_number_of_padding():
    z = torch.randn(10, 2)
    valid = torch.arange(10) < 4
    assert knn_entropy(z, 3, valid=valid).isfinite()
    assert knn_entropy(z, 4, valid=valid).isnan()


def test_errors_say_what_and_how():
    z = torch.randn(8, 3)
    for k in (0, 1.5, True):
        with pytest.raises(SettingsError, match="k = "):
            knn_entropy(z, k)
    with pytest.raises(ShapeError, match="8 rows, expected at least 9"):
        knn_entropy(z, 8)
    with pytest.raises(SettingsError, match="clip = 90"):
        knn_entropy(z, clip=90)
    with pytest.raises(SettingsError, match="manifold_dim = 4, expected 1 to D = 3"):
        knn_entropy(z, manifold_dim=4)
    with pytest.raises(DataError, match="give manifold_dim=2"):
        knn_entropy(z.softmax(1))
    assert knn_entropy(z.softmax(1), manifold_dim=2).isfinite()

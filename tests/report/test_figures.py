"""The figures: what is drawn is what was given."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from PIL import Image
from sklearn.decomposition import PCA

from genssl.errors import ShapeError
from genssl.report import figures
from genssl.report.looking import gaussian_samples


def text_of(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_a_curve_has_the_points_that_were_measured():
    metrics = [{"step": 10 * i, "knn": i / 10 if i % 2 else None, "other": math.nan} for i in range(1, 8)]
    axes = figures.curve(metrics, {"knn": "kNN", "other": "other"}, "accuracy", markers=True).axes[0]
    (line,) = axes.lines
    assert np.array_equal(line.get_xydata(), [[10, 0.1], [30, 0.3], [50, 0.5], [70, 0.7]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "accuracy")


def test_a_curve_that_starts_far_off_shows_what_comes_after_and_says_so():
    metrics = [{"step": step, "elbo": -1e6 if step == 1 else step / 100} for step in range(1, 101)]
    figure = figures.curve(metrics, {"elbo": "ELBO"}, "nats per group")
    low, high = figure.axes[0].get_ylim()
    assert -1 < low < high < 2
    assert "starts at -1e+06" in text_of(figure)
    calm = figures.curve(metrics[1:], {"elbo": "ELBO"}, "nats per group")
    assert "starts at" not in text_of(calm)


def test_the_map_is_the_one_of_principal_components():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(300, 5, generator=generator) * torch.tensor([4.0, 2, 1, 0.5, 0.1]) + 7
    label = torch.randint(3, (300,), generator=generator)
    figure = figures.latent_map(z, label, ["a", "$b_", "_c"])
    pca = PCA(2).fit(z.double().numpy())
    expected = pca.transform(z.double().numpy())
    for value, drawn in enumerate(figure.axes[0].collections):
        points = np.asarray(drawn.get_offsets())
        assert np.allclose(np.abs(points), np.abs(expected[label.numpy() == value]), atol=1e-8)
    for share in pca.explained_variance_ratio_:
        assert f"{share:.0%}" in text_of(figure)
    assert figures.png(figure)  # hostile names are drawn, not parsed
    assert [text.get_text().strip() for text in figure.legends[0].get_texts()] == ["a", r"\$b_", "_c"]


def test_a_map_without_labels_or_with_very_many():
    z = torch.randn(50, 2)
    assert figures.latent_map(z).legends == []
    assert figures.latent_map(z, torch.arange(50)).legends == []
    with pytest.raises(ShapeError, match="D >= 2"):
        figures.latent_map(z[:, :1])


def test_posterior_scales_are_shares_of_the_items():
    stddev = torch.rand(200, 4, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.01
    figure = figures.posterior_scales(stddev, view_scale=0.387)
    axes = figure.axes[0]
    mesh = axes.collections[0]
    shares = mesh.get_array().filled(0).reshape(-1, 4)
    assert np.allclose(shares.sum(0), 1)
    assert axes.lines[0].get_ydata()[0] == 0.387
    assert "standard deviation" in axes.get_ylabel()
    assert "view_scale = 0.387" in text_of(figure)


@pytest.mark.parametrize("event", [(1, 6, 5), (3, 6, 5), (6, 5)])
def test_reconstructions_stand_under_their_images(event):
    images, decoded = torch.rand(7, *event), torch.rand(7, *event) * 3 - 1
    figure = figures.reconstructions(images, decoded, columns=4)
    page = np.asarray(figure.axes[0].images[0].get_array())
    picture = lambda x: x.clamp(0, 1).movedim(0, -1).squeeze(-1).numpy() if x.dim() == 3 else x.clamp(0, 1).numpy()  # noqa: E731
    assert np.allclose(page[0:6, 6:11], picture(images[1]))
    assert np.allclose(page[7:13, 6:11], picture(decoded[1]))
    assert np.allclose(page[21:27, 12:17], picture(decoded[6]))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["test", "decoded"] * 2
    assert figures.png(figures.samples(images))


def test_vectors_are_no_images():
    with pytest.raises(ShapeError, match="images"):
        figures.samples(torch.rand(4, 8))
    with pytest.raises(ShapeError, match="images"):
        figures.samples(torch.rand(4, 7, 5, 5))


def test_png_is_sharp_and_reproducible_and_nothing_stays_open():
    def make():
        return figures.png(figures.curve([{"step": 1, "elbo": 0.0}, {"step": 2, "elbo": 1.0}], {"elbo": ""}, "nats"))

    image = Image.open(io.BytesIO(make()))
    assert min(image.info["dpi"]) > 150
    assert make() == make()
    assert pyplot.get_fignums() == []


def test_names_in_any_script_are_no_warning():
    assert figures.png(figures.latent_map(torch.randn(9, 2), torch.zeros(9).long(), ["数字"]))


def test_samples_come_from_a_gaussian_with_the_same_mean_and_covariance():
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    z = torch.randn(500, 3, generator=generator, dtype=torch.float64) @ mix + torch.tensor([5.0, -2.0, 0.0])
    z = torch.cat([z, z[:, :1] * 2], 1)  # singular
    drawn = gaussian_samples(z, 200_000, seed=1)
    spread = z.std(0)
    assert torch.allclose(drawn.mean(0) / spread, z.mean(0) / spread, atol=0.02)
    scale = spread[:, None] * spread
    assert torch.allclose(torch.cov(drawn.T) / scale, torch.cov(z.T, correction=0) / scale, atol=0.02)
    assert torch.equal(gaussian_samples(z, 5, seed=1), gaussian_samples(z, 5, seed=1))
    assert not torch.equal(gaussian_samples(z, 5, seed=1), gaussian_samples(z, 5, seed=2))

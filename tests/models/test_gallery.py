"""Every generative method: finite terms, a gradient to every trainable parameter, save and load, shapes; and the files' form."""

from __future__ import annotations

import inspect
import io
from pathlib import Path

import genssl.models
import pyro
import pytest
import torch
from genssl.models import VAE, ContentSimVAE, GenerativeMethod, SimVAE

from genssl import Groups
from genssl.distributions import Bernoulli
from genssl.errors import SettingsError, ShapeError

METHODS = [
    cls
    for name, cls in vars(genssl.models).items()
    if inspect.isclass(cls) and issubclass(cls, GenerativeMethod) and cls is not GenerativeMethod
]


@pytest.fixture(params=["image", "vector", "ragged", "one view"])
def groups(request):
    views = 1 if request.param == "one view" else 3
    event = (5,) if request.param == "vector" else (1, 4, 4)
    mask = (
        torch.tensor([[True] * 3, [True, False, True], [True, False, False], [True] * 3])
        if request.param == "ragged"
        else None
    )
    return Groups(torch.rand(4, views, *event), mask=mask, label=torch.arange(4), source=torch.rand(4, *event))


@pytest.mark.parametrize("cls", METHODS)
class TestEveryMethod:
    def test_finite_terms_and_gradients(self, cls, groups):
        method = cls.build(groups, dim=3, hidden=(8,))
        module = method.objective(method.model, method.guide)
        loss = module(groups)
        loss.backward()
        terms = module.terms
        for value in (terms.reconstruction, terms.entropy, terms.prior, terms.elbo, terms.objective):
            assert value.shape == (4,)
            assert torch.isfinite(value).all()
        without = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert not without

    def test_save_and_load(self, cls, groups):
        method, other = (cls.build(groups, dim=3, hidden=(8,)) for _ in range(2))
        buffer = io.BytesIO()
        torch.save(method.state_dict(), buffer)
        buffer.seek(0)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        found = []
        for instance in (method, other):
            torch.manual_seed(1)
            found.append(instance.objective.terms(instance.model, instance.guide, groups).elbo)
        assert torch.equal(*found)

    def test_encode_and_decode(self, cls, groups):
        method = cls.build(groups, dim=3, hidden=(8,))
        flat = groups.pack(groups.x)
        encoded = method.encode(flat)
        assert (encoded.batch_shape, encoded.event_shape) == ((len(flat),), (3,))
        method.guide(groups)
        assert method.encode(groups.x).mean.shape == (*groups.x.shape[:2], 3)
        torch.testing.assert_close(method.encode(groups.x[0, 0]).mean, method.encode(groups.x).mean[0, 0])
        decoded = method.decode(encoded.mean)
        assert decoded.shape == flat.shape
        assert method.decode(encoded.mean[0]).shape == flat.shape[1:]

    def test_says_what_it_is(self, cls, groups):
        assert cls.source
        assert cls.collapses
        assert "Source" in cls.__doc__ or "Source" in cls.__mro__[1].__doc__
        assert cls.defaults[""].keys() >= {"num_views", "batch_size", "lr", "epochs"}

    def test_prior_predictive(self, cls, groups):
        """Every model with a proper prior runs forward on its own."""
        settings = {"content_scale": 1.0} if issubclass(cls, SimVAE) else {}
        method = cls.build(groups, dim=3, hidden=(8,), **settings)
        draw = pyro.poutine.uncondition(method.model)
        with pyro.poutine.trace() as trace:
            draw(groups)
        assert trace.trace.nodes["x"]["value"].shape == groups.x.shape


def test_flat_prior_cannot_be_drawn():
    groups = Groups(torch.rand(4, 3, 5))
    with pytest.raises(SettingsError, match="content_scale"):
        SimVAE.build(groups, dim=3, hidden=(8,)).model(groups)


@pytest.mark.parametrize("content", [None, 1.3])
@pytest.mark.parametrize("ragged", [False, True])
def test_content_posterior_is_the_average_over_z(content, ragged, float64):
    mask = torch.tensor([[True, False, True], [True, True, True]]) if ragged else None
    groups = Groups(torch.rand(2, 3, 5), mask=mask)
    method = SimVAE.build(groups, dim=2, hidden=(8,), content_scale=content)
    with torch.no_grad():
        q = method.content(groups)
        loc, log_scale = groups.map(method.encoder).chunk(2, -1)
        z = loc + log_scale.exp() * torch.randn(100_000, 2, 3, 2)
        y = method.prior(groups).expand([100_000, 2]).content_posterior(z).sample()
    assert (y.mean(0) - q.mean).abs().max() < 5 * (q.stddev.max() / 100_000**0.5)
    assert (y.std(0) / q.stddev - 1).abs().max() < 0.02


def test_more_views_make_content_surer():
    x = torch.rand(5, 6, 5)
    method = SimVAE.build(Groups(x), dim=2, hidden=(8,))
    spread = [method.content(Groups(x[:, :j])).stddev.mean() for j in (1, 2, 6)]
    assert spread[0] > spread[1] > spread[2]


def test_presets():
    paper, code = SimVAE.paper(), SimVAE.released_code()
    assert paper.settings["view_scale"] ** 2 == pytest.approx(0.15)
    assert paper.settings["likelihood_scale"] ** 2 == pytest.approx(0.02)
    assert paper.settings["content_scale"] is None
    assert paper.fit["num_views"] == 10
    groups = Groups((torch.rand(4, 2, 1, 4, 4) > 0.5).float())
    method = SimVAE.build(groups, dim=3, hidden=(8,), **code.settings)
    assert isinstance(method.likelihood, Bernoulli)
    torch.manual_seed(0)
    weighted = method.objective.terms(method.model, method.guide, groups).reconstruction
    method.likelihood_weight = 1.0
    torch.manual_seed(0)
    plain = method.objective.terms(method.model, method.guide, groups).reconstruction
    torch.testing.assert_close(weighted, plain / 0.0100518357)


@pytest.mark.parametrize("family", ["gaussian", "bernoulli", "continuous_bernoulli"])
def test_likelihood_families(family):
    groups = Groups((torch.rand(4, 2, 1, 4, 4) > 0.5).float())
    method = VAE.build(groups, dim=3, hidden=(8,), likelihood=family)
    assert torch.isfinite(method.objective.terms(method.model, method.guide, groups).elbo).all()
    image = method.decode(torch.randn(7, 3))
    assert 0 <= image.min() <= image.max() <= 1


def test_errors():
    groups = Groups(torch.rand(4, 2, 5))
    with pytest.raises(SettingsError, match="likelihood = 'poisson'"):
        VAE.build(groups, likelihood="poisson")
    odd = VAE(torch.nn.Linear(5, 3), torch.nn.Linear(1, 5))
    with pytest.raises(ShapeError, match="even number"):
        odd.guide(groups)
    wrong = VAE(torch.nn.Linear(5, 6), torch.nn.Linear(3, 4))
    with pytest.raises((ShapeError, ValueError), match="x"):
        wrong.objective.terms(wrong.model, wrong.guide, groups)
    with pytest.raises(ShapeError, match="modalities"):
        SimVAE.build(Groups((torch.rand(3, 4), torch.rand(3, 5))))
    with pytest.raises(SettingsError, match="dim="):
        VAE(torch.nn.Identity(), torch.nn.Identity()).prior(groups)


def test_one_method_a_file():
    """A method is one file of one idea; no file of the library outgrows 400 lines."""
    root = Path(genssl.models.__file__).parent
    sizes = {
        path: len(path.read_text().splitlines())
        for folder in (root, Path(genssl.__file__).parent)
        for path in folder.rglob("*.py")
    }
    assert max(sizes.values()) <= 400, max(sizes, key=sizes.get)


def test_content_simvae_is_nested():
    groups = Groups(torch.rand(4, 3, 5))
    method = ContentSimVAE.build(groups, dim=2, hidden=(8,))
    with pyro.poutine.trace() as trace:
        method.guide(groups)
    assert trace.trace.nodes["y"]["value"].shape == (4, 1, 2)
    assert trace.trace.nodes["z"]["value"].shape == (4, 3, 2)


@pytest.mark.parametrize("dim", [0, -1, 2.5, "ten", True])
@pytest.mark.parametrize("name", ["VAE", "NeuralStatistician", "SimCLR", "CLIP"])
def test_a_latent_size_that_is_none_is_refused(name, dim):
    groups = Groups(torch.rand(4, 2, 1, 4, 4))
    with pytest.raises(SettingsError, match="expected a whole number of at least 1"):
        getattr(genssl.models, name).build(groups, dim=dim)


def test_a_likelihood_without_a_scale_learns_none():
    with pytest.raises(SettingsError, match="has no scale"):
        VAE.build(Groups(torch.rand(4, 1, 1, 4, 4)), likelihood="bernoulli", learned_scale=True)


def test_a_scale_that_a_likelihood_does_not_take_is_refused():
    groups = Groups(torch.rand(4, 1, 1, 4, 4))
    with pytest.raises(SettingsError, match=r"likelihood_scale = 0.3, but likelihood = 'bernoulli' takes none"):
        VAE.build(groups, likelihood="bernoulli", likelihood_scale=0.3)
    assert float(VAE.build(groups).likelihood.scale) == pytest.approx(0.02**0.5)

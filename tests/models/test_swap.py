"""Swapping slots: the guide and the parts that a term asks for, against closed forms and against methods written by hand."""

import copy
import io
import itertools
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from genssl.models import (
    BYOL,
    CLIP,
    CRVAE,
    LDM,
    VAE,
    ContentSimVAE,
    MCInfoNCE,
    NeuralStatistician,
    SimCLR,
    SimSiam,
    SimVAE,
    SwAV,
    VISimSiam,
)
from genssl.models.method import GenerativeMethod
from torch import nn

import genssl
from genssl import Groups, Objective, terms
from genssl.distributions import Gaussian, GroupNormal
from genssl.errors import SettingsError
from genssl.foretell import foretell

SMALL = {"hidden": (16,), "dim": 4}


def groups(g=12, j=3, ragged=False):
    mask = None
    if ragged:
        mask = torch.ones(g, j, dtype=torch.bool)
        mask[1, 1:], mask[4, 2] = False, False
    return Groups(torch.rand(g, j, 1, 8, 8), mask=mask)


def network(inputs, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs))


def image_decoder(dim):
    return nn.Sequential(nn.Linear(dim, 64), nn.Unflatten(-1, (1, 8, 8)))


def measure(method, batch, seed=0):
    torch.manual_seed(seed)
    return method.objective.terms(method.model, method.guide, batch)


def drawn(method, batch, site="z"):
    with torch.no_grad():
        return pyro.poutine.trace(method.guide).get_trace(batch).nodes[site]


@pytest.mark.parametrize("ragged", [False, True])
def test_a_constant_entropy_makes_the_guide_a_point_mass_at_its_mean(ragged):
    batch = groups(ragged=ragged)
    method = SimVAE.build(batch, **SMALL)
    loc = method.encoder(batch.x.flatten(0, 1)).unflatten(0, (12, 3))[..., :4]
    assert method.swap(entropy=terms.Constant()) is method
    node = drawn(method, batch)
    assert torch.equal(node["value"][batch.valid], loc[batch.valid])
    assert torch.equal(node["value"], drawn(method, batch)["value"])  # nothing is random any more
    found = measure(method, batch)
    assert torch.equal(found.entropy, torch.zeros(12))
    expected = GroupNormal(method.view_scale, 3, 4, mask=batch.mask).log_prob(
        torch.where(batch.valid[..., None], loc, 0.0)
    )
    torch.testing.assert_close(found.prior, expected)
    assert isinstance(method.encode(batch.x[0]), torch.distributions.Independent)
    assert float(method.encode(batch.x[0]).variance.abs().max()) == 0
    # q(y | x) carries no spread of z any more: what p(y | z) has is left
    count = batch.count.to(torch.float32)
    torch.testing.assert_close(method.content(batch).variance[:, 0], method.view_scale**2 / count)


@pytest.mark.parametrize("ragged", [False, True])
def test_the_scale_that_a_point_mass_leaves_unused_may_be_anything(ragged):
    """Nothing trains it there, so that it can leave the range that Pyro checks; where it is used, it is checked."""
    batch = groups(ragged=ragged)
    method = SimVAE.build(batch, **SMALL)
    last = [layer for layer in method.encoder.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        last.bias[4:] = -1e4  # log scales
    with pyro.validation_enabled(True):
        with pytest.raises(ValueError, match="parameter scale"):
            method.encode(batch.x[0])
        method.swap(entropy=terms.Constant())
        assert float(method.encode(batch.x[0]).variance.abs().max()) == 0
        assert torch.isfinite(measure(method, batch).prior).all()
        method.swap(entropy=terms.PosteriorEntropy())
        with pytest.raises(ValueError, match="parameter scale"):
            method.encode(batch.x[0])


def test_a_scale_makes_a_channel_of_fixed_noise():
    batch = groups()
    method = SimVAE.build(batch, **SMALL).swap(entropy=terms.Constant(), scale=0.25)
    law = drawn(method, batch)["fn"]
    assert law.event_shape == (3, 4)
    assert bool((law.base_dist.scale == 0.25).all())
    torch.testing.assert_close(law.base_dist.loc, method.encode(batch.x).mean)


@pytest.mark.parametrize("kind", ["product", "set"])
@pytest.mark.parametrize("ragged", [False, True])
def test_another_law_is_put_around_what_a_group_guide_makes(kind, ragged):
    batch = groups(ragged=ragged)
    method = SimVAE.build(batch, **SMALL, group_guide=kind, content_scale=1.0)
    own = method.joint(batch).mean.detach()
    for change, scale in ({"scale": 0.2}, 0.2), ({}, 0.0), ({"scale": network(64, 4)}, None):
        method.swap(entropy=terms.Constant(), **change)
        fn = drawn(method, batch)["fn"]
        torch.testing.assert_close(fn.mean[batch.valid], own[batch.valid])
        if scale is not None:
            assert bool((fn.variance[batch.valid] - scale**2).abs().max() < 1e-6)
        assert torch.isfinite(measure(method, batch).prior).all()
        assert torch.isfinite(method.content(batch).variance).all()
    method.swap(entropy=terms.PosteriorEntropy())
    assert "joint" not in vars(method)


def test_a_term_that_reads_a_spread_is_refused_beside_a_point_mass():
    batch = groups(j=2)
    for cls, term in (VISimSiam, "SphericalAttraction"), (CRVAE, "ConsistencyKL"):
        method = cls.build(batch, **SMALL)
        with pytest.raises(SettingsError, match=f"{term} reads the spread of z"):
            method.swap(entropy=terms.Constant())
        assert "guide" not in vars(method)
        method.swap(entropy=terms.Constant(), prior=terms.CosineAttraction())
        assert float(measure(method, batch).entropy.abs().max()) == 0


def test_a_decoder_of_another_width_is_refused():
    batch = groups()
    with pytest.raises(SettingsError, match=r"takes \[N, 4\], expected \[N, 64\] as z has"):
        SimCLR.build(batch, **SMALL).swap(reconstruction=terms.LogLikelihood(), decoder=image_decoder(4))
    with pytest.raises(SettingsError, match=r"a network \[N, 64\] -> "):
        SimCLR.build(batch, **SMALL).swap(reconstruction=terms.LogLikelihood())
    method = SimCLR.build(batch, **SMALL).swap(reconstruction=terms.LogLikelihood(), decoder=image_decoder(64))
    assert torch.isfinite(measure(method, batch).reconstruction).all()


def test_a_second_site_of_predictions_is_refused():
    batch = groups(g=80, j=2)
    method = SwAV.build(batch, **SMALL).swap(prior=terms.PredictorAttraction(), predictor=nn.Linear(64, 64))
    with pytest.raises(SettingsError, match="z_predicted already"):
        measure(method, batch)


def test_terms_of_its_own_change_nothing_bit_for_bit():
    batch = groups()
    for cls in (SimVAE, VAE, ContentSimVAE, NeuralStatistician, SimCLR, BYOL, SwAV, LDM, CLIP, MCInfoNCE):
        g = groups(j=2) if cls is CLIP else batch
        method = cls.build(g, **({} if cls is CLIP else SMALL))
        before = measure(method, g)
        method.swap(**method.objective.slots)
        after = measure(method, g)
        for slot in terms.SLOTS:
            assert torch.equal(getattr(before, slot), getattr(after, slot)), cls


def test_what_was_swapped_away_comes_back_bit_for_bit():
    batch = groups()
    method = SimVAE.build(batch, **SMALL)
    own, before = method.objective.slots, measure(method, batch)
    method.swap(reconstruction=terms.ContrastiveNormaliser(), entropy=terms.Constant(), prior=terms.CosineAttraction())
    assert not torch.equal(measure(method, batch).prior, before.prior)
    method.swap(**own)
    after = measure(method, batch)
    assert all(torch.equal(getattr(before, slot), getattr(after, slot)) for slot in terms.SLOTS)
    assert "guide" not in vars(method)


@pytest.mark.parametrize("ragged", [False, True])
def test_from_simclr_to_simvae_slot_by_slot(ragged, float64):
    """The last station is the ELBO of the hierarchical model, here from dense normals and one draw."""
    batch = groups(ragged=ragged)
    batch = Groups(batch.x.double(), mask=batch.mask)
    method = SimCLR.build(batch, head=(), **SMALL).double()
    method.swap(reconstruction=terms.LogLikelihood(), decoder=image_decoder(4).double())
    assert measure(method, batch).reconstruction.shape == (12,)
    method.swap(entropy=terms.PosteriorEntropy(), scale=0.3)
    method.swap(prior=terms.LogPrior(), view_scale=0.5, content_scale=2.0)
    found = measure(method, batch).detach()
    torch.manual_seed(0)
    loc = method.encoder(batch.x.flatten(0, 1)).unflatten(0, (12, 3)).detach()
    z = loc + 0.3 * torch.randn_like(loc)
    for g in range(12):
        seen = batch.valid[g]
        n = int(seen.sum())
        covariance = 2.0**2 * torch.ones(n, n) + 0.5**2 * torch.eye(n)
        dense = torch.distributions.MultivariateNormal(torch.zeros(n), covariance)
        image = torch.distributions.Normal(method.decoder(z[g, seen]).detach(), 0.02**0.5)
        assert float(found.prior[g]) == pytest.approx(float(dense.log_prob(z[g, seen].T).sum()), rel=1e-9)
        assert float(found.reconstruction[g]) == pytest.approx(float(image.log_prob(batch.x[g, seen]).sum()), rel=1e-9)
        assert float(found.entropy[g]) == pytest.approx(n * 4 * float(torch.distributions.Normal(0.0, 0.3).entropy()))
    assert method.decode(method.encode(batch.x[:, 0]).mean).shape == (12, 1, 8, 8)


def test_a_network_of_log_scales():
    batch = groups(ragged=True)
    method = SimCLR.build(batch, head=(), **SMALL)
    method.swap(entropy=terms.PosteriorEntropy(), scale=network(64, 4))
    found = measure(method, batch)
    log_scale = method.scale_network(batch.x.flatten(0, 1)).unflatten(0, (12, 3))
    each = (log_scale + 0.5 * torch.log(torch.tensor(2 * torch.pi)) + 0.5).sum(-1)
    torch.testing.assert_close(found.entropy, torch.where(batch.valid, each, 0.0).sum(1))
    torch.testing.assert_close(method.encode(batch.x[0]).stddev, log_scale[0].exp())
    module = method.objective(None, method.guide)
    module(batch).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in method.scale_network.parameters())


def test_a_head_and_a_predictor_are_part_of_the_guide():
    batch = groups(ragged=True)
    method = SimVAE.build(batch, **SMALL)
    head = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 6))
    method.swap(
        reconstruction=terms.StopGradient(), entropy=terms.Constant(), prior=terms.PredictorAttraction(),
        head=head, predictor=nn.Linear(6, 6),
    )  # fmt: skip
    method.eval()
    z = drawn(method, batch)["value"]
    torch.testing.assert_close(z[batch.valid], head(method.encode(batch.x).mean[batch.valid]))
    torch.testing.assert_close(method.project(batch.x)[batch.valid], z[batch.valid])
    torch.testing.assert_close(
        drawn(method, batch, "z_predicted")["value"][batch.valid], method.predictor(z)[batch.valid]
    )
    method.train()
    module = method.objective(method.model, method.guide)
    module(batch).backward()
    trained = {name for name, p in method.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    assert {"head.0.weight", "predictor.weight", "encoder.1.weight"} <= trained
    assert not any(name.startswith("decoder") for name, _ in module.named_parameters())


def test_a_copy_of_a_swapped_method_is_independent():
    batch = groups()
    method = SimVAE.build(batch, **SMALL).swap(entropy=terms.Constant())
    other = copy.deepcopy(method)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert bool((drawn(other, batch)["value"] == 0).all())
    assert not bool((drawn(method, batch)["value"] == 0).any())


def stored(method):
    """As torch.save keeps a whole method, and torch.load of one that is trusted gives it."""
    file = io.BytesIO()
    torch.save(method, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("kept", [copy.deepcopy, lambda method: pickle.loads(pickle.dumps(method)), stored])
@pytest.mark.parametrize("kind", ["scale", "head", "model", "own"])
def test_a_swapped_method_is_kept_whole(kind, kept):
    """Copied, pickled or saved it is the same bit for bit, independent of the first, and can be swapped on."""
    batch = groups(ragged=True)
    method = (SimCLR if kind == "model" else SimVAE).build(batch, **SMALL)
    written = method.objective.slots
    change = {
        "scale": {"entropy": terms.Constant(), "scale": network(64, 4)},
        "head": {"entropy": terms.Constant(), "head": nn.Linear(4, 6), "prior": terms.CosineAttraction()},
        "model": {"reconstruction": terms.LogLikelihood(), "decoder": image_decoder(64)},
        "own": {"prior": terms.LogPrior()},
    }[kind]
    if kind == "head":
        change |= {"reconstruction": terms.ContrastiveNormaliser()}
    other = kept(method.swap(**change))

    def told(one):
        found = measure(one, batch)
        return torch.cat(
            [found.reconstruction, found.entropy, found.prior, one.encode(batch.x).mean.flatten()]
        ).detach()

    before = told(method)
    assert torch.equal(told(other), before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(told(method), before)
    assert not torch.equal(told(other), before)
    trained = list(other.objective(other.model, other.guide).parameters())  # of the copy, found behind its guide
    assert len(trained) > 0
    assert {id(parameter) for parameter in trained} <= {id(parameter) for parameter in other.parameters()}
    if kind == "scale":
        assert "guide" in vars(other)
        assert "guide" not in vars(other.swap(**written))


RECONSTRUCTION = (
    terms.LogLikelihood, terms.ContrastiveNormaliser, terms.LogDeterminantEntropy, terms.NearestNeighbourEntropy,
    terms.KernelDensityEntropy, terms.SphericalEntropy, terms.Uniformity, terms.VarianceCovariance,
)  # fmt: skip
ENTROPY = (terms.PosteriorEntropy, terms.Constant)
PRIOR = (terms.LogPrior, terms.CosineAttraction, terms.SquaredAttraction)


@pytest.mark.parametrize("cls", [SimVAE, SimCLR, MCInfoNCE])
def test_every_cell_runs_and_trains_the_encoder(cls):
    batch = groups(g=40, j=2)
    for reconstruction, entropy, prior in itertools.product(RECONSTRUCTION, ENTROPY, PRIOR):
        method = cls.build(batch, **SMALL)
        size = 5 if cls is MCInfoNCE else 4 if cls is SimVAE else 64
        parts = {}
        if reconstruction is terms.LogLikelihood and cls is not SimVAE:
            parts["decoder"] = image_decoder(4 if cls is MCInfoNCE else size)
        if entropy is terms.PosteriorEntropy and cls is SimCLR:
            parts["scale"] = network(64, size)
        if cls is MCInfoNCE:
            parts["dim"] = 4
        method.swap(reconstruction=reconstruction(), entropy=entropy(), prior=prior(), **parts)
        module = method.objective(method.model, method.guide)
        loss = module(batch)
        loss.backward()
        where = (cls.__name__, reconstruction.__name__, entropy.__name__, prior.__name__)
        assert bool(torch.isfinite(loss)), where
        assert all(bool(torch.isfinite(p.grad).all()) for p in module.parameters() if p.grad is not None), where
        assert sum(float(p.grad.abs().sum()) for p in method.encoder.parameters() if p.grad is not None) > 0, where
        trains_decoder = any("decoder" in name for name, _ in module.named_parameters())
        assert trains_decoder == (reconstruction is terms.LogLikelihood), where


@pytest.mark.parametrize(
    ("cls", "change", "message"),
    [
        (SimCLR, {"reconstruction": terms.LogLikelihood()}, "needs decoder"),
        (SimVAE, {"prior": terms.PredictorAttraction()}, "needs predictor"),
        (SimVAE, {"prior": terms.AssignmentAttraction()}, "needs target"),
        (SimVAE, {"prior": terms.AssignmentAttraction(site="z_predicted")}, "needs (target|prototypes)"),
        (SimCLR, {"entropy": terms.PosteriorEntropy()}, "give scale="),
        (SimVAE, {"entropy": terms.Constant(), "scale": -1.0}, "positive standard deviation"),
        (SimVAE, {"scale": 1.0}, "without entropy"),
        (SimVAE, {"head": nn.Linear(4, 4)}, "point-mass guide"),
        (SimCLR, {"head": nn.Linear(4, 4)}, "has a head already"),
        (SimVAE, {"prior": terms.ContrastiveNormaliser()}, "not the slot prior"),
        (LDM, {"reconstruction": terms.LogLikelihood()}, "needs decoder"),
        (SimVAE, {"priro": terms.CosineAttraction()}, r"SimVAE.swap has no argument 'priro'; did you mean prior\?"),
        (
            SimVAE,
            {"entropy": terms.Constant(), "queue": 3},
            "no argument 'queue'; known: reconstruction, .*, content_scale$",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_nothing_changed(cls, change, message):
    batch = groups()
    method = cls.build(batch, **SMALL)
    slots, children = method.objective.slots, [name for name, _ in method.named_children()]
    with pytest.raises(SettingsError, match=message):
        method.swap(**change)
    assert method.objective.slots == slots
    assert [name for name, _ in method.named_children()] == children
    assert "guide" not in vars(method)


# ---------------------------------------------------------------------- what theory says


TOYS = [
    (terms.VarianceCovariance(variance=0.0), terms.SquaredAttraction(), ["collapse"]),
    (terms.OffDiagonalCorrelation(), terms.SquaredAttraction(), ["collapse"]),
    (terms.ProductNormaliser(), terms.CosineAttraction(), ["collapse"]),
    (terms.ContrastiveNormaliser(), terms.ProductAttraction(), ["divergence"]),
    (terms.Constant(), terms.ProductAttraction(), ["divergence"]),
    (terms.ProductNormaliser(), terms.ProductAttraction(), []),
    (terms.OffDiagonalCorrelation(), terms.DiagonalCorrelation(), []),
    (terms.Constant(), terms.DiagonalCorrelation(), []),
]
"""Point masses, and what becomes of them."""


@pytest.mark.parametrize(
    ("settings", "change", "j", "expected"),
    [
        ({}, {}, 3, []),
        ({}, {"reconstruction": terms.Constant(), "entropy": terms.Constant()}, 3, ["collapse"]),
        ({"content_scale": 1.0}, {"reconstruction": terms.Constant()}, 3, ["collapse"]),
        ({}, {"reconstruction": terms.LogDeterminantEntropy()}, 3, ["divergence"]),
        ({"content_scale": 1.0}, {"reconstruction": terms.LogDeterminantEntropy()}, 3, []),
        ({}, {"reconstruction": terms.SphericalEntropy(), "entropy": terms.Constant()}, 3, ["collapse"]),
        ({}, {"reconstruction": terms.ContrastiveNormaliser()}, 3, ["collapse"]),
        (
            {"group_guide": "product"},
            {"reconstruction": terms.ContrastiveNormaliser(), "prior": terms.CosineAttraction()},
            3,
            ["divergence"],
        ),
        ({}, {"reconstruction": terms.ContrastiveNormaliser(), "prior": terms.CosineAttraction()}, 3, ["divergence"]),
        (
            {},
            {"reconstruction": terms.ContrastiveNormaliser(), "prior": terms.CosineAttraction(), "entropy": terms.Constant()},
            3,
            [],
        ),
        ({}, {"reconstruction": terms.Constant()}, 1, ["collapse", "divergence"]),
        ({"learned_scale": True}, {"entropy": terms.Constant()}, 3, ["divergence"]),
        ({"learned_scale": True}, {}, 3, []),
        ({}, {"reconstruction": terms.VarianceCovariance(), "entropy": terms.Constant(), "prior": terms.SquaredAttraction()}, 3, []),
        *(({}, {"entropy": terms.Constant(), "reconstruction": one, "prior": other}, 2, told) for one, other, told in TOYS),
    ],
)  # fmt: skip
def test_what_theory_foretells(settings, change, j, expected):
    batch = groups(j=j)
    method = SimVAE.build(batch, **SMALL, **settings)
    if change:
        method.swap(**change)
    assert [sentence.split(":")[0] for sentence in foretell(method, batch)] == expected


def test_what_is_foretold_says_where_one_view_a_group_is_why():
    one, three = groups(j=1), groups(j=3)
    (sentence,) = foretell(SimVAE.build(one, **SMALL), one)
    assert sentence.endswith("of one view a group under a flat p(y); give more views, or a content_scale")
    assert foretell(SimVAE.build(one, **SMALL, content_scale=1.0), one) == []
    (other,) = foretell(
        SimCLR.build(three, **SMALL).swap(entropy=terms.PosteriorEntropy(), scale=network(64, 64)), three
    )
    assert "one view" not in other


def test_a_fixed_scale_cannot_grow():
    batch = groups()
    method = SimCLR.build(batch, **SMALL).swap(entropy=terms.PosteriorEntropy(), scale=0.1)
    assert foretell(method, batch) == []
    method.swap(entropy=terms.PosteriorEntropy(), scale=network(64, 64))
    assert [sentence.split(":")[0] for sentence in foretell(method, batch)] == ["divergence"]


def test_nothing_is_foretold_of_the_gallery():
    """Every method as published has an optimum, as far as these rules see, but for the flat p(y) of CR-VAE-like scores."""
    from genssl.fit.build import gallery

    batch = Groups(torch.rand(80, 2, 1, 8, 8), label=torch.arange(80) % 3, source=torch.rand(80, 1, 8, 8))
    found = {name: foretell(cls.build(batch), batch) for name, cls in gallery().items()}
    assert {name: told for name, told in found.items() if told} == {}


def test_the_divergence_that_was_foretold_happens():
    """Without a proper p(y) the scale of z grows step after step; with one it settles."""
    torch.manual_seed(0)
    batch = groups(g=64, j=2)
    norms = {}
    for scale in (None, 1.0):
        torch.manual_seed(0)
        method = SimVAE.build(batch, **SMALL, content_scale=scale)
        method.swap(reconstruction=terms.LogDeterminantEntropy(), entropy=terms.Constant())
        module = method.objective(method.model, method.guide)
        optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
        sizes = []
        for _ in range(300):
            optimiser.zero_grad()
            module(batch).backward()
            optimiser.step()
            sizes.append(float(method.encode(batch.x).mean.detach().var()))
        norms[scale] = sizes
    assert norms[None][-1] > 3 * norms[None][150] > 9 * norms[None][50]
    assert norms[1.0][-1] < 1.5 * (1 + 0.15)


@pytest.mark.parametrize(("reconstruction", "prior", "told"), TOYS)
def test_what_is_foretold_of_a_point_mass_comes(reconstruction, prior, told):
    """Views that share 4 of their 8 causes: all on one point, without bound, or neither."""
    torch.manual_seed(0)
    mixing = torch.randn(8, 16) / 2

    def batch():
        shared = torch.randn(128, 1, 4) + 0.3 * torch.randn(128, 2, 4)
        return Groups(torch.tanh(torch.cat([shared, torch.randn(128, 2, 4)], -1) @ mixing))

    method = SimVAE.build(batch(), hidden=(64,), dim=4).swap(
        reconstruction=copy.deepcopy(reconstruction), entropy=terms.Constant(), prior=copy.deepcopy(prior)
    )
    module = method.objective(method.model, method.guide)
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(500):
        optimiser.zero_grad()
        module(batch()).backward()
        optimiser.step()
    spread = float(method.encode(batch().x).mean.detach().flatten(0, 1).var(0).mean())
    kind = "collapse" if spread < 1e-3 else "divergence" if spread > 1e3 else "neither"
    assert kind == (told[0] if told else "neither"), spread


# ---------------------------------------------------------------------- through fit


def test_swapped_runs_are_fitted_loaded_and_evaluated(tmp_path):
    replace = {"reconstruction": "LogLikelihood", "entropy": "PosteriorEntropy", "prior": "LogPrior"}
    run = genssl.fit(
        "SimCLR", "digits", limit=96, num_views=2, batch_size=16, epochs=1, settings=SMALL | {"head": ()},
        replace=replace, out=tmp_path / "a", progress=False,
    )  # fmt: skip
    again = genssl.load(tmp_path / "a")
    x = run.data.test.floats()[:5]
    assert torch.equal(run.represent(x), again.represent(x))
    assert torch.equal(run.method.decode(run.represent(x)), again.method.decode(again.represent(x)))
    assert again.config["slots"]["reconstruction"] == "LogLikelihood"
    assert run.evaluate()["generation"]["mse"] is not None
    drawn_scale = run.method.encode(x).stddev
    assert torch.equal(drawn_scale, again.method.encode(x).stddev)


def test_a_run_with_its_own_terms_is_the_same_run_bit_for_bit(tmp_path):
    runs = [
        genssl.fit(
            "SimVAE", "digits", limit=96, num_views=2, batch_size=16, epochs=2, settings=SMALL, replace=replace,
            out=tmp_path / str(i), progress=False,
        )
        for i, replace in enumerate((None, {"reconstruction": "LogLikelihood", "entropy": "PosteriorEntropy", "prior": "LogPrior"}))
    ]  # fmt: skip
    one, other = (run.method.state_dict() for run in runs)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_theory_is_told_before_the_first_step(tmp_path):
    with pytest.warns(UserWarning, match="collapse: nothing in the reconstruction slot"):
        run = genssl.fit(
            "SimVAE", "digits", limit=32, num_views=2, batch_size=16, epochs=1, settings=SMALL,
            replace={"reconstruction": "Constant", "entropy": "Constant"}, out=tmp_path / "a", progress=False,
        )  # fmt: skip
    assert len(run.config["foretold"]) == 1


class Own(nn.Module):
    """A user's method without `swap`: its slots are changed and its guide is left alone."""

    def __init__(self):
        super().__init__()
        self.encoder, self.objective = (
            network(64, 4),
            Objective(terms.ContrastiveNormaliser(), terms.Constant(), terms.CosineAttraction()),
        )

    def guide(self, groups):
        with groups.plate:
            pyro.sample("z", dist.Delta(groups.map(self.encoder)).to_event(2))

    def encode(self, x):
        return dist.Delta(self.encoder(x)).to_event(1)

    @classmethod
    def build(cls, example):
        return cls()


def test_a_class_of_the_user_gets_the_terms_alone(tmp_path):
    run = genssl.fit(
        Own, "digits", limit=32, num_views=2, batch_size=16, epochs=1, replace={"reconstruction": "Uniformity"},
        out=tmp_path / "a", progress=False,
    )  # fmt: skip
    assert isinstance(run.method.objective.reconstruction, terms.Uniformity)


def test_swap_without_build_takes_its_likelihood():
    method = SimCLR(network(64, 4), None)
    method.swap(reconstruction=terms.LogLikelihood(), decoder=image_decoder(4), likelihood=Gaussian(0.5))
    assert isinstance(method, SimCLR)
    assert not isinstance(method, GenerativeMethod)
    assert float(method.likelihood(torch.zeros(1, 1, 8, 8), event_dim=3).stddev.mean()) == pytest.approx(0.5)


def test_content_of_a_mixture_under_a_point_mass():
    batch = groups(ragged=True)
    method = genssl.models.MixtureSimVAE.build(batch, **SMALL)
    wide = method.content(batch).variance
    narrow = method.swap(entropy=terms.Constant()).content(batch).variance
    assert bool((narrow < wide).all())


def test_an_svi_of_before_a_swap_is_refused():
    batch = groups()
    method = SimCLR.build(batch, **SMALL)
    svi = pyro.infer.SVI(method.model, method.guide, pyro.optim.Adam({"lr": 1e-3}), loss=method.objective)
    svi.step(batch)
    method.swap(entropy=terms.PosteriorEntropy(), scale=0.3)
    with pytest.raises(SettingsError, match="before a swap"):
        svi.step(batch)
    fresh = pyro.infer.SVI(method.model, method.guide, pyro.optim.Adam({"lr": 1e-3}), loss=method.objective)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    fresh.step(batch)
    assert not [name for name, p in method.named_parameters() if torch.equal(p, before[name])]


def test_a_head_stands_between_representation_and_decoder():
    batch = groups()
    method = SimVAE.build(batch, **SMALL).swap(entropy=terms.Constant(), head=nn.Linear(4, 4))
    z = method.encode(batch.x[:, 0]).mean
    torch.testing.assert_close(method.decode(z), method.likelihood.mean(method.decoder(method.head(z))))
    assert method.content is None  # p(y | z) is of the z after the head
    with pytest.raises(SettingsError, match="head that was added needs a point-mass guide"):
        method.swap(entropy=terms.PosteriorEntropy())


def test_scales_go_to_the_methods_that_have_them():
    batch = groups()
    method = SimVAE.build(batch, **SMALL)
    method.swap(reconstruction=terms.LogDeterminantEntropy(), content_scale=1.0, view_scale=0.1)
    assert (method.content_scale, method.view_scale) == (1.0, 0.1)
    assert foretell(method, batch) == []
    with pytest.raises(SettingsError, match="no term needs a model"):
        SimCLR.build(batch, **SMALL).swap(prior=terms.CosineAttraction(), view_scale=3.0)
    with pytest.raises(SettingsError, match="positive standard deviation"):
        method.swap(view_scale=-1.0)
    with pytest.raises(SettingsError, match="has a predictor already"):
        BYOL.build(batch, **SMALL).swap(predictor=nn.Linear(64, 64))


def test_what_guards_against_collapse_is_the_term_that_does_it():
    batch = groups(g=80, j=2)
    stopped = SimVAE.build(batch, **SMALL).swap(reconstruction=terms.StopGradient(), entropy=terms.Constant())
    assert foretell(stopped, batch)[0].startswith("collapse")
    whitened = SimCLR.build(batch, **SMALL).swap(reconstruction=terms.Constant(), prior=terms.WhitenedAttraction())
    assert foretell(whitened, batch) == []
    idle = SimSiam.build(batch, **SMALL)
    assert foretell(idle, batch) == []
    idle.predictor = nn.Identity()
    assert foretell(idle, batch)[0].startswith("collapse")
    statistician = NeuralStatistician.build(batch, **SMALL).swap(entropy=terms.Constant())
    assert "learned scale" in foretell(statistician, batch)[0]


def test_a_spherical_method_gets_a_decoder_of_the_right_width(tmp_path):
    run = genssl.fit(
        "MCInfoNCE", "digits", limit=32, num_views=2, batch_size=16, epochs=1, settings=SMALL,
        replace={"reconstruction": "LogLikelihood"}, out=tmp_path / "a", progress=False,
    )  # fmt: skip
    assert run.metrics

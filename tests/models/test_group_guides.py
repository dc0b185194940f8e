"""Guides that see the group: exact where they should be, factorised where nothing is to be seen, blind to padding and order."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from genssl.models import AAVAE, CRVAE, VAE, BetaVAE, ContentSimVAE, MixtureSimVAE, SimVAE
from genssl.models.group_guides import ProductOfExperts, SetGuide
from torch import nn

import genssl
from genssl.errors import SettingsError
from genssl.evaluation.generated import next_views
from genssl.groups import Groups
from genssl.objective import Objective
from genssl.terms import LogPrior, PosteriorEntropy

VIEW, CONTENT, NOISE = 0.15**0.5, 1.0, 0.02**0.5


class Expert(nn.Module):
    """The likelihood of x_j = z_j + noise as a message about z_j: loc x_j, scale NOISE."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(NOISE), dtype=torch.float64))

    def forward(self, x):
        return torch.cat([x, self.log_scale.expand_as(x)], -1)


def linear_gaussian(content, guide, cls=SimVAE, **rest):
    return cls(Expert(), nn.Identity(), VIEW, NOISE, content, group_guide=guide, dim=2, **rest)


def ragged(groups=4, views=5, dim=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, views, dim, dtype=torch.float64, generator=generator)
    mask = torch.rand(groups, views, generator=generator) < 0.7
    mask[:, 0] = True
    return Groups(x, mask)


def evidence(groups):
    """log N(x; 0, (s^2 + noise^2) I + c^2 1 1^T) of the views that exist."""
    out = []
    for x, valid in zip(groups.x, groups.valid, strict=True):
        n = int(valid.sum())
        covariance = (VIEW**2 + NOISE**2) * torch.eye(n) + CONTENT**2 * torch.ones(n, n)
        normal = torch.distributions.MultivariateNormal(torch.zeros(n, dtype=torch.float64), covariance.double())
        out.append(sum(normal.log_prob(x[valid, d]) for d in range(x.shape[1])))
    return torch.stack(out)


def test_product_of_experts_is_exact_for_linear_gaussian_groups(float64):
    """The ELBO is the evidence at every draw; a factorised guide of the best scale is not there."""
    groups = ragged()
    method = linear_gaussian(
        CONTENT, ProductOfExperts(start=0.0), objective=Objective(entropy=PosteriorEntropy(analytic=False))
    )
    for seed in range(3):
        torch.manual_seed(seed)
        terms = method.objective.terms(method.model, method.guide, groups)
        torch.testing.assert_close(terms.elbo, evidence(groups), rtol=1e-9, atol=1e-9)
    closed = linear_gaussian(CONTENT, ProductOfExperts(start=0.0), objective=Objective(prior=LogPrior(analytic=True)))
    torch.manual_seed(0)
    draws = torch.stack([closed.objective.terms(closed.model, closed.guide, groups).prior for _ in range(3)])
    torch.testing.assert_close(draws[0], draws[1])  # in closed form: no noise of the draw in it
    factorised = linear_gaussian(CONTENT, None)
    many = torch.stack(
        [factorised.objective.terms(factorised.model, factorised.guide, groups).elbo for _ in range(500)]
    )
    assert bool((many.mean(0) < evidence(groups) - 0.01).all())


def test_content_under_the_product_is_the_exact_posterior(float64):
    groups = ragged()
    with torch.no_grad():
        content = linear_gaussian(CONTENT, ProductOfExperts(start=0.0)).content(groups)
    count = groups.count.double()[:, None]
    precision = 1 / CONTENT**2 + count / (VIEW**2 + NOISE**2)
    torch.testing.assert_close(content.variance, (1 / precision).expand(-1, 2))
    torch.testing.assert_close(content.mean, groups.x.sum(1) / (VIEW**2 + NOISE**2) / precision)


@pytest.mark.parametrize("content", [None, CONTENT])
@pytest.mark.parametrize("make", [ProductOfExperts, lambda: SetGuide(2)])
def test_a_group_of_one_view_is_what_encode_gives(content, make, float64):
    method = linear_gaussian(content, make().double())
    x = torch.randn(6, 1, 2, dtype=torch.float64)
    with torch.no_grad():
        joint, alone = method.joint(Groups(x)), method.encode(x[:, 0])
    torch.testing.assert_close(joint.mean[:, 0], alone.mean)
    torch.testing.assert_close(joint.variance[:, 0], alone.variance)


@pytest.mark.parametrize("make", [ProductOfExperts, lambda: SetGuide(2)])
def test_order_and_padding_do_not_matter_and_the_others_do(make, float64):
    method = linear_gaussian(CONTENT, make().double())
    groups = ragged()
    order = torch.tensor([3, 0, 4, 2, 1])
    with torch.no_grad():
        law = method.joint(groups)
        turned = method.joint(Groups(groups.x[:, order], groups.mask[:, order]))
        moved = groups.x.clone()
        moved[:, 0] += 1.0
        other = method.joint(Groups(moved, groups.mask))
    valid = groups.valid
    torch.testing.assert_close(law.mean[:, order][valid[:, order]], turned.mean[valid[:, order]])
    wide = Groups(
        torch.cat([groups.x, torch.full((4, 2, 2), 9.0)], 1),
        torch.cat([groups.mask, torch.zeros(4, 2, dtype=torch.bool)], 1),
    )
    with torch.no_grad():
        padded = method.joint(wide)
    torch.testing.assert_close(padded.mean[:, :5][valid], law.mean[valid])
    rest = valid.clone()
    rest[:, 0] = False
    assert bool(((other.mean - law.mean).abs().amax(-1)[rest] > 1e-6).all())


@pytest.mark.parametrize("cls", [VAE, BetaVAE, CRVAE, AAVAE, SimVAE, ContentSimVAE, MixtureSimVAE])
def test_a_set_guide_is_trained_by_every_generative_method(cls):
    example = Groups(torch.rand(8, 3, 1, 4, 4), source=torch.rand(8, 1, 4, 4))
    method = cls.build(example, dim=2, hidden=[8], group_guide="set")
    loss = method.objective(method.model, method.guide)
    loss(example).backward()
    gradients = [parameter.grad for parameter in method.group_guide.parameters()]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(float(gradient.abs().max()) > 0 for gradient in gradients)
    svi = pyro.infer.SVI(method.model, method.guide, pyro.optim.Adam({"lr": 1e-2}), loss=method.objective)
    before = {name: value.clone() for name, value in method.named_parameters()}
    for _ in range(3):
        svi.step(example)
    assert all(
        not torch.equal(value, before[name]) for name, value in method.group_guide.named_parameters("group_guide")
    )


def test_trace_elbo_agrees(float64):
    groups = ragged()
    method = linear_gaussian(
        CONTENT, ProductOfExperts(start=0.0), objective=Objective(entropy=PosteriorEntropy(analytic=False))
    )
    torch.manual_seed(0)
    loss = pyro.infer.Trace_ELBO().loss(method.model, method.guide, groups)
    torch.manual_seed(0)
    terms = method.objective.terms(method.model, method.guide, groups)
    assert -loss == pytest.approx(float(terms.elbo.sum().detach()), rel=1e-10)


def test_priors_that_give_no_product_are_named():
    example = Groups(torch.rand(8, 3, 1, 4, 4))
    for cls, said in (
        (VAE, "the prior is Independent, expected the GroupNormal"),
        (ContentSimVAE, "draws all views of a group"),
    ):
        method = cls.build(example, dim=2, hidden=[8], group_guide="product")
        with pytest.raises(SettingsError, match=said):
            method.objective.terms(method.model, method.guide, example)
    with pytest.raises(SettingsError, match="group_guide = 'sets', expected product, set"):
        SimVAE.build(example, group_guide="sets")


@pytest.mark.parametrize("kind", ["product", "set"])
def test_a_fit_with_a_group_guide_is_loaded_and_evaluated(kind, tmp_path):
    settings = {"dim": 3, "hidden": [16], "group_guide": kind}
    run = genssl.fit(
        "SimVAE", "digits", limit=96, num_views=3, batch_size=16, epochs=1, settings=settings, out=tmp_path / "run", progress=False
    )  # fmt: skip
    groups = run.groups("test", 8)
    again = genssl.load(tmp_path / "run")
    with torch.no_grad():
        torch.testing.assert_close(again.method.joint(groups).mean, run.method.joint(groups).mean)
        torch.testing.assert_close(again.method.content(groups).mean, run.method.content(groups).mean)
    assert run.evaluate(["content"])["content"]["knn"]["test"] > 0


def test_further_views_come_from_draws_of_the_whole_group(tmp_path):
    """Not from draws of its views by themselves."""
    settings = {"dim": 2, "hidden": [8], "group_guide": "product"}
    run = genssl.fit(
        "SimVAE", "digits", limit=96, num_views=3, batch_size=16, max_steps=0, settings=settings, out=tmp_path / "run", progress=False
    )  # fmt: skip
    groups = run.groups("test", 4)
    with torch.no_grad():
        joint = run.method.joint(groups)
        expected = run.method.prior(groups).next_view(joint.mean).mean
    drawn = next_views(run, groups, 4000).z
    torch.testing.assert_close(drawn.mean(1), expected, rtol=0, atol=0.15)


def test_a_view_that_tells_nothing_leaves_loss_and_gradients_finite():
    """A message as wide as exp overflows is the prior's alone: without a largest scale its gradient is 0 times infinity."""
    encoder = nn.Linear(3, 4)
    nn.init.zeros_(encoder.weight)
    with torch.no_grad():
        encoder.bias.copy_(torch.tensor([0.0, 0.0, 200.0, -1.0]))
    method = SimVAE(encoder, nn.Linear(2, 3), VIEW, NOISE, CONTENT, group_guide=ProductOfExperts(start=0.0))
    groups = Groups(torch.randn(4, 5, 3))
    loss = -method.objective.terms(method.model, method.guide, groups).objective.mean()
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in method.parameters() if parameter.grad is not None)


def test_experts_start_sharp():
    """From as wide as the prior they can widen until z tells nothing of x."""
    batch = Groups(torch.rand(16, 3, 1, 8, 8))
    for kind, most in (("product", 0.2), (None, 3.0)):
        torch.manual_seed(0)
        method = SimVAE.build(batch, hidden=(16,), dim=4, content_scale=1.0, group_guide=kind)
        scale = method.posterior(batch).scale.detach()
        assert float(scale.max()) < most
        if kind is None:
            assert float(scale.median()) > 0.5

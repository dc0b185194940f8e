"""Importance weights against exact evidence, naive loops, Trace_ELBO, and their own laws; and their errors."""

from __future__ import annotations

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from genssl.models import VAE, ContentSimVAE, MixtureSimVAE, NeuralStatistician, SimCLR, SimVAE
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.distributions.transforms import ReshapeTransform

from genssl import Groups
from genssl.distributions import GroupNormal
from genssl.errors import NonFiniteError, SettingsError, ShapeError, SiteError
from genssl.evaluation import weights as module
from genssl.evaluation.weights import ContentPrior, draws, effective_sample_size, importance_bound, log_weights
from genssl.fit.randomness import seed_noise, stream_seed

J, D, P = 3, 2, 4
VIEW, CONTENT, NOISE = 0.6, 1.3, 0.5


class Linear(nn.Module):
    """x_j = W z_j + b + noise with GroupNormal z: evidence and posterior are normal; the guide is mean-field, or exact."""

    def __init__(self, exact=False, content_scale=CONTENT, spread=0.3):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.weight = nn.Parameter(torch.randn(P, D, generator=generator))
        self.bias = nn.Parameter(torch.randn(P, generator=generator))
        self.exact, self.content_scale, self.spread = exact, content_scale, spread

    def model(self, groups):
        with groups.plate:
            z = pyro.sample("z", GroupNormal(VIEW, J, D, self.content_scale))
            pyro.sample("x", dist.Normal(z @ self.weight.T + self.bias, NOISE).to_event(2), obs=groups.x)

    def guide(self, groups):
        posterior = self.posterior(groups)
        if self.exact:
            law = dist.TransformedDistribution(posterior, [ReshapeTransform((J * D,), (J, D))])
        else:
            law = dist.Normal(posterior.mean.unflatten(-1, (J, D)), self.spread).to_event(2)
        with groups.plate:
            pyro.sample("z", law)

    def covariance(self):
        """Of z [JD, JD], and the map [JP, JD]."""
        views = VIEW**2 * torch.eye(J) + self.content_scale**2 * torch.ones(J, J)
        return torch.kron(views, torch.eye(D)), torch.kron(torch.eye(J), self.weight.detach())

    def posterior(self, groups):
        prior, maps = self.covariance()
        precision = prior.inverse() + maps.T @ maps / NOISE**2
        residual = (groups.x - self.bias.detach()).flatten(1)
        mean = residual @ maps @ precision.inverse() / NOISE**2
        return dist.MultivariateNormal(mean, precision.inverse().expand(len(mean), -1, -1))

    def evidence(self, groups):
        prior, maps = self.covariance()
        covariance = maps @ prior @ maps.T + NOISE**2 * torch.eye(J * P)
        return dist.MultivariateNormal(self.bias.detach().repeat(J), covariance).log_prob(groups.x.flatten(1))


def linear_groups(number=5):
    return Groups(2 * torch.randn(number, J, P, generator=torch.Generator().manual_seed(3)))


def image_groups(ragged=False, number=6):
    generator = torch.Generator().manual_seed(5)
    mask = torch.ones(number, J, dtype=torch.bool)
    mask[0, 2], mask[3, 1:] = False, False
    return Groups(torch.rand(number, J, 1, 4, 4, generator=generator), mask=mask if ragged else None)


def build(cls, groups, **given):
    torch.manual_seed(2)
    if cls in (SimVAE, ContentSimVAE):
        given.setdefault("content_scale", 1.2)
    return cls.build(groups, dim=3, hidden=(8, 8), **given)


def reseeded(seed, sample, block=0):
    seed_noise(seed, block, torch.device("cpu"), f"weights/{sample}")


# ------------------------------------------------------------------ exact evidence


@pytest.mark.parametrize("block", [None, 2])
def test_the_exact_posterior_has_weights_without_variance(float64, block):
    method, groups = Linear(exact=True), linear_groups()
    found = log_weights(method, groups, 7, block=block)
    assert found.log_weight.shape == (7, 5)
    assert found.log_prior.std(0).min() > 0.1  # the draws do differ
    torch.testing.assert_close(found.log_weight, method.evidence(groups).expand(7, 5), rtol=0, atol=1e-8)
    torch.testing.assert_close(importance_bound(found.log_weight, 3), method.evidence(groups), rtol=0, atol=1e-8)
    torch.testing.assert_close(effective_sample_size(found.log_weight), torch.full((5,), 7.0), rtol=0, atol=1e-6)


def test_elbo_is_below_the_bounds_and_these_are_below_the_evidence(float64):
    method, groups, copies, samples = Linear(), linear_groups(), 1024, 8192
    repeated = Groups(groups.x.repeat(copies, 1, 1))
    found = log_weights(method, repeated, 8, seed=1, block=5 * copies).log_weight.reshape(samples, 5)
    evidence, posterior = method.evidence(groups), method.posterior(groups)
    mean_field = dist.MultivariateNormal(posterior.mean, 0.3**2 * torch.eye(J * D))
    gap = torch.distributions.kl_divergence(mean_field, posterior)
    error = found.std(0) / math.sqrt(samples)
    assert ((found.mean(0) - (evidence - gap)).abs() < 4.5 * error).all()
    bounds = torch.stack([importance_bound(found, k) for k in (1, 4, 32, 256, 8192)])
    assert (bounds.diff(dim=0) > 0).all()
    assert (bounds[:3] < evidence).all()
    # E w is the evidence itself.
    relative = (found - evidence).exp().std(0) / math.sqrt(samples)
    assert ((found - evidence).exp().mean(0) - 1).abs().lt(4.5 * relative).all()
    assert ((bounds[4] - evidence).abs() < 6 * relative).all()


# ------------------------------------------------------------------ what Pyro and loops say


class Scaled(nn.Module):
    """A user's model that has sites of every kind: another plate, a scaled likelihood, a factor in both."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(P, 2 * D), nn.Linear(D, P)

    def model(self, groups):
        with groups.plate:
            z = pyro.sample("z", GroupNormal(0.5, J, D, content_scale=2.0))
            with pyro.poutine.scale(scale=0.3):
                pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(2), obs=groups.x)
            pyro.factor("penalty", -z.square().sum((-2, -1)))
            with pyro.plate("copies", 5, dim=-2):
                pyro.sample("w", dist.Normal(z.sum((-2, -1)), 1.0), obs=torch.ones(5, groups.num_groups))

    def guide(self, groups):
        loc, log_scale = groups.map(self.encoder).chunk(2, -1)
        with groups.plate:
            z = pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(2))
            pyro.factor("more", 0.1 * z.sum((-2, -1)), has_rsample=True)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("cls", [SimVAE, ContentSimVAE, VAE, NeuralStatistician, MixtureSimVAE, Scaled])
def test_minus_the_loss_of_trace_elbo_is_n_times_the_mean(float64, cls, ragged):
    if cls is Scaled:
        groups, method = linear_groups(), Scaled()
    else:
        groups = image_groups(ragged)
        method = build(cls, groups)
    groups.total = 60
    found = log_weights(method, groups, 4, seed=9).log_weight
    for sample in range(4):
        reseeded(9, sample)
        loss = Trace_ELBO().loss(method.model, method.guide, groups)
        assert 60 * found[sample].mean().item() == pytest.approx(-loss, rel=1e-10)


def test_blocks_are_groups_of_their_own_in_a_plate_of_the_same_size(float64):
    groups = image_groups(True)
    method = build(SimVAE, groups)
    groups.total = 60
    found = log_weights(method, groups, 2, seed=9, block=4).log_weight
    for block, rows in enumerate([slice(0, 4), slice(4, 6)]):
        part = groups[rows]
        part.total = 60
        reseeded(9, 1, block)
        loss = Trace_ELBO().loss(method.model, method.guide, part)
        assert 60 * found[1, rows].mean().item() == pytest.approx(-loss, rel=1e-10)


@pytest.mark.parametrize("ragged", [False, True])
def test_slots_are_those_of_a_naive_loop(float64, ragged):
    groups = image_groups(ragged)
    method = build(SimVAE, groups)
    found = log_weights(method, groups, 3, seed=4)
    with torch.no_grad():
        traces = list(draws(method.model, method.guide, groups, 3, 4))
        for s, g in ((s, g) for s in range(3) for g in range(6)):
            z, views = traces[s].guide["z"].value, [j for j in range(J) if groups.valid[g, j]]
            likelihood = log_q = 0.0
            for j in views:
                x = groups.x[g, j]
                loc, log_scale = method.encoder(x[None])[0].chunk(2)
                log_q += dist.Normal(loc, log_scale.exp()).log_prob(z[g, j]).sum()
                likelihood += dist.Normal(method.decoder(z[g, j][None])[0], 0.02**0.5).log_prob(x).sum()
            n = len(views)
            covariance = torch.kron(0.15 * torch.eye(n) + 1.2**2 * torch.ones(n, n), torch.eye(3))
            prior = dist.MultivariateNormal(torch.zeros(3 * n), covariance).log_prob(z[g, views].flatten())
            expected = torch.stack([likelihood, prior, log_q])
            torch.testing.assert_close(torch.stack([slot[s, g] for slot in found]), expected, rtol=1e-9, atol=1e-9)


def test_an_autoguide_has_the_density_of_its_auxiliary_site(float64):
    groups, method = linear_groups(), Linear()
    guide = AutoNormal(method.model, create_plates=lambda groups: groups.plate)
    guide(groups)
    found = log_weights((method.model, guide), groups, 2, seed=3).log_weight
    reseeded(3, 1)
    loss = Trace_ELBO().loss(method.model, guide, groups)
    assert 5 * found[1].mean().item() == pytest.approx(-loss, rel=1e-10)


def test_densities_can_be_counted_once(float64):
    groups = image_groups(True)
    plain, heavy = build(SimVAE, groups), build(SimVAE, groups, likelihood_weight=99.5)
    groups.total = 60
    one, other = log_weights(plain, groups, 2), log_weights(heavy, groups, 2)
    torch.testing.assert_close(other.log_likelihood, 99.5 * one.log_likelihood)
    once = log_weights(heavy, groups, 2, tempered=False)
    for slot, same in zip(once, one, strict=True):
        torch.testing.assert_close(slot, same)


# ------------------------------------------------------------------ content


class Moved(nn.Module):
    """A network whose output or input is moved by m, in the first D numbers."""

    def __init__(self, network, before=0.0, after=0.0):
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, x):
        out = self.network(x + self.before)
        if isinstance(self.after, torch.Tensor):
            out = out + torch.cat([self.after, torch.zeros_like(self.after)])
        return out


@pytest.mark.parametrize("ragged", [False, True])
def test_content_prior_is_the_model_with_that_scale_around_the_shifted_z(float64, ragged):
    groups, m, c = image_groups(ragged), torch.tensor([0.5, -2.0, 1.0]), 0.7
    flat, proper = build(SimVAE, groups, content_scale=None), build(SimVAE, groups, content_scale=c)
    # z - m is what the proper model calls z: its encoder gives loc - m, and its decoder is given z + m.
    moved = SimVAE(
        Moved(proper.encoder, after=-m), Moved(proper.decoder, before=m), proper.view_scale, 0.02**0.5, c, dim=3
    )
    moved._event_dim = 3
    found, expected = log_weights(flat, groups, 3, (m, c)), log_weights(moved, groups, 3)
    for slot, same in zip(found, expected, strict=True):
        torch.testing.assert_close(slot, same, rtol=1e-9, atol=1e-9)
    centred = log_weights(flat, groups, 3, ContentPrior(torch.zeros(3), c))
    torch.testing.assert_close(centred.log_prior, log_weights(proper, groups, 3).log_prior)
    assert (centred.log_prior - found.log_prior).abs().min() > 1e-3


def test_a_mask_around_the_flat_prior_stays(float64):
    class Masked(Linear):
        def model(self, groups):
            with groups.plate:
                kept = torch.arange(groups.num_groups) > 1
                z = pyro.sample("z", GroupNormal(VIEW, J, D).mask(kept))
                pyro.sample("x", dist.Normal(z @ self.weight.T, NOISE).to_event(2), obs=groups.x)

    prior = log_weights(Masked(), linear_groups(), 2, (torch.ones(D), 0.4)).log_prior
    assert (prior[:, :2] == 0).all()
    assert (prior[:, 2:] != 0).all()


@pytest.mark.parametrize("ragged", [False, True])
def test_explicit_content_has_the_weights_of_the_collapsed_model(float64, ragged):
    groups = image_groups(ragged)
    collapsed, explicit = build(SimVAE, groups), build(ContentSimVAE, groups)
    explicit.load_state_dict(collapsed.state_dict())
    one, other = log_weights(collapsed, groups, 4, seed=2), log_weights(explicit, groups, 4, seed=2)
    torch.testing.assert_close(one.log_likelihood, other.log_likelihood, rtol=1e-10, atol=1e-10)
    assert (one.log_q - other.log_q).abs().min() > 1e-3  # y counts among the latents
    torch.testing.assert_close(one.log_weight, other.log_weight, rtol=1e-9, atol=1e-9)


def test_a_flat_explicit_content_gets_the_normal(float64):
    groups, m, c = image_groups(True), torch.tensor([0.5, -2.0, 1.0]), 0.7
    method = build(ContentSimVAE, groups, content_scale=None)
    found = log_weights(method, groups, 1, (m, c), seed=6)
    with torch.no_grad():
        (traces,) = draws(method.model, method.guide, groups, 1, 6)
    y, z = traces.model["y"].value, traces.model["z"].value
    view = dist.Normal(y, method.view_scale).log_prob(z).sum(-1) * groups.mask
    expected = dist.Normal(m, c).log_prob(y).sum((-2, -1)) + view.sum(-1)
    torch.testing.assert_close(found.log_prior[0], expected)


def test_a_proper_model_ignores_the_content_prior():
    groups = image_groups()
    for cls in (SimVAE, VAE, MixtureSimVAE):
        method = build(cls, groups)
        one, other = log_weights(method, groups, 2), log_weights(method, groups, 2, (torch.full((3,), 9.0), 0.1))
        assert torch.equal(one.log_weight, other.log_weight)


# ------------------------------------------------------------------ draws and state


def test_draws_are_a_function_of_seed_sample_and_block():
    groups, method = image_groups(number=6), build(SimVAE, image_groups())
    run = partial(log_weights, method, block=2)
    first = run(groups, 3, seed=1).log_weight
    torch.testing.assert_close(run(groups, 5, seed=1).log_weight[:3], first, rtol=0, atol=0)
    torch.testing.assert_close(run(groups[:4], 3, seed=1).log_weight, first[:, :4], rtol=0, atol=0)
    torch.manual_seed(99)
    assert torch.equal(run(groups, 3, seed=1).log_weight, first)
    assert (run(groups, 3, seed=2).log_weight != first).any()
    assert len(first.unique()) == first.numel()  # neither samples nor blocks share their noise
    z = [next(draws(method.model, method.guide, groups[:2], 1, 1, block)).guide["z"] for block in (0, 1)]
    noise = [(site.value - site.fn.mean) / site.fn.stddev for site in z]
    assert (noise[0] - noise[1]).abs().min() > 1e-4


def test_one_site_is_drawn_again_as_the_whole_guide_would(float64):
    """A second site, which makes the guide run anew, changes no draw of the first; and one site alone runs its network once."""
    groups, calls = linear_groups(), []

    class Counted(Linear):
        twice = False

        def guide(self, groups):
            calls.append(groups)
            with groups.plate:
                pyro.sample("z", dist.Normal(groups.x[..., :D], 0.3).to_event(2))
                if self.twice:
                    pyro.factor("nothing", torch.zeros(groups.num_groups), has_rsample=True)

    method = Counted()
    once = log_weights(method, groups, 6).log_weight
    assert len(calls) == 1
    method.twice = True
    assert torch.equal(log_weights(method, groups, 6).log_weight, once)
    assert len(calls) == 7


def test_the_method_and_the_generators_are_left_as_they_were():
    groups = image_groups(True)
    method = build(SimVAE, groups)
    method.encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6))
    method.train()
    state = {name: value.clone() for name, value in method.state_dict().items()}
    generator = torch.get_rng_state()
    found = log_weights(method, groups, 2)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in method.state_dict().items())
    assert all(part.training for part in method.modules())
    assert all(parameter.grad is None for parameter in method.parameters())
    assert not any(slot.requires_grad for slot in found)
    method.eval()  # that is the mode that was measured
    assert torch.equal(log_weights(method, groups, 2).log_weight, found.log_weight)


def test_functions_without_an_owner_and_float32():
    groups = linear_groups()

    def model(groups):
        with groups.plate:
            z = pyro.sample("z", GroupNormal(VIEW, J, P, CONTENT))
            pyro.sample("x", dist.Normal(z, NOISE).to_event(2), obs=groups.x)

    def guide(groups):
        with groups.plate:
            pyro.sample("z", dist.Normal(groups.x, 0.4).to_event(2))

    generator = torch.get_rng_state()
    found = log_weights((model, guide), groups, 2)
    assert found.log_weight.dtype == torch.float64
    assert torch.equal(torch.get_rng_state(), generator)
    assert found.log_weight.shape == (2, 5)


def test_the_default_block_holds_about_1024_views(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 7)
    seen = []

    class Watched(Linear):
        def guide(self, groups):
            seen.append((len(groups), groups.total, groups.rows.tolist()))
            super().guide(groups)

    groups = linear_groups(5)
    groups.total = 60
    log_weights(Watched(), groups, 1)
    assert seen == [(2, 60, [0, 1]), (2, 60, [2, 3]), (1, 60, [4])]  # 7 // 3 views; their places stay


# ------------------------------------------------------------------ bounds and sizes


@st.composite
def log_weight_arrays(draw):
    samples, groups = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    values = draw(st.lists(st.floats(-900, 900), min_size=samples * groups, max_size=samples * groups))
    return torch.tensor(values, dtype=torch.float64).reshape(samples, groups)


@settings(max_examples=60, deadline=None)
@given(log_weight_arrays(), st.data())
def test_the_bound_is_that_of_a_loop(log_weight, data):
    samples = len(log_weight)
    k = data.draw(st.integers(1, samples))
    found = importance_bound(log_weight, k)
    for g in range(log_weight.shape[1]):
        blocks = []
        for start in range(0, samples - k + 1, k):
            w = log_weight[start : start + k, g].tolist()
            top = max(w)
            blocks.append(top + math.log(sum(math.exp(v - top) for v in w) / k))
        assert found[g].item() == pytest.approx(sum(blocks) / len(blocks), rel=1e-12, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(log_weight_arrays(), st.floats(-500, 500))
def test_bounds_grow_with_k_and_move_with_the_weights(log_weight, shift):
    log_weight = log_weight.repeat(12 // math.gcd(12, len(log_weight)), 1)  # 12 divides the number of draws
    bounds = torch.stack([importance_bound(log_weight, k) for k in (1, 2, 4, 12)])
    assert (bounds.diff(dim=0) >= -1e-9).all()
    assert (bounds <= log_weight.max(0).values + 1e-9).all()
    torch.testing.assert_close(bounds[0], log_weight.mean(0))
    torch.testing.assert_close(importance_bound(log_weight + shift, 4), bounds[2] + shift)
    size = effective_sample_size(log_weight)
    torch.testing.assert_close(effective_sample_size(log_weight + shift), size)
    assert (size >= 1 - 1e-9).all()
    assert (size <= len(log_weight) + 1e-9).all()


def test_effective_sample_size_by_hand_and_at_its_ends():
    weights = torch.tensor([[1.0, 5.0, 0.0], [2.0, 5.0, 0.0], [3.0, 5.0, 2.0], [0.0, 5.0, 0.0]]).double()
    size = effective_sample_size(weights.log())
    torch.testing.assert_close(size, torch.tensor([36 / 14, 4.0, 1.0]).double())
    assert effective_sample_size(torch.full((3, 2), -math.inf)).tolist() == [0.0, 0.0]
    assert importance_bound(torch.full((3, 2), -math.inf), 3).tolist() == [-math.inf, -math.inf]


# ------------------------------------------------------------------ errors


def test_a_flat_content_without_a_prior_names_the_remedy():
    groups = image_groups()
    for cls, site in ((SimVAE, "z"), (ContentSimVAE, "y")):
        with pytest.raises(SiteError, match=rf"site '{site}' has a flat p\(y\).*content_prior=\(loc, scale\)"):
            log_weights(build(cls, groups, content_scale=None), groups, 1)


def test_a_point_mass_has_no_density():
    method, groups = Linear(), linear_groups()

    def guide(groups):
        with groups.plate:
            pyro.sample("z", dist.Delta(groups.x[..., :D], event_dim=2))

    with pytest.raises(SiteError, match="guide site 'z' is a point mass"):
        log_weights((method.model, guide), groups, 1)


@pytest.mark.parametrize("where", ["model and guide", "model"])
def test_what_all_groups_share_has_no_weight_by_group(where):
    method, groups = Linear(), linear_groups()

    def model(groups):
        if where == "model":
            pyro.factor("shift", torch.tensor(1.0))
        else:
            pyro.sample("shift", dist.Normal(0.0, 1.0))
        method.model(groups)

    def guide(groups):
        if where != "model":
            pyro.sample("shift", dist.Normal(0.0, 1.0))
        method.guide(groups)

    with pytest.raises(SiteError, match="site 'shift' stands outside the plate 'groups'.*hide="):
        log_weights((model, guide), groups, 1)
    hidden = pyro.poutine.block(pyro.poutine.condition(model, data={"shift": torch.tensor(0.5)}), hide=["shift"])
    found = log_weights((hidden, pyro.poutine.block(guide, hide=["shift"])), groups, 2)
    assert found.log_weight.shape == (2, 5)


def test_nothing_observed_two_flat_priors_and_a_flat_scale():
    method, groups = Linear(), linear_groups()

    def silent(groups):
        with groups.plate:
            pyro.sample("z", GroupNormal(VIEW, J, D, CONTENT))

    def scale(groups):
        with groups.plate:
            z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), (J, D)))
            pyro.sample("x", dist.Normal(z @ method.weight.T, 1.0).to_event(2), obs=groups.x)

    with pytest.raises(SiteError, match="the model observes nothing"):
        log_weights((silent, method.guide), groups, 1)
    with pytest.raises(SiteError, match="the improper prior of site 'z' is no p"):
        log_weights((scale, method.guide), groups, 1, (torch.zeros(D), 1.0))

    def twice(groups):
        with groups.plate:
            for name in ("z", "u"):
                value = pyro.sample(name, GroupNormal(VIEW, J, D))
            pyro.sample("x", dist.Normal(value @ method.weight.T, 1.0).to_event(2), obs=groups.x)

    def guide(groups):
        with groups.plate:
            for name in ("z", "u"):
                pyro.sample(name, dist.Normal(torch.zeros(groups.num_groups, J, D), 1.0).to_event(2))

    with pytest.raises(SiteError, match="'z' and 'u' are improper"):
        log_weights((twice, guide), groups, 1, (torch.zeros(D), 1.0))


def test_wrong_arguments():
    groups = linear_groups()
    run = partial(log_weights, Linear(content_scale=CONTENT), groups)
    flat = Linear()
    flat.content_scale = None
    flat.posterior = Linear().posterior
    with pytest.raises(ShapeError, match=r"a loc \[3\], but site 'z' has 2 dimensions"):
        log_weights(flat, groups, 1, (torch.zeros(3), 1.0))
    for prior, message in (((0.0, 1.0), "is float"), ((torch.zeros(1, 2), 1.0), r"is \[1, 2\]")):
        with pytest.raises(ShapeError, match=message):
            run(1, prior)
    for scale in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(SettingsError, match="scale of content_prior"):
            run(1, (torch.zeros(2), scale))
    for given_ in ({"samples": 0}, {"samples": 2.0}, {"samples": True}, {"block": 0}):
        with pytest.raises(SettingsError, match=f"{next(iter(given_))} = .*at least 1"):
            run(**given_)
    with pytest.raises(SettingsError, match="groups is a Tensor"):
        log_weights(Linear(), groups.x)
    with pytest.raises(SettingsError, match="there is no model"):
        log_weights(SimCLR.build(image_groups(), dim=3, hidden=(8,)), image_groups())
    weights = torch.zeros(4, 2)
    for k in (0, 5, 2.0, True):
        with pytest.raises(SettingsError, match="k = .*from 1 to the 4 draws"):
            importance_bound(weights, k)
    for bad in (torch.zeros(4), torch.zeros(0, 2), torch.zeros(2, 2, 2)):
        with pytest.raises(ShapeError, match=r"expected \[S, G\]"):
            importance_bound(bad, 1)
        with pytest.raises(ShapeError, match=r"expected \[S, G\]"):
            effective_sample_size(bad)


def test_weights_that_are_not_finite_are_told_and_weights_of_zero_are_not():
    method, groups = Linear(), linear_groups()
    pyro.enable_validation(False)  # as in a fit; Pyro would refuse the value first

    def model(groups, value):
        with groups.plate:
            z = pyro.sample("z", GroupNormal(VIEW, J, D, CONTENT))
            pyro.sample("x", dist.Normal(z @ method.weight.T, 1.0).to_event(2), obs=groups.x)
            pyro.factor("bad", torch.where(torch.arange(groups.num_groups) < 2, value, 0.0))

    for value in (math.nan, math.inf):
        with pytest.raises(NonFiniteError, match="2 of 5 groups"):
            log_weights((lambda groups, value=value: model(groups, value), method.guide), groups, 3)
    found = log_weights((lambda groups: model(groups, -math.inf), method.guide), groups, 3).log_weight
    assert (found[:, :2] == -math.inf).all()
    assert importance_bound(found, 3).isfinite().tolist() == [False, False, True, True, True]


def test_the_seed_of_a_sample_is_unrelated_to_that_of_another():
    seeds = {stream_seed(0, f"weights/{sample}", block) for sample in range(50) for block in range(50)}
    assert len(seeds) == 2500

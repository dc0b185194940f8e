"""The objective against Pyro's Trace_ELBO, exact evidence, and its own laws; and its errors."""

from __future__ import annotations

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from genssl.models import VAE, BetaVAE, ContentSimVAE, SimVAE
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

from genssl import Groups, Objective
from genssl.distributions import GroupNormal
from genssl.errors import SettingsError, ShapeError, SiteError
from genssl.terms import Constant, LogLikelihood, LogPrior, PosteriorEntropy

SAMPLED = {"entropy": PosteriorEntropy(analytic=False), "prior": LogPrior(analytic=False)}


def make_groups(ragged=False, total=60):
    mask = torch.ones(6, 3, dtype=torch.bool)
    mask[0, 2], mask[3, 1:] = False, False
    groups = Groups(torch.rand(6, 3, 1, 4, 4), mask=mask if ragged else None)
    groups.total = total
    return groups


def build(cls, groups, **settings):
    return cls.build(groups, dim=3, hidden=(8, 8), **settings)


class Hierarchy(nn.Module):
    """A user's model with everything that complicates scales: a global latent, another plate, a scaled site, a factor."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 6), nn.Linear(3, 4)
        self.loc = nn.Parameter(torch.zeros(3))

    def model(self, groups):
        shift = pyro.sample("shift", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with groups.plate:
            z = pyro.sample("z", GroupNormal(0.5, 3, 3, content_scale=2.0))
            with pyro.poutine.scale(scale=0.3):
                pyro.sample("x", dist.Normal(self.decoder(z + shift), 0.5).to_event(2), obs=groups.x)
            pyro.factor("penalty", -z.square().sum((-2, -1)))
            with pyro.plate("copies", 5, dim=-2):
                pyro.sample("w", dist.Normal(z.sum((-2, -1)), 1.0), obs=torch.ones(5, groups.num_groups))

    def guide(self, groups):
        pyro.sample("shift", dist.Normal(self.loc, 0.2).to_event(1))
        loc, log_scale = groups.map(self.encoder).chunk(2, -1)
        with groups.plate:
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(2))


# ------------------------------------------------------------------ the law of Trace_ELBO


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("cls", [SimVAE, ContentSimVAE, VAE, BetaVAE])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_trace_elbo_law(cls, ragged, dtype, tolerance):
    torch.set_default_dtype(dtype)
    groups = make_groups(ragged)
    method = build(cls, groups)
    torch.manual_seed(1)
    elbo = Objective(**SAMPLED).terms(method.model, method.guide, groups).elbo
    torch.manual_seed(1)
    loss = Trace_ELBO().loss(method.model, method.guide, groups)
    assert abs(60 * elbo.mean().item() + loss) <= tolerance * abs(loss)


def test_trace_elbo_law_for_a_hierarchy(float64):
    groups = Groups(torch.randn(7, 3, 4))
    groups.total = 70
    method = Hierarchy()
    torch.manual_seed(1)
    terms = Objective(**SAMPLED).terms(method.model, method.guide, groups)
    torch.manual_seed(1)
    loss = Trace_ELBO().loss(method.model, method.guide, groups)
    assert abs(70 * terms.elbo.mean().item() + loss) <= 1e-10 * abs(loss)
    assert set(terms.sites["reconstruction"]) == {"x", "penalty", "w"}
    # A global latent is shared out: the same amount to every group.
    assert terms.sites["prior"]["shift"].unique().numel() == 1


def test_gradients_are_those_of_trace_elbo(float64):
    groups = make_groups(True)
    one = build(SimVAE, groups)
    two = copy.deepcopy(one)
    torch.manual_seed(1)
    Objective(**SAMPLED)(one.model, one.guide)(groups).backward()
    torch.manual_seed(1)
    (Trace_ELBO().differentiable_loss(two.model, two.guide, groups) / 60).backward()
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-12, msg=name)


def test_minibatches_average_to_the_whole(float64):
    """Subsampled plates: the mean over disjoint minibatches is the value on all groups (global latents included)."""
    groups, method = Groups(torch.randn(8, 3, 4)), Hierarchy()
    objective, z = Objective(entropy=Constant(), prior=Constant()), torch.randn(8, 3, 3)

    def value(rows):
        part = groups[rows]
        part.total = 8
        # With every latent given, nothing is drawn and all sites are observed.
        model = pyro.poutine.condition(method.model, data={"shift": torch.ones(3), "z": z[rows]})
        return objective.terms(model, lambda groups: None, part).elbo

    whole = value(torch.arange(8))
    parts = torch.cat([value(torch.arange(k, k + 2)) for k in range(0, 8, 2)])
    torch.testing.assert_close(parts, whole)


# ------------------------------------------------------------------ exact evidence


class LinearGaussian(nn.Module):
    """x_j = z_j + noise with a linear guide: everything is known in closed form."""

    def __init__(self, view, content, noise, views):
        super().__init__()
        self.view, self.content, self.noise, self.views = view, content, noise, views
        self.gain, self.log_scale = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(-1.0))

    def model(self, groups):
        with groups.plate:
            z = pyro.sample("z", GroupNormal(self.view, self.views, 1, self.content))
            pyro.sample("x", dist.Normal(z, self.noise).to_event(2), obs=groups.x)

    def guide(self, groups):
        with groups.plate:
            pyro.sample("z", dist.Normal(self.gain * groups.x, self.log_scale.exp().expand(groups.x.shape)).to_event(2))

    def evidence(self, x):
        covariance = (self.view**2 + self.noise**2) * torch.eye(self.views) + self.content**2 * torch.ones(
            self.views, self.views
        )
        return dist.MultivariateNormal(torch.zeros(self.views), covariance).log_prob(x[..., 0])


@pytest.mark.parametrize(("views", "gap"), [(2, 0.054), (10, 0.50)])
def test_elbo_is_a_bound_with_the_known_gap(views, gap, float64):
    """Factorised q(z_j | x_j) at its best falls short of log p(x) by 0.054 nats (J = 2), 0.50 (J = 10)."""
    model = LinearGaussian(0.15**0.5, 1.0, 0.02**0.5, views)
    groups = Groups(
        torch.randn(4000, 1, 1) + 0.15**0.5 * torch.randn(4000, views, 1) + 0.02**0.5 * torch.randn(4000, views, 1)
    )
    objective = Objective(prior=LogPrior(analytic=True))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    loss = objective(model.model, model.guide)
    for _ in range(300):
        optimiser.zero_grad()
        loss(groups).backward()
        optimiser.step()
    with torch.no_grad():
        elbo = torch.stack([objective.terms(model.model, model.guide, groups).elbo for _ in range(20)]).mean()
    found = (model.evidence(groups.x).mean() - elbo).item()
    assert abs(found - gap) < 0.1 * gap + 0.005


# ------------------------------------------------------------------ identities between methods and settings


@pytest.mark.parametrize("content", [None, 1.2])
@pytest.mark.parametrize("ragged", [False, True])
def test_explicit_content_gives_the_collapsed_elbo_pointwise(content, ragged, float64):
    groups = make_groups(ragged)
    collapsed, explicit = (build(cls, groups, content_scale=content) for cls in (SimVAE, ContentSimVAE))
    explicit.load_state_dict(collapsed.state_dict())
    elbos = []
    for method in (collapsed, explicit):
        torch.manual_seed(2)
        elbos.append(method.objective.terms(method.model, method.guide, groups).elbo)
    torch.testing.assert_close(elbos[0], elbos[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("cls", [SimVAE, VAE, ContentSimVAE])
def test_analytic_terms_are_averages_of_sampled_ones(cls, float64):
    groups = make_groups(True)
    method = build(cls, groups, **({} if cls is VAE else {"content_scale": 1.1}))
    with torch.no_grad():
        many = [
            [
                Objective(entropy=PosteriorEntropy(a), prior=LogPrior(a)).terms(method.model, method.guide, groups)
                for _ in range(1500)
            ]
            for a in (True, False)
        ]
    for pick in (lambda t: t.entropy + t.prior,):
        analytic, sampled = (torch.stack([pick(t) for t in draws]) for draws in many)
        error = (analytic.var(0) / 1500 + sampled.var(0) / 1500).sqrt() + 1e-9
        assert ((analytic.mean(0) - sampled.mean(0)).abs() < 5 * error).all()


def test_particles_average(float64):
    groups = make_groups()
    method = build(SimVAE, groups)
    torch.manual_seed(3)
    singles = [Objective().terms(method.model, method.guide, groups).elbo for _ in range(4)]
    torch.manual_seed(3)
    together = Objective(num_particles=4).terms(method.model, method.guide, groups)
    torch.testing.assert_close(together.elbo, sum(singles) / 4)
    torch.testing.assert_close(together.sites["reconstruction"]["x"], together.reconstruction)


def test_weights_count_in_the_objective_alone():
    groups = make_groups()
    method = build(BetaVAE, groups, beta=3.0)
    terms = method.objective.terms(method.model, method.guide, groups)
    torch.testing.assert_close(terms.elbo, terms.reconstruction + terms.entropy + terms.prior)
    torch.testing.assert_close(terms.objective, terms.reconstruction + 3 * (terms.entropy + terms.prior))
    halves = Objective(entropy=0.5 * PosteriorEntropy() + 0.5 * PosteriorEntropy())
    mixed = halves.terms(method.model, method.guide, groups)
    torch.testing.assert_close(mixed.entropy, 2 * terms.entropy)  # both terms, unweighted
    thrice = Objective(entropy=PosteriorEntropy() + PosteriorEntropy() + PosteriorEntropy())
    torch.testing.assert_close(thrice.terms(method.model, method.guide, groups).entropy, 3 * terms.entropy)
    torch.testing.assert_close(mixed.objective - mixed.reconstruction - mixed.prior, terms.entropy)


def test_padding_changes_neither_terms_nor_gradients(float64):
    x, mask = torch.rand(6, 3, 1, 4, 4), make_groups(True).mask
    other = torch.where(mask[:, :, None, None, None], x, 1e6 * torch.rand_like(x))
    method = build(SimVAE, Groups(x))
    found = []
    for data in (x, other):
        torch.manual_seed(5)
        method.zero_grad()
        method.objective(method.model, method.guide)(Groups(data, mask=mask)).backward()
        found.append([p.grad.clone() for p in method.parameters()])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_a_ragged_group_is_the_smaller_group(float64):
    x = torch.rand(2, 3, 1, 4, 4)
    method = build(SimVAE, Groups(x), content_scale=1.0)
    objective = Objective(reconstruction=LogLikelihood(), entropy=PosteriorEntropy(), prior=LogPrior(analytic=True))
    mask = torch.tensor([[True, True, False]] * 2)
    ragged = objective.terms(method.model, method.guide, Groups(x, mask=mask))
    small = objective.terms(method.model, method.guide, Groups(x[:, :2]))
    torch.testing.assert_close(ragged.entropy, small.entropy)
    torch.testing.assert_close(ragged.prior, small.prior)


# ------------------------------------------------------------------ no state changes


class Normed(VAE):
    @classmethod
    def build(cls, example, **settings):
        out = super().build(example, **settings)
        out.encoder.append(nn.BatchNorm1d(2 * out.dim))
        return out


def test_terms_change_nothing_and_repeat():
    groups = make_groups()
    method = build(Normed, groups).train()
    before = copy.deepcopy(method.state_dict())
    torch.manual_seed(4)
    first = method.objective.terms(method.model, method.guide, groups)
    torch.manual_seed(4)
    second = method.objective.terms(method.model, method.guide, groups)
    assert torch.equal(first.elbo, second.elbo)
    first.elbo.mean().backward()  # the graph survives giving the buffers back
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())
    method.objective(method.model, method.guide)(groups)  # the training forward does move them
    assert not torch.equal(method.state_dict()["encoder.6.running_mean"], before["encoder.6.running_mean"])


def test_terms_keep_statistics_of_parts_in_training_mode():
    groups = make_groups()
    method = build(Normed, groups).eval()
    method.encoder.train()
    before = method.encoder[6].running_mean.clone()
    method.objective.terms(method.model, method.guide, groups)
    assert torch.equal(method.encoder[6].running_mean, before)


def test_observed_guide_sites_count_their_density(float64):
    groups = make_groups()

    def guide(groups):
        with groups.plate:
            pyro.sample("h", dist.Normal(torch.zeros(6), 1.0), obs=torch.full((6,), 3.0))

    for analytic in (True, False):
        entropy = Objective(Constant(), PosteriorEntropy(analytic), Constant()).terms(None, guide, groups).entropy
        torch.testing.assert_close(entropy, -dist.Normal(0.0, 1.0).log_prob(torch.full((6,), 3.0)))


def test_the_decoder_never_runs_unasked():
    groups = make_groups()
    method = build(SimVAE, groups)
    method.decoder.forward = lambda z: pytest.fail("the decoder ran")
    objective = Objective(reconstruction=Constant())
    terms = objective.terms(method.model, method.guide, groups)
    assert terms.reconstruction.abs().max() == 0
    assert terms.prior.abs().min() > 0
    no_model = Objective(reconstruction=Constant(), prior=Constant())
    no_model.terms(None, method.guide, groups)
    module = objective(method.model, method.guide)
    assert {name.split(".")[2] for name, _ in module.named_parameters()} == {"encoder"}
    module(groups).backward()
    assert all(p.grad is not None for p in module.parameters())


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("cls", [SimVAE, ContentSimVAE, VAE, BetaVAE])
def test_svi_and_torch_optim_move_every_parameter(cls):
    groups = make_groups()
    for way in ("svi", "torch"):
        method = build(cls, groups, learned_scale=True)
        before = {name: p.detach().clone() for name, p in method.named_parameters()}
        if way == "svi":
            svi = SVI(method.model, method.guide, pyro.optim.Adam({"lr": 1e-2}), loss=method.objective)
            losses = [svi.step(groups) for _ in range(20)]
        else:
            module = method.objective(method.model, method.guide)
            optimiser, losses = torch.optim.Adam(module.parameters(), lr=1e-2), []
            for _ in range(20):
                optimiser.zero_grad()
                loss = module(groups)
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
        still = [name for name, p in method.named_parameters() if torch.equal(p, before[name])]
        assert not still
        assert losses[-1] < losses[0]


def test_svi_trains_channels_last_weights():
    class Convolutional(VAE):
        @classmethod
        def build(cls, example, **settings):
            out = super().build(example, **settings)
            out.encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 6)).to(
                memory_format=torch.channels_last
            )
            out.encoder[0].weight = nn.Parameter(torch.randn(4, 1, 3, 3).transpose(2, 3))
            return out

    groups = make_groups()
    method = build(Convolutional, groups)
    assert not method.encoder[0].weight.is_contiguous()
    before = method.encoder[0].weight.detach().clone()
    svi = SVI(method.model, method.guide, pyro.optim.Adam({"lr": 1e-2}), loss=method.objective)
    svi.step(groups)
    assert not torch.equal(method.encoder[0].weight, before)
    store = pyro.get_param_store()
    assert any(store._params[name] is method.encoder[0].weight for name in store)


def test_two_instances_train_independently():
    groups = make_groups()
    one, two = build(SimVAE, groups), build(SimVAE, groups)
    before = copy.deepcopy(two.state_dict())
    SVI(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), loss=one.objective).step(groups)
    assert all(torch.equal(v, before[k]) for k, v in two.state_dict().items())
    SVI(two.model, two.guide, pyro.optim.Adam({"lr": 1e-2}), loss=two.objective).step(groups)
    assert not torch.equal(two.encoder[1].weight, before["encoder.1.weight"])


def test_cleared_param_store_and_deepcopy():
    groups = make_groups()
    method = build(SimVAE, groups)
    svi = SVI(method.model, method.guide, pyro.optim.Adam({"lr": 1e-2}), loss=method.objective)
    svi.step(groups)
    pyro.clear_param_store()
    before = method.encoder[1].weight.detach().clone()
    svi.step(groups)
    assert not torch.equal(method.encoder[1].weight, before)
    twin = copy.deepcopy(method)
    assert twin.objective._svi is None
    assert torch.equal(twin.encoder[1].weight, method.encoder[1].weight)


def test_state_dict_keys_are_unique_and_shared():
    groups = make_groups()
    method = build(SimVAE, groups, learned_scale=True)
    module = method.objective(method.model, method.guide)
    keys = list(module.state_dict())
    assert len(keys) == len(set(keys)) == len(method.state_dict())
    pointers = [p.data_ptr() for p in module.parameters()]
    assert len(pointers) == len(set(pointers)) == len(list(method.parameters()))
    module.eval()
    assert not method.training
    module.double()
    assert method.encoder[1].weight.dtype == torch.float64


def test_a_step_without_parameters_is_an_error():
    groups, loc = make_groups(), torch.zeros(6, 3, 2)

    def model(groups):
        with groups.plate:
            pyro.sample("z", GroupNormal(1.0, 3, 2))

    def guide(groups):
        with groups.plate:
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(2))

    objective = Objective(reconstruction=Constant())
    with pytest.raises(SiteError, match="no parameter"):
        SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), loss=objective).step(groups)


class Free(nn.Module):
    """Everything in a user's own module that an optimiser could miss."""

    def __init__(self):
        super().__init__()
        self.encoder, self.predictor = nn.Linear(5, 4), nn.Linear(2, 2)
        self.objective = Objective()

    parts = ("encoder", "predictor")  # a name of the user's own, without meaning here

    def model(self, groups):
        with groups.plate:
            z = pyro.sample("z", GroupNormal(0.5, groups.num_views, 2, content_scale=1.0))
            pyro.sample(
                "x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([*z.shape[:2], 5]).to_event(2), obs=groups.x
            )

    def guide(self, groups):
        loc, log_scale = self.encoder(groups.x).chunk(2, -1)
        with groups.plate:
            pyro.sample("z", dist.Normal(self.predictor(loc), log_scale.exp()).to_event(2))


def test_a_users_module_is_taken_whole():
    method = Free()
    names = {name for name, _ in method.objective(method.model, method.guide).named_parameters()}
    assert len(names) == 4


def test_a_parameter_that_no_optimiser_would_move_is_an_error():
    groups, method, outside = Groups(torch.rand(4, 3, 5)), Free(), nn.Linear(2, 5)

    def closure_model(groups):
        with groups.plate:
            z = pyro.sample("z", GroupNormal(0.5, 3, 2, content_scale=1.0))
            pyro.sample("x", dist.Normal(outside(z), 1.0).to_event(2), obs=groups.x)

    with pytest.raises(SiteError, match=r"shape \[5, 2\]|shape \[5\]"):
        SVI(closure_model, method.guide, pyro.optim.Adam({"lr": 0.1}), loss=Objective()).step(groups)
    with pytest.raises(SiteError, match="would not be trained"):
        Objective()(closure_model, method.guide)(groups)

    class Predicting(SimVAE):  # a part of a gallery method that no term needs, but its guide uses
        def guide(self, groups):
            with groups.plate:
                pyro.sample("z", dist.Normal(self.predictor(self.encoder(groups.x)), 1.0).to_event(2))

    predicting = Predicting(nn.Linear(5, 2), nn.Linear(2, 5), 0.5, 0.5, dim=2)
    predicting.predictor = nn.Linear(2, 2)
    with pytest.raises(SiteError, match=r"'predictor\.(weight|bias)'"):
        predicting.objective(predicting.model, predicting.guide)(groups)


def test_pyro_module_users_are_trained_by_svi_and_told_by_torch():
    groups, net = Groups(torch.rand(4, 3, 5)), nn.Linear(5, 2)
    method = Free()

    def guide(groups):
        module = pyro.module("net", net)
        scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
        with groups.plate:
            pyro.sample("z", dist.Normal(module(groups.x), scale).to_event(2))

    before = net.weight.detach().clone()
    svi = SVI(method.model, guide, pyro.optim.Adam({"lr": 0.1}), loss=Objective())
    svi.step(groups)
    assert not torch.equal(net.weight, before)
    assert pyro.param("scale").item() != 0.5
    with pytest.raises(SiteError, match="would not be trained"):
        Objective()(method.model, guide)(groups)


def test_changes_after_the_first_step_are_seen():
    groups = make_groups()
    method = build(SimVAE, groups)
    objective = Objective(reconstruction=Constant())
    svi = SVI(method.model, method.guide, pyro.optim.Adam({"lr": 1e-2}), loss=objective)
    svi.step(groups)
    module = objective(method.model, method.guide)
    objective.reconstruction = LogLikelihood()
    before = method.decoder[0].weight.detach().clone()
    svi.step(groups)
    assert not torch.equal(method.decoder[0].weight, before)
    with pytest.raises(SettingsError, match="have changed"):
        module(groups)
    method.encoder = build(SimVAE, groups).encoder
    before = method.encoder[1].weight.detach().clone()
    svi.step(groups)
    assert not torch.equal(method.encoder[1].weight, before)
    with pytest.raises(SettingsError, match="not the slot prior"):
        objective.prior = PosteriorEntropy()
    twin = copy.deepcopy(objective(method.model, method.guide))
    twin(groups)


def test_update_reaches_every_owner_once():
    class Counting(Free):
        count = 0

        def update(self):
            self.count += 1

    groups, method = Groups(torch.rand(4, 3, 5)), Counting()
    for weight in (1.0, 0.5, 0.1):  # a new pair for Pyro at every stage of an annealing
        model = pyro.poutine.scale(method.model, scale=weight)
        SVI(model, method.guide, pyro.optim.Adam({"lr": 0.1}), loss=method.objective).step(groups)
    method.objective.update()
    assert method.count == 1
    module = method.objective(method.model, method.guide)
    module(groups)
    module.update()
    method.objective.update()
    assert method.count == 3


# ------------------------------------------------------------------ plates


def test_plate_indices_are_those_of_the_whole():
    whole = Groups(torch.rand(8, 3, 5))
    part = whole[torch.tensor([6, 2])]
    assert part.total == 2
    with part.plate as rows:
        assert rows.tolist() == [0, 1]
    part.total = 8
    with part.plate as rows:
        assert rows.tolist() == [6, 2]
    table = torch.arange(8.0)
    with part.to("cpu").plate:
        assert pyro.subsample(table, event_dim=0).tolist() == [6, 2]


def test_autonormal_with_plates_trains_the_right_groups():
    whole = Groups(torch.randn(8, 3, 1))

    def model(groups):
        with groups.plate:
            z = pyro.sample("z", GroupNormal(0.5, 3, 1, content_scale=1.0))
            pyro.sample("x", dist.Normal(z, 0.3).to_event(2), obs=groups.x)

    guide = AutoNormal(model, create_plates=lambda groups: groups.plate)
    guide(whole)
    before = guide.locs.z.detach().clone()
    part = whole[4:]
    part.total = 8
    SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), loss=Objective()).step(part)
    moved = (guide.locs.z != before).flatten(1).any(1)
    assert moved.tolist() == [False] * 4 + [True] * 4


def test_plates_must_agree():
    groups, objective = make_groups(total=600), Objective(reconstruction=Constant())
    latent = lambda: pyro.sample("z", GroupNormal(1.0, 3, 2))  # noqa: E731
    normal = lambda: dist.Normal(torch.zeros(6, 3, 2), 1.0)  # noqa: E731

    def model(groups):
        with groups.plate:
            latent()

    def other_name(groups):
        with pyro.plate("data", 6):
            pyro.sample("z", normal().to_event(2))

    def outside(groups):
        pyro.sample("z", normal().to_event(3))

    def other_size(groups):
        with pyro.plate("groups", 6):
            pyro.sample("z", normal().to_event(2))

    with pytest.raises(ShapeError, match=r"no site stands in the plate 'groups'.*data"):
        Objective(reconstruction=Constant(), prior=Constant()).terms(None, other_name, groups)
    with pytest.raises(ShapeError, match="in the model but not in the guide"):
        objective.terms(model, other_name, groups)
    with pytest.raises(ShapeError, match="'z'"):
        objective.terms(model, outside, groups)
    with pytest.raises(ShapeError, match="size 6 in the guide and 600 in the model"):
        objective.terms(model, other_size, groups)
    with pytest.raises(ShapeError, match="600 groups in all"):
        Objective(reconstruction=Constant(), prior=Constant()).terms(None, other_size, groups)


# ------------------------------------------------------------------ beside the rest of Pyro


def test_autonormal_predictive_and_condition(float64):
    groups = Groups(torch.randn(20, 3, 1) + 3)

    def model(groups):
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        with groups.plate:
            z = pyro.sample("z", GroupNormal(0.5, 3, 1, content_scale=1.0))
            pyro.sample("x", dist.Normal(z + mean, 0.3).to_event(2), obs=groups.x)

    guide, objective = AutoNormal(model), Objective()
    guide(groups)  # AutoGuides make their parameters on the first call
    optimiser, module = torch.optim.Adam(guide.parameters(), lr=0.05), objective(model, guide)
    torch.manual_seed(1)
    elbo = Objective(**SAMPLED).terms(model, guide, groups).elbo
    torch.manual_seed(1)
    loss = Trace_ELBO().loss(model, guide, groups)
    assert abs(20 * elbo.mean().item() + loss) < 1e-10 * abs(loss)
    losses = []
    for _ in range(100):
        optimiser.zero_grad()
        losses.append(module(groups))
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < losses[0] - 10
    assert guide.median(groups)["mean"].item() > 0.5
    draws = Predictive(pyro.poutine.uncondition(model), guide=guide, num_samples=30)(groups)
    assert draws["x"].shape == (30, 20, 3, 1)
    fixed = pyro.poutine.condition(model, data={"mean": torch.tensor(3.0)})
    terms = objective.terms(fixed, pyro.poutine.block(guide, hide=["mean", "mean_unconstrained"]), groups)
    assert "mean" in terms.sites["reconstruction"]


def test_svi_with_autonormal_trains_it():
    groups = Groups(torch.randn(20, 3, 1) + 3)

    def model(groups):
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        with groups.plate:
            pyro.sample("x", dist.Normal(mean * torch.ones(3, 1), 0.3).to_event(2), obs=groups.x)

    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), loss=Objective())
    losses = [svi.step(groups) for _ in range(100)]
    assert losses[-1] < losses[0]
    assert abs(guide.median(groups)["mean"].item() - 3) < 0.3


# ------------------------------------------------------------------ errors


def _pair(model_body, guide_body):
    def model(groups):
        with groups.plate:
            model_body(groups)

    def guide(groups):
        with groups.plate:
            guide_body(groups)

    return model, guide


def _normal(name="z", event=2):
    return lambda groups: pyro.sample(name, dist.Normal(torch.zeros(6, 3, 2), 1.0).to_event(event))


def test_site_errors_name_the_site():
    groups, terms = make_groups(), Objective(reconstruction=Constant()).terms
    with pytest.raises(SiteError, match="'k'.*Trace_ELBO"):
        terms(*_pair(_normal("k"), lambda g: pyro.sample("k", dist.Poisson(torch.ones(6)))), groups)
    with pytest.raises(SiteError, match="'b'.*guide does not sample"):
        Objective().terms(*_pair(lambda g: (_normal()(g), _normal("b")(g)), _normal()), groups)
    with pytest.raises(SiteError, match="'extra'.*not a latent of the model"):
        terms(*_pair(_normal(), lambda g: (_normal()(g), _normal("extra")(g))), groups)
    enumerated = lambda g: pyro.sample("k", dist.Bernoulli(torch.full((6,), 0.5)), infer={"enumerate": "parallel"})  # noqa: E731
    with pytest.raises(SiteError, match="'k'.*TraceEnum_ELBO"):
        Objective().terms(
            *_pair(lambda g: (_normal()(g), enumerated(g)), lambda g: (_normal()(g), enumerated(g))), groups
        )


def test_layouts_are_checked():
    groups = make_groups()

    def joint_under_views(groups):
        outer, inner = groups.plates
        with outer, inner:
            pyro.sample("z", GroupNormal(1.0, 3, 2))

    def nested_guide(groups):
        outer, inner = groups.plates
        with outer, inner:
            pyro.sample("z", dist.Normal(torch.zeros(6, 3, 2), 1.0).to_event(1))

    with pytest.raises(ShapeError, match="'z'"):
        Objective(reconstruction=Constant()).terms(joint_under_views, nested_guide, groups)

    def forgot_plate(groups):
        pyro.sample("z", dist.Normal(torch.zeros(6, 3, 2), 1.0).to_event(2))

    with pytest.raises(ShapeError, match="'z'.*enter groups.plate"):
        Objective(reconstruction=Constant(), prior=Constant()).terms(None, forgot_plate, groups)

    def wrong_event(groups):
        with groups.plate:
            pyro.sample("z", dist.Normal(torch.zeros(3, 6, 1), 1.0).to_event(1))

    with pytest.raises(ShapeError, match="'z'"):
        Objective(reconstruction=Constant(), prior=Constant()).terms(None, wrong_event, groups)

    def joint_guide(groups):
        with groups.plate:
            pyro.sample("z", dist.Normal(torch.zeros(6, 3, 2), 1.0).to_event(2))

    def nested_model(groups):
        outer, inner = groups.plates
        with outer, inner:
            pyro.sample("z", dist.Normal(torch.zeros(6, 3, 2), 1.0).to_event(1))

    Objective(reconstruction=Constant()).terms(nested_model, nested_guide, groups)
    with pytest.raises(ShapeError, match="'z'.*one layout"):
        Objective(reconstruction=Constant()).terms(nested_model, joint_guide, groups)

    def short_plate(groups):
        with pyro.plate("groups", 60, subsample=torch.arange(3)):
            pyro.sample("z", dist.Normal(torch.zeros(3, 2), 1.0).to_event(1))

    with pytest.raises(ShapeError, match="batch has 6 groups"):
        Objective(reconstruction=Constant(), prior=Constant()).terms(None, short_plate, groups)


def test_settings_errors():
    groups, method = make_groups(), build(SimVAE, make_groups())
    with pytest.raises(SettingsError, match="model is None"):
        Objective().terms(None, method.guide, groups)
    with pytest.raises(SettingsError, match="fills prior"):
        Objective(entropy=LogPrior())
    with pytest.raises(SettingsError, match=r"genssl\.terms\.Term"):
        Objective(entropy="PosteriorEntropy")
    with pytest.raises(SettingsError, match="different slots"):
        LogPrior() + PosteriorEntropy()
    with pytest.raises(SettingsError, match="no site 'nosuch'"):
        Objective(entropy=PosteriorEntropy(["nosuch"])).terms(method.model, method.guide, groups)
    with pytest.raises(SettingsError, match="collection of site names"):
        PosteriorEntropy("z")
    with pytest.raises(SettingsError, match="num_particles"):
        Objective(num_particles=0)
    with pytest.raises(SettingsError, match=r"genssl\.Groups"):
        Objective().terms(method.model, method.guide, torch.rand(3, 2))


def test_factor_in_a_guide_is_subtracted(float64):
    """A positive loss L is minimised by factor(L, has_rsample=True) in the guide: it counts as -log q."""
    groups, weight = make_groups(), torch.tensor(2.0, requires_grad=True)

    def guide(groups):
        with groups.plate:
            pyro.sample("z", dist.Delta(torch.zeros(6, 3, 2)).to_event(2))
            pyro.factor("loss", weight * torch.arange(6.0), has_rsample=True)

    terms = Objective(reconstruction=Constant(), prior=Constant()).terms(None, guide, groups)
    torch.testing.assert_close(terms.entropy, -2.0 * torch.arange(6.0))
    (-terms.objective.mean()).backward()
    assert weight.grad.item() == 2.5


def test_a_weight_that_is_a_tensor_stays_in_the_graph_at_one():
    """Learned weights start somewhere, and somewhere is often 1."""
    groups = make_groups()
    method = build(SimVAE, groups)
    for weight in (torch.ones((), requires_grad=True), torch.ones(groups.num_groups, requires_grad=True)):
        method.objective = Objective(prior=weight * LogPrior())
        torch.manual_seed(0)
        terms = method.objective.terms(method.model, method.guide, groups)
        (gradient,) = torch.autograd.grad(terms.objective.mean(), weight)
        assert float(gradient.sum()) == pytest.approx(float(terms.prior.detach().mean()), rel=1e-5)


def test_slots_of_one_value_are_in_float32_whatever_the_term_gives():
    class Half(Constant):
        def forward(self, traces):
            return {"constant": super().forward(traces)["constant"].bfloat16()}

    groups = make_groups()
    method = build(SimVAE, groups)
    method.objective = Objective(prior=Half(139.5))
    terms = method.objective.terms(method.model, method.guide, groups)
    assert terms.prior.dtype == terms.objective.dtype == torch.float32

"""The laws of the generative methods beside SimVAE: each against its equation written out, and against its neighbours."""

from __future__ import annotations

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from genssl.models import AAVAE, CRVAE, VAE, BetaVAE, MixtureSimVAE, NeuralStatistician, SimVAE
from pyro.infer import Trace_ELBO
from torch.distributions import Normal, kl_divergence

from genssl import Groups, Objective
from genssl.distributions import Gaussian
from genssl.errors import DataError, SettingsError, ShapeError
from genssl.terms import LogPrior, PosteriorEntropy

MASK = torch.tensor([[True] * 3, [True, False, True], [True, False, False], [True] * 3])


def some_groups(views=3, mask=None, **rest):
    return Groups(torch.rand(4, views, 5), mask=mask, label=torch.tensor([0, 1, 2, 1]), source=torch.rand(4, 5), **rest)


def measure(method, groups):
    torch.manual_seed(3)
    return method.objective.terms(method.model, method.guide, groups)


def same_weights(cls, like, **settings):
    method = cls.build(Groups(torch.rand(4, 3, 5)), dim=2, hidden=(8,), **settings)
    method.load_state_dict(like.state_dict(), strict=False)
    return method


@pytest.mark.parametrize("mask", [None, MASK], ids=["full", "ragged"])
@pytest.mark.parametrize(
    ("cls", "settings"), [(NeuralStatistician, {"content_dim": 3}), (MixtureSimVAE, {"labels": None}), (VAE, {})]
)
def test_trace_elbo_law(cls, settings, mask, float64):
    """N mean(elbo) = -Trace_ELBO for the same draws, on a batch that is a part of the data."""
    groups = some_groups(mask=mask)
    groups.total = 40
    method = cls.build(groups, dim=2, hidden=(8,), **settings)
    plain = Objective(entropy=PosteriorEntropy(analytic=False), prior=LogPrior(analytic=False))
    torch.manual_seed(3)
    ours = plain.terms(method.model, method.guide, groups).elbo
    torch.manual_seed(3)
    theirs = -Trace_ELBO().loss(method.model, method.guide, groups)
    assert float((40 * ours.mean()).detach()) == pytest.approx(theirs, rel=1e-10)


# ---------------------------------------------------------------------- CR-VAE


def test_crvae_is_the_vae_and_the_kl_of_the_pair(float64):
    groups = some_groups(views=2)
    method = CRVAE.build(groups, dim=2, hidden=(8,), consistency=0.3)
    vae = measure(same_weights(VAE, method), groups)
    q = method.posterior(groups)
    first, second = (Normal(q.loc[:, j], q.scale[:, j]) for j in (0, 1))
    pair = (kl_divergence(first, second) + kl_divergence(second, first)).sum(-1) / 2
    torch.testing.assert_close(measure(method, groups).objective, vae.objective - 0.3 * pair)
    assert torch.equal(measure(same_weights(CRVAE, method, consistency=0.0), groups).objective, vae.objective)


# ---------------------------------------------------------------------- AAVAE


def test_aavae_reconstructs_the_item():
    groups = some_groups()
    method = AAVAE.build(groups, dim=2, hidden=(8,), likelihood_scale=0.5)
    terms = measure(method, groups)
    torch.manual_seed(3)
    with pyro.poutine.trace() as trace:
        method.guide(groups)
    decoded = method.decoder(trace.trace.nodes["z"]["value"].flatten(0, 1)).unflatten(0, (4, 3))
    expected = Normal(decoded, 0.5).log_prob(groups.source[:, None].expand(4, 3, 5)).sum((1, 2))
    torch.testing.assert_close(terms.reconstruction, expected)
    torch.testing.assert_close(terms.objective, terms.reconstruction)
    assert not torch.allclose(terms.elbo, terms.objective)


def test_aavae_with_the_kl_is_a_vae_where_views_are_the_item():
    groups = Groups(torch.rand(4, 1, 5).expand(-1, 3, -1).contiguous())
    groups.source = groups.x[:, 0]
    method = AAVAE.build(groups, dim=2, hidden=(8,), kl_weight=1.0)
    assert torch.allclose(measure(method, groups).objective, measure(same_weights(VAE, method), groups).objective)


def test_aavae_says_what_it_lacks():
    method = AAVAE.build(some_groups(), dim=2, hidden=(8,))
    with pytest.raises(DataError, match=r"groups\.source is None"):
        measure(method, Groups(torch.rand(4, 3, 5)))
    with pytest.raises(ShapeError, match=r"items have shape \[6\]"):
        measure(method, Groups(torch.rand(4, 3, 5), source=torch.rand(4, 6)))
    with pytest.raises(SettingsError, match="kl_weight"):
        AAVAE.build(some_groups(), kl_weight=-1.0)


# ---------------------------------------------------------------------- Neural Statistician


def statistician(groups):
    return NeuralStatistician.build(groups, dim=2, hidden=(8,), content_dim=3)


def test_content_does_not_depend_on_the_order_of_views(float64):
    groups = some_groups(views=4)
    method = statistician(groups)
    one, other = method.content(groups), method.content(Groups(groups.x[:, [2, 0, 3, 1]]))
    torch.testing.assert_close(one.mean, other.mean)
    torch.testing.assert_close(one.stddev, other.stddev)


def test_content_sharpens_with_views(float64):
    groups = some_groups(views=1)
    method = statistician(groups)
    copies = [method.content(Groups(groups.x.expand(-1, j, -1).contiguous())) for j in (1, 2, 8)]
    torch.testing.assert_close(copies[0].mean, copies[2].mean)  # the same average, seen more often
    assert (copies[0].stddev > copies[1].stddev).all()
    assert (copies[1].stddev > copies[2].stddev).all()
    evidence = [copy.variance.reciprocal() - 1 for copy in copies]  # precision beyond the prior's
    torch.testing.assert_close(evidence[2], 8 * evidence[0])


def test_padded_views_do_not_reach_content(float64):
    groups = some_groups(mask=MASK)
    method = statistician(groups)
    for g in range(4):
        alone = method.content(Groups(groups.x[g : g + 1, MASK[g]]))
        torch.testing.assert_close(method.content(groups).mean[g], alone.mean[0])
        torch.testing.assert_close(method.content(groups).stddev[g], alone.stddev[0])


def test_statistician_is_its_equation(float64):
    groups = some_groups()
    method = statistician(groups)
    terms = measure(method, groups)
    torch.manual_seed(3)
    with pyro.poutine.trace() as trace:
        method.guide(groups)
    y, z = (trace.trace.nodes[name]["value"] for name in ("y", "z"))
    q_y = method.content(groups)
    features = groups.map(method.encoder)
    loc, log_scale = method.view_network(torch.cat([features, y.expand(-1, 3, -1)], -1)).chunk(2, -1)
    entropy = q_y.entropy() + Normal(loc, log_scale.exp()).entropy().sum((1, 2))
    torch.testing.assert_close(terms.entropy, entropy)
    loc, log_scale = method.prior_network(y).chunk(2, -1)
    prior = Normal(0.0, 1.0).log_prob(y).sum((1, 2)) + Normal(loc, log_scale.exp()).log_prob(z).sum((1, 2))
    torch.testing.assert_close(terms.prior, prior)
    decoded = method.decoder(z.flatten(0, 1)).unflatten(0, (4, 3))
    torch.testing.assert_close(terms.reconstruction, Normal(decoded, 0.02**0.5).log_prob(groups.x).sum((1, 2)))


def test_statistician_encodes_a_view_as_a_group_of_one():
    groups = some_groups(views=1)
    method = statistician(groups)
    y = method.content(groups).mean
    with pyro.poutine.trace() as trace, pyro.condition(data={"y": y[:, None]}):
        pyro.condition(method.guide, data={"y": y[:, None]})(groups)
    z = trace.trace.nodes["z"]["fn"]
    torch.testing.assert_close(method.encode(groups.x[:, 0]).mean, z.mean[:, 0])
    torch.testing.assert_close(method.encode(groups.x[:, 0]).stddev, z.stddev[:, 0])


# ---------------------------------------------------------------------- mixture


def test_one_component_at_zero_is_simvae(float64):
    groups = some_groups(mask=MASK)
    method = MixtureSimVAE.build(groups, dim=2, hidden=(8,), num_components=1, content_scale=1.7)
    with torch.no_grad():
        method.components.stored_loc.zero_()
    simvae = same_weights(SimVAE, method, content_scale=1.7)
    ours, theirs = measure(method, groups), measure(simvae, groups)
    for slot in ("reconstruction", "entropy", "prior"):
        torch.testing.assert_close(getattr(ours, slot), getattr(theirs, slot))
    torch.testing.assert_close(method.content(groups).mean, simvae.content(groups).mean)
    torch.testing.assert_close(method.content(groups).variance, simvae.content(groups).variance)


def test_a_label_observes_the_component(float64):
    """log p(z) + log p(k | z) = log pi_k + log p(z | k), and unlabelled groups have the first part alone."""
    groups = some_groups()
    groups.label = torch.tensor([0, -1, 2, 1])
    method = MixtureSimVAE.build(groups, dim=2, hidden=(8,), num_components=3, labels=None)
    unsupervised = same_weights(MixtureSimVAE, method, num_components=3)
    with_labels, without = measure(method, groups), measure(unsupervised, groups)
    torch.manual_seed(3)
    with pyro.poutine.trace() as trace:
        method.guide(groups)
    z, parts = trace.trace.nodes["z"]["value"], method.components
    expected = []
    for g, k in enumerate(groups.label.tolist()):
        if k < 0:
            expected.append(without.elbo[g])
            continue
        one = same_weights(MixtureSimVAE, method, num_components=3).prior(groups)
        alone = type(one)(method.view_scale, 3, torch.zeros(1), parts.loc[k : k + 1], parts.log_scale[k : k + 1].exp())
        joint = parts.logits.log_softmax(0)[k] + alone.log_prob(z[g])
        expected.append(without.elbo[g] - one.log_prob(z)[g] + joint)
    torch.testing.assert_close(with_labels.elbo, torch.stack(expected))


@pytest.mark.parametrize("labels", [True, False, -1])
def test_labels_are_a_number_and_no_switch(labels):
    groups = Groups(torch.rand(4, 1, 1), label=torch.zeros(4, dtype=torch.long))
    with pytest.raises(SettingsError, match=f"labels = {labels}, expected a number of groups, or None for all"):
        MixtureSimVAE.build(groups, dim=1, hidden=(2,), labels=labels)


@pytest.mark.parametrize("total", [7, 40, 54_000])
@pytest.mark.parametrize("labels", [1, 5, 100])
def test_labels_are_shown_for_exactly_so_many_groups(total, labels):
    groups = Groups(torch.rand(total, 1, 1), label=torch.zeros(total, dtype=torch.long))
    if labels > total:
        with pytest.raises(SettingsError, match="at most that many"):
            MixtureSimVAE.build(groups, dim=1, hidden=(2,), labels=labels)
        return
    method = MixtureSimVAE.build(groups, dim=1, hidden=(2,), labels=labels)
    known = method.known(groups)
    assert int(known.sum()) == labels
    part = groups[torch.arange(0, total, 3)]
    own_loop = method.known(part)  # a batch that knows its index alone
    part.total = total  # as fit hands it over
    assert torch.equal(method.known(part), known[::3])
    assert torch.equal(own_loop, known[::3])
    if total > 1000 and labels == 100:
        tenths = known.reshape(10, -1).sum(1)  # over the whole range, so that no class is left out of sorted data
        assert tenths.min() >= 3


def test_no_label_of_other_groups_is_looked_at():
    """Validation and test: another total, outside training."""
    groups = Groups(torch.rand(40, 2, 5), label=torch.arange(40) % 3)
    method = MixtureSimVAE.build(groups, dim=2, hidden=(8,), num_components=3, labels=30).eval()
    test = Groups(torch.rand(20, 2, 5), label=torch.arange(20) % 3)
    assert method.known(test) is None
    assert method.known(groups) is None  # of 40 groups too, but nobody said which
    groups.rows = torch.arange(40)  # as fit hands them over
    assert int(method.known(groups).sum()) == 30
    with pytest.raises(DataError, match="made for 40 training groups"):
        method.train().known(Groups(torch.rand(2, 2, 5), index=torch.tensor([3, 40]), label=torch.zeros(2).long()))


def test_a_whole_batch_in_another_order_shows_the_same_labels():
    groups = Groups(torch.rand(40, 2, 5), label=torch.arange(40) % 3)
    method = MixtureSimVAE.build(groups, dim=2, hidden=(8,), num_components=3, labels=6)
    seen = torch.zeros(40, dtype=torch.bool)
    for seed in range(5):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
        seen[order[method.known(Groups(groups.x[order], index=order, label=groups.label[order]))]] = True
    assert int(seen.sum()) == 6


def test_a_class_without_a_component_is_told():
    groups = Groups(torch.rand(4, 2, 5), label=torch.arange(4))
    method = MixtureSimVAE.build(groups, dim=2, hidden=(8,), num_components=3, labels=None)
    with pytest.raises(DataError, match="num_components=4"):
        method.known(groups)


def test_beta_weighs_whatever_the_objective_was_left_at():
    groups = Groups(torch.rand(4, 1, 5))
    made = BetaVAE.build(groups, dim=2, hidden=(8,), beta=3.0)
    again = BetaVAE(made.encoder, made.decoder, 0.3, beta=3.0, objective=None, dim=2)
    assert str(again.objective) == str(made.objective)
    assert "3" in str(again.objective.prior)


def test_the_statistician_takes_no_other_guide():
    with pytest.raises(SettingsError, match="sees the group already"):
        NeuralStatistician.build(Groups(torch.rand(4, 2, 5)), group_guide="set")


def test_labels_that_are_hidden_change_nothing():
    groups = some_groups()
    method = MixtureSimVAE.build(groups, dim=2, hidden=(8,), num_components=3, labels=1)
    hidden = ~method.known(groups)
    before = measure(method, groups).objective
    groups.label = torch.where(hidden, (groups.label + 1) % 3, groups.label)
    assert torch.equal(measure(method, groups).objective, before)


def test_a_few_labels_estimate_all_of_them_without_bias(float64):
    """The mean objective over every choice of the groups that show their label is the objective with all labels."""
    groups = some_groups()
    method = MixtureSimVAE.build(groups, dim=2, hidden=(8,), num_components=3, labels=2)
    everything = same_weights(MixtureSimVAE, method, num_components=3, labels=None)
    choices = []
    for pair in itertools.combinations(range(4), 2):
        method.shown = torch.tensor([g in pair for g in range(4)])
        choices.append(measure(method, groups).objective.detach())
    assert (choices[0] - choices[-1]).abs().min() > 1e-3
    torch.testing.assert_close(torch.stack(choices).mean(0), measure(everything, groups).objective)


@pytest.mark.parametrize(
    ("settings", "weight"),
    [({"labels": 8}, 5.0), ({"labels": 8, "label_weight": 1.0}, 1.0), ({"labels": None}, 1.0), ({"labels": 0}, 1.0)],
)
def test_weight_of_the_labels(settings, weight):
    groups = Groups(torch.rand(40, 2, 5), label=torch.arange(40) % 3)
    method = MixtureSimVAE.build(groups, dim=2, hidden=(8,), num_components=3, **settings)
    assert method.label_weight == weight
    torch.manual_seed(0)
    with pyro.poutine.trace() as guide:
        method.guide(groups)
    z = guide.trace.nodes["z"]["value"]
    sites = measure_at(method, groups, z)
    known = method.known(groups)
    if known is None:
        assert "label" not in sites
    else:
        score = method.prior(groups).component(z).probs.log().gather(1, groups.label[:, None])[:, 0]
        torch.testing.assert_close(sites["label"], torch.where(known, weight * score, 0.0), rtol=1e-4, atol=1e-5)


def measure_at(method, groups, z):
    """The log-probabilities of the model's observed sites at this z, [G] each."""
    trace = pyro.poutine.trace(pyro.condition(method.model, data={"z": z})).get_trace(groups)
    trace.compute_log_prob()
    return {name: site["log_prob"] for name, site in trace.nodes.items() if name in ("x", "label")}


def clusters(classes, size=300):
    """Well separated classes of features."""
    generator = torch.Generator().manual_seed(1)
    label = torch.arange(size) % classes
    centre = 4 * torch.randn(classes, 6, generator=generator)
    return Groups(centre[label][:, None] + 0.3 * torch.randn(size, 2, 6, generator=generator), label=label)


def fitted_accuracy(groups, *, lr, steps, **settings):
    """The part of the groups whose likeliest component is their label, after a fit on all of them."""
    torch.manual_seed(0)
    method = MixtureSimVAE.build(groups, dim=2, hidden=(32,), likelihood_scale=0.3, **settings)
    loss = method.objective(method.model, method.guide)
    optimiser = torch.optim.Adam(loss.parameters(), lr=lr)
    with pyro.validation_enabled(False):
        for _ in range(steps):
            optimiser.zero_grad()
            loss(groups).backward()
            optimiser.step()
    return float((method.classify(groups).probs.argmax(-1) == groups.label).double().mean())


def test_mixture_finds_clusters_and_few_labels_name_them():
    """12 labels among 300 groups name the three components."""
    settings = {"num_components": 3, "lr": 1e-2, "steps": 300}
    assert fitted_accuracy(clusters(3), labels=12, label_weight=200.0, **settings) > 0.95


def test_few_labels_are_heard_at_the_default_rate_and_weight():
    """At 1e-3 the means must come to their classes from wherever they started."""
    settings = {"num_components": 5, "lr": 1e-3, "steps": 300}
    named = fitted_accuracy(clusters(5), labels=20, **settings)
    blind = fitted_accuracy(clusters(5), labels=0, **settings)
    assert named > 0.9
    assert named > blind + 0.3


def test_mixture_errors():
    with pytest.raises(SettingsError, match="num_components = 0"):
        MixtureSimVAE.build(some_groups(), num_components=0)
    with pytest.raises(SettingsError, match="num_groups"):
        MixtureSimVAE(torch.nn.Linear(5, 4), torch.nn.Linear(2, 5), 0.4, 0.1, labels=3)
    with pytest.raises(SettingsError, match="labels = -2"):
        MixtureSimVAE.build(some_groups(), labels=-2)
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(SettingsError, match="label_weight = "):
            MixtureSimVAE.build(some_groups(), labels=2, label_weight=weight)
    method = MixtureSimVAE.build(some_groups(), dim=2, hidden=(8,), labels=2)
    with pytest.raises(DataError, match="have no label"):
        measure(method, Groups(torch.rand(4, 2, 5)))


# ---------------------------------------------------------------------- likelihood scale


def test_scale_of_every_pixel_is_learned():
    spread = torch.tensor([0.1, 0.5, 0.0])
    likelihood, errors = Gaussian(1.0, True, (3,), floor=0.05), spread * torch.randn(4000, 3)
    optimiser = torch.optim.Adam(likelihood.parameters(), lr=0.05)
    for _ in range(500):
        optimiser.zero_grad()
        (-likelihood(errors, 1).log_prob(torch.zeros(4000, 3)).mean()).backward()
        optimiser.step()
    torch.testing.assert_close(likelihood.scale[:2], errors.square().mean(0).sqrt()[:2], rtol=1e-2, atol=1e-3)
    assert 0.05 <= float(likelihood.scale[2].detach()) < 0.06


def test_scale_of_every_pixel_is_a_normal():
    likelihood = Gaussian(0.7, True, (1, 2, 2))
    with torch.no_grad():
        likelihood.log_scale.normal_()
    fn, x = likelihood(torch.rand(5, 3, 1, 2, 2), 3), torch.rand(5, 3, 1, 2, 2)
    assert isinstance(fn, dist.Independent)
    expected = Normal(fn.mean, likelihood.log_scale.exp()).log_prob(x).sum((-3, -2, -1))
    torch.testing.assert_close(fn.log_prob(x), expected)
    method = VAE.build(Groups(torch.rand(4, 2, 1, 4, 4)), dim=2, hidden=(8,), learned_scale="pixel")
    assert method.likelihood.log_scale.shape == (1, 4, 4)
    with pytest.raises(SettingsError, match="learned_scale"):
        VAE.build(some_groups(), learned_scale="row")
    with pytest.raises(SettingsError, match="learned=True"):
        Gaussian(1.0, event_shape=(3,))
    with pytest.raises(SettingsError, match="floor"):
        Gaussian(1.0, True, floor=2.0)

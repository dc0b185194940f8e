"""Looks at every slot during a fit: what they hold, and that they change no bit of the run."""

import json
import math
import shutil

import pyro
import pyro.distributions as dist
import pytest
import torch
from genssl.models import VAE, MoCo, SimCLR, SimVAE
from small_runs import SMALL, fit, same, state

import genssl
from genssl import Groups, terms
from genssl.distributions import GroupNormal
from genssl.errors import SettingsError
from genssl.evaluation.slots import gradient_cosine, slot_measures
from genssl.fit.metrics import read


def lines(run):
    return read(run.path / "measures.jsonl")


@pytest.mark.parametrize("method", ["SimVAE", "VAE", "MoCo", "VICReg", "DINO"])
def test_measuring_changes_no_bit_of_a_run(method, tmp_path):
    settings = {"settings": SMALL} if method in ("SimVAE", "VAE") else {"settings": {"hidden": [16], "dim": 4}}
    looked = fit(tmp_path / "looked", method, measure=range(1, 25), **settings)
    alone = fit(tmp_path / "alone", method, measure=False, **settings)
    assert len(lines(looked)) == 24
    assert not (alone.path / "measures.jsonl").exists()
    assert same(state(looked), state(alone))
    own = [{key: value for key, value in line.items() if key != "views_per_second"} for line in looked.metrics]
    other = [{key: value for key, value in line.items() if key != "views_per_second"} for line in alone.metrics]
    assert own == other


def test_the_last_step_and_its_halves_by_default(tmp_path):
    run = fit(tmp_path / "run")
    assert [line["step"] for line in lines(run)] == [12, 24]
    assert all(line["split"] == "validation" for line in lines(run))


def test_steps_that_are_none_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="whole numbers from 1"):
        fit(tmp_path / "run", measure=[0, 3])


def test_a_run_that_was_cut_has_the_lines_of_one_that_was_not(tmp_path):
    whole = fit(tmp_path / "whole", measure=[2, 5, 11, 24])
    cut = fit(tmp_path / "cut", measure=[2, 5, 11, 24], max_steps=10)
    # What a killed run wrote after its last checkpoint is dropped and measured again.
    with open(cut.path / "measures.jsonl", "a") as file:
        file.write(json.dumps({"step": 11, "terms": None}) + '\n{"step": 1')
    resumed = fit(tmp_path / "cut", measure=[2, 5, 11, 24], resume=True)
    assert lines(resumed) == lines(whole)
    shutil.rmtree(tmp_path)


def test_measures_against_formulas_at_hand():
    torch.manual_seed(0)
    groups = Groups(torch.rand(200, 2, 1, 8, 8))
    method = SimVAE.build(groups, **SMALL)
    found = slot_measures(method, groups)
    with torch.no_grad():
        law = method.posterior(groups)
    assert found["entropy"]["posterior"] == pytest.approx(float(law.entropy().sum((1, 2)).mean()), rel=1e-5)
    assert found["geometry"]["variance_within"] == pytest.approx(float(law.mean.var(1).mean()), rel=1e-4)
    m = law.mean.mean((0, 1))
    best = max(
        float(GroupNormal(s, 2, 4, c).log_prob(law.mean - m).mean())
        for s in torch.logspace(-4, 0, 60).tolist()
        for c in torch.logspace(-4, 0, 60).tolist()
    )
    assert best <= found["prior"]["maximum_likelihood"] + 1e-6
    assert best == pytest.approx(found["prior"]["maximum_likelihood"], abs=0.1)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert slot_measures(method, groups) == found  # of itself, whatever state the generators are in
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in method.parameters())


def test_a_point_mass_has_no_entropy_and_no_finite_information():
    groups = Groups(torch.rand(100, 2, 1, 8, 8))
    found = slot_measures(SimCLR.build(groups, hidden=(16,), dim=4), groups)
    assert found["entropy"]["posterior"] is None
    assert found["information"]["input"] is None
    assert found["information"]["views"] <= found["information"]["views_cap"]
    assert found["prior"]["maximum_likelihood"] is not None


def test_views_of_a_vae_are_compared_though_it_trains_on_one(tmp_path):
    run = fit(tmp_path / "run", "VAE", num_views=1)
    last = lines(run)[-1]
    assert last["geometry"]["variance_within"] > 0
    with torch.no_grad():
        one = run.method.objective.terms(run.method.model, run.method.guide, run.groups("validation", num_views=1))
        two = run.method.objective.terms(run.method.model, run.method.guide, run.groups("validation", num_views=2))
    seen = abs(last["terms"]["reconstruction"])
    assert abs(seen - abs(float(one.reconstruction.mean()))) < 0.2 * abs(float(one.reconstruction.mean()))
    assert seen < 0.7 * abs(float(two.reconstruction.mean()))


def test_groups_of_one_view_leave_out_what_compares_views():
    groups = Groups(torch.rand(50, 1, 1, 8, 8))
    found = slot_measures(VAE.build(groups, **SMALL), groups)
    assert found["prior"]["maximum_likelihood"] is None
    assert found["information"]["views"] is None
    assert found["sphere"]["alignment"] is None
    assert found["geometry"]["rankme"] is not None


class Padded(torch.nn.Module):
    """A guide of a user that runs over padded views too, and gives them `fill`."""

    def __init__(self, fill, stochastic):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.fill, self.stochastic = torch.nn.Linear(5, 6), fill, stochastic
        slots = (terms.ContrastiveNormaliser(0.5), terms.Constant(), terms.CosineAttraction(0.5))
        self.objective = genssl.Objective(*slots)

    def guide(self, groups):
        exists = groups.valid[..., None]
        loc, log_scale = torch.where(exists, self.encoder(groups.x), self.fill).chunk(2, -1)
        with groups.plate:
            law = dist.Normal(loc, log_scale.clamp(max=1.0).exp(), validate_args=False).mask(exists).to_event(2)
            pyro.sample("z", law if self.stochastic else dist.Delta(loc, event_dim=2))


@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("fill", [1e30, math.inf, math.nan])
def test_padded_views_enter_no_measure_whatever_a_guide_gives_them(fill, stochastic):
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(80, 4, generator=generator) < 0.6
    mask[torch.arange(80), torch.randint(4, (80,), generator=generator)] = True
    assert not bool(mask[:, :2].any(1).all())  # also the first two
    x = torch.rand(80, 4, 5, generator=generator)
    groups, filled = Groups(x, mask), Groups(torch.where(mask[..., None], x, fill), mask)
    with pyro.validation_enabled(False):  # as in a fit
        expected = slot_measures(Padded(0.0, stochastic), groups)
        found = slot_measures(Padded(fill, stochastic), filled)
    gradients = found.pop("gradients")["reconstruction_prior"]  # what is not finite ends a fit before it is looked at
    assert gradients == expected.pop("gradients")["reconstruction_prior"] or not math.isfinite(fill)
    assert found == expected
    known = (
        ("sphere", "alignment"),
        ("information", "views"),
        ("prior", "maximum_likelihood"),
        ("aggregate", "joint_logdet"),
    )
    assert None not in [found[part][name] for part, name in known]


def test_where_the_views_of_a_ragged_group_stand_is_all_one():
    """The first two views that exist are looked at, not those at places 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(80, 4, generator=generator) < 0.6
    mask[torch.arange(80), torch.randint(4, (80,), generator=generator)] = True
    x = torch.rand(80, 4, 5, generator=generator)
    front = torch.stack([mask[g].byte().argsort(descending=True, stable=True) for g in range(80)])
    packed = Groups(torch.stack([x[g, front[g]] for g in range(80)]), mask.gather(1, front))
    assert not torch.equal(packed.valid, mask)
    one, other = (slot_measures(Padded(0.0, False), groups) for groups in (Groups(x, mask), packed))
    for part in ("sphere", "aggregate", "geometry", "information"):
        for name, value in one[part].items():
            near = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value  # a name, or None
            assert other[part][name] == near, (part, name)
    pairs = [x[g][mask[g]][:2] for g in range(80) if mask[g].sum() > 1]
    with torch.no_grad():
        z = torch.nn.functional.normalize(Padded(0.0, False).encoder(torch.stack(pairs))[..., :3], dim=-1)
    assert one["sphere"]["alignment"] == pytest.approx(float((z[:, 0] - z[:, 1]).square().sum(-1).mean()), rel=1e-4)


def test_a_collapsed_representation_is_measured_without_an_error():
    groups = Groups(torch.rand(50, 2, 1, 8, 8))
    method = SimCLR.build(groups, hidden=(16,), dim=4, head=())
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.zero_()
    found = json.loads(json.dumps(slot_measures(method, groups), allow_nan=False))
    assert found["prior"]["maximum_likelihood"] is None
    assert found["geometry"]["variance_between"] == 0


def test_gradient_cosine_against_gradients_by_hand():
    torch.manual_seed(0)
    groups = Groups(torch.rand(30, 2, 1, 8, 8))
    method = SimCLR.build(groups, hidden=(16,), dim=4, head=()).eval()
    repulsion, attraction = terms.ContrastiveNormaliser(), terms.CosineAttraction()
    parameters = list(method.encoder.parameters())

    def gradient(loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    z = torch.nn.functional.normalize(method.encoder(groups.x.flatten(0, 1)), dim=1)
    pull = gradient((z.unflatten(0, (30, 2)).prod(1).sum(1) * 2 / 0.5).mean())
    z = torch.nn.functional.normalize(method.encoder(groups.x.flatten(0, 1)), dim=1)
    scores = (z @ z.T / 0.5).fill_diagonal_(-torch.inf)
    push = gradient(-scores.logsumexp(1).sum() / 30)
    expected = float(torch.nn.functional.cosine_similarity(pull, push, dim=0))
    assert gradient_cosine(method, groups, repulsion, attraction) == pytest.approx(expected, abs=1e-4)
    assert gradient_cosine(method, groups, attraction, attraction) == pytest.approx(1.0)
    assert gradient_cosine(method, groups, attraction, -1.0 * attraction) == pytest.approx(-1.0)
    assert gradient_cosine(method, groups, repulsion, terms.Constant()) is None


def test_queues_are_left_alone_by_measuring():
    groups = Groups(torch.rand(20, 2, 1, 8, 8))
    method = MoCo.build(groups, hidden=(16,), dim=4, queue_size=8).train()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    slot_measures(method, groups)
    method.objective.update()
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert method.training


def test_a_users_method_without_a_site_z_is_measured(tmp_path):
    from small_runs import Normed

    run = genssl.fit(
        Normed(), "digits", limit=96, num_views=2, batch_size=16, epochs=1, out=tmp_path / "r", progress=False
    )
    assert lines(run)[-1]["terms"]["reconstruction"] is not None


def test_gradients_are_those_of_training():
    """With BatchNorm in the head, running averages would give others."""
    torch.manual_seed(0)
    groups = Groups(torch.rand(60, 2, 1, 8, 8))
    method = SimCLR.build(groups, hidden=(16,), dim=4)
    slots = method.objective.slots
    training = gradient_cosine(method.train(), groups, slots["reconstruction"], slots["prior"])
    evaluated = gradient_cosine(method.eval(), groups, slots["reconstruction"], slots["prior"])
    assert abs(training - evaluated) > 0.01
    assert slot_measures(method, groups)["gradients"]["reconstruction_prior"] == pytest.approx(training, abs=1e-6)
    assert not method.training


@pytest.mark.parametrize("name", ["InstanceDiscrimination", "DeepCluster"])
def test_held_out_groups_are_of_no_training_class(name, tmp_path):
    """They are numbered as training groups are, and must not be scored with the classes of those."""
    run = fit(tmp_path / "run", name, settings={"hidden": [16], "dim": 4})
    found = lines(run)[-1]
    assert found["gradients"]["reconstruction_prior"] is None
    assert found["terms"]["prior"] is None
    assert found["terms"]["elbo"] is None
    assert found["geometry"]["rankme"] > 0


def test_a_guide_that_takes_one_view_alone_is_no_reason_to_stop(tmp_path):
    class OneView(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.Linear(64, 4)
            self.objective = genssl.Objective(terms.Uniformity(), terms.Constant(), terms.Constant())

        def guide(self, groups):
            with groups.plate:
                pyro.sample("z", dist.Delta(self.encoder(groups.x.flatten(1)).unsqueeze(1)).to_event(2))

        def encode(self, x):
            return dist.Delta(self.encoder(x.flatten(1))).to_event(1)

    run = genssl.fit(
        OneView(), "digits", limit=96, num_views=1, batch_size=16, epochs=2, out=tmp_path / "r", progress=False
    )
    assert "RuntimeError" in lines(run)[-1]["note"]

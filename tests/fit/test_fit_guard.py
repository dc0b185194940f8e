"""Numbers that are not finite: who is named, what is kept; and no step waits for the device."""

from __future__ import annotations

from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from genssl.models import SimVAE
from small_runs import SMALL, Normed, fit, same, state
from torch import nn

import genssl
from genssl import datasets
from genssl.errors import NonFiniteError, SettingsError, SiteError
from genssl.fit import checkpoint, loop
from genssl.fit.batches import Batches
from genssl.fit.build import build
from genssl.fit.optimiser import OPTIMISERS, learning_rate, make_optimiser
from genssl.fit.step import Stepper
from genssl.host_sync import HostSyncError, NoHostSync

CPU = torch.device("cpu")


def sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr=1e-5)


OPTIMISER = {"masked": "adam", "checked in every step": sgd}


class Faulty(Normed):
    """Fails from a call of the loss on, in the way asked for."""

    fault, at = "", 14

    def __init__(self):
        super().__init__()
        self.extra = nn.Parameter(torch.ones(()))
        self.calls = 0

    def model(self, groups):
        scale = 0.3
        if self.training:
            self.calls += 1
        bad = self.calls > self.at
        with groups.plate:
            shape = (len(groups), groups.num_views, self.shift.numel())
            loc = self.queue.mean(0).expand(shape)
            if bad and self.fault == "prior":
                loc = loc.index_fill(0, torch.tensor([2]), torch.inf)
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(2))
            mean = self.decoder(z.flatten(0, 1)).unflatten(0, shape[:2])
            if bad and self.fault == "reconstruction":
                mean = mean.index_fill(0, torch.tensor([5]), torch.nan)
            if bad and self.fault == "gradient":  # its value is 0, its derivative is not finite
                mean = mean + (0 * self.extra).sqrt()
            if bad and self.fault == "norm":  # its value is 0, its derivative finite, but not the square of that
                mean = mean + 1e24 * (self.extra - self.extra.detach())
            pyro.sample("x", dist.Normal(mean, scale).to_event(1 + len(self.event)), obs=groups.x)

    def update(self):
        super().update()
        if self.fault == "reconstruction" and self.calls > self.at:
            self.queue.fill_(
                torch.nan
            )  # as the keys of a bad step would: put back, or the prior of the next one is blamed


def spoiled(step):
    """Views of which one group's are NaN from a step on: each batch asks twice, and the trial once before step 0."""
    calls = []

    def views(x, index, generator):
        calls.append(x)
        x = x.clone()
        if len(calls) > 2 * (step + 1) or step == 0:
            x[3] = torch.nan
        return x

    return views


@pytest.mark.parametrize("optimizer", OPTIMISER)
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("prior", r"step 13: the prior term of site 'z' is (-inf|nan) for group \d+;"),
        ("reconstruction", r"step 13: the reconstruction term of site 'x' is nan for group \d+;"),
        ("gradient", r"step 13: the loss is finite, the gradient of extra is not"),
        ("norm", r"step 13: loss and gradients are finite, but the norm of the gradient overflows .*standardise"),
    ],
)
def test_what_failed_is_named_and_the_good_checkpoint_kept(fault, told, optimizer, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    torch.manual_seed(0)
    method = Faulty()
    method.fault = fault
    method.at = 13  # step 0 is call 1: the step on trial is not counted
    with pytest.raises(NonFiniteError, match=told + ".*the checkpoint of step 12 is kept in") as error:
        fit(tmp_path / "run", method, optimizer=OPTIMISER[optimizer], measure=False)
    assert "\n" not in str(error.value)
    kept = checkpoint.load(tmp_path / "run" / "checkpoint")
    assert kept["step"] == 12
    torch.manual_seed(0)
    good = fit(tmp_path / "good", Faulty(), optimizer=OPTIMISER[optimizer], max_steps=13, callbacks=[])
    # Parameters in memory are those before the bad step, buffers those of the last look.
    assert same(dict(method.named_parameters()), dict(good.method.named_parameters()))
    assert all(bool(torch.isfinite(value).all()) for value in method.state_dict().values())
    assert all(parameter.grad is None for parameter in method.parameters())


def test_data_of_one_group_are_named(tmp_path):
    """Those that the views spoil after all checks of the data: in the first step, and later."""
    with pytest.raises(NonFiniteError, match=r"step 0: the views of group \d+ are not finite; repair"):
        fit(tmp_path / "run", Normed(), views=spoiled(0))
    assert not (tmp_path / "run").exists()  # nothing was started
    with pytest.raises(NonFiniteError, match=r"step 8: the views of group \d+ are not finite; .*no checkpoint yet in"):
        fit(tmp_path / "later", Normed(), views=spoiled(8))


def test_a_parameter_is_named(tmp_path):
    method = Normed()
    with torch.no_grad():
        method.decoder[0].bias[3] = torch.nan
    with pytest.raises(NonFiniteError, match="step 0: the parameter decoder.0.bias is not finite"):
        fit(tmp_path / "run", method)
    method = Normed()

    def spoil(line):
        with torch.no_grad():
            method.encoder[1].weight[0, 0] = torch.inf

    with pytest.raises(NonFiniteError, match="step 6: the parameter encoder.1.weight is not finite"):
        fit(tmp_path / "later", method, callbacks=[spoil])


def test_a_rate_that_is_too_large_is_told(tmp_path):
    with pytest.raises(NonFiniteError, match="step .*lower the learning rate"):
        fit(tmp_path / "run", lr=1e9, epochs=50, schedule="constant")


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_the_flag_masks_the_fused_optimiser(optimizer):
    """found_inf: parameters, moments and step count of a masked step are as before it, on the device and without being read."""
    parameter = nn.Parameter(torch.ones(4))
    made = make_optimiser(optimizer, [parameter], 0.1)
    parameter.grad = torch.ones(4)
    made.step()
    before = parameter.detach().clone(), {key: value.clone() for key, value in made.state[parameter].items()}
    made.found_inf = torch.ones(())
    parameter.grad = torch.full((4,), torch.nan)
    made.step()
    assert torch.equal(parameter, before[0])
    assert same(dict(made.state[parameter]), before[1])


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("method", ["SimVAE", "Normed"])
def test_no_step_waits_for_the_device(method, clip):
    """Views, guide, model, terms, gradient, guard, optimiser and update. (The path is the same on every device.)"""
    data = datasets.load("digits", limit=96)
    made = Normed() if method == "Normed" else build(SimVAE, data.example(2), 0, SMALL)
    batches = Batches(data.train, data.views, 2, 16, 0, CPU)
    module = made.objective(made.model, made.guide).train()
    config = {"seed": 0, "clip": clip, "steps": 24}
    stepper = Stepper(module, make_optimiser("adam", module.parameters(), 1e-3), batches, config, "cosine")
    stream = batches.run(0, 24)
    with pyro.validation_enabled(False):
        stepper(*next(stream))
        with NoHostSync():
            for _ in range(5):
                stepper(*next(stream))
            with pytest.raises(HostSyncError):
                stepper.check()


class Silent(Normed):
    """Its loss knows no parameter."""

    def model(self, groups):
        with groups.plate:
            pyro.sample("z", dist.Normal(torch.zeros(len(groups), groups.num_views, 4), 1.0).to_event(2))

    def guide(self, groups):
        with groups.plate:
            pyro.sample("z", dist.Normal(torch.zeros(len(groups), groups.num_views, 4), 1.0).to_event(2))


def test_the_step_on_trial_refuses(tmp_path):
    """Before a folder is made: nothing to train, values out of a likelihood's support, parameters that nobody would save."""
    with pytest.raises(SettingsError, match="there is nothing to train; give another term"):
        fit(tmp_path / "run", Silent())
    with pytest.raises(SiteError, match="site 'x': .*within the support .*check data and likelihood") as error:
        fit(tmp_path / "run", settings={**SMALL, "likelihood": "continuous_bernoulli"}, data=torch.rand(120, 5) + 2)
    assert "\n" not in str(error.value)
    method = Normed()
    other = Normed()
    method.model = other.model
    with pytest.raises(SettingsError, match="Normed: shift is trained but no part of it"):
        fit(tmp_path / "run", method)
    assert not (tmp_path / "run").exists()


def test_schedules():
    steps = 1000
    rates = [learning_rate("cosine", 2.0, step, steps) for step in range(steps)]
    assert rates[0] == pytest.approx(2.0 / 20)
    assert max(rates) == rates[20] == pytest.approx(2.0)
    assert all(a >= b for a, b in pairwise(rates[20:]))
    assert 0.02 <= rates[-1] < 0.0201
    assert learning_rate("constant", 2.0, 7, steps) == 2.0
    assert learning_rate(lambda step, steps: step / steps, 2.0, 500, steps) == 1.0


def test_rates_of_parameter_groups_keep_their_ratio(tmp_path):
    """A user's optimiser may give parts rates of their own: the schedule scales each."""

    def two_rates(parameters, lr):
        return torch.optim.Adam([{"params": parameters[:2], "lr": 10 * lr}, {"params": parameters[2:]}], lr=lr)

    run = fit(tmp_path / "run", optimizer=two_rates, lr=1e-3)
    fast, slow = state(run)["optimizer"]["param_groups"]
    assert fast["lr"] == pytest.approx(10 * slow["lr"])
    assert slow["lr"] == pytest.approx(learning_rate("cosine", 1e-3, 23, 24))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; this torch sees none")
def test_on_a_gpu(tmp_path):
    """Fits, resumes on its own device, loads onto another, and names what failed."""
    whole = fit(tmp_path / "whole", device="cuda")
    fit(tmp_path / "run", device="cuda", max_steps=7)
    run = fit(tmp_path / "run", resume=True)
    assert run.config["device"] == "cuda:0"
    assert run.data.train.x.is_cuda
    for name, value in whole.method.state_dict().items():
        torch.testing.assert_close(run.method.state_dict()[name], value)
    assert genssl.load(tmp_path / "run", device="cpu").represent(torch.rand(3, 1, 8, 8)).device == CPU
    with pytest.raises(NonFiniteError):
        fit(tmp_path / "bad", lr=1e9, epochs=50, schedule="constant", device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; this torch sees none")
def test_no_step_on_a_gpu_waits():
    data = datasets.load("digits", limit=96).to("cuda")
    device = torch.device("cuda", 0)
    made = build(SimVAE, data.example(2), 0, SMALL).to(device)
    batches = Batches(data.train, data.views, 2, 16, 0, device)
    module = made.objective(made.model, made.guide).train()
    stepper = Stepper(
        module,
        make_optimiser("adam", module.parameters(), 1e-3),
        batches,
        {"seed": 0, "clip": 1.0, "steps": 24},
        "cosine",
    )
    stream = batches.run(0, 24)
    with pyro.validation_enabled(False):
        stepper(*next(stream))
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(5):
                stepper(*next(stream))
        finally:
            torch.cuda.set_sync_debug_mode("default")

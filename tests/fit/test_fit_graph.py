"""Steps by a recorded graph: equal to steps one by one, and told where they cannot be."""

from __future__ import annotations

import copy
import sys

import pyro
import pytest
import torch
from genssl.models import SimVAE
from small_runs import fit
from tape import tape
from torch import nn

import genssl
from genssl import datasets, models, views
from genssl.datasets import Items
from genssl.fit.batches import Batches
from genssl.fit.graph import GraphStepper, eager_because, graphed
from genssl.fit.optimiser import make_optimiser
from genssl.fit.step import Stepper
from genssl.host_sync import HostSyncError, NoHostSync

CPU = torch.device("cpu")
GALLERY = [name for name in models.__all__ if hasattr(getattr(models, name), "defaults") and "Method" not in name]
SETTINGS = {"WMSE": {"head": (8,)}, "MoCo": {"queue_size": 40}, "CLIP": {}}
STEPS = 12
# Learning rates are powers of two: a graph holds them in float32, a step without it in float64.


@pytest.fixture(autouse=True)
def unchecked():
    with pyro.validation_enabled(False):
        yield


def items(n=64):
    generator = torch.Generator().manual_seed(0)
    return Items(torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n) % 3)


def stepper_of(method, split=None, transform=None, clip=None, schedule=lambda step, steps: 0.5 ** (step % 3)):
    split = items() if split is None else split
    batches = Batches(split, transform or views.digits(), 2, 16, 0, CPU)
    module = method.objective(getattr(method, "model", None), method.guide).train()
    config = {"seed": 0, "clip": clip, "steps": STEPS}
    return Stepper(module, make_optimiser("adam", module.parameters(), 1 / 64), batches, config, schedule)


def made(name, seed=0):
    split = items()
    example = genssl.Groups(split.floats(torch.arange(16))[:, None].repeat(1, 2, 1, 1, 1), label=split.label[:16])
    example.total = len(split)
    torch.manual_seed(seed)
    return getattr(models, name).build(example, hidden=(16,), **SETTINGS.get(name, {}))


def after(stepper, steps=STEPS):
    """Parameters and buffers, moments, and the slots of every step."""
    slots = [stepper.module.terms.objective.clone() for _ in stepper.run(0, steps)]
    stepper.check()
    moments = [value for state in stepper.optimiser.state.values() for value in state.values()]
    return [
        *stepper.module.state_dict().values(),
        *(b for b in stepper.module.buffers()),
        *moments,
        *slots,
        stepper.sums,
    ]


@pytest.mark.parametrize("name", GALLERY)
def test_a_replay_is_the_step(monkeypatch, name):
    """Bit for bit: views, noise, gradient, moments, learning rate, queues, slow copies, centres, sums of the metrics."""
    method = made(name)
    twin = copy.deepcopy(method)
    stepper, because = graphed(stepper_of(method, clip=1.0), method, tape)
    if name == "DeepCluster":
        assert because == "Clusters keeps state in Python (capturable = False)"
        return
    assert because is None
    expected = after(stepper_of(twin, clip=1.0))
    monkeypatch.setattr(GraphStepper, "_repeat", GraphStepper._replay)  # which would hide what a replay does
    found = after(stepper)
    assert stepper.replay is not None
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_looks_at_steps_without_the_graph_change_nothing(monkeypatch):
    """Steps 1, 10 and the first of every epoch are done twice, from the same state."""
    method = made("BYOL")
    twin = copy.deepcopy(method)
    stepper, _ = graphed(stepper_of(method), method, tape)
    looked = []
    repeat = GraphStepper._repeat
    monkeypatch.setattr(GraphStepper, "_repeat", lambda self, step: looked.append(step) or repeat(self, step))
    stepper.replays = 57  # of trials, which are no steps of the run
    stepper.start()
    for a, b in zip(after(stepper), after(stepper_of(twin)), strict=True):
        assert torch.equal(a, b)
    assert looked == [0, 1, 4, 8, 10]


def test_recording_leaves_nothing_behind():
    method = made("DINO")
    before = copy.deepcopy(method.state_dict())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    stepper, _ = graphed(stepper_of(method), method, tape)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    for state in stepper.optimiser.state.values():
        assert all(bool((value == 0).all()) for value in state.values())
    assert bool(stepper.good)
    assert stepper.count == 0


def test_going_on_from_a_checkpoint():
    """State that was loaded before the recording is what the recorded steps change."""
    method = made("MoCo")
    twin = copy.deepcopy(method)
    expected = after(stepper_of(twin))
    stepper, _ = graphed(stepper_of(method), method, tape)
    list(stepper.run(0, 5))
    weights, moments = copy.deepcopy(method.state_dict()), copy.deepcopy(stepper.optimiser.state_dict())
    method = made("MoCo", seed=1)
    method.load_state_dict(weights)
    second = stepper_of(method)
    second.optimiser.load_state_dict(moments)
    second, because = graphed(second, method, tape)
    assert because is None
    list(second.run(5, STEPS))
    for a, b in zip(second.module.state_dict().values(), expected, strict=False):
        assert torch.equal(a, b)


def test_natural_groups():
    groups = genssl.Groups(torch.rand(48, 2, 6, generator=torch.Generator().manual_seed(0)))
    method = SimVAE.build(groups, hidden=(16,), dim=3)
    twin = copy.deepcopy(method)
    stepper, because = graphed(stepper_of(method, groups), method, tape)
    assert because is None
    for a, b in zip(after(stepper), after(stepper_of(twin, groups)), strict=True):
        assert torch.equal(a, b)


class Counting(SimVAE):
    """Its guide's noise falls from step to step, by a counter in Python where nothing looks for one."""

    capturable = True

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.calls = [0]

    def guide(self, groups):
        self.calls[0] += self.training
        scale = 1 / (1 + self.calls[0])
        with pyro.poutine.scale(scale=scale):
            super().guide(groups)


def test_state_in_python_stops_the_graph():
    """Whoever says that a method can be recorded, and is wrong, is told; the run goes on without the graph."""
    method = Counting.build(genssl.Groups(torch.rand(16, 2, 1, 8, 8)), hidden=(16,))
    stepper, because = graphed(stepper_of(method), method, tape)
    assert because is None
    with pytest.warns(
        UserWarning, match="step 0: the CUDA graph differs from the step without it: its slots by .*without the graph"
    ):
        list(stepper.run(0, 2))
    assert stepper.replay is None
    calls = method.calls[0]
    list(stepper.run(2, 5))
    assert method.calls[0] == calls + 3


class Stale(SimVAE):
    """Puts a new tensor in place of a buffer, which a replay never reads."""

    capturable = True

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.register_buffer("mean", torch.zeros(()))

    def update(self):
        self.mean = self.mean + 1


def test_a_buffer_that_is_replaced_stops_the_graph():
    method = Stale.build(genssl.Groups(torch.rand(16, 2, 1, 8, 8)), hidden=(16,))
    stepper, _ = graphed(stepper_of(method), method, tape)
    with pytest.warns(UserWarning, match=r"what it changes in a tensor of shape \[\]"):
        list(stepper.run(0, 2))


class Reading(SimVAE):
    capturable = True

    def model(self, groups):
        if groups.x.mean().item() > 2:
            raise AssertionError
        super().model(groups)


class Unsaid(SimVAE):
    capturable = False


def test_why_not(tmp_path):
    """Each reason by itself; the stepper that was given takes the steps."""
    example = genssl.Groups(torch.rand(16, 2, 1, 8, 8))

    def told(method, **settings):
        stepper = stepper_of(method, **settings)
        after, because = graphed(stepper, method, tape)
        assert after is stepper
        assert isinstance(stepper.optimiser.param_groups[0]["lr"], float)
        list(after.run(0, 2))
        return because

    small = SimVAE.build(example, hidden=(8,))
    assert told(small, transform=lambda x, index, generator: x) == "views is a callable of your own"
    assert told(Reading.build(example, hidden=(8,))).startswith(
        "aten._local_scalar_dense.default reads a value on the host"
    )
    assert told(Unsaid.build(example, hidden=(8,))) == "Unsaid keeps state in Python (capturable = False)"
    ragged = genssl.Groups(torch.rand(48, 2, 1, 8, 8), mask=torch.arange(96).reshape(48, 2) % 3 != 1)
    assert "takes a mask as an index" in told(small, split=ragged)
    stepper = stepper_of(small)
    stepper.masks = False
    assert eager_because(stepper, small) == "the optimiser is not Adam in one kernel"
    assert "does not say that it can be recorded" in eager_because(stepper_of(small), nn.Identity())

    class Reader(torch.utils.data.Dataset):
        def __len__(self):
            return 32

        def __getitem__(self, place):
            return torch.full((1, 8, 8), place / 32)

    assert told(small, split=datasets.Stream(Reader())) == "the data are read from disk while it trains"

    def fails(body, generator):
        raise RuntimeError("CUDA error: operation not permitted\nwhen stream is capturing")

    assert graphed(stepper_of(small), small, fails)[1] == "CUDA error: operation not permitted when stream is capturing"


def test_numbers_that_are_not_finite_in_a_replay():
    """They mask the step and all after it, as they do without a graph, and are named."""
    split = items()
    split.x[40] = torch.nan
    method = made("SimVAE")
    stepper, _ = graphed(stepper_of(method, split, views.Identity()), method, tape)
    before = copy.deepcopy(method.state_dict())
    list(stepper.run(0, 4))
    with pytest.raises(genssl.errors.NonFiniteError, match="the views of group 40 are not finite"):
        stepper.check()
    assert all(bool(torch.isfinite(value).all()) for value in method.state_dict().values())
    assert any(not torch.equal(before[name], value) for name, value in method.state_dict().items()) == (
        stepper.count > 0
    )


def test_a_whole_fit(tmp_path, monkeypatch):
    """Checkpoints, metrics, measures and going on are those of a fit without a graph."""
    plain = fit(tmp_path / "plain", schedule=lambda step, steps: 0.5 ** (step % 3), lr=1 / 1024)
    monkeypatch.setattr(
        sys.modules["genssl.fit.api"], "_graphed", lambda stepper, method, *_: graphed(stepper, method, tape)[0]
    )
    schedule = lambda step, steps: 0.5 ** (step % 3)  # noqa: E731
    fit(tmp_path / "run", schedule=schedule, lr=1 / 1024, max_steps=12)
    run = fit(tmp_path / "run", schedule=schedule, lr=1 / 1024, resume=True)
    for name, value in plain.method.state_dict().items():
        assert torch.equal(run.method.state_dict()[name], value)
    assert [{**line, "views_per_second": 0} for line in run.metrics] == [
        {**line, "views_per_second": 0} for line in plain.metrics
    ]
    assert (tmp_path / "run" / "measures.jsonl").read_text() == (tmp_path / "plain" / "measures.jsonl").read_text()


@pytest.mark.parametrize(
    "sync",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0.5],
        lambda x: x.masked_select(x > 0.5),
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0, 4.0]),
        lambda x: torch.linalg.cholesky(x @ x.T + torch.eye(4)),
        lambda x: x.index_put((x > 0.5,), torch.zeros(())),
    ],
)
def test_what_a_gpu_would_wait_for(sync):
    x = torch.rand(4, 4)
    sync(x)
    with pytest.raises(HostSyncError), NoHostSync():
        sync(x)
    with NoHostSync():
        x[torch.arange(2)].where(x[:2] > 0.5, 0.0).sum()
        torch.linalg.cholesky_ex(x @ x.T + torch.eye(4), check_errors=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; this torch sees none")
@pytest.mark.parametrize("name", GALLERY)
def test_on_a_gpu_a_replay_is_the_step(name):
    device = torch.device("cuda", 0)
    method = made(name).to(device)
    twin = copy.deepcopy(method)
    split = items().to(device)

    def stepper_on(method):
        stepper = stepper_of(method.cpu(), split.to("cpu"))
        method.to(device)
        batches = Batches(split, views.digits(), 2, 16, 0, device)
        module = method.objective(getattr(method, "model", None), method.guide).train()
        optimiser = make_optimiser("adam", module.parameters(), 1 / 64)
        return Stepper(module, optimiser, batches, {"seed": 0, "clip": 1.0, "steps": STEPS}, stepper.schedule)

    stepper, because = graphed(stepper_on(method), method)
    assert (because is None) == (name != "DeepCluster")
    for a, b in zip(after(stepper), after(stepper_on(twin)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


class Ramp(SimVAE):
    """A schedule by a counter, which moves a buffer in `update`: a step that is repeated advances it too."""

    capturable = True

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.calls = 0
        self.register_buffer("beta", torch.zeros(()))

    def update(self):
        self.calls += 1
        self.beta.fill_(max(0.0, self.calls - 3) / 50)


def test_a_counter_is_found_and_not_advanced_by_trials():
    method = Ramp.build(genssl.Groups(torch.rand(16, 2, 1, 8, 8)), hidden=(16,))
    stepper, because = graphed(stepper_of(method), method, tape)
    assert because == "Ramp.calls changes in a step and is no tensor: a replay would not see it"
    assert method.calls == 0
    list(stepper.run(0, 10))
    assert method.calls == 10
    assert float(method.beta) == pytest.approx(7 / 50)


def test_a_subclass_says_so_itself():
    class Silent(SimVAE):
        pass

    method = Silent.build(genssl.Groups(torch.rand(16, 2, 1, 8, 8)), hidden=(16,))
    assert (
        graphed(stepper_of(method), method, tape)[1]
        == "Silent does not say that it can be recorded (capturable = True)"
    )


class Plain(SimVAE):
    """Counts in a tensor that is no buffer, in place."""

    capturable = True

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.count = torch.zeros(())

    def update(self):
        self.count += 1


def test_a_plain_tensor_counts_each_step_once():
    method = Plain.build(genssl.Groups(torch.rand(16, 2, 1, 8, 8)), hidden=(16,))
    stepper, because = graphed(stepper_of(method), method, tape)
    assert because is None
    list(stepper.run(0, STEPS))
    assert method.count == STEPS

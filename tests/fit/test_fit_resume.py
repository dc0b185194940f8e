"""Stopped and resumed = never stopped, bit for bit; and what --resume means in every case."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from genssl.models import SimVAE
from small_runs import SMALL, STEPS, Normed, fit, same, state
from torch import nn

import genssl
from genssl.errors import CheckpointError, DataError, SettingsError
from genssl.fit import checkpoint
from genssl.fit.build import build
from genssl.fit.randomness import stream_seed
from genssl.fit.run import example


class Noisy(torch.utils.data.Dataset):
    """Reads its items with random noise, so that fit takes it for a stream."""

    transform = "noise"

    def __len__(self):
        return 120  # 96 of them for training

    def __getitem__(self, index):
        return (torch.full((1, 8, 8), index / 120) + 0.1 * torch.rand(1, 8, 8)).clamp(0, 1), index % 3


def ragged():
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(120, 2, generator=generator) < 0.7
    mask[:, 0] = True
    return genssl.Groups(torch.rand(120, 2, 5, generator=generator), mask=mask)


def seeded(method=Normed):
    """An instance that starts the same each time."""
    torch.manual_seed(3)
    return method()


CASES = {
    "fused Adam": {},
    "BatchNorm, queue, an instance": {"method": seeded},
    "bf16": {"precision": "bf16"},
    "AdamW, clipping, constant rate": {"optimizer": "adamw", "clip": 1.0, "schedule": "constant"},
    "an optimiser of the user": {
        "optimizer": lambda parameters, lr: torch.optim.SGD(parameters, lr=1e-4, momentum=0.9)
    },
    "other terms": {"replace": {"prior": "LogPrior:analytic=True"}},
    "a stream": {"data": lambda: Noisy()},
    "natural groups, ragged": {"data": lambda: ragged()},
} | {
    f"state of {name}": {"method": lambda name=name: name, "settings": settings}
    for name, settings in {
        "MoCo": {"queue_size": 50},
        "BYOL": {},
        "DINO": {},
        "SwAV": {"num_prototypes": 6},
        "InstanceDiscrimination": {"bank": True},
        "DeepCluster": {"num_clusters": 5, "period": 3},
        "VariationalClassification": {},
        "MCInfoNCE": {"num_samples": 2},
    }.items()
}


@pytest.mark.parametrize("case", CASES)
def test_resumed_is_never_stopped(case, tmp_path):
    def go(out, **more):
        options = {key: value() if key in ("method", "data") else value for key, value in CASES[case].items()}
        return fit(out, **options, **more)

    whole = go(tmp_path / "whole")
    go(tmp_path / "parts", max_steps=5)
    torch.manual_seed(99)  # the generators of another process
    go(tmp_path / "parts", max_steps=16, resume=True)
    parts = go(tmp_path / "parts", resume=True)
    assert state(whole)["step"] == STEPS
    assert same(state(whole), state(parts))
    assert same(whole.method.state_dict(), parts.method.state_dict())


def test_reading_processes_change_nothing(tmp_path):
    alone = fit(tmp_path / "0", data=Noisy(), epochs=1)
    helped = fit(tmp_path / "2", data=Noisy(), epochs=1, num_workers=2, max_steps=3)
    helped = fit(tmp_path / "2", data=Noisy(), epochs=1, num_workers=0, resume=True)
    assert same(state(alone), state(helped))


COMMAND = [
    sys.executable,
    "-m",
    "genssl",
    "fit",
    "SimVAE",
    "--data",
    "digits",
    "--limit",
    "96",
    "--views",
    "2",
    "--batch-size",
    "16",
]
COMMAND += ["--epochs", "2000", "--set", "hidden=[16,16]", "--set", "dim=4", "--no-report", "--out", "run"]


def start_command(more=(), until=20):
    """The command in a process of its own, once it has taken some steps."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([*COMMAND, *more], env=env, stderr=subprocess.PIPE, text=True)
    metrics, ends = Path("run/metrics.jsonl"), time.monotonic() + 60
    while process.poll() is None and time.monotonic() < ends:
        if (
            metrics.exists()
            and (lines := metrics.read_text().splitlines())
            and lines[-1].startswith(f'{{"step": {until}')
        ):
            break
        if (
            metrics.exists()
            and len(lines := metrics.read_text().splitlines()) > 1
            and json.loads(lines[-2])["step"] >= until
        ):
            break
        time.sleep(0.01)
    return process


def test_interrupted_then_killed_then_resumed(tmp_path):
    """Ctrl-C saves, exits with 130 and says how to go on; SIGKILL does not ask; nothing is lost either way."""
    process = start_command()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    [line] = [line for line in told.splitlines() if "stopped" in line]
    saved = checkpoint.step_of(checkpoint.steps(Path("run/checkpoint"))[-1])
    assert f"step {saved} in run" in line
    assert line.endswith("genssl fit SimVAE --data digits --resume --out run --no-report")

    process = start_command(["--resume"], until=saved + 20)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL

    stop = saved + 60
    resumed = fit("run", resume=True, epochs=None, max_steps=stop)
    whole = fit("whole", epochs=2000, max_steps=stop)
    assert same(state(resumed), state(whole))
    steps = [line["step"] for line in resumed.metrics]
    assert steps == sorted(set(steps))
    assert set(range(10, stop, 10)) <= set(steps)


def test_ctrl_c_in_python(tmp_path):
    """KeyboardInterrupt after the step is saved; the handlers of the process are put back."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    whole = fit(tmp_path / "whole")
    for number in (signal.SIGINT, signal.SIGTERM):
        out = tmp_path / f"run-{number}"
        with pytest.raises(
            KeyboardInterrupt, match=r"stopped and saved at step 6 in .*run-\d+; go on with resume=True, out="
        ):
            fit(out, callbacks=[lambda line, number=number: signal.raise_signal(number)])
        assert same(state(fit(out, resume=True)), state(whole))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_nothing_to_resume_starts_at_step_0(tmp_path):
    assert state(fit(tmp_path / "new", resume=True))["step"] == STEPS  # no folder
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".config.json.17.tmp").write_text("{")  # what a kill before the first rename leaves
    assert state(fit(tmp_path / "empty", resume=True, max_steps=2))["step"] == 2
    assert not list((tmp_path / "empty").glob(".*.tmp"))
    for file in checkpoint.steps(tmp_path / "new" / "checkpoint"):
        file.unlink()
    again = fit(tmp_path / "new", resume=True)  # config.json alone
    assert [line["step"] for line in again.metrics] == [6, 10, 12, 18, 20, 24]


def test_finished_run_is_left_alone(tmp_path):
    run = fit(tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    again = fit(tmp_path / "run", resume=True)
    assert again.finished
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before
    assert same(again.method.state_dict(), run.method.state_dict())


@pytest.mark.parametrize(
    "other",
    [
        {"lr": 0.5}, {"limit": 90}, {"max_seconds": 5.0}, {"epochs": 2}, {"seed": 1}, {"num_views": 3}, {"batch_size": 8}, {"clip": 1.0},
        {"precision": "bf16"}, {"optimizer": "adamw"}, {"schedule": "constant"}, {"settings": {"dim": 5}},
        {"settings": {"view_scale": 1.0}},
        {"replace": {"prior": "LogPrior:analytic=True"}}, {"views": lambda x, index, generator: x}, {"data": "mnist"}, {"method": "VAE"},
        {"data_root": "/elsewhere"}, {"validation": 0.2}, {"data": torch.rand(96, 1, 8, 8)},
    ],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_other_settings_are_an_error(other, shared_run):
    before = {path: path.stat().st_mtime_ns for path in shared_run.rglob("*")}
    with pytest.raises(SettingsError, match="was (started|fitted) (with|on)|is a run of") as error:
        fit(shared_run, resume=True, **other)
    assert "\n" not in str(error.value)
    assert {path: path.stat().st_mtime_ns for path in shared_run.rglob("*")} == before


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "run"
    fit(folder, max_steps=3)
    return folder


def test_settings_that_are_left_out_are_the_runs(tmp_path):
    whole = fit(tmp_path / "whole", lr=2e-3, clip=0.5, optimizer="adamw", precision="bf16", max_steps=8)
    fit(tmp_path / "run", lr=2e-3, clip=0.5, optimizer="adamw", precision="bf16", max_steps=4)
    run = genssl.fit("SimVAE", "digits", out=tmp_path / "run", resume=True, max_steps=8, progress=False)
    assert same(state(run), state(whole))
    assert run.config["limit"] == 96


def test_without_out_the_newest_matching_run_goes_on(tmp_path):
    first, second, other = fit(max_steps=2), fit(max_steps=2), fit(seed=1, max_steps=2)
    fit(seed=10, max_steps=2)
    assert [run.path.name for run in (first, second, other)] == [
        "SimVAE-digits-0",
        "SimVAE-digits-0-2",
        "SimVAE-digits-1",
    ]
    assert fit(resume=True, max_steps=3).path == second.path
    assert fit(resume=True, seed=1, max_steps=3).path == other.path
    assert fit(resume=True, method="VAE", num_views=1, max_steps=1).path.name == "VAE-digits-0"


def test_a_callable_must_be_passed_again(tmp_path):
    def schedule(step, steps):
        return 0.5

    fit(tmp_path / "run", schedule=schedule, max_steps=2)
    with pytest.raises(SettingsError, match="schedule .*a callable of your own; pass it again"):
        fit(tmp_path / "run", resume=True)
    assert fit(tmp_path / "run", schedule=schedule, resume=True).finished


def test_trial_leaves_nothing_behind(tmp_path):
    """Checked and timed before step 0, the method starts with exactly the weights that it was built with."""
    torch.manual_seed(5)
    generator = torch.get_rng_state()
    run = fit(tmp_path / "run", max_seconds=0.5, epochs=50, max_steps=0)
    assert torch.equal(torch.get_rng_state(), generator)
    built = build(SimVAE, run.data.example(2), 0, SMALL)
    assert same(state(run)["method"], built.state_dict())
    assert state(run)["optimizer"]["state"] == {}
    method = seeded()
    run = fit(tmp_path / "normed", method, max_seconds=0.5, max_steps=0)
    assert same(method.state_dict(), seeded().state_dict())
    assert method.scratch == 0


def test_metrics_after_the_checkpoint_are_done_again(tmp_path):
    run = fit(tmp_path / "run", max_steps=12)
    whole = (tmp_path / "run" / "metrics.jsonl").read_text()
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 18, "epoch": 3, "reconstruction": 7}\n{"step": 20, "epo')
    fit(tmp_path / "run", resume=True)
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert text.startswith(whole)
    assert [json.loads(line)["step"] for line in text.splitlines()] == [6, 10, 12, 18, 20, 24]
    assert [line["step"] for line in run.metrics] == [6, 10, 12, 18, 20, 24]


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path):
    whole = fit(tmp_path / "whole")
    fit(tmp_path / "run", max_steps=6)
    fit(tmp_path / "run", max_steps=12, resume=True)
    _, newer = checkpoint.steps(tmp_path / "run" / "checkpoint")
    bytes_ = bytearray(newer.read_bytes())
    bytes_[len(bytes_) // 2] ^= 1  # one bit
    newer.write_bytes(bytes_)
    with pytest.warns(
        UserWarning,
        match=r"step-000000012.pt: damaged \(checksum \w+ of \d+ bytes, expected \w+\); using the .* step 6",
    ):
        run = fit(tmp_path / "run", resume=True)
    assert same(state(run), state(whole))
    for file in checkpoint.steps(tmp_path / "run" / "checkpoint"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(
        CheckpointError, match="every checkpoint is damaged: .*24.pt.*12.pt.*; restore one, or give anoth"
    ):
        fit(tmp_path / "run", resume=True)


def test_a_checkpoint_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    run = fit(tmp_path / "run", max_steps=1)
    [file] = checkpoint.steps(run.path / "checkpoint")
    from genssl.files import write_tensors

    write_tensors(file, {"step": 1, "method": Trap()})
    with pytest.raises(CheckpointError, match=r"asks for posix\.mkdir, expected tensors"):
        genssl.load(run.path)
    assert not (tmp_path / "trapped").exists()


USER_FILE = """
import torch
from small_runs import Normed

class Mine(Normed):
    pass

def items():
    return torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(96) % 3
"""


def test_a_class_and_data_of_the_user(tmp_path):
    """path/to/file.py:Class and file.py:function; the folder names them and never runs them; a changed file is told."""
    file = tmp_path / "mine.py"
    file.write_text(USER_FILE)
    method, data = f"{file}:Mine", f"{file}:items"
    whole = fit(tmp_path / "whole", method, data)
    fit(tmp_path / "run", method, data, max_steps=7)
    run = fit(tmp_path / "run", method, data, resume=True)
    assert same(state(run), state(whole))
    assert run.config["file"] == str(file)
    assert run.config["data"] == data

    with pytest.raises(SettingsError, match=r"a method of your own \(it was .*mine.py\); pass it"):
        genssl.load(run.path)
    loaded = genssl.load(run.path, method)
    assert same(loaded.method.state_dict(), run.method.state_dict())
    with pytest.raises(DataError, match="only you may run; pass it"):
        _ = loaded.data
    assert len(genssl.load(run.path, method, data).data.train) == len(run.data.train)
    with pytest.raises(SettingsError, match="is a run of Mine of your own, not of SimVAE"):
        genssl.load(run.path, "SimVAE")

    file.write_text(USER_FILE + "\n# another day\n")
    with pytest.warns(UserWarning, match="mine.py: has changed since this run was started") as told:
        genssl.load(run.path, method)
    assert len(told) == 1
    with pytest.warns(UserWarning, match="has changed"):
        fit(tmp_path / "run", method, data, resume=True)


def test_loaded_is_fitted(tmp_path):
    run = fit(tmp_path / "run")
    x = run.data.test.floats()
    loaded = genssl.load(tmp_path / "run")
    assert torch.equal(loaded.represent(x), run.represent(x))
    assert not loaded.method.training
    assert same(loaded.groups("test", n=5).x, run.groups("test", n=5).x)
    assert same(loaded.random_encoder().state_dict(), build(SimVAE, run.data.example(2), 0, SMALL).state_dict())
    with pytest.raises(CheckpointError, match="no such run folder"):
        genssl.load(tmp_path / "nowhere")
    for file in checkpoint.steps(run.path / "checkpoint"):
        file.unlink()
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        genssl.load(tmp_path / "run")


def test_other_machine_is_told(tmp_path):
    run = fit(tmp_path / "run", max_steps=2)
    config = json.loads((run.path / "config.json").read_text())
    config["versions"]["torch"] = "1.0"
    config["device"] = "cuda:0" if not torch.cuda.is_available() else "cpu"
    (run.path / "config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match=r"torch 1.0 \(now .*bits may differ"):
        assert fit(tmp_path / "run", resume=True).finished


def test_threads_are_the_runs_and_given_back(tmp_path):
    seen = []
    run = fit(tmp_path / "run", max_steps=2)
    torch.set_num_threads(2)
    fit(tmp_path / "run", resume=True, callbacks=[lambda line: seen.append(torch.get_num_threads())])
    assert run.config["threads"] == 1
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2


def test_data_in_memory(tmp_path):
    """The limit and the split of the start count, and other data are refused."""
    x = torch.rand(120, 5, generator=torch.Generator().manual_seed(0))
    whole = fit(tmp_path / "whole", data=x, limit=64, validation=0.2, max_steps=8)
    fit(tmp_path / "run", data=x, limit=64, validation=0.2, max_steps=3)
    run = fit(tmp_path / "run", data=x, resume=True, max_steps=8)
    assert same(state(run), state(whole))
    with pytest.raises(SettingsError, match="fitted on data with event_shape"):
        fit(tmp_path / "run", data=x[:, :4], resume=True)
    with pytest.raises(SettingsError, match="fitted on data with sizes"):
        fit(tmp_path / "run", data=x[:60], resume=True)
    with pytest.raises(DataError, match="set run.data"):
        _ = genssl.load(tmp_path / "run").data
    assert len(genssl.load(tmp_path / "run", data=x).data.train) == 64


def test_a_changed_class_is_told(tmp_path):
    fit(tmp_path / "run", Normed(), max_steps=2)
    with pytest.raises(CheckpointError, match="weights do not fit Normed .*size mismatch.*was the class changed"):
        fit(tmp_path / "run", Normed(dim=5), resume=True)


def test_one_config_tells_all(tmp_path):
    run = fit(tmp_path / "run", max_steps=1, views=lambda x, index, generator: x)
    config = json.loads((run.path / "config.json").read_text())
    assert config == json.loads(json.dumps(config, allow_nan=False))
    expected = {
        "method": "SimVAE",
        "data": "digits",
        "steps": STEPS,
        "limit": 96,
        "threads": 1,
        "device": "cpu",
        "num_classes": 10,
    }
    assert expected.items() <= config.items()
    assert config["settings"] == SMALL
    assert set(config["slots"]) == {"reconstruction", "entropy", "prior"}
    assert "lambda" in config["views"]
    with pytest.warns(UserWarning, match="views of your own"):
        genssl.load(tmp_path / "run").groups("test", n=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.groups("test", n=2)


def test_an_example_of_the_shapes_alone():
    """What the gallery is built from when a run is loaded: modalities, ids, the number of classes."""
    described = {"dtype": "float32", "sizes": {"train": 50}}
    config = {"event_shape": [[5], [2, 3]], "data_description": described, "num_classes": 4, "num_views": 2}
    made = example(config)
    assert made.event_shape == ((5,), (2, 3))
    assert int(made.label.max()) == 3
    assert made.total == 50
    made = example(
        {**config, "event_shape": [7], "data_description": {**described, "dtype": "int64"}, "num_classes": None}
    )
    assert (made.x.shape, made.x.dtype, made.label) == ((2, 2, 7), torch.int64, None)


def test_streams_of_seeds_are_unrelated():
    seeds = {stream_seed(seed, stream, step) for seed in range(5) for stream in ("a", "b") for step in range(100)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


class Bare(Normed):
    """Weights that no `reset_parameters` knows."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def guide(self, groups):
        loc, log_scale = groups.map(self.encoder).chunk(2, -1)
        self.latest = loc.detach()
        with groups.plate:
            pyro.sample("z", dist.Normal(loc * self.scale + self.shift, log_scale.exp()).to_event(2))


def test_the_random_encoder_of_an_instance_is_what_it_was(tmp_path):
    """All of its weights, and those alone: also of a run that is loaded."""
    method = Bare()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    run = fit(tmp_path / "run", method)
    assert not torch.equal(run.method.scale, before["scale"])
    for each in (run, genssl.load(tmp_path / "run", Bare())):
        fresh = each.random_encoder().state_dict()
        assert all(torch.equal(fresh[name], value) for name, value in before.items())
    (tmp_path / "run" / "initial.pt").unlink()
    with pytest.raises(
        CheckpointError, match="initial.pt is missing, the weights that its instance came with; fit it again"
    ):
        run.random_encoder()


def test_figures_of_fewer_steps_go_when_it_goes_on(tmp_path):
    fit(tmp_path / "run", max_steps=6)
    (tmp_path / "run" / "against").mkdir()
    for name in ("evaluation.json", "report.html", "against/mnist.json"):
        (tmp_path / "run" / name).write_text("{}")
    fit(tmp_path / "run", max_steps=6, resume=True)  # takes no step
    assert (tmp_path / "run" / "evaluation.json").exists()
    fit(tmp_path / "run", max_steps=12, resume=True)
    assert not (tmp_path / "run" / "evaluation.json").exists()
    assert not (tmp_path / "run" / "report.html").exists()
    assert not list((tmp_path / "run" / "against").iterdir())


class Scheduled(Normed):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def update(self):
        super().update()
        self.calls += 1


def test_a_counter_of_the_user_counts_steps_and_no_trials(tmp_path):
    method = Scheduled()
    fit(tmp_path / "run", method, max_seconds=600)
    assert method.calls == 24

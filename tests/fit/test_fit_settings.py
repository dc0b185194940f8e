"""What a user may give, and what is refused on one line before anything is written; time, metrics, a full disk."""

from __future__ import annotations

import errno
import json
import math
import time
import warnings

import numpy as np
import pytest
import torch
from genssl.models import SimVAE
from small_runs import SMALL, Normed, fit, same, state
from torch import nn

import genssl
from genssl import files
from genssl.errors import CheckpointError, DataError, GensslError, SettingsError, ShapeError
from genssl.files import DiskError
from genssl.fit import checkpoint, loop, metrics, progress
from genssl.fit.build import build, find_class
from genssl.fit.slots import apply_slots, parse_setting, parse_term

BAD = [
    ({"num_views": 0}, "num_views = 0, expected a whole number from 1"),
    ({"num_views": 1.5}, "num_views = 1.5, expected a whole number"),
    ({"epochs": -1}, "epochs = -1, expected a whole number from 0"),
    ({"epochs": True}, "epochs = True"),
    ({"batch_size": 97}, "batch_size = 97 groups, but there are 96 to train on"),
    ({"batch_size": 0}, "batch_size = 0"),
    ({"lr": -1.0}, "lr = -1.0, expected a positive number"),
    ({"lr": math.nan}, "lr = nan"),
    ({"lr": "fast"}, "lr = 'fast'"),
    ({"max_seconds": 0}, "max_seconds = 0, expected a positive number"),
    ({"clip": math.inf}, "clip = inf"),
    ({"max_steps": -1}, "max_steps = -1"),
    ({"num_workers": -1}, "num_workers = -1"),
    ({"limit": 0}, "limit = 0"),
    ({"seed": -3}, "seed = -3"),
    ({"seed": "a"}, "seed = 'a'"),
    ({"precision": "16"}, "precision = '16', expected 32 or tf32 or bf16"),
    ({"optimizer": "lion"}, "optimizer = 'lion', expected adam or adamw"),
    ({"optimizer": lambda parameters, lr: None}, "optimizer gave a NoneType, expected a torch.optim.Optimizer"),
    ({"schedule": "step"}, "schedule = 'step', expected cosine or constant"),
    ({"device": "tpu"}, "device = 'tpu', expected auto, cpu or cuda"),
    ({"device": "cuda:77"}, "device = 'cuda"),
    ({"method": "SimVEA"}, "there is no method 'SimVEA'; did you mean SimVAE?"),
    ({"method": "nowhere.py:Mine"}, "nowhere.py: no such file"),
    ({"method": nn.Linear(2, 2)}, "Linear: has no guide; a method has guide, objective, encode"),
    ({"method": nn.Linear}, r"Linear: has no build\(example, \*\*settings\)"),
    ({"method": Normed, "settings": {"width": 3}}, "Normed has no setting 'width'; it has "),
    ({"method": Normed(), "settings": {"dim": 3}}, "settings and replace are for a method that fit builds"),
    ({"settings": {"view_scal": 1.0}}, "SimVAE has no setting 'view_scal'; did you mean view_scale"),
    ({"view_scale": 1.0}, r"genssl.fit has no argument 'view_scale'; give settings={'view_scale': ...}$"),
    ({"view_scal": 1.0}, r"genssl.fit has no argument 'view_scal'; did you mean settings={'view_scale': ...}\?"),
    ({"prior": "LogPrior"}, r"genssl.fit has no argument 'prior'; give replace={'prior': 'TERM'}"),
    ({"epoch": 3}, r"genssl.fit has no argument 'epoch'; did you mean epochs\?"),
    ({"method": Normed(), "width": 3}, r"genssl.fit has no argument 'width'; see help\(genssl.fit\)"),
    ({"settings": {"beta": 1.0}}, "SimVAE has no setting 'beta'; it has .*content_scale"),
    ({"settings": {"dim": "many"}}, "dim = 'many', expected a whole number of at least 1"),
    ({"settings": {"dim": -2}}, "dim = -2, expected a whole number of at least 1"),
    ({"settings": {"hidden": ["many"]}}, r"SimVAE.build failed with .*settings given: {'hidden': \['many'\]}"),
    ({"settings": {"hidden": [-2]}}, "SimVAE.build failed with .*"),
    ({"settings": {"view_scale": "wide"}}, "GroupNormal: view_scale = wide, expected a positive standard deviation"),
    ({"settings": {"view_scale": 0}}, "GroupNormal: view_scale = 0, expected a positive"),
    ({"replace": {"entropy": "Constant:value=abc"}}, "(step 0 failed with TypeError|term 'Constant:value=abc')"),
    ({"seed": 10**20}, "seed = 100000000000000000000, expected a whole number from 0 to"),
    ({"settings": {"likelihood": nn.Identity()}}, r"settings, likelihood = Identity\(\): config.json cannot hold it"),
    ({"settings": {"content_scale": math.inf}}, "settings, content_scale = inf: config.json cannot hold it"),
    ({"replace": {"prior": "Nothing"}}, "there is no term 'Nothing'; see genssl terms"),
    ({"replace": {"prior": "LogLikelihood"}}, "LogLikelihood fills reconstruction, not the slot prior"),
    ({"replace": {"priors": "LogPrior"}}, "there is no slot 'priors'"),
    ({"replace": {"prior": "CosinAttraction"}}, "there is no term .CosinAttraction.; did you mean CosineAttraction"),
    (
        {"replace": {"prior": "CosineAttraction:temprature=1"}},
        "CosineAttraction has no setting .temprature.; did you mean temperature",
    ),
    ({"replace": {"prior": "LogPrior:analytic"}}, "term 'LogPrior:analytic': expected Term:key=value"),
    (
        {"replace": {"prior": "LogPrior:exact=True"}},
        "term 'LogPrior:exact=True': LogPrior has no setting 'exact'; known: analytic",
    ),
    ({"data": "digit"}, "data set 'digit' is unknown, .*did you mean 'digits'"),
    ({"data": torch.full((96, 1, 8, 8), math.nan)}, "row 0 has NaN or infinite values"),
    ({"data": torch.full((96, 1, 8, 8), 2.0)}, r"image values from 2 to 2, expected \[0, 1\]"),
    ({"data": (torch.rand(96, 5), torch.zeros(95, dtype=torch.long))}, r"labels have shape \[95\], expected \[96\]"),
    ({"data": genssl.Groups(torch.rand(96, 3, 5))}, "num_views = 2, but the data are groups of 3 views; leave it out"),
    ({"data": torch.rand(96)}, r"shape \[96\], expected \[N, \*event\]"),
    ({"validation": 0.95}, "validation: fraction 0.95|validation split"),
    ({"views": lambda x, index, generator: x[:3]}, "views returned a tensor .*expected a tensor"),
    ({"views": lambda image: image}, r"views \(<lambda>\) does not take the arguments \(x, index, generator\)"),
]


@pytest.mark.parametrize(("given", "told"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_bad_input_is_one_line_and_leaves_nothing(given, told, tmp_path):
    with pytest.raises(GensslError, match=told) as error:
        fit(tmp_path / "run", **given)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_items_of_another_shape_are_refused_before_a_network_sees_them(tmp_path):
    run = fit(tmp_path / "run", max_steps=1)
    shape = run.config["event_shape"]
    assert run.represent(torch.rand(3, *shape)).shape[0] == 3
    for wrong in ([2 * shape[0], *shape[1:]], [*shape[:-1], shape[-1] + 1], shape[1:]):
        with pytest.raises(ShapeError, match=r"represent: x has shape .*, expected \['N', "):
            run.represent(torch.rand(3, *wrong))


def test_a_folder_that_is_taken_is_left_alone(tmp_path):
    run = fit(tmp_path / "run", max_steps=1)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="run: exists and is not empty; give another --out, or --resume"):
        fit(tmp_path / "run")
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    (tmp_path / "file").write_text("mine")
    for resume in (False, True):
        with pytest.raises(CheckpointError, match="file: exists and is not empty"):
            fit(tmp_path / "file", resume=resume)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"method": "SimVAE"}', "\x00\xff"], ids=["torn", "list", "empty", "short", "binary"]
)
def test_a_damaged_config_is_named(text, tmp_path):
    """The checkpoint has its settings too; where there is none, nothing was safe."""
    run = fit(tmp_path / "run", max_steps=1)
    config = run.path / "config.json"
    before = config.read_bytes()
    config.write_bytes(text.encode("latin1"))
    told = r"config.json: (damaged|is not the config of a run)"
    with pytest.warns(UserWarning, match=f"{told}.*; the settings are taken from the checkpoint"):
        assert genssl.load(run.path).config == run.config
    with pytest.warns(UserWarning, match=told):
        fit(run.path, resume=True, max_steps=2)
    assert config.read_bytes() == before
    config.write_bytes(text.encode("latin1"))
    for path in checkpoint.steps(run.path / "checkpoint"):
        path.unlink()
    for go in (lambda: genssl.load(run.path), lambda: fit(run.path, resume=True)):
        with pytest.raises(CheckpointError, match=told) as error:
            go()
        assert "\n" not in str(error.value)


def test_numbers_of_numpy_are_numbers(tmp_path):
    run = fit(
        tmp_path / "run", epochs=np.int64(1), lr=np.float32(0.5**10), settings={**SMALL, "view_scale": np.float64(0.5)}
    )
    assert run.config["epochs"] == 1
    again = fit(
        tmp_path / "run", resume=True, epochs=np.int64(1), lr=np.float32(0.5**10), settings={**SMALL, "view_scale": 0.5}
    )
    assert again.config["settings"]["view_scale"] == 0.5


def test_a_fault_of_the_users_class_keeps_its_traceback(tmp_path):
    class Broken(Normed):
        @classmethod
        def build(cls, example):
            raise AttributeError("a typing error of mine")

    with pytest.raises(AttributeError, match="typing error"):
        fit(tmp_path / "run", Broken)


def test_a_users_file_that_fails_is_told_with_its_line(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import math\n\nnumber = math.nothing\n")
    with pytest.raises(SettingsError, match=r"mine.py: importing it failed with AttributeError: .*\(mine.py:3\)"):
        find_class(f"{file}:Mine")
    file.write_text("import torch\n\nnumber = 3\nclass Plain: pass\nclass Other(torch.nn.Module): pass\n")
    for name in ("Mine", "number", "Plain"):
        with pytest.raises(SettingsError, match=f"'{name}' is no class of it that is an nn.Module; it has Other"):
            find_class(f"{file}:{name}")


def test_terms_and_settings_in_words():
    assert parse_setting("dim=16") == ("dim", 16)
    assert parse_setting("hidden=(16, 16)") == ("hidden", (16, 16))
    assert parse_setting("likelihood=bernoulli") == ("likelihood", "bernoulli")
    assert parse_setting("content_scale=None") == ("content_scale", None)
    for text in ("dim", "=3", "a b=3"):
        with pytest.raises(SettingsError, match="expected key=value"):
            parse_setting(text)
    assert parse_term("PosteriorEntropy:analytic=('z', 'y')").analytic == {"z", "y"}
    assert parse_term("LogPrior").analytic is False
    both = parse_term("LogLikelihood + 0.1*ContrastiveNormaliser:temperature=2e-1+-1e-3 * Uniformity:t=1.5")
    assert [(weight, str(term)) for weight, term in both.parts] == [
        (1.0, "LogLikelihood"), (0.1, "ContrastiveNormaliser(temperature=0.2)"), (-1e-3, "Uniformity(t=1.5, weight=1)"),
    ]  # fmt: skip
    with pytest.raises(SettingsError):
        parse_term("LogPrior:analytic=__import__('os').getcwd()")
    method = build(SimVAE, genssl.Groups(torch.rand(2, 2, 1, 8, 8)), 0, SMALL)
    apply_slots(method, {"prior": "LogPrior:analytic=True", "entropy": "Constant:value=2"}, 0, [1, 8, 8], SMALL)
    assert str(method.objective.slots["prior"]) == "LogPrior(analytic=True)"
    assert method.objective.entropy.value == 2


def test_a_slot_replaced_by_itself_draws_the_same():
    """A queue from the command line starts as that of the method, whatever state the generators are in."""
    example = genssl.Groups(torch.rand(2, 2, 1, 8, 8))
    queues = []
    for start in (1, 2):
        torch.manual_seed(start)
        method = build(genssl.models.MoCo, example, 5, {"queue_size": 20, "head": (8, 4)})
        queues.append(method.objective.reconstruction.queue.clone())
        apply_slots(method, {"reconstruction": "QueueNormaliser:queue_size=20,dim=4"}, 5, [1, 8, 8], {})
        queues.append(method.objective.reconstruction.queue.clone())
    assert all(torch.equal(queue, queues[0]) for queue in queues)


def test_defaults_are_the_methods_for_the_data_set(tmp_path):
    run = genssl.fit("SimVAE", "digits", max_steps=0, out=tmp_path / "run", progress=False)
    assert {key: run.config[key] for key in ("num_views", "batch_size", "lr", "epochs")} == SimVAE.defaults["digits"]
    run = genssl.fit(Normed, torch.rand(300, 1, 4, 4), max_steps=0, out=tmp_path / "other", progress=False)
    assert [run.config[key] for key in ("num_views", "batch_size", "lr", "epochs")] == [2, 128, 1e-3, 50]


def test_a_time_budget_becomes_steps_once(tmp_path):
    run = fit(tmp_path / "run", max_seconds=0.6, epochs=10**6, max_steps=3)
    steps = run.config["steps"]
    assert 3 < steps < 10**5
    assert not run.finished
    began = time.perf_counter()
    run = fit(tmp_path / "run", max_seconds=0.6, epochs=None, resume=True)
    taken = time.perf_counter() - began
    assert run.finished
    assert run.config["steps"] == steps == run.metrics[-1]["step"]
    assert run.metrics[-1]["knn"] is not None
    assert taken < 6  # ten times the budget: other programs run on this machine
    assert fit(tmp_path / "short", max_seconds=1e6).config["steps"] == 24  # never more than the epochs


def test_speed_leaves_out_what_is_no_step(tmp_path):
    """Callbacks, measuring and checkpoints do not count as time of the steps."""
    plain = fit(tmp_path / "plain", epochs=8)
    slow = fit(tmp_path / "slow", epochs=8, callbacks=[lambda line: time.sleep(0.1)])
    speeds = [sorted(line["views_per_second"] for line in run.metrics[1:]) for run in (plain, slow)]
    typical = [values[len(values) // 2] for values in speeds]
    assert typical[1] > 0.25 * typical[0]  # counted, the sleep alone would make it some twenty times slower
    assert typical[1] * 5 > 2 * 16 * 6 / 0.1


def test_metrics(tmp_path):
    """A line every 10 steps and at the end of every epoch, each the mean since the one before."""
    seen = []
    run = fit(tmp_path / "run", epochs=3, batch_size=4, callbacks=[seen.append])
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert lines == run.metrics == seen
    assert [line["step"] for line in lines] == [10, 20, 24, 30, 40, 48, 50, 60, 70, 72]
    assert [line["epoch"] for line in lines] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert set(lines[0]) == {
        "step",
        "epoch",
        "reconstruction",
        "entropy",
        "prior",
        "elbo",
        "objective",
        "views_per_second",
        "knn",
    }
    for line in lines:
        assert line["elbo"] == pytest.approx(line["reconstruction"] + line["entropy"] + line["prior"], rel=1e-4)
    assert [line["step"] for line in lines if line["knn"] is not None] == [72]
    assert lines[-1]["reconstruction"] > lines[0]["reconstruction"]


@pytest.mark.parametrize(
    ("tail", "lost"),
    [
        ('{"step": 30', False), ("\x00\x00", False), ('{"step": 1', False), ('{"step": 15, "ep', True), ('{"step": 16, "ep', False),
        ("nonsense\n", True), ('{"other": 1}\n', True), ('"text"\n', True), ('{"step": 1\n', True), ('{"step": 18\n', False),
    ],
)  # fmt: skip
def test_a_torn_last_line_is_left_out(tail, lost, tmp_path):
    """Without a word where it is done again; as damage where it may be one that was written before the checkpoint."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10}\n{"step": 20}\n' + tail)
    assert [line["step"] for line in metrics.read(path)] == [10, 20]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        metrics.Metrics(path, 15, torch.zeros(5))
    assert path.read_text() == '{"step": 10}\n'
    assert [str(each.message).partition("; ")[0] for each in told] == (
        [f"{path}: line 3 is damaged and left out"] if lost else []
    )


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    """One error that says so; what was there before is whole; with room again the run goes on as if nothing had been."""
    whole = fit(tmp_path / "whole")
    fit(tmp_path / "run", max_steps=6)
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    for name, where in (
        ("replace", "step-000000010.pt"),
        ("fsync", "metrics.jsonl"),
    ):  # the second time, a line is to be dropped first
        with monkeypatch.context() as patch:
            patch.setattr(files.os, name, full)
            with pytest.raises(
                DiskError, match=f"{where}: cannot write .the disk is full.; what was there is untouched"
            ) as error:
                fit(tmp_path / "run", resume=True)
        assert "\n" not in str(error.value)
        assert state(genssl.load(tmp_path / "run"))["step"] == 6
        assert not list((tmp_path / "run" / "checkpoint").glob(".*"))
    assert same(state(fit(tmp_path / "run", resume=True)), state(whole))


def test_a_full_disk_while_a_line_is_written(tmp_path):
    """The device /dev/full refuses as a full disk does; what is saved stays, and so do the lines."""
    lines = tmp_path / "run" / "metrics.jsonl"

    def fill(line):
        if line["step"] == 12:
            lines.rename(tmp_path / "kept")
            lines.symlink_to("/dev/full")

    fit(tmp_path / "run", max_steps=6)
    with pytest.raises(
        DiskError, match="metrics.jsonl: cannot write .the disk is full.; make room, then go on with --res"
    ):
        fit(tmp_path / "run", resume=True, callbacks=[fill])
    lines.unlink()
    (tmp_path / "kept").rename(lines)
    assert same(state(fit(tmp_path / "run", resume=True)), state(fit(tmp_path / "whole")))


def test_files_are_whole_or_as_before(tmp_path, monkeypatch):
    path = tmp_path / "a" / "value.json"
    files.write_json(path, {"a": (1, 2.5), "b": math.nan, "c": np.int64(3), "d": torch.float32})
    assert files.read_json(path) == {"a": [1, 2.5], "b": None, "c": 3, "d": "torch.float32"}
    monkeypatch.setattr(files.os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        files.write_bytes(path, b"new")
    assert files.read_json(path)["c"] == 3
    assert [item.name for item in path.parent.iterdir()] == ["value.json"]
    with pytest.raises(DiskError, match="cannot write"):
        files.write_bytes(path / "below", b"")


def stopped(*args):
    raise KeyboardInterrupt


def test_the_last_two_checkpoints_are_kept(tmp_path):
    for step in (5, 10, 15):
        checkpoint.save(tmp_path, step, {"value": torch.tensor(step)})
    (tmp_path / "step-abc.pt").write_text("not ours")
    assert [checkpoint.step_of(path) for path in checkpoint.steps(tmp_path)] == [10, 15]
    assert checkpoint.load(tmp_path)["value"] == 15
    assert checkpoint.load(tmp_path / "nowhere") is None
    checkpoint.save(tmp_path, 12, {"value": torch.tensor(12)})  # 15 was damaged, and the run went on from 10
    assert [checkpoint.step_of(path) for path in checkpoint.steps(tmp_path)] == [10, 12]


def test_one_process_at_a_time(tmp_path):
    run = fit(tmp_path / "run", max_steps=3)
    refused = []

    def another(line):
        with pytest.raises(CheckpointError, match="another process is fitting this run") as error:
            fit(tmp_path / "run", resume=True)
        refused.append(error)

    assert fit(tmp_path / "run", resume=True, callbacks=[another]).finished
    assert len(refused) == len(run.metrics) - 1


def test_what_is_shown(tmp_path, monkeypatch, capsys):
    """A bar in a terminal; elsewhere a plain line now and then, and the last one; nothing where nothing is wanted."""
    fit(tmp_path / "quiet", max_steps=12)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(progress, "EVERY", 0.0)
    fit(tmp_path / "plain", progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == [f"{step}/24" for step in (6, 10, 12, 18, 20, 24)]
    assert "  knn 0." in lines[-1]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    fit(tmp_path / "bar", progress=True)
    shown = capsys.readouterr().err
    assert "24/24" in shown
    assert all(f"{name}=" in shown for name in ("reconstruction", "entropy", "prior", "views/s", "knn"))


def test_no_steps_at_all(tmp_path):
    """epochs=0 is the method as it was built: finished, with a checkpoint, loadable."""
    run = fit(tmp_path / "run", epochs=0)
    assert run.finished
    assert same(genssl.load(tmp_path / "run").method.state_dict(), run.method.state_dict())


def test_data_root_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("GENSSL_DATA", str(tmp_path / "data"))
    assert fit(tmp_path / "run", max_steps=0).config["data_root"] == str(tmp_path / "data")
    assert fit(tmp_path / "named", max_steps=0, data_root="here").config["data_root"] == str(tmp_path / "here")
    with pytest.raises(DataError, match="mnist: .*not found in .*nowhere"):
        fit(tmp_path / "mnist", data="mnist", data_root=tmp_path / "nowhere")


def test_a_folder_of_images_is_found_from_anywhere(tmp_path, monkeypatch):
    """A bare folder name is kept as its whole path."""
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(np.full((8, 8), 12 * number, dtype=np.uint8)).save(
                tmp_path / "pictures" / name / f"{number}.png"
            )
    run = fit(tmp_path / "run", data="pictures", batch_size=8, max_steps=1)
    assert run.config["data"] == str(tmp_path / "pictures")
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert len(genssl.load(tmp_path / "run").data.test) == 2


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        (
            "SimVAE",
            {},
            {"dim": 10, "network": "mlp", "hidden": [256, 256], "likelihood_scale": 0.02**0.5, "content_scale": None},
        ),
        ("SimVAE", {"dim": 3, "view_scale": 0.5}, {"dim": 3, "view_scale": 0.5, "likelihood": "gaussian"}),
        ("SimCLR", {"temperature": 0.2}, {"temperature": 0.2, "dim": 10, "hidden": [256, 256]}),
        ("CLIP", {}, {"network": "mlp", "hidden": [256, 256]}),
        (
            "NeuralStatistician",
            {"hidden": [8]},
            {"hidden": [8], "dim": 10, "content_dim": 10, "likelihood_scale": 0.02**0.5},
        ),
    ],
)
def test_the_config_holds_every_setting(name, given, expected, tmp_path):
    """Given or by default, and what a default became; each is that of the method."""
    run = fit(tmp_path / "run", name, settings=given, epochs=1, measure=False)
    found = run.config["resolved"]
    for key, value in expected.items():
        assert found[key] == (pytest.approx(value) if isinstance(value, float) else value), key
    halves = 2 if name == "CLIP" else 1  # of an image, each with its own z
    assert halves * found["dim"] == run.represent(run.data.test.floats()[:2]).shape[1]
    assert run.config["parameters"] == sum(p.numel() for p in run.method.parameters() if p.requires_grad)
    if name == "SimCLR":
        assert run.method.head[-1].out_features == found["head"][-1]


@pytest.mark.parametrize("name", ["SimVAE", "SimCLR", "NeuralStatistician"])
def test_colour_images_make_other_defaults(name):
    method = getattr(genssl.models, name).build(genssl.Groups(torch.zeros(2, 2, 3, 32, 32)))
    assert (method.built_with["network"], method.built_with["dim"]) == ("conv", 64)
    assert "hidden" not in method.built_with

"""The commands, called in this process: what they print, write and return."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest
import torch

import genssl
from genssl import cli
from genssl.cli import main
from genssl.fit import start

SMALL = [
    "--data",
    "digits",
    "--limit",
    "96",
    "--views",
    "2",
    "--batch-size",
    "16",
    "--epochs",
    "4",
    "--set",
    "hidden=(16,16)",
    "--set",
    "dim=4",
]


@pytest.fixture(autouse=True)
def one_thread_in_a_folder_of_its_own(tmp_path, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(before)


def run(capsys, *arguments):
    """(exit status, stdout, stderr)"""
    status = main([str(argument) for argument in arguments])
    out = capsys.readouterr()
    return status, out.out, out.err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with evaluation and report."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["fit", "SimVAE", *SMALL, "--out", str(folder)]) == 0
    torch.set_num_threads(threads)
    return folder


@pytest.mark.parametrize(
    "command",
    [[], ["methods"], ["data"], ["fit"], ["evaluate"], ["against"], ["report"], ["export"]],
    ids=lambda command: " ".join(command),
)
def test_help(command, capsys):
    status, out, err = run(capsys, *command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith("Usage: genssl")
    assert run(capsys)[:2] == (0, run(capsys, "--help")[1])  # nothing at all is a question too


def test_help_imports_little():
    """It answers at once: the commands import what they need."""
    code = "import sys; from genssl import cli; cli.main(['fit', '--help']); sys.exit(bool({'sklearn', 'matplotlib'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_version_and_module(capsys):
    status, out, _ = run(capsys, "--version")
    assert status == 0
    done = subprocess.run([sys.executable, "-m", "genssl", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, out)


def test_one_method_with_its_settings(capsys):
    status, out, _ = run(capsys, "methods", "SimCLR", "--json")
    assert status == 0
    (row,) = json.loads(out)
    assert row["settings"]["temperature"] == 0.5
    assert set(row["settings"]) == {"temperature", "dim", "network", "hidden", "head"}
    status, out, _ = run(capsys, "methods", "BYOL")
    assert "predictor=" not in out  # made by build: no setting
    assert "momentum=0.99" in out
    status, _, err = run(capsys, "methods", "simvae")
    assert (status, err) == (2, "genssl: there is no method 'simvae'; did you mean SimVAE?\n")


def test_terms(capsys):
    status, out, _ = run(capsys, "terms", "--json")
    assert status == 0
    rows = {row["term"]: row for row in json.loads(out)}
    assert rows["CosineAttraction"]["settings"] == {"temperature": 0.5, "target": "z"}
    assert rows["LogLikelihood"]["needs"] == ["decoder", "model"]
    assert "AggregateEntropy" not in rows
    status, out, _ = run(capsys, "terms")
    assert out.index("reconstruction\n") < out.index("  ContrastiveNormaliser:temperature=0.5") < out.index("prior\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["SimVAE", "--set", "encoder=None"], "encoder is made by build"),
        (["SimVAE", "--reconstruction", "ClassNormaliser"], "needs the classes of a method"),
        (["SimVAE", "--prior", "ConsistencyKL"], "give ConsistencyKL:weight=VALUE"),
        (["SimVAE", "--prior", "own"], "here leave the slot out"),
        (["SimVAE", "--entropy", "PosteriorEntropy:analytic=1"], "expected True, False or a collection"),
        (["SimCLR", "--set", "head=64"], "expected widths such as (64,)"),
        (["SimVAE", "--set", "hidden=64"], "expected widths such as (64, 64)"),
        (["LDM", "--set", "reconstruction=Uniformity"], "give a term as --reconstruction TERM"),
        (["SimVAE", "--reconstruction", "AggregateEntropy"], "there is no term 'AggregateEntropy'"),
        (["SimVAE", "--prior", "LogPrior + Uniformity"], "terms of different slots"),
    ],
)
def test_what_is_no_setting_is_told_in_one_line(capsys, arguments, said):
    status, _, err = run(capsys, "fit", *arguments, "--data", "digits", "--limit", "50")
    assert status == 2
    assert said in err
    assert err.count("\n") == 1


def test_methods(capsys):
    status, out, err = run(capsys, "methods", "--json")
    rows = json.loads(out)
    assert (status, err) == (0, "")
    assert {"SimVAE", "VAE"} <= {row["method"] for row in rows}
    for row in rows:
        assert set(row) == {"method", "reconstruction", "entropy", "prior", "source", "collapses"}
        assert all(isinstance(value, str) and value for value in row.values()), row
    status, out, _ = run(capsys, "methods")
    assert status == 0
    assert all(row["method"] in out for row in rows)


def test_data(capsys, tmp_path):
    status, out, _ = run(capsys, "data", "--json", "--data-root", tmp_path)
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == 0
    assert rows["digits"]["present"] is True
    assert rows["mnist"]["present"] is False
    assert "--download" in rows["mnist"]["how_to_get"]
    status, out, _ = run(capsys, "data", "--data-root", tmp_path)
    assert (status, len(out.splitlines())) == (0, len(rows) + 1)


def test_fit_evaluates_and_reports(finished, capsys):
    assert {"config.json", "metrics.jsonl", "checkpoint", "evaluation.json", "report.html"} <= {
        path.name for path in finished.iterdir()
    }
    assert list((finished / "figures").glob("*.png"))
    figures = json.loads((finished / "evaluation.json").read_text())
    for content in (figures["content"], figures["random_encoder"]["content"]):
        assert set(content) == {"knn", "linear", "mlp"}
        assert all(
            0 <= values[part] <= 1 for values in content.values() for part in ("validation", "test", "test_best")
        )
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    status, out, _ = run(capsys, "fit", "SimVAE", *SMALL, "--out", finished, "--resume")
    assert (status, out) == (
        0,
        f"{finished}: finished, 24 steps: its 4 epochs are over; --resume with a larger --epochs goes on\n",
    )
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_evaluate(finished, capsys, tmp_path):
    copied = shutil.copytree(finished, tmp_path / "copy")
    written = json.loads((copied / "evaluation.json").read_text())
    (copied / "evaluation.json").unlink()
    status, out, err = run(capsys, "evaluate", copied, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == json.loads((copied / "evaluation.json").read_text()) == written
    status, out, _ = run(capsys, "evaluate", copied)
    assert status == 0
    assert f"{written['content']['knn']['test']:.3f}" in out
    assert "random encoder" in out


def test_report(finished, capsys, tmp_path):
    copied = shutil.copytree(finished, tmp_path / "copy")
    status, out, err = run(capsys, "report", finished, copied, "--out", tmp_path / "pages" / "two.html")
    assert (status, err) == (0, "")
    assert out == f"report: {tmp_path / 'pages' / 'two.html'}\n"
    assert (tmp_path / "pages" / "two.html").read_text().count("<article>") == 2


def test_stopping_and_going_on(capsys):
    status, out, err = run(capsys, "fit", "SimVAE", *SMALL, "--max-steps", 7, "--no-report")
    assert status == 0
    assert out == (
        "runs/SimVAE-digits-0: step 7 of 24, saved; "
        "go on with: genssl fit SimVAE --data digits --resume --out runs/SimVAE-digits-0 --no-report\n"
    )
    assert err.startswith("step 7/24  epoch 2  reconstruction ")  # no terminal: a plain line
    assert len(err.splitlines()) == 1
    command = out.split("go on with: genssl ")[1].split()
    assert run(capsys, *command)[:2] == (
        0,
        "runs/SimVAE-digits-0: finished, 24 steps: its 4 epochs are over; --resume with a larger --epochs goes on\n",
    )
    assert not Path("runs/SimVAE-digits-0/evaluation.json").exists()
    assert run(capsys, "fit", "SimVAE", *SMALL, "--resume", "--no-report")[:2] == (
        0,
        "runs/SimVAE-digits-0: finished, 24 steps: its 4 epochs are over; --resume with a larger --epochs goes on\n",
    )
    status, out, _ = run(capsys, "fit", "SimVAE", *SMALL, "--max-steps", 0)
    assert out.startswith("runs/SimVAE-digits-0-2: step 0 of 24, saved; ")


USER_FILE = '''
import torch
from genssl.models import VAE

class Mine(VAE):
    """A method of a user."""

def items():
    return torch.rand(120, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(120) % 3
'''


@pytest.mark.filterwarnings("default")
def test_a_method_and_data_of_the_user(capsys):
    """Given as files to fit; and again to evaluate and report, since a folder makes no code run; a changed file is told."""
    Path("mine.py").write_text(USER_FILE)
    options = ["--batch-size", "16", "--epochs", "1", "--set", "hidden=(16,16)", "--out", "run"]
    status, out, err = run(capsys, "fit", "mine.py:Mine", "--data", "mine.py:items", *options)
    assert status == 0, err
    assert "Mine on items: 6 of 6 steps, run" in out
    status, _, err = run(capsys, "evaluate", "run")
    assert status == 2
    assert err.startswith("genssl: run: was fitted with Mine, a method of your own (it was ")
    status, _, err = run(capsys, "evaluate", "run", "--method", "mine.py:Mine")
    assert status == 2
    assert err.startswith("genssl: run: was fitted on data of the function ")
    Path("mine.py").write_text(USER_FILE + "\n")
    given = ["--method", "mine.py:Mine", "--data", "mine.py:items"]
    warned = f"genssl: warning: {Path('mine.py').resolve()}: has changed since this run was started\n"
    status, _, err = run(capsys, "evaluate", "run", *given, "--only", "content")
    assert (status, err) == (0, f"{warned}evaluate 1/1: content\n")  # what was measured was another class's
    assert run(capsys, "evaluate", "run", *given, "--only", "content")[::2] == (0, warned)
    assert run(capsys, "fit", "VAE", *SMALL[:6], "--epochs", "1", "--out", "other", "--no-report")[0] == 0
    assert run(capsys, "report", "other", "run", *given)[0] == 0
    assert Path("report.html").exists()
    assert not Path("other/report.html").exists()  # which is of that run alone


BAD = [
    (["nothing"], "No such command 'nothing'."),
    (["fit"], "Missing argument 'METHOD'."),
    (["fit", "SimVAE"], "Missing option '--data'."),
    (
        ["fit", "SimVAE", "--data", "digits", "--epochs", "many"],
        "Invalid value for '--epochs': 'many' is not a valid integer.",
    ),
    (["fit", "SimVAE", "--data", "digits", "--epoch-s", "3"], "No such option"),
    (["fit", "SimVAE", "--data", "digits", "--precision", "16"], "Invalid value for '--precision'"),
    (["fit", "SimVEA", "--data", "digits"], "there is no method 'SimVEA'; did you mean SimVAE?"),
    (["fit", "SimVAE", "--data", "digit"], "data set 'digit' is unknown"),
    (["fit", "SimVAE", "--data", "nothing.npz"], "nothing.npz: no such file"),
    (["fit", "SimVAE", "--data", "mnist", "--data-root", "nowhere"], "mnist: "),
    (["fit", "SimVAE", "--data", "digits", "--set", "dim"], "--set dim: expected key=value"),
    (["fit", "SimVAE", "--data", "digits", "--set", "dimm=3"], "SimVAE has no setting 'dimm'; did you mean dim?"),
    (["fit", "SimVAE", "--data", "digits", "--prior", "Nothing"], "there is no term 'Nothing'"),
    (["fit", "SimVAE", "--data", "digits", "--prior", ""], "there is no term ''"),
    (["fit", "SimVAE", "--data", "digits", "--lr", "-1"], "lr = -1.0, expected a positive number"),
    (["fit", "SimVAE", "--data", "digits", "--views", "0"], "num_views = 0"),
    (["fit", "SimVAE", "--data", "digits", "--batch-size", "5000"], "batch_size = 5000 groups, but there are 1258"),
    (["fit", "SimVAE", "--data", "digits", "--device", "tpu"], "device = 'tpu', expected auto, cpu or cuda"),
    (["fit", "SimVAE", "--data", "digits", "--out", "taken"], "taken: exists and is not empty"),
    (["evaluate", "nowhere"], "nowhere: no such run folder"),
    (["evaluate", "taken"], "taken/config.json: no such file; is taken a run folder?"),
    (["report"], "Missing argument 'RUNS...'."),
    (["report", "nowhere"], "nowhere: no such run folder"),
    (["data", "--json", "more"], "Got unexpected extra argument (more)"),
]


@pytest.mark.parametrize(("arguments", "told"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_exit_2(arguments, told, capsys):
    Path("taken").mkdir()
    Path("taken/thesis.txt").write_text("years of work")
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("genssl: " + told)
    assert err.count("\n") == 1
    assert not Path("runs").exists()
    assert Path("taken/thesis.txt").read_text() == "years of work"


def test_a_fault_of_the_program_shows_its_traceback(monkeypatch):
    monkeypatch.setattr(cli.cli.commands["data"], "callback", lambda **options: {}["bug"])
    with pytest.raises(KeyError, match="bug"):
        main(["data"])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, click.Abort])
def test_ctrl_c_elsewhere(stop, monkeypatch, capsys):
    def stopped(**options):
        raise stop

    monkeypatch.setattr(cli.cli.commands["data"], "callback", stopped)
    status, _, err = run(capsys, "data")
    assert (status, err.split()) == (130, ["genssl:", "stopped"])


def test_ctrl_c_before_the_first_step(capsys, monkeypatch):
    """Nothing is there to go on with, and a command that did would take the newest run of that name."""

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "new", stopped)
    told = "\ngenssl: stopped before the first step: nothing was fitted yet, and nothing is kept"
    assert run(capsys, "fit", "SimVAE", *SMALL) == (130, "", f"{told} in runs\n")
    assert run(capsys, "fit", "SimVAE", *SMALL, "--out", "mine") == (130, "", f"{told} in mine\n")
    assert not Path("mine").exists()


def test_ctrl_c_while_evaluating(capsys, monkeypatch):
    """The fit is done and saved: what is left to do is said."""
    from genssl import Run

    def stopped(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "evaluate", stopped)
        status, _, err = run(capsys, "fit", "SimVAE", *SMALL, "--out", "run")
    assert status == 130
    assert "run is fitted, and what was measured is kept; go on with: genssl evaluate run, genssl report run" in err
    assert run(capsys, "evaluate", "run")[0] == 0


def test_settings_of_a_data_set_name_its_folder_and_resume_in_any_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    common = ["fit", "SimVAE", "--views", "2", "--batch-size", "20", "--epochs", "2", "--no-report"]
    common += ["--set", "hidden=[8]", "--set", "dim=2"]
    assert run(capsys, *common, "--data", "sprites:size=16,num=200", "--max-steps", "3")[0] == 0
    folder = tmp_path / "runs" / "SimVAE-sprites_num_200_size_16-0"
    assert (folder / "config.json").exists()
    status, _, err = run(capsys, *common, "--data", "sprites:num=200,size=16", "--resume")
    assert status == 0, err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [folder.name]
    assert genssl.load(folder).finished
    status, _, err = run(capsys, "fit", "SimVAE", "--data", "sprites:sizee=16")
    assert (status, "did you mean size" in err) == (2, True)


@pytest.mark.parametrize("method", ["CLIP", "SimCLR", "NeuralStatistician"])
def test_a_method_of_each_kind_from_the_command_to_the_report(method, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["fit", method, "--data", "digits", "--limit", "200", "--max-steps", "4", "--epochs", "1"]
    command += ["--views", "2", "--batch-size", "50", "--out", str(out), "--set", "hidden=[8]", "--set", "dim=3"]
    status, _, err = run(capsys, *command)
    assert status == 0, err
    status, _, err = run(capsys, "evaluate", str(out))
    assert status == 0, err
    figures = json.loads((out / "evaluation.json").read_text())
    assert 0 <= figures["content"]["knn"]["test"] <= 1
    assert (figures["generation"]["mse"] is None) == (method != "NeuralStatistician")
    status, _, err = run(capsys, "report", str(out))
    assert status == 0, err
    assert not re.search(r">\s*(nan|None|inf)\b", (out / "report.html").read_text())


def test_against_other_data(finished, capsys):
    status, out, err = run(capsys, "against", finished, "digits", "--groups", 20, "--samples", 8)
    assert (status, err) == (0, "")
    areas = dict(line.split(" AUROC ") for line in out.splitlines() if "AUROC" in line)
    assert {name.strip() for name in areas} >= {"negative_elbo", "distance", "posterior_scale"}
    assert "pareto_k         none: 8 draws a group have no tail" in out
    assert json.loads((finished / "against" / "digits.json").read_text())["groups"] == [20, 20]
    status, _, err = run(capsys, "against", finished, "sprites:num=60", "--groups", 5)
    assert status == 2
    assert "items of shape [1, 32, 32], expected [1, 8, 8]" in err

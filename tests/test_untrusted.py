"""Files that nobody vouches for: run folders, checkpoints, posteriors, archives and images run nothing, and stay text in pages."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import tarfile
import warnings
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import genssl
from genssl import datasets, parameters
from genssl.cli import main
from genssl.datasets import root
from genssl.datasets.celeba import ATTRIBUTES, PARTITION
from genssl.errors import CheckpointError, DataError, GensslError, SettingsError
from genssl.evaluation.cache import Cache
from genssl.evaluation.kept_decoder import STAGE, kept_decoder
from genssl.files import read_json, read_tensors, write_tensors
from genssl.fit import checkpoint
from genssl.fit.folder import NEEDED

SOURCE = Path(genssl.__file__).parent
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


class Trap:
    """Pickles as a call that makes a folder."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, never changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        genssl.fit(
            "SimVAE", "digits", settings={"hidden": [16], "dim": 2}, num_views=2, batch_size=16, epochs=1, limit=64, out=folder,
            progress=False, measure=False,
        )  # fmt: skip
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def change(folder, **changes):
    """Forge the settings, in the checkpoints too, which hold them as well."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    for file in checkpoint.steps(folder / "checkpoint"):
        state = read_tensors(file)
        write_tensors(file, {**state, "config": {**state["config"], **changes}})


def refused(capsys, *arguments):
    """The one line of a command that refuses."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    [line] = err.splitlines()
    return line


class Page(HTMLParser):
    """Tags, names of attributes, and the text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]

    def handle_data(self, data):
        self.text += data

    def is_harmless(self):
        return "script" not in self.tags and not any(name.startswith("on") for name in self.attributes)


# ---------------------------------------------------------------------- the source


def test_the_library_has_no_reader_that_runs_what_it_reads():
    """By its syntax: loads are of weights alone, without pickles; nothing is evaluated, unpacked or started."""
    seen = []
    for path in [*SOURCE.rglob("*.py"), *Path(genssl.models.__file__).parent.glob("*.py")]:
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name, given = ast.unparse(call.func), {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if name == "torch.load":
                assert given.get("weights_only") == "True", path
                seen.append(name)
            if name in ("np.load", "numpy.load"):
                assert given.get("allow_pickle") == "False", path
                seen.append(name)
            last = name.rpartition(".")[2]
            assert name not in (
                "eval",
                "exec",
                "compile",
                "__import__",
                "pickle.load",
                "pickle.loads",
                "joblib.load",
            ), path
            assert not name.startswith(("subprocess.", "os.system", "os.popen", "shutil.unpack_archive")), path
            assert last not in ("extractall", "extract", "load_state_dict_from_url", "exec_module") or (
                last == "exec_module" and path.name in ("build.py", "files.py")
            ), path
    assert sorted(seen) == ["np.load", "torch.load"]


# ---------------------------------------------------------------------- run folders


CODE = "from pathlib import Path\nPath({!r}).mkdir()\nfrom genssl.models import SimVAE as Mine\ndef data():\n    return None\n"


@pytest.mark.parametrize("command", ["evaluate", "posterior", "export", "report"])
@pytest.mark.parametrize("key", ["method", "data"])
def test_no_name_in_a_config_runs_a_file(key, command, run, tmp_path, capsys):
    trap, file = tmp_path / "trapped", run / "innocent.py"
    file.write_text(CODE.format(str(trap)))
    change(run, **{key: f"{file}:{'Mine' if key == 'method' else 'data'}"})
    more = {"export": ["--format", "safetensors"]}.get(command, [])
    if key == "data" and command in ("export", "report"):  # which do without data
        assert main([command, str(run), *more]) == 0
    else:
        line = refused(capsys, command, run, *more)
        assert "there is no method" in line if key == "method" else "which only you may run" in line
    assert not trap.exists()


def test_no_name_in_the_folder_of_a_grid_runs_a_file(run, tmp_path, capsys):
    trap, place = tmp_path / "trapped", tmp_path / "grid"
    (tmp_path / "innocent.py").write_text(CODE.format(str(trap)))
    method = f"{tmp_path / 'innocent.py'}:Mine"
    shutil.copytree(run, place / "cells" / "seed0")
    change(place / "cells" / "seed0", method=method)
    spec = {"base": {"method": method, "data": "digits", "epochs": 1}, "grid": {"seed": [0, 1]}}
    (place / "grid.json").write_text(json.dumps(spec))
    (place / "left_out.json").write_text(json.dumps({"seed1": EVIL}))
    assert main(["compare", str(place), "--out", "table"]) == 0
    assert not trap.exists()
    assert Page((tmp_path / "table" / "index.html").read_text()).is_harmless()


@pytest.mark.parametrize("key", NEEDED)
def test_a_config_of_other_kinds_is_one_sentence(key, run, capsys):
    for value in ({"a": [1]}, "x" * 200, [[]], None, 1.5):
        change(run, **{key: value})
        if isinstance(value, NEEDED[key]):
            continue
        line = refused(capsys, "export", run, "--format", "safetensors")
        assert line.startswith(f"genssl: {run / 'config.json'}: is not the config of a run (its {key} is")
        assert len(line) < 400


def test_json_without_end_is_damaged(run, capsys):
    shutil.rmtree(run / "checkpoint")  # which holds the settings too
    for text in ("[" * 100_000, '{"a":' * 100_000, "9" * 10_000):
        (run / "config.json").write_text(text)
        assert f"{run / 'config.json'}: " in refused(capsys, "evaluate", run)
        with pytest.raises(CheckpointError), contextlib.suppress(AssertionError):
            assert not isinstance(read_json(run / "config.json"), int)


def test_links_in_a_run_folder_are_replaced_and_not_followed(run, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("posterior.nc", "report.html", "config.json.link"):
        (run / name).symlink_to(victim)
    loaded = genssl.load(run)
    tree = loaded.posterior(samples=2, number=4, progress=False)
    assert tree["posterior/z"].shape == (2, 4, 2, 2)
    tree.close()
    assert main(["report", str(run)]) == 0
    assert victim.read_text() == "mine"
    with pytest.raises(CheckpointError, match="exists"):
        genssl.export(loaded, run / "config.json.link", "safetensors")
    assert not (run / "posterior.nc").is_symlink()


# ---------------------------------------------------------------------- checkpoints


def test_a_checkpoint_that_asks_for_a_call_is_refused_in_one_sentence(run, tmp_path, capsys):
    """With a checksum that is right, as a forger would write it."""
    trap = tmp_path / "trapped"
    [file] = checkpoint.steps(run / "checkpoint")
    step = checkpoint.step_of(file)
    for state in ({"step": step, "method": Trap(trap)}, Trap(trap), {"step": step, "method": {"x": Trap(trap)}}):
        write_tensors(file, state)
        for command in (["evaluate"], ["export", "--format", "pt2"], ["posterior"], ["report"]):
            line = refused(capsys, command[0], run, *command[1:])
            assert re.search(
                rf"every checkpoint is damaged: .*asks for {os.mkdir.__module__}\.mkdir, expected tensors and plain",
                line,
            )
            assert "weights_only" not in line
    assert not trap.exists()


def test_the_one_before_is_used_and_told(run, tmp_path):
    [file] = checkpoint.steps(run / "checkpoint")
    write_tensors(
        checkpoint.steps(run / "checkpoint")[0].with_name("step-000000999.pt"), {"step": 999, "x": Trap(tmp_path / "t")}
    )
    with pytest.warns(UserWarning, match=r"step-000000999.pt: asks for .*; using the checkpoint before it"):
        assert checkpoint.load(run / "checkpoint")["step"] == checkpoint.step_of(file)
    assert not (tmp_path / "t").exists()


def test_a_checkpoint_of_another_structure_is_one_sentence(run, capsys):
    [file] = checkpoint.steps(run / "checkpoint")
    whole = read_tensors(file)
    step, weights = whole["step"], whole["method"]
    first = next(iter(weights))
    wrong = [
        [1, 2], 7, {}, {"step": step}, {"step": str(step), "method": weights}, {"step": step + 1, "method": weights},
        {"step": step, "method": [1]}, {"step": step, "method": {**weights, first: 3}}, {"step": step, "method": {3: 4}},
        {"step": step, "method": {**weights, first: torch.zeros(()).expand(10**9)}},
        {"step": step, "method": {**weights, first: weights[first].to_sparse()}},
    ]  # fmt: skip
    for state in wrong:
        write_tensors(file, state)
        line = refused(capsys, "export", run, "--format", "safetensors")
        assert "damaged" in line or "its weights do not fit SimVAE" in line
    for state in (
        {**whole, "optimizer": 3},
        {**whole, "optimizer": {"state": [], "param_groups": [3]}},
        {"step": step, "method": weights},
    ):
        write_tensors(file, state)
        with pytest.raises(CheckpointError, match="its optimiser state does not fit"):
            genssl.fit("SimVAE", "digits", out=run, resume=True, progress=False)


def test_an_adhoc_decoder_that_is_forged_is_none(run, tmp_path):
    loaded = genssl.load(run)
    cache = Cache(loaded)
    cache.write(STAGE, {"mse": 1.0}, 0.0)
    key, trap = cache.key(STAGE), tmp_path / "trapped"
    for state in (
        Trap(trap),
        [1],
        {"key": key},
        {"key": key, "state": {"0.mean": torch.zeros(3)}},
        {"key": key, "state": Trap(trap)},
    ):
        write_tensors(run / "evaluation" / f"{STAGE}.pt", state)
        assert kept_decoder(loaded, cache) is None
    assert not trap.exists()


# ---------------------------------------------------------------------- data


def test_archives_of_numpy_run_nothing(tmp_path):
    trap = tmp_path / "trapped"
    np.savez(tmp_path / "objects.npz", x=np.array([Trap(trap), Trap(trap)], dtype=object), y=np.arange(2))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Trap(trap)))
    np.save(tmp_path / "objects.npy", np.array([Trap(trap)], dtype=object), allow_pickle=True)
    (tmp_path / "objects.npy").rename(tmp_path / "single.npz")
    huge = io.BytesIO()
    np.lib.format.write_array_header_2_0(huge, {"descr": "<f8", "fortran_order": False, "shape": (2**40, 2**20)})
    np.savez(tmp_path / "huge.npz", x=np.zeros(3))
    import zipfile

    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as file:
        file.writestr("x.npy", huge.getvalue())
    for name in ("objects", "pickle", "single", "huge"):
        with pytest.raises(DataError, match=f"{name}.npz: cannot be read") as error:
            datasets.load(str(tmp_path / f"{name}.npz"))
        assert "\n" not in str(error.value)
    assert not trap.exists()


def test_a_pickle_of_cifar_runs_nothing(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps({"data": Trap(tmp_path / "trapped"), "labels": []}))
    with pytest.raises(DataError, match="not the published file"):
        datasets.load("cifar10", root=tmp_path)
    with pytest.warns(UserWarning, match="taken as they are"), pytest.raises(DataError, match=r"asks for \w+\.mkdir"):
        datasets.load("cifar10", root=tmp_path, verify=False)
    assert not (tmp_path / "trapped").exists()


def test_a_list_of_images_cannot_name_files_elsewhere(tmp_path):
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    for name in ("../../secret.png", str(tmp_path / "secret.png")):
        (folder / ATTRIBUTES).write_text(f"1\nMale\n{name} 1\n")
        (folder / PARTITION).write_text(f"{name} 0\n")
        with pytest.warns(UserWarning, match="taken as they are"), pytest.raises(DataError, match="images are missing"):
            datasets.load("celeba:target=Male", root=tmp_path, verify=False)


def test_what_a_download_unpacks_stays_in_its_folder(tmp_path, monkeypatch):
    """As torchvision does it: tarfile.extractall without a filter."""
    place = tmp_path / "root"
    place.mkdir()

    def archive(name, **settings):
        member = tarfile.TarInfo(name)
        for key, value in settings.items():
            setattr(member, key, value)
        with tarfile.open(place / "data.tar", "w") as file:
            file.addfile(member, io.BytesIO(b"x" * member.size))

    class Fake:
        def __init__(self, folder, download):
            with tarfile.open(place / "data.tar") as file:
                file.extractall(folder)

    from torchvision import datasets as published

    monkeypatch.setattr(published, "CIFAR10", Fake)
    before = dict(vars(tarfile.TarFile))
    for name, settings in (
        ("../escaped", {"size": 3}),
        (str(tmp_path / "escaped"), {"type": tarfile.DIRTYPE}),
        ("link", {"type": tarfile.SYMTYPE, "linkname": str(tmp_path)}),
    ):
        archive(name, **settings)
        with contextlib.suppress(DataError):  # an absolute name may also be made relative
            root.download_into(place, "CIFAR10")
        assert not (tmp_path / "escaped").exists()
        assert not (place / "link").is_symlink()
    archive("inside", size=3)
    root.download_into(place, "CIFAR10")
    assert (place / "inside").read_text() == "xxx"
    assert dict(vars(tarfile.TarFile)) == before


# ---------------------------------------------------------------------- images


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, data=b"\0" * 100):
    """A PNG that announces a size, whatever follows."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def encoded(form, size=(8, 8), mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form)
    return buffer.getvalue()


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(touched) (w) file closefile\nshowpage\n%%EOF\n"
)
IMAGES = {
    "empty": b"",
    "text": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "noise": bytes(range(256)) * 4,
    "torn png": encoded("PNG", (64, 64))[:70],
    "torn jpeg": encoded("JPEG", (64, 64))[:300],
    "torn webp": encoded("WEBP", (64, 64))[:40],
    "torn tiff": encoded("TIFF", (64, 64))[:20],
    "torn bmp": encoded("BMP", (64, 64))[:60],
    "bad tiff": b"II*\0\x08\0\0\0" + b"\xff" * 60,
    "bad webp": b"RIFF\xff\xff\xff\x7fWEBPVP8 " + b"\xff" * 60,
    "zero": png(0, 0),
    "short": png(64, 64),
    "large": png(12_000, 12_000),
    "huge": png(60_000, 60_000),
    "billions": png(2**31 - 1, 2**31 - 1),
    "wide ppm": b"P6\n99999 99999\n255\n" + b"\0" * 100,
    "postscript": POSTSCRIPT,
    "gif": encoded("GIF"),
    "ico": encoded("ICO"),
    "sixteen bits": encoded("PNG", mode="I;16"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", IMAGES)
def test_images_that_are_none_or_too_large_are_refused_in_one_sentence(kind, tmp_path, monkeypatch):
    def started(*arguments, **_):
        raise AssertionError(f"a program was started: {arguments}")

    for name in ("Popen", "run", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, started)
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "0.png").write_bytes(IMAGES[kind])
    with pytest.raises(DataError, match=r"0\.png: the image cannot be read \(.+\); replace or delete it") as error:
        datasets.load(str(tmp_path / "images"))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_whole_images_are_read_whatever_they_are_called(tmp_path):
    """The formats that are admitted, each under the name of another."""
    (tmp_path / "images" / "a").mkdir(parents=True)
    for i, form in enumerate(("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP") * 2):
        (tmp_path / "images" / "a" / f"{i}.jpg").write_bytes(encoded(form))
    assert len(datasets.load(str(tmp_path / "images")).train) == 10


# ---------------------------------------------------------------------- pages and terminals


def spoilt(value, number=0.5):
    """An evaluation whose texts and names are hostile; where a number belongs, anything else is refused."""
    probe = {"validation": 0.5, "test": 0.5, "test_best": 0.5}
    factor = {"kind": value, "linear": {"test": 0.5}, "kernel": {"test": 0.5}}
    names = {f"{value} {i}": factor for i in range(4)}
    return {
        "content": {"knn": probe, "linear": probe, "mlp": probe, value: probe},
        "random_encoder": {"content": {value: probe}},
        "style": {
            value: {"z": names, "left_out": {value: value}, "axes": {"mig": 0.5, "factors": {value: {}}}},
            "views": None,
        },
        "generation": {
            "mse": 0.5,
            "bound": {"elbo": 1.0, "importance_weighted": {value: 1.0}, "groups": 9, "views": 2},
            "frechet": {"items": number, "features": value, "samples": 0.5},
        },
        "certainty": {
            "risk": {"accuracy": 0.5, "items": 9, "curves": {value: {"area": 0.5, "risk": [[0.5, 0.5], [1.0, 0.5]]}}},
            "calibration": {value: {"coverage": {"0.5": 0.5, value: 0.5}, "p_value": 0.5}},
        },
        "notes": {"style.views": value, "certainty.coverage": value, value: value},
    }


def test_reports_keep_every_text_of_a_run_as_text(run, tmp_path):
    (run / "evaluation.json").write_text(json.dumps(spoilt(EVIL)))
    (run / "against").mkdir()
    one = {
        "data": EVIL,
        "groups": [5, 6],
        "views": 3,
        "standard_error": 0.1,
        "auroc": {EVIL: 0.4},
        "absent": {EVIL: EVIL},
    }
    (run / "against" / f"{EVIL.replace('/', '')}.json").write_text(json.dumps(one))
    described = json.loads((run / "config.json").read_text())["data_description"]
    change(
        run, foretold=[EVIL], slots=dict.fromkeys(("reconstruction", "entropy", "prior"), EVIL), machine=EVIL, versions={EVIL: EVIL},
        data_description={**described, "name": EVIL, "notes": EVIL, "sizes": {**described["sizes"], EVIL: EVIL}}, optimizer=EVIL,
    )  # fmt: skip
    (tmp_path / "<b onclick=alert(3)>").mkdir()
    named = shutil.move(run, tmp_path / "<b onclick=alert(3)>" / EVIL.replace("/", ""))
    loaded = genssl.load(named)
    data = loaded.data
    data.classes = [EVIL] * 10
    from genssl.report import write

    for runs, out in (([loaded], None), ([loaded, loaded], tmp_path / "both.html")):
        page = Page(write(runs, out).read_text())
        assert page.is_harmless()
        assert page.text.count("alert(1)") > 30
    (named / "evaluation.json").write_text(json.dumps(spoilt(EVIL, number=EVIL)))
    with pytest.warns(UserWarning, match="evaluation.json: is no evaluation"):
        page = Page(write([loaded], tmp_path / "refused.html").read_text())
    assert page.is_harmless()
    assert "generation.frechet.items is" in page.text
    found = genssl.compare([named, named], out=tmp_path / "table")
    page = Page((found.out / "index.html").read_text())
    assert page.is_harmless()
    assert page.text.count("alert(1)") > 5
    assert "<script" not in (found.out / "table.md").read_text()


def test_names_cannot_move_the_cursor_of_a_terminal(run, capsys, monkeypatch):
    clear = "\x1b[2J\x1b]0;owned\x07\u202e"
    described = json.loads((run / "config.json").read_text())["data_description"]
    change(run, data_description={**described, "name": clear}, data=f"digits{clear}")
    monkeypatch.setattr(genssl.Run, "evaluate", lambda self, parts: {})
    assert main(["evaluate", str(run)]) == 0
    assert main(["compare", str(run)]) == 0
    assert main(["posterior", str(run)]) == 2
    out, err = capsys.readouterr()
    assert "owned" in out
    assert "owned" in err
    assert not {"\x1b", "\x07", "\u202e"} & set(out + err)


def test_errors_of_all_readers_are_the_librarys(tmp_path):
    """Noise in every file that something reads by name."""
    noise = bytes(torch.randint(0, 256, (4096,), generator=torch.Generator().manual_seed(0)).tolist())
    for name in ("config.json", "x.npz", "x.safetensors", "step-000000001.pt"):
        (tmp_path / name).write_bytes(noise)
    readers = (
        lambda: genssl.load(tmp_path),
        lambda: datasets.load("x.npz"),
        lambda: parameters.read("x.safetensors"),
        lambda: checkpoint.load(tmp_path),
    )
    for read in readers:
        with pytest.raises(GensslError) as error:
            read()
        assert "\n" not in str(error.value)
        assert not isinstance(error.value, SettingsError)

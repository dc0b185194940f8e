"""export: every format read back gives the representation or the weights of the run, and says what cannot be written."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from genssl.models import SimCLR
from torch import nn

import genssl
from genssl import parameters
from genssl.cli import main
from genssl.errors import CheckpointError, SettingsError
from genssl.files import DiskError
from genssl.fit import checkpoint
from genssl.fit.run import represent

SMALL = {"hidden": (16, 16), "dim": 4}
SET = {"hidden": (16,), "dim": 4, "content_scale": 1.0, "group_guide": "product"}
ONNX = ("onnx", "onnxscript", "onnxruntime")
PIXELS, COLOUR = (1, 8, 8), (3, 32, 32)
CASES = {
    "SimVAE": ("SimVAE", PIXELS, {"settings": SMALL}),
    "product": ("SimVAE", PIXELS, {"settings": SET}),
    "swapped": (
        "SimVAE",
        PIXELS,
        {"settings": SMALL, "replace": {"entropy": "Constant", "reconstruction": "ContrastiveNormaliser"}},
    ),
    "SimCLR": ("SimCLR", PIXELS, {"settings": SMALL}),
    "bf16": ("SimCLR", PIXELS, {"settings": SMALL, "precision": "bf16"}),
    "VISimSiam": ("VISimSiam", PIXELS, {"settings": SMALL}),
    "MCInfoNCE": ("MCInfoNCE", PIXELS, {"settings": SMALL}),
    "DeepCluster": ("DeepCluster", PIXELS, {"settings": {**SMALL, "num_clusters": 3}}),
    "conv": ("SimVAE", COLOUR, {"settings": {"network": "conv", "dim": 4}}),
    "resnet18": ("SimCLR", PIXELS, {"settings": {"network": "resnet18", "dim": 4}}),
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The finished run of a case, fitted once."""
    made = {}

    def run(name):
        if name not in made:
            method, shape, settings = CASES[name]
            made[name] = fit(tmp_path_factory.mktemp(name) / "run", method, items(24, shape), **settings)
        return made[name]

    return run


def items(n, shape=PIXELS):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(n))


def fit(out, method, x, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what theory foretells
        return genssl.fit(
            method, x, out=out, progress=False, **{"num_views": 2, "batch_size": 8, "epochs": 1, "measure": False, **settings}
        )  # fmt: skip


def same(a, b):
    """Whether two states are equal, bit for bit."""
    return a.keys() == b.keys() and all(
        torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else value == b[key] for key, value in a.items()
    )


def program(path):
    return torch.export.load(path).module()


def session(path):
    runtime = pytest.importorskip("onnxruntime")
    made = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(made.run(["z"], {"x": x.numpy()})[0])


def needs_onnx():
    for name in ONNX:
        pytest.importorskip(name, reason="needs the extra onnx")


# ---------------------------------------------------------------------- round trips


@pytest.mark.parametrize("name", CASES)
def test_pt2_gives_the_representation_bit_for_bit(name, runs, tmp_path):
    run, shape = runs(name), CASES[name][1]
    before = copy.deepcopy(run.method.state_dict())
    again = program(genssl.export(run, tmp_path / "z.pt2"))
    for n in (1, 2, 7):
        x = items(n, shape)
        assert torch.equal(again(x), represent(run.method, x, "32"))
    if name != "bf16":
        assert torch.equal(again(x), run.represent(x))
    assert same(before, run.method.state_dict())


@pytest.mark.parametrize("name", CASES)
def test_onnx_gives_the_representation(name, runs, tmp_path):
    needs_onnx()
    run, shape = runs(name), CASES[name][1]
    again = session(genssl.export(run, tmp_path / "z.onnx"))
    for n in (1, 2, 7):
        x = items(n, shape)
        assert float((again(x) - represent(run.method, x, "32")).abs().max()) <= 1e-5


@pytest.mark.parametrize("start", [1.0, 0.05])
def test_onnx_of_a_sphere_that_is_hardly_sure(start, runs, tmp_path, monkeypatch):
    """Where the runtime's own sigmoid would leave the concentration few digits."""
    needs_onnx()
    run, x = runs("VISimSiam"), items(7)
    monkeypatch.setattr(run.method, "concentration_start", start)
    expected = represent(run.method, x, "32")
    again = session(genssl.export(run, tmp_path / "z.onnx"))
    assert float((again(x) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_safetensors_hold_all_that_load_state_dict_takes(name, runs, tmp_path):
    run = runs(name)
    path = genssl.export(run, tmp_path / "z.safetensors")
    fresh, state = run.random_encoder(), run.method.state_dict()
    fresh.load_state_dict(parameters.read(path))
    assert same(state, fresh.state_dict())
    x = items(5, CASES[name][1])
    assert torch.equal(represent(fresh, x, "32"), represent(run.method, x, "32"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_run_on_a_gpu_is_written_for_the_cpu_and_stays_there(tmp_path):
    run = fit(tmp_path / "run", "SimVAE", items(24), settings=SMALL, device="cuda")
    z = program(genssl.export(run, tmp_path / "z.pt2"))(items(5))
    assert (run.device.type, z.device.type) == ("cuda", "cpu")
    torch.testing.assert_close(z, run.represent(items(5)).cpu(), rtol=1e-3, atol=1e-3)


def test_uint8_goes_in_as_represent_takes_it(runs, tmp_path):
    run, x = runs("SimVAE"), (255 * items(5)).to(torch.uint8)
    assert torch.equal(program(genssl.export(run, "z.pt2", uint8=True))(x), run.represent(x))
    with pytest.raises(SettingsError, match="uint8 is about x, and safetensors"):
        genssl.export(run, "z.safetensors", uint8=True)


def test_files_hold_what_computes_z_and_no_folder_of_the_machine(runs, tmp_path):
    run = runs("SimVAE")
    path = genssl.export(run, tmp_path / "z.pt2")
    loaded = torch.export.load(path)
    assert all(".encoder." in key for key in loaded.state_dict)
    texts = [path.read_bytes()]
    if all(map(importlib.util.find_spec, ONNX)):
        texts.append(genssl.export(run, tmp_path / "z.onnx").read_bytes())
    for text in texts:
        assert str(tmp_path.parent).encode() not in text
        assert genssl.__file__.rpartition("/")[0].encode() not in text


def test_files_say_what_they_are(runs, tmp_path):
    run = runs("SimVAE")
    header = parameters.read_header(genssl.export(run, tmp_path / "z.safetensors"))
    assert (header["method"], header["data"], header["steps"]) == ("SimVAE", "data", str(run.step))
    assert json.loads(header["settings"]) == {"hidden": [16, 16], "dim": 4}
    assert header["genssl"] == genssl.__version__
    assert json.loads(header["fitted_with"])["torch"] == str(torch.__version__)
    files = {"genssl.json": ""}
    torch.export.load(genssl.export(run, tmp_path / "z.pt2"), extra_files=files)
    assert json.loads(files["genssl.json"]).items() <= header.items()


def test_an_onnx_graph_says_what_it_is(runs, tmp_path):
    needs_onnx()
    import onnx

    graph = onnx.load(genssl.export(runs("SimVAE"), tmp_path / "z.onnx"))
    onnx.checker.check_model(graph)
    told = {entry.key: entry.value for entry in graph.metadata_props}
    assert (told["method"], told["genssl"]) == ("SimVAE", genssl.__version__)
    ends = [(part.name, part.type.tensor_type.shape.dim) for part in (*graph.graph.input, *graph.graph.output)]
    assert [(name, [dim.dim_param or dim.dim_value for dim in dims]) for name, dims in ends] == [
        ("x", ["N", 1, 8, 8]),
        ("z", ["N", 4]),
    ]


# ---------------------------------------------------------------------- methods of a user


class Own(nn.Module):
    """A user's method on ids or numbers, with tied weights and a part of a larger tensor as a buffer."""

    def __init__(self, dim=3, how="mean"):
        super().__init__()
        self.table, self.how = nn.Embedding(11, 2 * dim), how
        self.tied = nn.Linear(2 * dim, 11, bias=False)
        self.tied.weight = self.table.weight
        self.register_buffer("part", torch.arange(12.0).reshape(3, 4)[:, 1:3])
        self.register_buffer("nothing", torch.zeros(0))
        self.objective = genssl.Objective()

    @classmethod
    def build(cls, example, **settings):
        return cls(**settings)

    def law(self, x):
        loc, log_scale = self.table(x).mean(-2).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp())

    def model(self, groups):
        with groups.plate:
            prior = dist.Normal(self.part.mean(), 9.0).expand([len(groups), groups.num_views, 3])
            z = pyro.sample("z", prior.to_event(2))
            logits = self.tied(torch.cat([z, z], -1))
            pyro.sample(
                "x", dist.Categorical(logits=logits.unsqueeze(-2).expand(*groups.x.shape, 11)).to_event(2), obs=groups.x
            )

    def guide(self, groups):
        with groups.plate:
            pyro.sample("z", self.law(groups.x).to_event(2))

    def encode(self, x):
        law = self.law(x)
        if self.how == "draws":
            return dist.Delta(law.rsample()).to_event(1)
        if self.how == "looks":
            law = law if float(law.mean.sum()) > 0 else dist.Normal(-law.mean, law.scale)
        if self.how == "of the batch":
            law = dist.Normal(law.mean - law.mean.mean(0) * len(x), law.scale)
        return law.to_event(1)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    x = torch.randint(0, 11, (24, 5), generator=torch.Generator().manual_seed(0))
    return fit(tmp_path_factory.mktemp("own") / "run", Own, x)


def test_a_users_method_on_ids(own, tmp_path):
    x = torch.randint(0, 11, (7, 5))
    assert torch.equal(program(genssl.export(own, tmp_path / "z.pt2"))(x), own.represent(x))
    state = parameters.read(genssl.export(own, tmp_path / "z.safetensors"))
    assert json.loads(parameters.read_header("z.safetensors")["shared"]) == {"tied.weight": "table.weight"}
    assert state["tied.weight"] is state["table.weight"]
    again = Own()
    again.load_state_dict(state)
    assert all(torch.equal(value, own.method.state_dict()[key]) for key, value in again.state_dict().items())
    with pytest.raises(SettingsError, match="uint8 is for images"):
        genssl.export(own, tmp_path / "u.pt2", uint8=True)


def test_onnx_of_a_users_method(own, tmp_path):
    needs_onnx()
    x = torch.randint(0, 11, (7, 5))
    torch.testing.assert_close(session(genssl.export(own, "z.onnx"))(x), own.represent(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("draws", "must be a function of x alone, without draws"),
        ("looks", "torch.export cannot trace Own.encode .* take --format safetensors"),
        ("of the batch", "torch.export cannot trace Own.encode"),
    ],
)
def test_an_encode_that_cannot_be_exported(how, says, own, tmp_path, monkeypatch):
    monkeypatch.setattr(own.method, "how", how)
    with pytest.raises(SettingsError, match=says) as error:
        genssl.export(own, tmp_path / "z.pt2")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "z.pt2").exists()
    genssl.export(own, tmp_path / "z.safetensors")


def test_state_that_is_no_tensor(own, monkeypatch):
    monkeypatch.setattr(Own, "get_extra_state", lambda self: {"queue": 3, "names": ["a"]}, raising=False)
    assert parameters.read(genssl.export(own, "z.safetensors"))["_extra_state"] == {"queue": 3, "names": ["a"]}
    for state in ({"queue": {3}}, {3: 4}, (1, 2), float("nan")):
        monkeypatch.setattr(Own, "get_extra_state", lambda self, state=state: state)
        with pytest.raises(SettingsError, match=r"_extra_state is a \w+, expected a dense tensor or plain values"):
            genssl.export(own, "y.safetensors")


def test_a_header_that_is_wrong_is_told(tmp_path):
    for header in (
        {"shared": "["},
        {"shared": '{"a": "nowhere"}'},
        {"extra": "3"},
        {"shared": '{"a": [1]}'},
        {"extra": "[" * 9999},
    ):
        (tmp_path / "z.safetensors").write_bytes(parameters.pack({"x": torch.zeros(2)}, header))
        with pytest.raises(CheckpointError, match="damaged"):
            parameters.read("z.safetensors")


def test_several_modalities_are_refused(runs, monkeypatch):
    monkeypatch.setitem(runs("SimCLR").config, "event_shape", [[1, 8, 8], [3]])
    with pytest.raises(SettingsError, match="several modalities"):
        genssl.export(runs("SimCLR"), "z.pt2")


# ---------------------------------------------------------------------- refusals


def test_formats_and_files(runs, tmp_path):
    run = runs("SimVAE")
    with pytest.raises(SettingsError, match=r"no format 'onx'; did you mean onnx\?"):
        genssl.export(run, "z.onnx", "onx")
    with pytest.raises(SettingsError, match=r"no format, expected onnx, pt2, safetensors; z.bin ends in none of them"):
        genssl.export(run, "z.bin")
    with pytest.raises(SettingsError, match="give --format"):
        genssl.export(run)
    assert genssl.export(run, "z.bin", "safetensors").name == "z.bin"
    with pytest.raises(CheckpointError, match="z.bin: exists; give another --out"):
        genssl.export(run, "z.bin", "safetensors")
    with pytest.raises(DiskError, match="cannot write"):
        genssl.export(run, "z.bin/z.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        parameters.read("nowhere.safetensors")


def test_a_damaged_file_is_told(runs, tmp_path):
    path = genssl.export(runs("SimVAE"), tmp_path / "z.safetensors")
    whole = path.read_bytes()
    for part in (b"", whole[:5], whole[: len(whole) // 2], b"\xff" * 100, whole.replace(b"{", b"[", 1)):
        path.write_bytes(part)
        with pytest.raises(CheckpointError, match="damaged") as error:
            parameters.read(path)
        assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("default:.*damaged")
def test_a_run_that_is_not_over_or_is_damaged(tmp_path, capsys):
    run = fit(tmp_path / "run", "SimVAE", items(24), settings=SMALL, epochs=2, max_steps=3)
    with pytest.raises(CheckpointError, match="is at step 3 of 4, expected a finished run"):
        genssl.export(run, "z.pt2")
    run = fit(tmp_path / "run", "SimVAE", items(24), resume=True, epochs=2)
    newest = checkpoint.steps(run.path / "checkpoint")[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    assert main(["export", str(run.path), "--out", "z.safetensors"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith(f"genssl: {newest}: damaged")
    for path in (run.path / "checkpoint").iterdir():
        path.write_bytes(b"")
    assert main(["export", str(run.path), "--out", "z.safetensors"]) == 2
    assert "every checkpoint is damaged" in capsys.readouterr().err
    assert main(["export", "nowhere", "--format", "onnx"]) == 2
    assert capsys.readouterr().err.strip() == "genssl: nowhere: no such run folder; name one that genssl fit made"
    assert not (tmp_path / "z.safetensors").exists()


@pytest.mark.parametrize("missing", ONNX)
def test_without_onnx(missing, runs, monkeypatch):
    for name in ONNX:
        monkeypatch.setitem(sys.modules, name, None if name == missing else sys)
    with pytest.raises(SettingsError, match=rf"onnx needs {missing} .*; pip install 'genssl\[onnx\]'"):
        genssl.export(runs("SimVAE"), "z.onnx")


def test_the_command(runs, tmp_path, capsys):
    run = runs("SimCLR")
    assert main(["export", str(run.path), "--format", "safetensors"]) == 0
    assert capsys.readouterr() == (f"export: {run.path / 'export.safetensors'}\n", "")
    assert main(["export", str(run.path), "--out", "z.pt2"]) == 0
    assert capsys.readouterr() == ("export: z.pt2\n", "")
    assert main(["export", str(run.path), "--format", "zip"]) == 2
    assert "'zip' is not one of 'onnx', 'pt2', 'safetensors'" in capsys.readouterr().err
    assert main(["export", str(run.path)]) == 2
    assert capsys.readouterr().err.startswith(
        "genssl: export: no format, expected onnx, pt2, safetensors; give --format"
    )
    again = SimCLR.build(genssl.Groups(torch.zeros(2, 2, *PIXELS)), **SMALL)
    again.load_state_dict(parameters.read(run.path / "export.safetensors"))


USER = """
import torch, pyro, pyro.distributions as dist, genssl
class Tiny(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.encoder, self.decoder = torch.nn.Linear(size, 4), torch.nn.Linear(2, size)
        self.objective = genssl.Objective()
    @classmethod
    def build(cls, example, **settings):
        return cls(torch.Size(example.event_shape).numel(), **settings)
    def law(self, x):
        loc, log_scale = self.encoder(x.flatten(-3)).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp())
    def model(self, groups):
        with groups.plate:
            z = pyro.sample("z", dist.Normal(0.0, torch.ones(len(groups), groups.num_views, 2)).to_event(2))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.3).to_event(2), obs=groups.x.flatten(-3))
    def guide(self, groups):
        with groups.plate:
            pyro.sample("z", self.law(groups.x).to_event(2))
    def encode(self, x):
        return self.law(x).to_event(1)
"""


def test_the_command_on_a_file_of_the_user(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(USER)
    arguments = [
        "--data",
        "digits",
        "--limit",
        "48",
        "--views",
        "2",
        "--batch-size",
        "16",
        "--epochs",
        "1",
        "--no-report",
    ]
    assert main(["fit", "mine.py:Tiny", *arguments, "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["export", "run", "--out", "z.pt2"]) == 2
    assert "pass it: method=, or --method file.py:Class" in capsys.readouterr().err
    assert main(["export", "run", "--out", "z.pt2", "--method", "mine.py:Tiny"]) == 0
    run = genssl.load("run", "mine.py:Tiny")
    assert torch.equal(program("z.pt2")(items(3)), run.represent(items(3)))

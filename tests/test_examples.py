"""Examples and the README's code, run as a user would run them, with tiny settings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def run(arguments, folder, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", ["digits.py", "custom_model.py"])
def test_example_on_embedded_data(name, tmp_path):
    out = run([EXAMPLES / name, "--epochs", 1, "--limit", 300, "--out", tmp_path / "run"], tmp_path)
    assert out
    assert (tmp_path / "run" / "config.json").exists()


def test_from_simvae_to_simclr(tmp_path):
    options = ["--data", "digits", "--limit", 300, "--max-seconds", 1, "--out", tmp_path / "swap"]
    out = run([EXAMPLES / "swap_terms.py", *options], tmp_path)
    assert "ContrastiveNormaliser" in out
    assert (tmp_path / "swap" / "index.html").exists()
    assert (tmp_path / "swap" / "SimCLR" / "measures.jsonl").exists()


def test_posterior_uncertainty(tmp_path):
    options = [
        "--data",
        "digits",
        "--strangers",
        "digits",
        "--limit",
        200,
        "--groups",
        10,
        "--max-seconds",
        1,
        "--out",
        tmp_path / "run",
    ]
    out = run([EXAMPLES / "posterior_uncertainty.py", *options], tmp_path)
    assert "90% intervals of y hold" in out  # p(y) is proper, so that the model's own data can be drawn
    assert "negative_bound" in out
    assert (tmp_path / "run" / "posterior.nc").exists()
    assert "strangeness of digits" in (tmp_path / "run" / "report.html").read_text()


def test_sprites_example(tmp_path):
    out = run([EXAMPLES / "sprites.py", "--number", 300, "--max-seconds", 2, "--out", tmp_path / "run"], tmp_path)
    assert "random encoder" in out
    assert (tmp_path / "run" / "report.html").exists()


def test_cifar10_example(tmp_path, data_root):
    if not (data_root / "cifar-10-batches-py").is_dir():
        pytest.skip("needs cifar-10-batches-py below GENSSL_DATA")
    options = ["--data-root", data_root, "--no-verify", "--limit", 130, "--epochs", 1, "--out", tmp_path / "run"]
    out = run([EXAMPLES / "cifar10.py", *options], tmp_path)
    assert "decoded JPEG copies" in out
    assert "test accuracy" in out


@pytest.mark.parametrize("name", ["celeba", "cifar10", "mnist", "fashion_mnist"])
def test_example_says_in_one_line_what_it_lacks(name, tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", "--data-root", tmp_path],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"genssl: {name}: ")
    assert "--download" in line


@pytest.mark.parametrize("name", ["mnist.py", "fashion_mnist.py"])
def test_example_on_real_data(name, tmp_path, data_root):
    out = run(
        [EXAMPLES / name, "--epochs", 1, "--limit", 300, "--data-root", data_root, "--out", tmp_path / "run"], tmp_path
    )
    assert "test accuracy" in out
    assert (tmp_path / "run" / "report.html").exists()


def test_custom_model_goes_through_the_command(tmp_path):
    method = f"{EXAMPLES / 'custom_model.py'}:InkSimVAE"
    common = ["--epochs", 1, "--limit", 300, "--out", tmp_path / "run"]
    out = run(["-m", "genssl", "fit", method, "--data", "digits", *common], tmp_path)
    assert "test accuracy" in out
    again = run(["-m", "genssl", "evaluate", tmp_path / "run", "--method", method], tmp_path)
    assert "knn" in again


def test_custom_model_is_trained_whole_by_svi_and_torch_optim():
    import pyro
    import torch
    from pyro.infer import SVI

    sys.path.insert(0, str(EXAMPLES))
    try:
        import custom_model
    finally:
        sys.path.pop(0)
    groups = custom_model.natural_groups(limit=300)
    assert groups.mask is not None
    for way in ("svi", "torch"):
        method = custom_model.InkSimVAE.build(groups)
        before = {name: p.detach().clone() for name, p in method.named_parameters()}
        module = method.objective(method.model, method.guide)
        optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
        svi = SVI(method.model, method.guide, pyro.optim.Adam({"lr": 1e-2}), loss=method.objective)
        for _ in range(20):
            if way == "svi":
                svi.step(groups)
            else:
                optimiser.zero_grad()
                module(groups).backward()
                optimiser.step()
        assert not [name for name, p in method.named_parameters() if torch.equal(p, before[name])]


def test_examples_are_short():
    assert max(len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")) < 200


@pytest.mark.parametrize("number", range(3))
def test_readme_python_block(number, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    setup = (
        "import torch\nimages, labels = torch.rand(200, 1, 8, 8), torch.randint(0, 3, (200,))\n"
        "import functools, genssl\ngenssl.fit = functools.partial(genssl.fit, settings={'hidden': (8,)})\n"
        if number < 2
        else ""
    )
    if number == 1:  # it goes on with the run of the first block
        setup += blocks[0].replace("epochs=20", "epochs=1")
    code = blocks[number].replace("epochs=20", "epochs=1").replace("range(100)", "range(3)")
    run(["-c", setup + code], tmp_path)

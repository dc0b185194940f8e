"""MNIST's layout: splits, missing and damaged files, what is written (nothing), and the real files where they are."""

import gzip
import hashlib
import os
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from test_idx import idx_bytes

from genssl.datasets import ensure_torchvision, load
from genssl.datasets.mnist import FILES, MD5, fashion_mnist, mnist
from genssl.errors import DataError

DATA = Path(os.environ.get("GENSSL_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data").resolve()
needs_data = pytest.mark.skipif(not (DATA / "MNIST" / "raw").is_dir(), reason="no data: set GENSSL_DATA")


def make(root, folder="MNIST", sizes=(60, 20), packed=True):
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for size, (images, labels) in zip(sizes, FILES.values(), strict=True):
        for name, array in (
            (images, rng.integers(0, 256, (size, 28, 28))),
            (labels, rng.integers(0, 10, size)),
        ):
            content = idx_bytes(array)
            (raw / (name + ".gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return raw


def listing(folder):
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("packed", [False, True])
def test_reads_in_place_and_writes_nothing(tmp_path, packed):
    raw = make(tmp_path, packed=packed)
    before = listing(tmp_path)
    data = mnist(tmp_path)
    assert listing(tmp_path) == before
    assert (len(data.train), len(data.validation), len(data.test)) == (54, 6, 20)
    assert data.train.x.dtype == torch.uint8
    assert data.event_shape == (1, 28, 28)
    assert data.views is not None
    content = gzip.decompress((raw / (FILES["test"][0] + ".gz")).read_bytes()) if packed else None
    if content is not None:
        assert bytes(data.test.x.numpy().tobytes()) == content[16:]
    assert "not the published" in data.notes


def test_splits_are_disjoint_complete_and_fixed_by_the_seed(tmp_path):
    make(tmp_path, "FashionMNIST")
    first, again, other = (fashion_mnist(tmp_path, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.validation.x, again.validation.x)
    assert not torch.equal(first.validation.x, other.validation.x)
    assert torch.equal(first.test.x, other.test.x)

    def rows(*splits):
        pairs = [(x.numpy().tobytes(), int(y)) for split in splits for x, y in zip(split.x, split.label, strict=True)]
        return sorted(pairs)

    assert rows(first.train, first.validation) == rows(other.train, other.validation)
    assert len(set(rows(first.train, first.validation))) == 60


def test_missing_files_are_named_with_place_and_remedy(tmp_path):
    raw = make(tmp_path)
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError) as caught:
        load("mnist", root=tmp_path)
    message = str(caught.value)
    assert "t10k-labels-idx1-ubyte[.gz]" in message
    assert "train-images" not in message
    assert str(raw) in message
    assert "--download" in message
    assert "\n" not in message
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(DataError, match="not found"):
        load("mnist", root=tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_images_and_labels_must_belong_together(tmp_path):
    raw = make(tmp_path, packed=False)
    (raw / FILES["test"][1]).write_bytes(idx_bytes(np.zeros(19)))
    with pytest.raises(DataError, match="19 labels"):
        mnist(tmp_path)
    (raw / FILES["test"][1]).write_bytes(idx_bytes(np.full(20, 12)))
    with pytest.raises(DataError, match="up to 12"):
        mnist(tmp_path)
    (raw / FILES["test"][0]).write_bytes(idx_bytes(np.zeros((20, 28, 27))))
    with pytest.raises(DataError, match="27"):
        mnist(tmp_path)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder of small MNIST files and the address at which a server of this process gives them out."""
    raw = make(tmp_path / "mirror")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(raw))) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield raw, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("broken", [False, True])
def test_download_is_torchvisions_own(tmp_path, monkeypatch, mirror, broken):
    """Without `download` no mirror is asked and nothing is written."""
    ensure_torchvision()
    from torchvision import datasets

    raw, address = mirror
    sums = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(raw.iterdir())]
    sums = [(name, "0" * 32) for name, _ in sums] if broken else sums
    monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
    monkeypatch.setattr(datasets.MNIST, "resources", sums)
    root = tmp_path / "root"
    with pytest.raises(DataError, match="not found"):
        mnist(root)
    assert not root.exists()
    if broken:
        with pytest.raises(DataError, match=r"download to .* failed") as caught:
            mnist(root, download=True)
        assert "\n" not in str(caught.value)
        return
    data = mnist(root, download=True)
    assert torch.equal(data.test.x, mnist(tmp_path / "mirror").test.x)
    before = listing(root)
    mnist(root, download=True)
    assert listing(root) == before


@needs_data
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_real_files_are_read_as_torchvision_reads_them(tmp_path, name):
    ensure_torchvision()
    from torchvision import datasets

    folder = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name]
    before = listing(DATA / folder)
    data = load(name, root=DATA)
    assert listing(DATA / folder) == before
    assert data.describe()["sizes"] == {"train": 55000, "validation": 5000, "test": 10000}
    assert "bit-exact" in data.notes
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    for file in MD5[folder]:  # torchvision wants all four; the training images alone would be slow to unpack
        packed = DATA / folder / "raw" / f"{file}.gz"
        content = gzip.decompress(packed.read_bytes()) if file.startswith("t10k") and packed.is_file() else b"unread"
        (raw / file).write_bytes(content if packed.is_file() else (DATA / folder / "raw" / file).read_bytes())
    theirs = getattr(datasets, folder)(str(tmp_path), train=False)
    assert torch.equal(theirs.data[:, None], data.test.x)
    assert torch.equal(theirs.targets, data.test.label)
    assert list(data.classes) == [each.split(" - ")[0] for each in theirs.classes]


@needs_data
def test_a_flipped_byte_in_a_plain_file_is_found_and_can_be_taken(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for source in (DATA / "MNIST" / "raw").iterdir():
        shutil.copy(source, raw)
    packed = raw / "t10k-labels-idx1-ubyte.gz"
    if packed.is_file():
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    path = raw / packed.stem
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[100] = (content[100] + 1) % 10
    path.write_bytes(content)
    with pytest.raises(DataError, match="MD5") as caught:
        mnist(tmp_path)
    assert str(path) in str(caught.value)
    assert mnist(tmp_path, verify=False).notes == "not verified"


def test_copies_that_nobody_checked_are_told_apart(tmp_path):
    """Two with the same name and the same note; the seed, which draws validation, is no other copy."""
    for place in ("one", "other"):
        make(tmp_path / place)
    raw = tmp_path / "other" / "MNIST" / "raw" / (FILES["test"][0] + ".gz")
    content = bytearray(gzip.decompress(raw.read_bytes()))
    content[16:] = content[:15:-1]
    raw.write_bytes(gzip.compress(bytes(content)))

    def digest(place, **given):
        return load("mnist", root=tmp_path / place, verify=False, **given).describe()["digest"]

    assert digest("one") == digest("one", seed=3) != digest("other")
    assert load("digits").describe()["digest"] == ""

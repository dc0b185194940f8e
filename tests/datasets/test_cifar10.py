"""CIFAR-10's layout: splits, published and other files, pickles that run nothing, and the real files where they are."""

import hashlib
import json
import os
import pickle
import struct
import tarfile
from functools import partial
from http.server import ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mnist import DATA, QuietHandler, listing

from genssl.datasets import cifar10 as cifar10_module
from genssl.datasets import ensure_torchvision, load
from genssl.datasets.cifar10 import FILES, MD5, META, cifar10
from genssl.datasets.pickled import read_pickle
from genssl.errors import DataError

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
needs_data = pytest.mark.skipif(not (DATA / "cifar-10-batches-py").is_dir(), reason="no data: set GENSSL_DATA")


def python_2(images, labels, kind=b"u1", short=0):
    """The pickle of a batch as Python 2 and its numpy wrote it: protocol 2, text and pixels as byte strings."""

    def text(word):
        return b"U" + bytes([len(word)]) + word

    shape = b"".join(b"M" + struct.pack("<H", size) for size in images.shape) + b"\x86"
    dtype = b"cnumpy\ndtype\n(" + text(kind) + b"K\x00K\x01tR(K\x03" + text(b"|") + b"NNN" + 2 * b"J\xff\xff\xff\xff"
    pixels = images.tobytes()[short:]
    return b"".join(
        [
            b"\x80\x02}(" + text(b"labels") + b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e",
            text(b"data") + b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01",
            shape + dtype + b"K\x00tb\x89T" + struct.pack("<i", len(pixels)) + pixels + b"tbu.",
        ]
    )


def make(root, size=12):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for file in (*FILES["train"], *FILES["test"]):
        images = rng.integers(0, 256, (size, 3072), dtype=np.uint8)
        (folder / file).write_bytes(python_2(images, rng.integers(0, 10, size).tolist()))
    (folder / META).write_bytes(pickle.dumps({"label_names": NAMES, "num_vis": 3072}))
    return folder


def publish(folder, monkeypatch):
    """Make the files of a small folder the published ones, for us and for torchvision."""
    ensure_torchvision()
    from torchvision.datasets import CIFAR10

    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in MD5}
    monkeypatch.setattr(cifar10_module, "MD5", sums)
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in FILES["train"]])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, sums[name]] for name in FILES["test"]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": META, "key": "label_names", "md5": sums[META]})
    return CIFAR10


def test_reads_what_torchvision_reads_and_writes_nothing(tmp_path, monkeypatch):
    theirs = publish(make(tmp_path), monkeypatch)
    before = listing(tmp_path)
    data = cifar10(tmp_path)
    assert listing(tmp_path) == before
    train, test = (theirs(str(tmp_path), train=part) for part in (True, False))
    assert torch.equal(data.test.x, torch.from_numpy(test.data).permute(0, 3, 1, 2))
    assert data.test.label.tolist() == test.targets
    assert list(data.classes) == test.classes == NAMES
    assert data.describe()["sizes"] == {"train": 54, "validation": 6, "test": 12}
    rows = [
        (x.numpy().tobytes(), int(y))
        for split in (data.train, data.validation)
        for x, y in zip(split.x, split.label, strict=True)
    ]
    pixels = train.data.transpose(0, 3, 1, 2)
    assert sorted(rows) == sorted((x.tobytes(), y) for x, y in zip(pixels, train.targets, strict=True))
    assert data.event_shape == (3, 32, 32)
    assert data.train.dtype == torch.uint8
    assert data.notes == "bit-exact copies of the published files (MD5)"
    assert cifar10(tmp_path, verify=False).notes == data.notes, "nothing differs, so nothing is warned of"


def test_validation_is_fixed_by_the_seed(tmp_path, monkeypatch):
    publish(make(tmp_path), monkeypatch)
    first, again, other = (cifar10(tmp_path, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.validation.x, again.validation.x)
    assert not torch.equal(first.validation.x, other.validation.x)
    assert torch.equal(first.test.x, other.test.x)


def test_other_files_are_refused_or_told(tmp_path, monkeypatch):
    folder = make(tmp_path)
    publish(folder, monkeypatch)
    content = bytearray((folder / "data_batch_3").read_bytes())
    content[-100] ^= 1
    (folder / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match=r"data_batch_3: not the published file: MD5 .*--no-verify") as caught:
        load("cifar10", root=tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match="cifar-10-batches-py: data_batch_3 differ") as told:
        data = load("cifar10", root=tmp_path, verify=False)
    assert len(told) == 1
    assert data.notes == "1 of 7 files are not the published ones (MD5)"


@pytest.mark.filterwarnings("ignore:.*differ from the published:UserWarning")
def test_inexact_rows_are_told_where_files_differ(tmp_path, monkeypatch):
    folder = make(tmp_path)
    rows = {"data_batch_1": [3, 4], "data_batch_5": [0], "test_batch": [11, 11]}
    (folder / "inexact_rows.json").write_text(json.dumps(rows))
    expected = "3 of 60 training and 1 of 12 test images are decoded JPEG copies"
    notes = cifar10(tmp_path, verify=False).notes
    assert notes == f"7 of 7 files are not the published ones (MD5); {expected}"
    assert expected in load("cifar10", root=tmp_path, verify=False, limit=5).describe()["notes"]
    for text in ("{", "[1]", '{"test_batch": 3}'):
        (folder / "inexact_rows.json").write_text(text)
        with pytest.raises(DataError, match=r"inexact_rows\.json: cannot be read"):
            cifar10(tmp_path, verify=False)
    publish(folder, monkeypatch)
    assert "JPEG" not in cifar10(tmp_path).notes


def test_missing_files_are_named_with_place_and_remedy(tmp_path):
    folder = make(tmp_path)
    (folder / "data_batch_2").unlink()
    with pytest.raises(DataError) as caught:
        load("cifar10", root=tmp_path)
    message = str(caught.value)
    assert "data_batch_2 not found in" in message
    assert str(folder) in message
    assert "--download" in message
    assert "data_batch_1" not in message


IMAGES = np.arange(2 * 3072, dtype=np.uint64).astype(np.uint8).reshape(2, 3072)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (python_2(IMAGES[:, :-1], [0, 1]), r"holds data uint8 \[2, 3071\] and labels a list of 2, expected"),
        (python_2(IMAGES, [0, 1, 2]), "labels a list of 3"),
        (python_2(IMAGES, [0, 10]), "labels from 0 to 9"),
        (python_2(IMAGES[:0], []), r"uint8 \[0, 3072\]"),
        (python_2(IMAGES, [0, 1], short=5), "as many bytes"),
        (python_2(IMAGES, [0, 1], kind=b"O8"), "an array of type O8, expected u1"),
        (pickle.dumps({"data": IMAGES, "labels": [0, 1.0]}), "labels from 0 to 9"),
        (pickle.dumps({"data": np.asfortranarray(IMAGES), "labels": [0, 1]}), "in C order"),
        (pickle.dumps({"data": "text"}), "data str and labels NoneType"),
        (pickle.dumps([1, 2]), "holds a list, expected a dict"),
        (b"", "damaged"),
        (b"\x80\x02}", "damaged"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*differ from the published:UserWarning")
def test_files_that_hold_something_else_are_named(tmp_path, content, told):
    folder = make(tmp_path)
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=told) as caught:
        cifar10(tmp_path, verify=False)
    assert str(folder / "test_batch") in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------- pickles


class Calls:
    """What pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Own:
    pass


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("value", "asks"),
    [
        (lambda mark: Calls(os.mkdir, mark), r"(posix|nt)\.mkdir"),
        (lambda mark: Calls(eval, f"__import__('os').mkdir({mark!r})"), r"(__builtin__|builtins)\.eval"),
        (lambda mark: Calls(np.load, mark), r"numpy\.load"),
        (lambda mark: Own(), r"(copy_reg|copyreg)\._reconstructor|test_cifar10\.Own"),
        (lambda mark: np.float64(1), r"numpy.*\.scalar"),
    ],
)
def test_what_a_pickle_asks_for_is_named_and_not_done(tmp_path, value, asks, protocol):
    path, mark = tmp_path / "data_batch_1", tmp_path / "mark"
    path.write_bytes(pickle.dumps({"labels": [3, value(str(mark))]}, protocol))
    with pytest.raises(DataError, match=rf"data_batch_1: asks for ({asks}), expected nothing but"):
        read_pickle(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}U\x01acnumpy\nndarray\n)Rs.",  # calls the stand-in of a class
        b"\x80\x02}U\x01acnumpy\nndarray\n}U\x09__class__K\x01sbs.",  # sets its attributes
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\n}U\x04argsK\x01sbs.",
        b"\x80\x02}U\x01aU\x01bQs.",  # a persistent id
        b"\x80\x02}U\x01a\x82\xf0s.",  # an extension code
        b"\x80\x04}\x8c\x01a\x8c\x05numpy\x8c\x0bcore.getenv\x93s.",  # a name with a dot
    ],
)
def test_stand_ins_do_nothing_else(tmp_path, content):
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(DataError, match="batch: "):
        read_pickle(tmp_path / "batch")


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 500), byte=st.integers(0, 255), cut=st.integers(0, 500))
def test_any_damage_is_told_or_harmless(tmp_path_factory, place, byte, cut):
    if chr(byte) in "rp":  # memo slots by number: Python makes room for all below, which is up to 2^32
        return
    path = tmp_path_factory.mktemp("damage") / "batch"
    content = bytearray(python_2(IMAGES[:, :64], [3, 4]))
    content[place % len(content)] = byte
    path.write_bytes(content[: len(content) - (cut if cut < len(content) and byte % 2 else 0)])
    try:
        batch = read_pickle(path)
    except DataError as error:
        batch, told = {}, str(error)
    else:
        told = str(path)
    assert told.startswith(str(path))
    assert "\n" not in told
    assert all(type(key) is str for key in batch)


@pytest.mark.parametrize("protocol", range(3, 5))
def test_pickles_of_python_3_are_read_too(tmp_path, protocol):
    (tmp_path / "batch").write_bytes(pickle.dumps({"data": IMAGES, "labels": [1, 2], b"kept": None}, protocol))
    batch = read_pickle(tmp_path / "batch")
    assert np.array_equal(batch.pop("data"), IMAGES)
    assert batch == {"labels": [1, 2], "kept": None}


# ---------------------------------------------------------------------- download and the real files


@pytest.mark.filterwarnings("ignore:.*filter extracted tar:DeprecationWarning")  # torchvision's own, Python 3.12
@pytest.mark.parametrize("broken", [False, True])
def test_download_is_torchvisions_own(tmp_path, monkeypatch, broken):
    theirs = publish(make(tmp_path / "mirror"), monkeypatch)
    archive = tmp_path / "mirror" / theirs.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "mirror" / theirs.base_folder, theirs.base_folder)
    monkeypatch.setattr(theirs, "tgz_md5", "0" * 32 if broken else hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    root = tmp_path / "root"
    with pytest.raises(DataError, match="not found"):
        cifar10(root)
    assert not root.exists()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(archive.parent))) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        monkeypatch.setattr(theirs, "url", f"http://127.0.0.1:{server.server_port}/{theirs.filename}")
        if broken:
            with pytest.raises(DataError, match=r"CIFAR10: download to .* failed"):
                cifar10(root, download=True)
        else:
            assert torch.equal(cifar10(root, download=True).test.x, cifar10(tmp_path / "mirror").test.x)
        server.shutdown()
        thread.join()


@needs_data
@pytest.mark.filterwarnings("ignore:.*differ from the published:UserWarning")
def test_the_real_files():
    """The sizes, the balance of the classes and the moments that are known of CIFAR-10."""
    before = listing(DATA / "cifar-10-batches-py")
    data = load("cifar10", root=DATA, verify=False)
    assert listing(DATA / "cifar-10-batches-py") == before
    assert data.describe()["sizes"] == {"train": 45000, "validation": 5000, "test": 10000}
    label = torch.cat([data.train.label, data.validation.label])
    assert label.bincount().tolist() == [5000] * 10
    assert data.test.label.bincount().tolist() == [1000] * 10
    assert list(data.classes) == NAMES
    levels = torch.arange(256, dtype=torch.float64) / 255
    x = torch.cat([data.train.x, data.validation.x]).transpose(0, 1).flatten(1)
    counts = torch.stack([channel.bincount(minlength=256) for channel in x])
    mean = (counts * levels).sum(1) / counts.sum(1)
    std = ((counts * levels**2).sum(1) / counts.sum(1) - mean**2).sqrt()
    torch.testing.assert_close(mean, torch.tensor([0.49140, 0.48216, 0.44653]).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(std, torch.tensor([0.24703, 0.24348, 0.26159]).double(), atol=1e-5, rtol=0)
    if (DATA / "cifar-10-batches-py" / "inexact_rows.json").is_file():
        assert "85 of 50000 training and 20 of 10000 test images are decoded JPEG copies" in data.notes
        with pytest.raises(DataError, match="--no-verify"):
            load("cifar10", root=DATA)

"""Files of the user: .npz, folders of images, functions; and the digits."""

import io
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from genssl.datasets import Items, load
from genssl.datasets.files import image_folder
from genssl.errors import DataError, SettingsError

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (30, 3, 4, 5), dtype=np.uint8), np.arange(30) % 3

# ---------------------------------------------------------------------- npz


def test_npz_with_and_without_splits(tmp_path):
    np.savez(tmp_path / "whole.npz", x=X, y=Y, mean=0.5)
    with pytest.warns(UserWarning, match="mean not read"):
        data = load(tmp_path / "whole.npz")
    assert data.name == "whole"
    assert data.describe()["sizes"] == {"train": 24, "validation": 3, "test": 3}
    rows = sorted(x.numpy().tobytes() for _, split in data.splits() for x in split.x)
    assert rows == sorted(x.tobytes() for x in X)
    np.savez_compressed(tmp_path / "own.npz", x_train=X[:20], y_train=Y[:20], x_test=X[20:], y_test=Y[20:])
    data = load(str(tmp_path / "own.npz"), seed=5)
    assert data.describe()["sizes"] == {"train": 18, "validation": 2, "test": 10}
    assert np.array_equal(data.test.x.numpy(), X[20:])
    assert np.array_equal(data.test.label.numpy(), Y[20:])
    np.savez(tmp_path / "all.npz", x_train=X[:20], x_validation=X[20:25], x_test=X[25:])
    assert load(tmp_path / "all.npz", limit=4).describe()["sizes"] == {"train": 4, "validation": 4, "test": 4}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "arrays none"),
        ({"images": X}, "arrays images, expected x"),
        ({"x": X, "x_train": X}, "expected x and"),
        ({"x": X, "x_test": X}, "expected x and"),
        ({"x_train": X, "x_val": X}, "x_val"),
        ({"x": X, "y": Y[:3]}, "x: label: labels have shape"),
        ({"x": X.astype(float)}, "divide by 255"),
        ({"x": np.float64(1)}, "shape"),
        ({"x": np.array([{}, 1])}, "allow_pickle"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "labels in some splits only"),
    ],
)
def test_bad_archives(tmp_path, arrays, message):
    path = tmp_path / "t.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def archive_bytes(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


ARCHIVE = archive_bytes(x=X, y=Y)


@settings(max_examples=150, deadline=None)
@given(
    place=st.integers(0, len(ARCHIVE) - 1),
    change=st.integers(1, 255),
    cut=st.integers(0, len(ARCHIVE)),
    junk=st.binary(max_size=40),
    npy=st.binary(max_size=40),
)
def test_damaged_archives_are_told_or_read_whole(tmp_path_factory, place, change, cut, junk, npy):
    path = tmp_path_factory.mktemp("npz") / "t.npz"
    flipped = bytearray(ARCHIVE)
    flipped[place] ^= change
    wrapped = io.BytesIO()
    with zipfile.ZipFile(wrapped, "w") as file:
        file.writestr("x.npy", b"\x93NUMPY\x01\x00" + npy)
    for content in (bytes(flipped), ARCHIVE[:cut], junk, b"\x93NUMPY" + junk, wrapped.getvalue()):
        path.write_bytes(content)
        try:
            data = load(path)
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017  (either outcome is right)
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert sum(len(split) for _, split in data.splits()) == 30


def test_missing_archive_and_single_array(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "none.npz")
    with open(tmp_path / "single.npz", "wb") as file:
        np.save(file, X)
    with pytest.raises(DataError, match="a single array"):
        load(tmp_path / "single.npz")


# ---------------------------------------------------------------------- folders of images


def write_images(folder, classes=("a", "b"), each=6, size=(5, 4), mode="RGB"):
    images = []
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(each):
            image = Image.fromarray(RNG.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)
            image.save(folder / name / f"{i}.png")
            images.append(image)
    return images


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_folder_of_classes(tmp_path, mode):
    images = write_images(tmp_path / "pets", mode=mode)
    data = load(tmp_path / "pets")
    assert data.name == "pets"
    assert data.classes == ("a", "b")
    assert data.event_shape == (3 if mode == "RGB" else 1, 4, 5)
    assert isinstance(data.train, Items)
    expected = {
        np.asarray(image).reshape(4, 5, -1).transpose(2, 0, 1).tobytes(): i // 6 for i, image in enumerate(images)
    }
    seen = {
        x.numpy().tobytes(): int(y) for _, split in data.splits() for x, y in zip(split.x, split.label, strict=True)
    }
    assert seen == expected


def test_folder_with_splits(tmp_path):
    for part, each in (("train", 6), ("val", 2), ("test", 1)):
        write_images(tmp_path / part, each=each)
    assert load(tmp_path).describe()["sizes"] == {"train": 12, "validation": 4, "test": 2}
    (tmp_path / "test" / "a").rename(tmp_path / "test" / "c")
    with pytest.raises(DataError, match="classes"):
        load(tmp_path)


def test_images_of_other_sizes_kinds_or_damaged_are_named(tmp_path):
    write_images(tmp_path, mode="L")
    bad = tmp_path / "b" / "5.png"
    image = Image.open(bad)
    image.load()
    image.resize((7, 3)).save(bad)
    with pytest.raises(DataError, match=r"\(3, 7\) pixels, expected \(4, 5\)") as caught:
        load(tmp_path)
    assert str(bad) in str(caught.value)
    assert image_folder(tmp_path, size=8).event_shape == (1, 8, 8)
    assert image_folder(tmp_path, size=(6, 7)).event_shape == (1, 6, 7)
    Image.new("RGB", (5, 4)).save(bad)
    with pytest.raises(DataError, match="a colour image"):
        load(tmp_path)
    bad.write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read") as caught:
        load(tmp_path)
    assert str(bad) in str(caught.value)
    assert "\n" not in str(caught.value)
    Image.new("I;16", (5, 4)).save(bad)
    with pytest.raises(DataError, match="8 bits"):
        load(tmp_path)


def test_folders_without_images(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load(f"{tmp_path}/none")
    with pytest.raises(DataError, match="one subfolder"):
        load(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="one subfolder"):
        load(tmp_path)


# ---------------------------------------------------------------------- functions


def test_function_of_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport torch\n"
        "@dataclass\nclass Size:\n    n: int = 20\n"
        "def pairs():\n    return torch.zeros(Size().n, 2), torch.arange(Size().n)\n"
        "def broken():\n    raise KeyError('two\\nlines')\n"
        "def nothing():\n    return None\n"
    )
    data = load(f"{path}:pairs")
    assert data.name == "pairs"
    assert data.describe()["sizes"] == {"train": 16, "validation": 2, "test": 2}
    for function, kind, message in (
        ("broken", DataError, "failed with KeyError"),
        ("nothing", DataError, "NoneType"),
        ("other", SettingsError, "expected one of: .*pairs, broken, nothing"),
    ):
        with pytest.raises(kind, match=message) as caught:
            load(f"{path}:{function}")
        assert "\n" not in str(caught.value)
    path.write_text("def f(:\n")
    with pytest.raises(DataError, match="SyntaxError"):
        load(f"{path}:f")
    with pytest.raises(DataError, match="no such file"):
        load(f"{tmp_path}/none.py:f")


# ---------------------------------------------------------------------- digits


def test_digits_are_scikit_learns():
    first, other = load("digits"), load("digits", seed=1)
    assert first.describe()["sizes"] == {"train": 1258, "validation": 180, "test": 359}
    assert torch.equal(first.test.x, other.test.x)
    assert not torch.equal(first.validation.x, other.validation.x)
    pixels, label = load_digits(return_X_y=True)
    expected = sorted((row.tobytes(), int(y)) for row, y in zip(pixels, label, strict=True))
    for data in (first, other):
        rows = [
            ((x * 16).double().numpy().tobytes(), int(y))
            for _, split in data.splits()
            for x, y in zip(split.x, split.label, strict=True)
        ]
        assert sorted(rows) == expected
        assert data.event_shape == (1, 8, 8)
        assert data.views is not None

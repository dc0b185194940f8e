"""Data sets by name: settings in words, what is unknown, and what is told to be at hand."""

import json
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genssl.datasets import available, canonical, catalogue, load, names
from genssl.datasets.catalogue import parse
from genssl.datasets.celeba import missing_celeba
from genssl.datasets.cifar10 import MD5
from genssl.errors import DataError, SettingsError


def test_names_are_all_that_there_are():
    assert names() == ("digits", "sprites", "mnist", "fashion_mnist", "cifar10", "celeba")
    assert set(catalogue.BUILT_IN) | set(catalogue.DOWNLOADED) == set(names())


def test_unknown_names_get_the_list_and_the_nearest():
    with pytest.raises(SettingsError, match=r"digits, sprites, mnist, .*, celeba.*did you mean 'fashion_mnist'"):
        load("fashion-mnsit")
    with pytest.raises(SettingsError, match="data set 'celebb:target=Male' is unknown.*did you mean 'celeba'"):
        load("celebb:target=Male")
    for name in ("", "file.py", "xyz", ":"):
        with pytest.raises(SettingsError, match=r"file\.py:function$"):
            load(name)


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("sprites", {}),
        ("sprites:", {}),
        ("sprites:colour=True,size=64", {"colour": True, "size": 64}),
        ("sprites: correlation = 0.5 , size = 64", {"correlation": 0.5, "size": 64}),
        ("celeba:target=Male", {"target": "Male"}),
        ("celeba:target='Male',crop=None", {"target": "Male", "crop": None}),
        ("celeba:target=5_o_Clock_Shadow,size=64", {"target": "5_o_Clock_Shadow", "size": 64}),
        ("celeba:size=(64,32),target=[1,'a']", {"size": (64, 32), "target": [1, "a"]}),
        ("celeba:target='a, b',size=1e-3", {"target": "a, b", "size": 0.001}),
    ],
)
def test_settings_follow_the_name(text, settings):
    base = text.partition(":")[0]
    assert parse(text) == (base, settings)
    assert parse(canonical(text)) == (base, settings)


@pytest.mark.parametrize(
    "text", ["", "zebra:size=3", "file.py:celeba", "./celeba", "celeba.npz", "dir/celeba:size=3", "celebas:size=3"]
)
def test_what_begins_with_no_name_has_no_settings(text):
    assert parse(text) is None
    assert canonical(text) is None


@pytest.mark.parametrize("text", ["Male", "target=Male,size", "a b=3", "=3", "size=1,size=2", ","])
def test_bad_settings_are_told(text):
    with pytest.raises(SettingsError, match=r"expected celeba:key=value,key=value, each key once"):
        load(f"celeba:{text}")


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.one_of(
    st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False),
    st.from_regex(r"[A-Za-z0-9_]{0,8}", fullmatch=True), st.tuples(st.integers(), st.integers()),
)))  # fmt: skip
def test_one_spelling_whatever_the_order(settings):
    def spelled(items):
        return "celeba:" + ",".join(f"{key}={value!r}" for key, value in items)

    first, other = (canonical(spelled(items)) for items in (settings.items(), reversed(settings.items())))
    assert first == other == canonical(first)
    assert parse(first) == ("celeba", settings)


def test_unknown_settings_get_the_list_and_the_nearest(tmp_path):
    with pytest.raises(
        SettingsError, match=r"celeba has no setting 'sise', expected target or .*; did you mean size\?"
    ):
        load("celeba:sise=3", root=tmp_path)
    with pytest.raises(SettingsError, match="data set digits has no setting 'size', it has none$"):
        load("digits:size=3")
    for common in ("seed", "root", "verify", "download", "limit"):
        with pytest.raises(SettingsError, match=f"mnist has no setting '{common}'"):
            load(f"mnist:{common}=1")


def test_settings_reach_the_data_set_and_arguments_win(tmp_path):
    small = load("sprites:num=40,size=16")
    assert sum(len(split) for _, split in small.splits()) == 40
    assert small.event_shape == (1, 16, 16)
    assert small.name == "sprites"
    same, other = load("sprites", num=40, size=16), load("sprites:num=40,size=32", size=16, seed=1)
    assert torch.equal(small.train.x, same.train.x)
    assert small.describe() == other.describe()
    assert not torch.equal(small.train.x, other.train.x)
    (tmp_path / "a").mkdir()
    for text in (str(tmp_path), "x.npz", "file.py:function"):
        with pytest.raises(SettingsError, match="takes no settings, not size"):
            load(text, size=3)


def test_a_function_of_a_file_is_none_of_them(tmp_path, monkeypatch):
    """Not even in a file that is called as a data set is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.py").write_text("import torch\ndef celeba():\n    return torch.rand(20, 3)\n")
    assert load("digits.py:celeba").event_shape == (3,)


# ---------------------------------------------------------------------- what is at hand


def test_available_tells_where_or_how(tmp_path, monkeypatch):
    assert [row["name"] for row in available(tmp_path)] == list(names())
    for row in available(tmp_path / "none"):
        assert row["present"] == (row["name"] in ("digits", "sprites"))
        assert ("location" in row) == row["present"] != ("how_to_get" in row)
        assert ("gdown" in row.get("how_to_get", "")) == (row["name"] == "celeba")
    assert not (tmp_path / "none").exists()
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for kind in ("images-idx3", "labels-idx1"):
        for part in ("train", "t10k"):
            (raw / f"{part}-{kind}-ubyte.gz").touch()
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name in MD5:
        (tmp_path / "cifar-10-batches-py" / name).touch()
    monkeypatch.setenv("GENSSL_DATA", str(tmp_path))
    present = {row["name"]: row["present"] for row in available()}
    assert present == {
        "digits": True, "sprites": True, "mnist": True, "fashion_mnist": False, "cifar10": True, "celeba": False,
    }  # fmt: skip


def test_available_opens_no_file(tmp_path, monkeypatch):
    """Only names are looked at: unreadable files and a folder of any number of images are as quick."""
    (tmp_path / "celeba" / "img_align_celeba").mkdir(parents=True)
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        (tmp_path / "celeba" / name).touch(mode=0)
    monkeypatch.setattr(os, "scandir", lambda *a: pytest.fail("a folder was listed"))
    monkeypatch.setattr("builtins.open", lambda *a, **k: pytest.fail("a file was opened"))
    row = available(tmp_path)[-1]
    monkeypatch.undo()
    assert (row["name"], row["present"], row["location"]) == ("celeba", True, str(tmp_path / "celeba"))
    assert missing_celeba(tmp_path / "none") == ["list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba/"]


def test_available_tells_the_settings():
    rows = {row["name"]: row["settings"] for row in available()}
    assert json.loads(json.dumps(rows)) == rows
    assert rows["digits"] == rows["cifar10"] == {}
    assert rows["celeba"] == {"target": "hair", "size": 64, "crop": None, "memory": True}
    assert set(rows["sprites"]) == {"num", "size", "colour", "correlation"}


def test_what_is_missing_is_told_for_every_name(tmp_path):
    for name in catalogue.DOWNLOADED:
        with pytest.raises(DataError, match=rf"^{name}: .* not found in {tmp_path}/.*--download"):
            load(name, root=tmp_path)

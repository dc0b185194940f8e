"""idx files: read as torchvision reads them; damaged ones are named, whatever the damage."""

import gzip
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genssl.datasets import ensure_torchvision
from genssl.datasets.idx import TYPES, find_idx, read_idx
from genssl.errors import DataError


def idx_bytes(array, code=0x08):
    header = struct.pack(">HBB", 0, code, array.ndim) + b"".join(struct.pack(">I", n) for n in array.shape)
    return header + array.astype(TYPES[code]).tobytes()


@pytest.mark.parametrize("code", list(TYPES))
@pytest.mark.parametrize("shape", [(5,), (4, 3, 2)])
def test_reads_what_torchvision_reads(tmp_path, code, shape):
    ensure_torchvision()
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

    content = idx_bytes(np.random.default_rng(0).integers(0, 100, shape), code)
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(content))
    expected = read_sn3_pascalvincent_tensor(str(tmp_path / "plain"), strict=False)
    for name in ("plain", "packed.gz"):
        values = read_idx(tmp_path / name)
        assert values.dtype == expected.dtype
        assert torch.equal(values, expected)


def test_plain_file_goes_before_gz(tmp_path):
    path = tmp_path / "images"
    assert find_idx(path) is None
    (tmp_path / "images.gz").write_bytes(gzip.compress(idx_bytes(np.zeros(3))))
    assert find_idx(path) == tmp_path / "images.gz"
    path.write_bytes(idx_bytes(np.ones(3)))
    assert read_idx(find_idx(path)).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an idx magic"),
        (b"\x00\x00\x07\x01\x00\x00\x00\x01a", "expected an idx magic"),
        (b"<html>no such file</html>", "expected an idx magic"),
        (b"\x00\x00\x08\x03\x00\x00", "within its header"),
        (idx_bytes(np.zeros((2, 2))), "2 dimensions, expected 3"),
        (idx_bytes(np.zeros((2, 2, 2)))[:-1], "7 bytes of values, expected 8"),
        (idx_bytes(np.zeros((2, 2, 2))) + b"x", "more bytes"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, "too few"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damage_is_named(tmp_path, content, message, packed):
    path = tmp_path / ("t.gz" if packed else "t")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, dims=3)
    assert str(path) in str(caught.value)
    assert "--download" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_idx(path)


CONTENT = idx_bytes(np.random.default_rng(1).integers(0, 255, (6, 5, 4)))
PACKED = gzip.compress(CONTENT)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, len(CONTENT) - 1), packed=st.booleans())
def test_every_truncation_is_an_error(tmp_path_factory, cut, packed):
    path = tmp_path_factory.mktemp("cut") / ("t.gz" if packed else "t")
    path.write_bytes(PACKED[: cut % len(PACKED)] if packed else CONTENT[:cut])
    with pytest.raises(DataError):
        read_idx(path)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=60), place=st.integers(0, len(PACKED) - 1), change=st.integers(1, 255))
def test_any_bytes_are_values_or_a_data_error(tmp_path_factory, content, place, change):
    """And a flipped byte in a gz file never gives other values in silence: its checksum tells."""
    path = tmp_path_factory.mktemp("any") / "t.gz"
    flipped = bytearray(PACKED)
    flipped[place] ^= change
    for each in (content, gzip.compress(content), b"\x00\x00\x08\x01" + content):
        for name in ("t", "t.gz"):
            (path.parent / name).write_bytes(each)
            try:
                assert read_idx(path.parent / name).dim() >= 1
            except DataError as error:
                assert str(path.parent) in str(error)  # noqa: PT017  (either outcome is right)
    path.write_bytes(flipped)
    try:
        assert torch.equal(read_idx(path), torch.from_numpy(np.frombuffer(CONTENT[16:], np.uint8).copy()).view(6, 5, 4))
    except DataError as error:
        assert "damaged" in str(error)  # noqa: PT017


def test_a_small_file_cannot_ask_for_much_memory(tmp_path):
    """A header that announces 2^40 values beside a few compressed bytes is refused before anything is allocated."""
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x08\x02" + struct.pack(">II", 2**20, 2**20) + bytes(1000)))
    with pytest.raises(DataError, match="too few"):
        read_idx(path)


def test_digest_is_of_the_uncompressed_file(tmp_path):
    class Crc:
        value = 0

        def update(self, data):
            self.value = zlib.crc32(data, self.value)

    (tmp_path / "t.gz").write_bytes(PACKED)
    digest = Crc()
    read_idx(tmp_path / "t.gz", digest=digest)
    assert digest.value == zlib.crc32(CONTENT)

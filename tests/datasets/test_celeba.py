"""CelebA's layout, on a small tree of the same: against torchvision's reading of it, and every rule of labels and splits."""

import hashlib
import os

import numpy as np
import pytest
import torch
from PIL import Image
from test_mnist import listing

from genssl.datasets import Items, Stream, ensure_torchvision, load
from genssl.datasets import celeba as celeba_module
from genssl.datasets.celeba import ATTRIBUTES, IMAGES, MD5, PARTITION, SPLITS, celeba
from genssl.errors import DataError, SettingsError

HAIR = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Bald")
SIZE = 40
NAMES = """
    5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair Blurry
    Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
    Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns
    Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young
""".split()  # noqa: SIM905


def make(root, size=SIZE):
    """Images, lists and their exact text: numbers set in two columns, a blank after the names, parts in the order 0, 1, 2."""
    folder = root / "celeba"
    (folder / IMAGES).mkdir(parents=True)
    rng = np.random.default_rng(0)
    files = [f"{number + 1:06d}.jpg" for number in range(size)]
    values = np.where(rng.random((size, 40)) < 0.4, 1, -1)
    hair = [NAMES.index(name) for name in HAIR]
    values[:, hair] = -1
    for row in range(size):  # none, one (mostly) or two of the five
        values[row, rng.permutation(hair)[: (1, 1, 1, 1, 0, 2)[row % 6]]] = 1
    parts = [0 if row < 0.6 * size else 1 if row < 0.8 * size else 2 for row in range(size)]
    for file in files:
        pixels = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).resize((178, 218), Image.BICUBIC)
        pixels.save(folder / IMAGES / file, quality=90)
    attributes = "".join(
        f"{file} {' '.join(f'{v:2d}' for v in row)}\n" for file, row in zip(files, values, strict=True)
    )
    (folder / ATTRIBUTES).write_text(f"{size}\n{' '.join(NAMES)} \n{attributes}")
    (folder / PARTITION).write_text("".join(f"{file} {part}\n" for file, part in zip(files, parts, strict=True)))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small tree, with the files that torchvision asks for beside ours."""
    folder = make(tmp_path_factory.mktemp("data"))
    files = [line.split()[0] for line in (folder / PARTITION).read_text().splitlines()]
    (folder / "identity_CelebA.txt").write_text("".join(f"{file} {n % 7}\n" for n, file in enumerate(files)))
    for name, columns in (("list_bbox_celeba.txt", 4), ("list_landmarks_align_celeba.txt", 10)):
        rows = "".join(f"{file}{'  17' * columns}\n" for file in files)
        (folder / name).write_text(f"{len(files)}\n{'x ' * columns}\n{rows}")
    return folder.parent


@pytest.fixture
def tree(made, monkeypatch):
    """The small tree, which counts as the published one."""
    monkeypatch.setattr(celeba_module, "MD5", {name: md5(made / "celeba" / name) for name in MD5})
    return made


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def theirs(tree, split, transform, monkeypatch):
    """torchvision's reading of the tree, for which the tree's MD5 stand in for the published ones."""
    ensure_torchvision()
    from torchvision.datasets import CelebA

    sums = [(key, md5(tree / "celeba" / name), name) for key, _, name in CelebA.file_list if name.endswith(".txt")]
    monkeypatch.setattr(CelebA, "file_list", sums)
    return CelebA(str(tree), split=split, transform=transform)


@pytest.mark.parametrize("crop", [None, 148, 177])
def test_reads_what_torchvision_reads_and_writes_nothing(tree, monkeypatch, crop):
    """With a binary target no image is left out, so that the splits are torchvision's, in their order."""
    ensure_torchvision()
    from torchvision import transforms

    steps = [transforms.Resize((24, 24)), transforms.PILToTensor()]
    transform = transforms.Compose(steps if crop is None else [transforms.CenterCrop(crop), *steps])
    before = listing(tree)
    data = celeba(tree, target="Male", size=24, crop=crop)
    assert listing(tree) == before
    for name, split in data.splits():
        reference = theirs(tree, {"validation": "valid"}.get(name, name), transform, monkeypatch)
        assert isinstance(split, Items)
        assert split.dtype == torch.uint8
        assert torch.equal(split.x, torch.stack([x for x, _ in reference]))
        assert torch.equal(split.style, reference.attr.float())
        assert list(split.style_names) == [name for name in reference.attr_names if name] == NAMES
        assert set(split.style_kinds) == {"categorical"}
        assert torch.equal(split.label, reference.attr[:, NAMES.index("Male")])
    assert data.describe()["sizes"] == {"train": 24, "validation": 8, "test": 8}
    assert data.classes == ("not Male", "Male")
    assert "left out" not in data.notes
    view, _ = data.views(data.train.floats(), None, torch.Generator().manual_seed(0))
    assert view.shape == data.train.x.shape


def test_hair_is_one_of_five_and_what_is_ambiguous_is_left_out(tree, monkeypatch):
    data = celeba(tree, size=8)
    assert data.classes == ("black", "blond", "brown", "gray", "bald")
    left = {}
    for name, split in data.splits():
        attributes = theirs(tree, {"validation": "valid"}.get(name, name), None, monkeypatch).attr.tolist()
        kept, label = [], []
        for row in attributes:
            colours = [number for number, colour in enumerate(HAIR) if row[NAMES.index(colour)] == 1]
            if len(colours) == 1:
                kept.append(row)
                label.append(colours[0])
        assert split.label.tolist() == label
        assert split.style.long().tolist() == kept
        left[name] = f"{len(attributes) - len(kept)} of {len(attributes)} {name}"
        assert 0 < len(kept) < len(attributes)
    told = f"left out without one hair colour: {', '.join(left.values())}"
    assert data.notes.startswith(f"target hair; 8 pixels, whole image resized; {told}; lists as published")
    assert set(torch.cat([split.label for _, split in data.splits()]).tolist()) == {0, 1, 2, 3, 4}


def test_from_disk_is_as_from_memory(tree):
    held, streamed = (celeba(tree, size=16, memory=memory) for memory in (True, False))
    assert held.describe() | {"held": "stream"} == streamed.describe()
    for name, split in held.splits():
        stream = getattr(streamed, name)
        assert isinstance(stream, Stream)
        assert torch.equal(stream.style, split.style)
        assert (stream.style_names, stream.style_kinds) == (split.style_names, split.style_kinds)
        order = torch.arange(len(split)).flip(0).split(3)
        for mine, expected in zip(stream.batches(order), split.batches(order), strict=True):
            assert all(torch.equal(*pair) for pair in zip(mine, expected, strict=True))
        part = stream.subset(torch.tensor([3, 1]))
        assert torch.equal(part.style, split.style[[3, 1]])
        kept = part.materialise()
        assert torch.equal(kept.x, split.x[[3, 1]])
        assert torch.equal(kept.style, split.style[[3, 1]])
        assert kept.style_names == split.style_names


def test_a_limit_reads_no_more_and_takes_the_same(tree, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(celeba_module.Faces, "image", lambda faces, row: _note(read, faces, row))
    short = load("celeba:target=Young,size=8", root=tree, limit=5)
    assert len(read) <= 3 * 5 + 3, "the images taken, and the first of each split for its shape"
    whole = load("celeba", root=tree, target="Young", size=8).limit(5)
    assert short.describe() == whole.describe()
    for name, split in short.splits():
        assert len(split) == 5
        for field in ("x", "label", "style"):
            assert torch.equal(getattr(split, field), getattr(getattr(whole, name), field))


def _note(read, faces, row, image=celeba_module.Faces.image):
    read.append(faces.paths[row])
    return image(faces, row)


def test_many_blocks_keep_their_places(tree, monkeypatch):
    expected = celeba(tree, size=8)
    monkeypatch.setattr(celeba_module, "BLOCK", 3)
    assert torch.equal(celeba(tree, size=8).train.x, expected.train.x)


def test_an_attribute_whose_name_is_no_word_of_python(tree):
    data = load("celeba:target=5_o_Clock_Shadow,size=8", root=tree)
    assert data.classes == ("not 5_o_Clock_Shadow", "5_o_Clock_Shadow")
    assert torch.equal(data.train.label, data.train.style[:, 0].long())
    assert data.name == "celeba"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"target": "male"}, "target = 'male', expected hair or one of 5_o_Clock_Shadow, .*; did you mean Male"),
        ({"target": 3}, "target = 3, expected hair"),
        ({"size": 0}, "celeba: size = 0, expected a number of pixels"),
        ({"size": "big"}, "celeba: size = 'big'"),
        ({"size": True}, "celeba: size = True"),
        ({"crop": -1}, "celeba: crop = -1"),
    ],
)
def test_bad_settings(tree, given, told):
    with pytest.raises(SettingsError, match=told):
        celeba(tree, **given)


def test_a_crop_larger_than_the_images(tree):
    with pytest.raises(DataError, match=r"\.jpg: 178 x 218 pixels, fewer than crop = 200"):
        celeba(tree, crop=200)


# ---------------------------------------------------------------------- files that are missing, other or damaged


@pytest.mark.parametrize("name", [ATTRIBUTES, PARTITION, IMAGES])
def test_missing_files_are_named_with_place_and_remedy(tmp_path, name):
    folder = make(tmp_path, size=5)
    (folder / name).rename(folder / "elsewhere")
    with pytest.raises(DataError) as caught:
        load("celeba", root=tmp_path)
    message = str(caught.value)
    assert message.startswith(f"celeba: {name}{'/' if name == IMAGES else ''} not found in {folder}; ")
    assert "--download" in message


def test_other_lists_are_refused_or_told(tmp_path):
    """A small tree is not the published one: without verifying it is read by ourselves, and says so."""
    folder = make(tmp_path)
    with pytest.raises(DataError, match=f"{ATTRIBUTES}: not the published file: MD5 .*2 of 2 files.*--no-verify"):
        celeba(tmp_path)
    with pytest.warns(UserWarning, match=f"{ATTRIBUTES}, {PARTITION} differ from the published"):
        data = celeba(tmp_path, verify=False, size=8)
    assert "lists not the published ones (MD5)" in data.notes
    assert folder.is_dir()


def replace(name, old, new):
    def change(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


CHANGES = [
    (replace(ATTRIBUTES, f"{SIZE}\n", f"{SIZE + 1}\n"), f"{ATTRIBUTES}: damaged: {SIZE} rows of 40 attributes"),
    (replace(ATTRIBUTES, "Young \n", "\n"), r"'000001\.jpg .*, expected FILE and 39 times 1 or -1"),
    (replace(ATTRIBUTES, "000003.jpg ", "000003.jpg  0 "), r"'000003\.jpg"),
    (replace(ATTRIBUTES, "000002.jpg", "000099.jpg"), f"{PARTITION}: damaged: 40 rows of other files"),
    (replace(PARTITION, "000002.jpg 0", "000002.jpg 3"), r"damaged: '000002\.jpg 3', expected FILE and 0, 1 or 2"),
    (replace(PARTITION, "000002.jpg 0", "000002.jpg"), r"damaged: '000002\.jpg', expected"),
    (replace(PARTITION, "000040.jpg 2\n", ""), "39 rows of other files or in another order"),
    (lambda folder: (folder / ATTRIBUTES).write_bytes(b"\xff\xfe"), f"{ATTRIBUTES}: cannot be read"),
    (lambda folder: (folder / ATTRIBUTES).write_text(""), "0 rows of 0 attributes"),
    (lambda folder: (folder / ATTRIBUTES).write_text("0\nMale \n"), "0 rows of 1 attributes"),
    (lambda folder: (folder / IMAGES / "000007.jpg").unlink(), r"1 of 40 images are missing, such as 000007\.jpg"),
    (lambda folder: (folder / IMAGES / "000007.jpg").write_bytes(b"\xff\xd8junk"), r"000007\.jpg: the image cannot"),
    (lambda folder: os.truncate(folder / IMAGES / "000008.jpg", 900), r"000008\.jpg: the image cannot be read"),
    (
        lambda folder: (folder / PARTITION).write_text((folder / PARTITION).read_text().replace(" 1\n", " 0\n")),
        "no validation images",
    ),
]


@pytest.mark.filterwarnings("ignore:.*differ from the published:UserWarning")
@pytest.mark.parametrize(("change", "told"), CHANGES, ids=[told[:40] for _, told in CHANGES])
def test_damage_is_named(tmp_path, change, told):
    folder = make(tmp_path)
    change(folder)
    with pytest.raises(DataError, match=told) as caught:
        celeba(tmp_path, verify=False, target="Male", size=8)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_download_is_torchvisions_own(tmp_path, monkeypatch):
    """It is asked for what is missing only, and what stops it, of whatever kind, is told in one line."""
    ensure_torchvision()
    from torchvision.datasets import CelebA

    class QuotaExceeded(Exception):
        """Of the helper that torchvision uses: neither RuntimeError nor OSError."""

    def download(self):
        if self.root.endswith("full"):
            raise QuotaExceeded("too many users\nhave viewed this file")
        make(tmp_path / "root")

    monkeypatch.setattr(CelebA, "download", download)
    monkeypatch.setattr(CelebA, "_check_integrity", lambda self: True)
    monkeypatch.setattr(CelebA, "_load_csv", lambda self, *a, **k: celeba_csv())
    with pytest.raises(DataError, match=r"CelebA: download to .*full failed \(too many users have viewed this file\)"):
        celeba(tmp_path / "full", download=True)
    with pytest.warns(UserWarning, match="differ from the published"):
        data = celeba(tmp_path / "root", download=True, verify=False, size=8)
    assert tuple(name for name, _ in data.splits()) == SPLITS
    monkeypatch.setattr(CelebA, "download", lambda self: pytest.fail("nothing is missing"))
    with pytest.warns(UserWarning, match="differ from the published"):
        celeba(tmp_path / "root", download=True, verify=False, size=8)


def celeba_csv():
    from torchvision.datasets.celeba import CSV

    return CSV(["a"], ["x"], torch.zeros(1, 1, dtype=torch.long))

"""CIFAR-10, SVHN, EMNIST, Omniglot and CelebA, from small files in the original formats."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import savemat
from test_datasets import UNREACHABLE, flip_a_bit, write_family, write_idx

import zoo
from zoo.recipes.datasets import load_data
from zoo.recipes.schema import ComponentSpec
from zoo_datasets import cifar

NAMES = ("cifar10", "svhn", "emnist", "omniglot", "celeba")


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the network and use a temporary cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    archive = UNREACHABLE + "archive"
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", archive)
    monkeypatch.setattr(torchvision.datasets.EMNIST, "url", archive)
    monkeypatch.setattr(torchvision.datasets.Omniglot, "download_url_prefix", archive)
    splits = {name: [archive, *rest] for name, (_, *rest) in torchvision.datasets.SVHN.split_list.items()}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", splits)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


def load(name: str, root: Path, **parameters: object) -> zoo.Dataset:
    return load_data([ComponentSpec(use=name, **parameters)], root).dataset  # type: ignore[arg-type]


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# --- CIFAR-10


class Python2(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes strings and arrays as Python 2 and the numpy of 2009 did, as in the original files."""

    dispatch: ClassVar[dict[type, object]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def text(self, value: str | bytes) -> None:
        content = value if isinstance(value, bytes) else value.encode("latin1")
        short = len(content) < 256
        self.write((b"U" + bytes([len(content)]) if short else b"T" + struct.pack("<i", len(content))) + content)

    dispatch[str] = dispatch[bytes] = text

    def array(self, value: np.ndarray) -> None:
        self.write(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(")
        for side in value.shape:
            self.save(side)
        self.write(b"tcnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89")
        self.save(value.tobytes())
        self.write(b"tb")

    dispatch[np.ndarray] = array


def batch(pixels: np.ndarray, labels: list[int], of: int) -> bytes:
    out = io.BytesIO()
    names = [f"thing_s_{i:06}.png" for i in range(len(labels))]
    content = {"batch_label": f"training batch {of} of 5", "labels": labels, "data": pixels, "filenames": names}
    Python2(out, protocol=2).dump(content)
    return out.getvalue()


@pytest.fixture
def fake_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six batches of four images with matching digests; returns their folder."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    digests = []
    for i, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        content = batch(draw(i, 4, 3072), [i, 9 - i, 3, 0], i + 1)
        (folder / name).write_bytes(content)
        digests.append([name, md5(content)])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", digests[:5])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", digests[5:])
    return folder


def test_cifar(fake_cifar, tmp_path):
    dataset = load("cifar10", tmp_path)
    assert (len(dataset.train), len(dataset.test), dataset.shape) == (20, 4, (3, 32, 32))
    expected = np.concatenate([draw(i, 4, 3072) for i in range(5)]).reshape(-1, 3, 32, 32)
    assert np.array_equal(dataset.train.x.numpy(), expected), "red, green and blue planes, row by row"
    assert np.array_equal(dataset.test.x.numpy(), draw(5, 4, 3, 32, 32))
    assert dataset.train.labels.tolist() == [label for i in range(5) for label in (i, 9 - i, 3, 0)]
    assert [dataset.label_names[i] for i in (0, 3, 9)] == ["airplane", "cat", "truck"]


def test_cifar_equals_that_of_torchvision(fake_cifar, tmp_path, monkeypatch):
    (fake_cifar / "batches.meta").write_bytes(pickle.dumps({"label_names": list(cifar.CLASSES)}, protocol=2))
    meta = {**torchvision.datasets.CIFAR10.meta, "md5": md5((fake_cifar / "batches.meta").read_bytes())}
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "meta", meta)
    loaded = load("cifar10", tmp_path)
    with warnings.catch_warnings(action="ignore"):  # numpy 2.4.0 to 2.4.4 warn of the flags in old pickles
        their = torchvision.datasets.CIFAR10(tmp_path, train=True)
    assert np.array_equal(loaded.train.x.permute(0, 2, 3, 1).numpy(), their.data)
    assert loaded.train.labels.tolist() == their.targets


class Attack:
    """A malicious pickle, which runs a command when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("file", ["data_batch_1", "data_batch_5", "test_batch"])
def test_a_tampered_batch_is_never_opened(file, fake_cifar, tmp_path, monkeypatch):
    """Scenario 32: a pickle with a wrong digest is not passed to pickle."""
    mark = tmp_path / "attacked"
    (fake_cifar / file).write_bytes(pickle.dumps(Attack(mark), protocol=2))
    opened = []
    original = cifar._Unpickler.load
    monkeypatch.setattr(cifar._Unpickler, "load", lambda self: opened.append(1) or original(self))
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("opened"))
    for download in (True, False):
        with pytest.raises(zoo.DataError, match=f"{file} is damaged: its MD5 is") as error:
            load("cifar10", tmp_path, download=download)
        assert not isinstance(error.value, zoo.DataUnavailable)
    assert not mark.exists()
    before = {"data_batch_1": 0, "data_batch_5": 4, "test_batch": 5}[file]
    assert len(opened) == 2 * before, "the intact files before it in the list"


def test_a_batch_with_the_right_digest_creates_only_arrays(fake_cifar, tmp_path, monkeypatch):
    """Two files with the same MD5 can be forged."""
    mark = tmp_path / "attacked"
    content = pickle.dumps(Attack(mark), protocol=2)
    (fake_cifar / "data_batch_1").write_bytes(content)
    digests = [["data_batch_1", md5(content)], *torchvision.datasets.CIFAR10.train_list[1:]]
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", digests)
    with pytest.raises(zoo.DataError, match="refers to posix.mkdir"):
        load("cifar10", tmp_path)
    assert not mark.exists()


# --- SVHN


@pytest.fixture
def fake_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    splits = {}
    for seed, (split, labels) in enumerate({"train": [1, 10, 9, 5], "test": [10, 2]}.items()):
        file = tmp_path / f"{split}_32x32.mat"
        y = np.array(labels, dtype=np.uint8)[:, None]
        savemat(file, {"X": draw(seed, 32, 32, 3, len(labels)), "y": y}, do_compression=True)
        splits[split] = [UNREACHABLE, file.name, md5(file.read_bytes())]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", splits)
    return tmp_path


def test_svhn(fake_svhn):
    dataset = load("svhn", fake_svhn)
    assert (len(dataset.train), len(dataset.test), dataset.shape) == (4, 2, (3, 32, 32))
    for seed, split in enumerate((dataset.train, dataset.test)):
        for i, image in enumerate(split.x):
            assert np.array_equal(image.permute(1, 2, 0).numpy(), draw(seed, 32, 32, 3, len(split))[..., i])
    assert dataset.train.labels.tolist() == [1, 0, 9, 5], "the label 10 becomes 0"
    their = torchvision.datasets.SVHN(fake_svhn, "train")
    assert np.array_equal(dataset.train.x.numpy(), their.data)
    assert dataset.train.labels.tolist() == their.labels.tolist()


# --- EMNIST


@pytest.mark.parametrize(("split", "first"), [("balanced", 0), ("letters", 1), ("mnist", 0)])
def test_emnist_is_upright(split, first, tmp_path):
    folder = tmp_path / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, n in (("train", 5), ("test", 2)):
        stored = draw(n, n, 28, 28)
        write_idx(folder / f"emnist-{split}-{part}-images-idx3-ubyte", stored)
        write_idx(folder / f"emnist-{split}-{part}-labels-idx1-ubyte", np.arange(first, first + n))
    dataset = load("emnist", tmp_path, split=split)
    assert np.array_equal(dataset.train.x[:, 0].numpy(), draw(5, 5, 28, 28).transpose(0, 2, 1))
    assert dataset.train.labels.tolist() == list(range(5)), "labels of letters start at 1 in the files"
    names = torchvision.datasets.EMNIST.classes_split_dict[split]
    assert list(dataset.label_names) == [name for name in names if name != "N/A"]


# --- Omniglot


@pytest.fixture
def fake_omniglot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two archives: black ink on white, one bit for each of 105 x 105 pixels."""
    folder = tmp_path / "omniglot-py"
    folder.mkdir()
    digests = {}
    for part, alphabets in (("images_background", ("Greek", "Korean")), ("images_evaluation", ("Tibetan",))):
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for a, alphabet in enumerate(alphabets):
                for character in (1, 2):
                    for drawer in range(3):
                        paper = np.ones((105, 105), dtype=bool)
                        paper[30 : 30 + 15 * character, 15 * drawer : 15 * drawer + 15] = False
                        png = io.BytesIO()
                        Image.fromarray(paper).save(png, "PNG")
                        name = f"{part}/{alphabet}/character{character:02}/{a}{character}_{drawer:02}.png"
                        archive.writestr(name, png.getvalue())
        digests[part] = md5((folder / f"{part}.zip").read_bytes())
    monkeypatch.setattr(torchvision.datasets.Omniglot, "zips_md5", digests)
    return folder


def test_omniglot(fake_omniglot, tmp_path, monkeypatch):
    dataset = load("omniglot", tmp_path, size=7)
    assert (len(dataset.train), len(dataset.test), dataset.shape) == (12, 6, (1, 7, 7))
    assert dataset.train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert dataset.test.labels.tolist() == [4] * 3 + [5] * 3, "no character is in both"
    assert dataset.label_names == (
        "Greek/character01", "Greek/character02", "Korean/character01", "Korean/character02",
        "Tibetan/character01", "Tibetan/character02",
    )  # fmt: skip
    ink = torch.zeros(7, 7, dtype=torch.uint8)
    ink[2:4, 1] = 255  # 30 pixels of ink from row 30, 15 wide, from column 15
    assert torch.equal(dataset.train.x[4, 0], ink), "white on black, one pixel per 15x15 block"
    assert dataset.train.x.unique().tolist() == [0, 255]
    assert load("omniglot", tmp_path).shape == (1, 28, 28)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded again"))
    assert load("omniglot", tmp_path, size=7).sha256() == dataset.sha256()
    assert [file.suffix for file in dataset.cache] == [".safetensors"] * 2


# --- CelebA


@pytest.fixture
def fake_celeba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    parts = [0, 0, 1, 2, 2, 0]
    rows = []
    for i, part in enumerate(parts, 1):
        face = np.full((218, 178, 3), 255, dtype=np.uint8)  # the cropped border is white
        face[35 : 35 + 148, 15 : 15 + 148] = [20 * i, 10 * i, 0]
        Image.fromarray(face).save(folder / "img_align_celeba" / f"{i:06}.jpg", quality=100, subsampling=0)
        rows.append((f"{i:06}.jpg", part, " 1" if i % 2 else "-1"))
    (folder / "list_eval_partition.txt").write_text("".join(f"{name} {part}\n" for name, part, _ in rows))
    attributes = "".join(f"{name} -1 {smiles}\n" for name, _, smiles in rows)
    (folder / "list_attr_celeba.txt").write_text(f"{len(rows)}\nBald Smiling \n{attributes}")
    digests = [
        (code, md5((folder / name).read_bytes()) if (folder / name).exists() else digest, name)
        for code, digest, name in torchvision.datasets.CelebA.file_list
    ]
    monkeypatch.setattr(torchvision.datasets.CelebA, "file_list", digests)
    return folder


def test_celeba(fake_celeba, tmp_path, monkeypatch):
    dataset = load("celeba", tmp_path, attribute="Smiling")
    assert (len(dataset.train), len(dataset.test), dataset.shape) == (3, 2, (3, 64, 64))
    for split, numbers in ((dataset.train, (1, 2, 6)), (dataset.validation, (3,)), (dataset.test, (4, 5))):
        for image, i in zip(split.x, numbers, strict=True):
            colour = torch.tensor([20 * i, 10 * i, 0]).view(3, 1, 1)
            assert (image[:, 1:-1, 1:-1].int() - colour).abs().max() <= 2, (
                "the square in the middle, and nothing beside"
            )
        assert split.labels.tolist() == [i % 2 for i in numbers]
    assert dataset.label_names == ("not Smiling", "Smiling")
    plain = load("celeba", tmp_path, test="valid")
    assert (plain.train.labels, len(plain.test)) == (None, 1)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded again"))
    assert load("celeba", tmp_path, attribute="Smiling").sha256() == dataset.sha256()


def test_celeba_is_cropped_and_scaled_as_in_torchvision(fake_celeba, tmp_path):
    from torchvision.transforms import v2

    smooth = np.kron(draw(0, 109, 89, 3), np.ones((2, 2, 1), dtype=np.uint8))
    Image.fromarray(smooth).save(fake_celeba / "img_align_celeba" / "000001.jpg", quality=95)
    with Image.open(fake_celeba / "img_align_celeba" / "000001.jpg") as image:
        stored = image.convert("RGB")
    expected = v2.Compose([v2.CenterCrop(148), v2.Resize(64, antialias=True), v2.PILToTensor()])(stored)
    assert torch.equal(load("celeba", tmp_path).train.x[0], expected)


def test_errors_in_celeba_are_named(fake_celeba, tmp_path):
    faces = fake_celeba / "img_align_celeba"
    with pytest.raises(zoo.DataError, match="no attribute 'Smile'. Choose from: Bald, Smiling"):
        load("celeba", tmp_path, attribute="Smile")
    content = (faces / "000004.jpg").read_bytes()
    (faces / "000004.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(zoo.DataError, match=r"000004\.jpg is damaged"):
        load("celeba", tmp_path)
    (faces / "000004.jpg").unlink()
    with pytest.raises(zoo.DataError, match=r"1 of 2 images are missing from .*img_align_celeba, such as 000004\.jpg"):
        load("celeba", tmp_path)
    faces.rename(fake_celeba / "elsewhere")
    with pytest.raises(zoo.DataUnavailable, match=r"Unpack img_align_celeba\.zip there"):
        load("celeba", tmp_path)


# --- missing and damaged files


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_an_error_with_advice(name, tmp_path):
    """An explicit ``--data`` has no fallback, and a download fails at once without a network."""
    advice = "If you have them, set --data-dir or ZOO_DATA to the folder that holds"
    with pytest.raises(zoo.DataUnavailable, match=f"{name} is not available: .*{tmp_path}.* {advice}"):
        zoo.train("mlp-vae", data=name, data_dir=tmp_path, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    for offline in [] if name == "celeba" else [{"download": False}]:
        with pytest.raises(zoo.DataUnavailable, match=f"not in {tmp_path}.*, and downloads are off"):
            load(name, tmp_path, **offline)


@pytest.mark.parametrize(
    ("name", "fixture", "file"),
    [
        ("svhn", "fake_svhn", "test_32x32.mat"),
        ("omniglot", "fake_omniglot", "omniglot-py/images_evaluation.zip"),
        ("celeba", "fake_celeba", "celeba/list_eval_partition.txt"),
        ("cifar10", "fake_cifar", "cifar-10-batches-py/data_batch_3"),
    ],
)
def test_a_damaged_file_is_named(name, fixture, file, tmp_path, request, caplog):
    """Scenario 26, for all files with a digest. Damaged data are never skipped."""
    request.getfixturevalue(fixture)
    load(name, tmp_path)
    flip_a_bit(tmp_path / file)
    with caplog.at_level(logging.WARNING, "zoo"), pytest.raises(zoo.DataError, match=f"{file} is damaged: its MD5"):
        load_data([ComponentSpec(use=name), ComponentSpec(use="digits")], tmp_path)
    assert caplog.messages == []


def test_an_unreadable_file_is_named(fake_cifar, tmp_path):
    (fake_cifar / "test_batch").unlink()
    (fake_cifar / "test_batch").mkdir()
    with pytest.raises(zoo.DataError, match="test_batch cannot be read: Is a directory"):
        load("cifar10", tmp_path)


def test_data_of_torchvision_before_2021_are_not_used(tmp_path):
    """torchvision uses ``processed``, which is not verified, and downloads nothing."""
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir(parents=True)
    for file in ("training.pt", "test.pt"):
        torch.save((torch.zeros(3, 28, 28, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)), processed / file)
    with pytest.raises(zoo.DataUnavailable, match="not in .*MNIST/raw.* `processed` of its versions before 2021"):
        load("mnist", tmp_path)


# --- the survey


@pytest.fixture
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for fixture in ("fake_cifar", "fake_svhn", "fake_celeba"):
        request.getfixturevalue(fixture)
    write_family(tmp_path, "KMNIST")
    return tmp_path


def test_the_survey(root, monkeypatch):
    """It lists the state of every data set without downloading or decoding."""
    flip_a_bit(root / "test_32x32.mat")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("fetched"))
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded"))
        loaded = {one.name: one for one in zoo.survey_data(root)}
    assert {name: one.status for name, one in loaded.items()} == {
        "arrays": "path", "celeba": "available", "cifar10": "available", "digits": "available",
        "dsprites": "absent", "emnist": "absent", "freyfaces": "absent",
        "fashion-mnist": "absent", "folder": "path", "kmnist": "available", "mnist": "absent", "omniglot": "absent",
        "shapes": "available", "breast-cancer": "available", "sentences": "available", "sklearn-table": "available",
        "toy-counts": "available", "waves": "available", "table": "path", "text": "path",
        "svhn": "damaged",
    }  # fmt: skip
    assert loaded["cifar10"].detail == "20 + 4 examples, 3x32x32"
    assert loaded["celeba"].detail == "not decoded yet"
    assert "test_32x32.mat is damaged" in loaded["svhn"].detail
    assert loaded["dsprites"].detail.startswith("dsprites_ndarray")
    assert loaded["arrays"].detail == ".npy .npz .pt .pth"
    load("celeba", root)
    assert {one.name: one.detail for one in zoo.survey_data(root)}["celeba"] == "3 + 1 + 2 examples, 3x64x64"

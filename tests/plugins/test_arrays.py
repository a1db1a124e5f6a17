from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo_datasets.arrays import arrays


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "vae-zoo" / "cache"


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def save(file: Path, content: Any) -> str:
    """Save an array, several by name, or any value of `torch.save`."""
    if file.suffix == ".npy":
        np.save(file, content)
    elif file.suffix == ".npz":
        np.savez_compressed(file, **content)
    else:
        torch.save(content, file)
    return str(file)


def everything(dataset: zoo.Dataset) -> np.ndarray:
    """All images, (N, C, H, W), sorted by their bytes."""
    images = [*dataset.test.x.numpy(), *dataset.train.x.numpy()]
    return np.stack(sorted(images, key=lambda image: image.tobytes()))


def expected(array: np.ndarray) -> np.ndarray:
    return np.stack(sorted(array, key=lambda image: image.tobytes()))


# --- shapes


@pytest.mark.parametrize(
    ("shape", "to_nchw"),
    [
        ((6, 8, 9), lambda a: a[:, None]),
        ((6, 8, 9, 1), lambda a: a.transpose(0, 3, 1, 2)),
        ((6, 8, 9, 3), lambda a: a.transpose(0, 3, 1, 2)),
        ((6, 1, 8, 9), lambda a: a),
        ((6, 3, 8, 9), lambda a: a),
    ],
)
@pytest.mark.parametrize("ending", [".npy", ".npz", ".pt"])
def test_the_axis_of_the_channels_is_detected(shape, to_nchw, ending, tmp_path):
    array = draw(*shape)
    content = {".npy": array, ".npz": {"x": array}, ".pt": torch.from_numpy(array)}[ending]
    dataset = arrays(save(tmp_path / f"a{ending}", content))
    assert np.array_equal(everything(dataset), expected(to_nchw(array)))
    assert dataset.train.labels is None
    assert (len(dataset.train), len(dataset.test)) == (5, 1)


@pytest.mark.parametrize(
    ("shape", "message", "layouts"),
    [
        ((6, 3, 5, 3), "either the second or the last .* Write data.layout=n", {"nchw": (3, 5, 3), "nhwc": (3, 3, 5)}),
        ((6, 4, 5, 2), "neither the second nor the last", {"nchw": (4, 5, 2), "nhwc": (2, 4, 5)}),
        ((6, 5, 3), "one image, or 6 images 3 pixels wide.*data.layout=nhw", {"nhw": (1, 5, 3)}),
        ((6, 784), r"Save it with .reshape\(-1, HEIGHT, WIDTH\)", {}),
        ((6,), r"expected images \(N, H, W\)", {}),
        ((2, 2, 2, 2, 2), r"expected images \(N, H, W\)", {}),
        ((0, 5, 5), "holds no image", {}),
    ],
)  # fmt: skip
def test_an_ambiguous_shape_is_refused_with_advice(shape, message, layouts, tmp_path, cache):
    """Scenario 28: a wrong shape."""
    array = draw(*shape)
    path = save(tmp_path / "a.npy", array)
    with pytest.raises(zoo.DataError, match=message) as error:
        arrays(path)
    assert f"{path}: images has shape {shape}" in str(error.value)
    assert not cache.exists() or list(cache.iterdir()) == []
    for layout, shaped in layouts.items():
        dataset = arrays(path, layout=layout)
        assert dataset.shape == shaped
        axes = {"nhw": lambda a: a[:, None], "nhwc": lambda a: a.transpose(0, 3, 1, 2), "nchw": lambda a: a}[layout]
        assert np.array_equal(everything(dataset), expected(axes(array)))


def test_a_layout_that_does_not_fit_is_refused(tmp_path):
    path = save(tmp_path / "a.npy", draw(6, 8, 9))
    with pytest.raises(zoo.DataError, match=r"\(6, 8, 9\), and the layout nchw has 4 axes"):
        arrays(path, layout="nchw")


# --- numbers


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("ending", [".npy", ".pt"])
def test_floats_are_rounded_to_the_nearest_level(dtype, ending, tmp_path):
    levels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    x = (levels / 255).astype(dtype)
    dataset = arrays(save(tmp_path / f"a{ending}", x if ending == ".npy" else torch.from_numpy(x)))
    assert np.array_equal(everything(dataset), expected(levels[:, None]))
    between = np.full((2, 5, 5), 7.4 / 255, dtype=dtype)
    between[1] = 7.6 / 255
    assert everything(arrays(save(tmp_path / "b.npy", between)))[:, 0, 0, 0].tolist() == [7, 8]


def test_bfloat16_and_bits(tmp_path):
    dataset = arrays(
        save(tmp_path / "a.pt", torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).repeat(1, 1, 5, 5).bfloat16())
    )
    assert everything(dataset)[:, 0, 0, 0].tolist() == [0, 128, 255]
    bits = draw(6, 8, 9) > 127
    assert np.array_equal(
        everything(arrays(save(tmp_path / "b.npy", bits))), expected(255 * bits[:, None].astype(np.uint8))
    )


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1.01, -0.01, 1e30])
def test_the_first_invalid_number_is_named(value, tmp_path, cache, monkeypatch):
    """Scenario 28, for any order of the split and any chunk size."""
    x = np.random.default_rng(0).random((50, 4, 5, 3)).astype(np.float32)
    x[17, 2, 3, 1] = x[40] = value
    path = save(tmp_path / "a.npz", {"images": x})
    for chunk in (2**24, 100):
        monkeypatch.setattr("zoo_datasets.array_images.CHUNK", chunk)
        with pytest.raises(zoo.DataError, match="image 17 has the value") as error:
            arrays(path)
        assert (
            f"{path}: images: image 17 has the value {np.float32(value):g} at channel, row and column [1, 2, 3]"
            in str(error.value)
        )
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("x", "hint"),
    [(np.full((3, 4, 5), 200.0), "divide by 255"), (np.full((3, 1, 4, 5), -0.5), r"save \(x \+ 1\) / 2")],
)
def test_common_mistakes_are_recognised(x, hint, tmp_path):
    with pytest.raises(zoo.DataError, match=hint):
        arrays(save(tmp_path / "a.npy", x))


def test_rounding_errors_are_accepted(tmp_path):
    x = np.full((3, 4, 5), 1 + 2e-6, dtype=np.float32)
    x[1] = -1e-7
    assert everything(arrays(save(tmp_path / "a.npy", x)))[:, 0, 0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint16", "complex64", "U3", "datetime64[s]"])
def test_another_dtype_is_refused(dtype, tmp_path):
    """Scenario 28: a wrong dtype, even with valid numbers."""
    with pytest.raises(zoo.DataError, match=r"has dtype .*; expected uint8, bool, or floats in \[0, 1\]") as error:
        arrays(save(tmp_path / "a.npy", np.zeros((3, 4, 5)).astype(dtype)))
    assert ("astype(np.uint8)" in str(error.value)) == ("int" in dtype)


# --- names


PAIRS = {
    "x_train": ("x_train", "y_train", "x_test", "y_test"),
    "train_images": ("train_images", "train_labels", "test_images", "test_labels"),
}


@pytest.mark.parametrize("convention", PAIRS)
@pytest.mark.parametrize("ending", [".npz", ".pt"])
def test_an_existing_split_is_used(convention, ending, tmp_path):
    """The conventions of Keras's mnist.npz and of MedMNIST, whose labels are a column."""
    train, test = draw(7, 4, 5), draw(3, 4, 5)
    names = PAIRS[convention]
    content = dict(zip(names, (train, np.arange(7)[:, None], test, np.arange(3, dtype=np.uint8)), strict=True))
    content = content if ending == ".npz" else {name: torch.from_numpy(array) for name, array in content.items()}
    dataset = arrays(save(tmp_path / f"a{ending}", content))
    assert np.array_equal(dataset.train.x[:, 0].numpy(), train), "in their order"
    assert np.array_equal(dataset.test.x[:, 0].numpy(), test)
    assert dataset.train.labels.tolist() == list(range(7))
    assert dataset.test.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("names", [("x_val", "y_val"), ("val_images", "val_labels"), ("images_valid", "labels_valid")])
@pytest.mark.parametrize("tested", [True, False])
def test_a_validation_split_of_the_file_is_used(names, tested, tmp_path):
    validation = draw(4, 4, 5)
    content = {"x_train": draw(10, 4, 5), "y_train": np.arange(10), names[0]: validation, names[1]: np.arange(4)}
    content |= {"x_test": draw(3, 4, 5), "y_test": np.arange(3)} if tested else {}
    dataset = arrays(save(tmp_path / "a.npz", content), test_fraction=0.2)
    assert np.array_equal(dataset.validation.x[:, 0].numpy(), validation)
    assert dataset.validation.labels.tolist() == [0, 1, 2, 3]
    assert (len(dataset.train), len(dataset.test)) == ((10, 3) if tested else (8, 2))
    with pytest.raises(zoo.DataError, match="omit data.validation"):
        zoo.load_dataset(tmp_path / "a.npz", validation=2)


def test_labels_stay_with_their_images(tmp_path):
    images = np.arange(100, dtype=np.uint8)[:, None, None].repeat(5, 1).repeat(5, 2)
    labels = (np.arange(100) * 7 % 10).astype(np.int16)
    for file, content in (
        ("a.npz", {"images": images, "labels": labels}),
        ("b.npz", {"X": images, "Y": labels}),
        ("c.pt", (torch.from_numpy(images), torch.from_numpy(labels))),
        ("d.pt", {"data": torch.from_numpy(images), "targets": torch.from_numpy(labels), "note": "ignored"}),
    ):
        dataset = arrays(save(tmp_path / file, content))
        assert (len(dataset.train), len(dataset.test)) == (90, 10)
        for split in (dataset.train, dataset.test):
            assert split.labels.tolist() == (split.x[:, 0, 0, 0].long() * 7 % 10).tolist()


def test_explicit_names_and_missing_names(tmp_path):
    content = {"a": draw(6, 8, 9), "b": draw(6, 8, 9) // 2, "c": np.arange(6)}
    path = save(tmp_path / "a.npz", content)
    with pytest.raises(zoo.DataError, match="holds a, b, c. Select the images with data.images=NAME"):
        arrays(path)
    with pytest.raises(zoo.DataError, match="has no array 'd'. It holds a, b, c; write data.labels=NAME"):
        arrays(path, images="b", labels="d")
    dataset = arrays(path, images="b", labels="c")
    assert np.array_equal(everything(dataset), expected(content["b"][:, None]))
    assert sorted([*dataset.train.labels.tolist(), *dataset.test.labels.tolist()]) == list(range(6))
    split = arrays(path, images="a", test_images="b")
    assert (len(split.train), len(split.test), split.train.labels) == (6, 6, None)
    twice = save(tmp_path / "twice.npz", {"x": draw(6, 8, 9), "images": draw(6, 8, 9)})
    with pytest.raises(zoo.DataError, match="holds x and images. Select one with data.images=NAME"):
        arrays(twice)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, 2, -1, 1, -2]), "has the label -1 at 3; labels count from 0"),
        (
            np.zeros(5, dtype=np.int64),
            r"dtype int64 and shape \(5,\); the labels of 6 images are non-negative integers",
        ),
        (np.zeros((6, 10), dtype=np.int64), r"shape \(6, 10\)"),
        (np.zeros(6), "has dtype float64"),
    ],
)
def test_wrong_labels_are_refused(labels, message, tmp_path):
    with pytest.raises(zoo.DataError, match=f"labels .*{message}"):
        arrays(save(tmp_path / "a.npz", {"images": draw(6, 8, 9), "labels": labels}))


# --- files


class Attack:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_malicious_pickle_never_runs(tmp_path):
    """Scenario 32: an object array in .npy and .npz, a pickle called .npy, and one in .pt, in both of its formats."""
    mark = tmp_path / "attacked"
    attack = np.array([Attack(mark)], dtype=object)
    np.save(tmp_path / "a.npy", attack, allow_pickle=True)
    np.savez(tmp_path / "b.npz", images=attack)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Attack(mark)))
    torch.save(Attack(mark), tmp_path / "d.pt")
    torch.save(
        {"images": torch.zeros(3, 4, 5), "x": Attack(mark)}, tmp_path / "e.pt", _use_new_zipfile_serialization=False
    )
    for name in ("a.npy", "b.npz", "c.npy"):
        with pytest.raises(zoo.DataError, match=f"{name} holds Python objects, which are never unpickled"):
            arrays(str(tmp_path / name))
    for name in ("d.pt", "e.pt"):
        with pytest.raises(zoo.DataError, match=f"{name} is damaged, or holds objects other than tensors"):
            arrays(str(tmp_path / name))
    assert not mark.exists()


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    i = len(content) // 2
    return content[:i] + bytes([content[i] ^ 255]) + content[i + 1 :]


@pytest.mark.parametrize(
    "damage", [cut, lambda _: b"", lambda _: b"<html>not found</html>"], ids=["cut", "empty", "page"]
)
@pytest.mark.parametrize("ending", [".npy", ".npz", ".pt"])
def test_a_damaged_file_is_named(ending, damage, tmp_path):
    array = draw(6, 8, 9)
    path = save(tmp_path / f"a{ending}", {".npy": array, ".npz": {"x": array}, ".pt": torch.from_numpy(array)}[ending])
    Path(path).write_bytes(damage(Path(path).read_bytes()))
    with pytest.raises(zoo.DataError) as error:
        arrays(path)
    assert str(error.value).startswith(f"{path} ")


def test_a_flipped_bit_in_an_archive_is_detected(tmp_path):
    path = save(tmp_path / "a.npz", {"x": draw(60, 8, 9)})
    Path(path).write_bytes(flip(Path(path).read_bytes()))
    with pytest.raises(zoo.DataError, match=r"a\.npz is damaged"):
        arrays(path)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_files_without_tensors_are_refused(tmp_path):
    for content in ([], {}, {"a": 1}, 7, "text"):
        with pytest.raises(zoo.DataError, match="holds no tensors. Save it with torch.save"):
            arrays(save(tmp_path / "a.pt", content))
    with pytest.raises(zoo.DataError, match="holds nothing. Select"):
        arrays(save(tmp_path / "b.npz", {}))
    sparse = torch.eye(5).to_sparse()
    with pytest.raises(zoo.DataError, match="cannot be used as images"):
        arrays(save(tmp_path / "c.pt", sparse))


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(zoo.DataUnavailable, match=r"a\.npy does not exist"):
        arrays(str(tmp_path / "a.npy"))
    with pytest.raises(zoo.DataUnavailable, match="is not a file"):
        arrays(str(tmp_path))


def test_one_image(tmp_path):
    """Scenario 29."""
    with pytest.raises(zoo.DataError, match="one image; training and testing need at least two"):
        arrays(save(tmp_path / "a.npy", draw(1, 8, 9)))
    dataset = arrays(save(tmp_path / "b.npz", {"x_train": draw(1, 8, 9), "x_test": draw(1, 8, 9)}))
    assert (len(dataset.train), len(dataset.test)) == (1, 1)


# --- files that state more than they hold


def header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue()


@pytest.mark.parametrize("content", ["tensor", "bfloat16", "labels", "grey as colour"])
def test_an_expanded_tensor_is_refused_before_it_is_decoded(content, tmp_path, cache):
    """A file of 1.5 KB can hold a tensor of a terabyte."""
    terabyte = torch.zeros(1, dtype=torch.uint8).expand(10**6, 1000, 1000)
    small = torch.zeros(6, 5, 5, dtype=torch.uint8)
    contents = {
        "tensor": terabyte,
        "bfloat16": torch.zeros(1, dtype=torch.bfloat16).expand(10**6, 1000, 1000),
        "labels": {"images": small, "labels": torch.zeros(1, dtype=torch.int64).expand(10**12)},
        "grey as colour": small[:, None].expand(6, 3, 5, 5),
    }
    path = save(tmp_path / "a.pt", contents[content])
    assert Path(path).stat().st_size < 3000
    with pytest.raises(zoo.DataError, match="is an expanded view .*Save tensor.clone"):
        arrays(path)
    assert not cache.exists() or list(cache.iterdir()) == []


def test_views_without_repetition_are_read(tmp_path):
    array = draw(6, 3, 8, 9)
    views = {"permuted": torch.from_numpy(array).permute(0, 2, 3, 1), "sliced": torch.from_numpy(array)[::2]}
    assert len(arrays(save(tmp_path / "a.pt", views["permuted"])).train) == 5
    assert np.array_equal(everything(arrays(save(tmp_path / "b.pt", views["sliced"]))), expected(array[::2]))


@pytest.mark.parametrize("shape", [(10**6, 1000, 1000), (2**62, 2**62, 3), (10**18, 5, 5)])
@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_an_impossible_header_is_reported_as_damage(shape, ending, tmp_path):
    content = header(shape) + bytes(1000)
    path = tmp_path / f"a{ending}"
    if ending == ".npy":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", content)
    with pytest.raises(zoo.DataError, match=f"{path} is damaged"):
        arrays(str(path))


def test_a_compressed_array_that_does_not_fit_into_memory_is_refused_unread(tmp_path, monkeypatch):
    """The header gives the size: 100 MB, on a machine with 50 MB of memory."""
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, images=np.zeros((100, 1000, 1000), np.uint8))
    assert path.stat().st_size < 200_000
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 50_000_000}[name])
    with pytest.raises(zoo.DataError, match="takes 0.1 GB when it is decompressed, and this machine has 0.1 GB"):
        arrays(str(path))


def test_a_compressed_archive_called_pt_is_refused_unread(tmp_path):
    path = Path(save(tmp_path / "a.pt", torch.zeros(6, 1000, 1000, dtype=torch.uint8)))
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert path.stat().st_size < 20_000
    with pytest.raises(zoo.DataError, match=f"{path} is damaged or is not a .pt file: its entries claim 60"):
        arrays(str(path))


def test_the_index_of_each_image_in_the_file_is_recorded(tmp_path):
    array = draw(20, 4, 5)
    dataset = arrays(save(tmp_path / "a.npy", array))
    for split in (dataset.train, dataset.test):
        assert np.array_equal(split.x[:, 0].numpy(), array[split.index.numpy()])
    assert sorted([*dataset.train.index.tolist(), *dataset.test.index.tolist()]) == list(range(20))


# --- the split, and the cache


def test_the_split_depends_only_on_seed_and_index(tmp_path):
    images = np.arange(200, dtype=np.uint8)[:, None, None].repeat(5, 1).repeat(5, 2)

    def test_images(n: int, **options: Any) -> set[int]:
        dataset = arrays(save(tmp_path / f"{n}.npy", images[:n]), **options)
        test, train = (set(part.x[:, 0, 0, 0].tolist()) for part in (dataset.test, dataset.train))
        assert test | train == set(range(n))
        assert not test & train
        return test

    assert test_images(10, test_fraction=0.3) == {1, 6, 7}, "a change here mixes test images into everybody's training"
    assert len(test_images(200)) == 20
    assert test_images(200) != test_images(200, split_seed=1)
    assert len(test_images(200) - test_images(190)) <= 5


def test_a_file_is_read_once_and_again_after_a_change(tmp_path, monkeypatch, cache):
    array = draw(20, 8, 9)
    path = save(tmp_path / "a.npz", {"images": array, "labels": np.arange(20)})
    first = arrays(path)
    with monkeypatch.context() as patch:
        patch.setattr("zoo_datasets.array_file._member", lambda *_: pytest.fail("read again"))
        again = arrays(path, test_fraction=0.5)
        assert len(again.test) == 10
        assert arrays(path).sha256() == first.sha256()
    assert list(cache.iterdir()) == list(first.cache)
    save(tmp_path / "a.npz", {"images": array // 2, "labels": np.arange(20)})
    os.utime(path, ns=(0, 1))
    changed = arrays(path)
    assert np.array_equal(everything(changed), expected(array[:, None] // 2))
    assert changed.sha256() != first.sha256()


def test_an_array_larger_than_memory_is_mapped(tmp_path, monkeypatch):
    """A sparse file of 1 TB is refused by its header, without reading it."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (10**6, 400, 400)})
    with (tmp_path / "a.npy").open("wb") as out:
        out.write(header.getvalue())
        try:
            out.truncate(len(header.getvalue()) + 8 * 10**6 * 160000)
        except OSError as error:
            pytest.skip(f"no such file can be made here: {error}")
    with pytest.raises(zoo.DataError, match="has dtype int64"):
        arrays(str(tmp_path / "a.npy"))

from __future__ import annotations

import contextlib
import functools
import gc
import gzip
import hashlib
import http.client
import http.server
import logging
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

import zoo
from zoo.recipes.datasets import data_root, load_data
from zoo.recipes.schema import ComponentSpec
from zoo_datasets import mnist as family

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES = tuple(family.MNIST_MD5)
FAMILY = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
UNREACHABLE = "http://127.0.0.1:9/"


def write_idx(file: Path, array: np.ndarray) -> None:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    file.write_bytes(header + array.astype(np.uint8).tobytes())


def write_family(root: Path, name: str = "MNIST", train: int = 6, test: int = 3) -> Path:
    """Write four files with the correct structure, and return their folder."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for images, labels, n in ((TRAIN_IMAGES, TRAIN_LABELS, train), (TEST_IMAGES, TEST_LABELS, test)):
        write_idx(folder / images, draw.integers(0, 256, (n, 28, 28)))
        write_idx(folder / labels, draw.integers(0, 10, (n,)))
    return folder


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def load(name: str, root: Path, download: bool = False) -> zoo.Dataset:
    return load_data([ComponentSpec(use=name, download=download)], root).dataset


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Point every mirror to a closed local port, so that no test uses the network."""
    for name in FAMILY.values():
        monkeypatch.setattr(getattr(torchvision.datasets, name), "mirrors", [UNREACHABLE])
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def fake_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small MNIST with matching digests; returns the folder of its files."""
    folder = write_family(tmp_path)
    monkeypatch.setattr(family, "MNIST_MD5", {file: md5((folder / file).read_bytes()) for file in FILES})
    return folder


# --- digits


def test_the_digits_never_change():
    """A digest of all pixels and labels of both splits, in order."""
    dataset = load_data([ComponentSpec(use="digits")]).dataset
    assert (len(dataset.train), len(dataset.test), dataset.shape) == (1438, 359, (1, 8, 8))
    assert dataset.sha256() == "db523cbf4c49a82a2151586247e259e57e0ebc82e26a37fc53aa63a7247de15b"


def test_digits_fill_the_range_of_a_byte():
    dataset = load_data([ComponentSpec(use="digits")]).dataset
    for split in (dataset.train, dataset.test):
        assert split.x.dtype == torch.uint8
        levels = split.x.unique().tolist()
        assert levels == [round(level * 255 / 16) for level in range(17)]
        assert (levels[0], levels[-1]) == (0, 255)
        assert split.labels.unique().tolist() == list(range(10))


def test_every_digit_is_in_exactly_one_split():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(np.rint(images * 255 / 16).astype(np.uint8)).view(-1, 1, 8, 8)
    test = list(range(4, len(pixels), 5))
    train = sorted(set(range(len(pixels))) - set(test))
    dataset = load_data([ComponentSpec(use="digits")]).dataset
    for split, indices in ((dataset.train, train), (dataset.test, test)):
        assert torch.equal(split.x, pixels[indices])
        assert split.labels.tolist() == labels[indices].tolist()


def test_an_epoch_can_repeat_the_digits():
    once, thrice = (load_data([ComponentSpec(use="digits", repeat=n)]).dataset for n in (1, 3))
    assert torch.equal(thrice.train.x, torch.cat([once.train.x] * 3))
    assert torch.equal(thrice.train.labels, torch.cat([once.train.labels] * 3))
    assert torch.equal(thrice.test.x, once.test.x)
    with pytest.raises(zoo.RecipeError, match=r"data\.repeat"):
        zoo.recipe("mlp-vae", ["data={use: digits, repeat: 0}"])


# --- MNIST itself


@pytest.fixture(scope="module")
def mnist(mnist_root: Path) -> zoo.Dataset:
    return load("mnist", mnist_root)


def test_mnist_is_mnist(mnist):
    assert (len(mnist.train), len(mnist.test), mnist.shape) == (60000, 10000, (1, 28, 28))
    assert mnist.train.x.dtype == torch.uint8
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    x = mnist.train.x.double() / 255
    assert x.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert x.std().item() == pytest.approx(0.3081, abs=5e-5)


def test_the_images_are_upright(mnist):
    """The first 1 of the test set is taller than wide. A transposed MNIST would train equally well."""
    one = mnist.test.x[mnist.test.labels == 1][0, 0] > 127
    assert one.any(1).sum() > 2 * one.any(0).sum()


def test_a_flipped_bit_of_mnist_is_detected(mnist_root, tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for file in FILES:
        if file == TEST_LABELS:
            shutil.copy(mnist_root / "MNIST" / "raw" / file, folder)
        else:
            (folder / file).symlink_to((mnist_root / "MNIST" / "raw" / file).resolve())
    load("mnist", tmp_path)
    flip_a_bit(folder / TEST_LABELS)
    with pytest.raises(zoo.DataError, match=rf"{TEST_LABELS} is damaged: its MD5 is \w+, not 27ae3e4e"):
        load("mnist", tmp_path)


# --- damaged files


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def empty(file: Path) -> None:
    file.write_bytes(b"")


def cut_in_the_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:7])


def other_magic(file: Path) -> None:
    file.write_bytes(b"\0\0\x0d" + file.read_bytes()[3:])


def other_dimensions(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:3] + bytes([content[3] ^ 2]) + content[4:])


def still_packed(file: Path) -> None:
    file.write_bytes(gzip.compress(file.read_bytes()))


DAMAGE = {
    flip_a_bit: "is damaged: its MD5 is",
    cut: r"has \d+ bytes, and its header states \d+",
    lengthen: r"has \d+ bytes, and its header states \d+",
    empty: "is not an IDX file",
    cut_in_the_header: "is not an IDX file",
    other_magic: "is not an IDX file",
    other_dimensions: "is not an IDX file",
    still_packed: "is not an IDX file",
}


def test_undamaged_files_are_read(fake_mnist, tmp_path):
    dataset = load("mnist", tmp_path)
    assert (len(dataset.train), len(dataset.test), dataset.shape) == (6, 3, (1, 28, 28))


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named(file, damage, download, fake_mnist, tmp_path):
    """Scenario 26: torchvision checks only that a file exists."""
    damage(fake_mnist / file)
    with pytest.raises(zoo.DataError, match=DAMAGE[damage]) as error:
        load("mnist", tmp_path, download)
    assert not isinstance(error.value, zoo.DataUnavailable)
    assert str(fake_mnist / file) in str(error.value)
    assert "Delete it" in str(error.value)


@pytest.mark.parametrize("damage", [cut, flip_a_bit, empty])
def test_damage_is_reported_before_missing_files(damage, fake_mnist, mirror, tmp_path, monkeypatch):
    """Otherwise the fallback would treat damaged data as unavailable."""
    serve(fake_mnist, mirror, monkeypatch)
    damage(fake_mnist / TRAIN_IMAGES)
    (fake_mnist / TEST_LABELS).unlink()
    for download in (True, False):
        with pytest.raises(zoo.DataError, match=TRAIN_IMAGES) as error:
            load("mnist", tmp_path, download)
        assert not isinstance(error.value, zoo.DataUnavailable)


def test_files_whose_counts_disagree(tmp_path, monkeypatch):
    folder = write_family(tmp_path, "KMNIST")
    write_idx(folder / TRAIN_LABELS, np.zeros(5))
    with pytest.raises(zoo.DataError, match=r"Labels must be an int64 tensor of shape \(6,\)"):
        load("kmnist", tmp_path)


def test_files_without_an_image(tmp_path):
    folder = write_family(tmp_path, "KMNIST")
    write_idx(folder / TEST_IMAGES, np.zeros((0, 28, 28)))
    write_idx(folder / TEST_LABELS, np.zeros(0))
    with pytest.raises(zoo.DataError, match="The data have no entries"):
        load("kmnist", tmp_path)


def test_only_verified_files_are_read(fake_mnist, tmp_path):
    """torchvision prefers the folder ``processed`` of its versions before 2021, which is not verified."""
    expected = load("mnist", tmp_path).sha256()
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir()
    for file in ("training.pt", "test.pt"):
        torch.save((torch.zeros(3, 28, 28, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)), processed / file)
    assert load("mnist", tmp_path).sha256() == expected


# --- the rest of the family


@pytest.mark.parametrize("name", FAMILY)
def test_every_pixel_and_label_is_read_from_the_files(name, tmp_path, monkeypatch):
    """Fashion-MNIST and KMNIST have their own folders and no digests; their structure is checked."""
    folder = write_family(tmp_path, FAMILY[name])
    monkeypatch.setattr(family, "MNIST_MD5", {file: md5((folder / file).read_bytes()) for file in FILES})
    dataset = load(name, tmp_path)
    for split, images, labels in (
        (dataset.train, TRAIN_IMAGES, TRAIN_LABELS),
        (dataset.test, TEST_IMAGES, TEST_LABELS),
    ):
        pixels = np.frombuffer((folder / images).read_bytes()[16:], np.uint8).reshape(-1, 1, 28, 28)
        assert np.array_equal(split.x.numpy(), pixels)
        assert split.labels.tolist() == list((folder / labels).read_bytes()[8:])
        assert (split.x.dtype, split.labels.dtype) == (torch.uint8, torch.int64)


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist"])
def test_a_truncated_file_of_the_family_is_named(name, tmp_path):
    folder = write_family(tmp_path, FAMILY[name])
    cut(folder / TEST_IMAGES)
    with pytest.raises(zoo.DataError, match=f"{FAMILY[name]}/raw/{TEST_IMAGES} has 2367 bytes"):
        load(name, tmp_path)


# --- missing files


@pytest.mark.parametrize("name", FAMILY)
def test_missing_files_are_not_downloaded_by_default(name, tmp_path):
    with pytest.raises(zoo.DataUnavailable, match=f"{TRAIN_IMAGES}, .*{TEST_LABELS} not in .*{FAMILY[name]}/raw"):
        load(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_missing_file_is_named(fake_mnist, tmp_path):
    (fake_mnist / TEST_LABELS).unlink()
    with pytest.raises(zoo.DataUnavailable) as error:
        load("mnist", tmp_path)
    assert TEST_LABELS in str(error.value)
    assert TRAIN_IMAGES not in str(error.value)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("timeout", [None, 77.0])
def test_a_failed_download_is_reported_at_once(name, timeout, tmp_path, capfd):
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)
    try:
        start = time.monotonic()
        with pytest.raises(
            zoo.DataUnavailable, match=f"Not in .*{FAMILY[name]}/raw, and the download failed .*refused"
        ):
            load(name, tmp_path, download=True)
        assert time.monotonic() - start < 5
        assert socket.getdefaulttimeout() == timeout
    finally:
        socket.setdefaulttimeout(before)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (TimeoutError("timed out"), "timed out"),
        (OSError(28, "No space left on device"), "No space left"),
        (http.client.IncompleteRead(b"half"), "IncompleteRead"),
        (http.client.BadStatusLine("garbage"), "garbage"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
)
def test_every_network_failure_is_unavailable(failure, reason, tmp_path, monkeypatch, capsys):
    def download(self: object) -> None:
        print("as torchvision's older versions did")
        raise failure

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    with pytest.raises(zoo.DataUnavailable, match=reason):
        load("mnist", tmp_path, download=True)
    assert capsys.readouterr().out == "", "stdout is for results"


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A local web server: its address and its folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", folder
        server.shutdown()
        thread.join()


def serve(folder: Path, mirror: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve the compressed files of `folder` as MNIST."""
    address, served = mirror
    resources = []
    for file in FILES:
        packed = gzip.compress((folder / file).read_bytes())
        (served / f"{file}.gz").write_bytes(packed)
        resources.append((f"{file}.gz", md5(packed)))
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [UNREACHABLE, address])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)


def test_missing_files_are_downloaded_once(fake_mnist, mirror, tmp_path, monkeypatch, capfd):
    serve(fake_mnist, mirror, monkeypatch)
    root = tmp_path / "fetched" / "here"
    dataset = load("mnist", root, download=True)
    assert dataset.sha256() == load("mnist", tmp_path).sha256()
    assert capfd.readouterr().out == ""

    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [UNREACHABLE])
    assert load("mnist", root, download=True).sha256() == dataset.sha256()
    assert load("mnist", root, download=False).sha256() == dataset.sha256()


def test_only_missing_files_are_downloaded(fake_mnist, mirror, tmp_path, monkeypatch):
    serve(fake_mnist, mirror, monkeypatch)
    expected = load("mnist", tmp_path).sha256()
    (fake_mnist / TEST_LABELS).unlink()
    assert load("mnist", tmp_path, download=True).sha256() == expected


@pytest.mark.parametrize("damage", [cut, flip_a_bit])
def test_an_archive_damaged_in_transit_is_not_unpacked(damage, fake_mnist, mirror, tmp_path, monkeypatch):
    serve(fake_mnist, mirror, monkeypatch)
    damage(mirror[1] / f"{TRAIN_LABELS}.gz")
    root = tmp_path / "fetched"
    with pytest.raises(zoo.DataUnavailable, match="the download failed"):
        load("mnist", root, download=True)
    assert not (root / "MNIST" / "raw" / TRAIN_LABELS).exists()


def test_a_web_page_instead_of_the_archive(fake_mnist, mirror, tmp_path, monkeypatch):
    """A captive portal answers every request with 200 and its own page."""
    serve(fake_mnist, mirror, monkeypatch)
    for file in FILES:
        (mirror[1] / f"{file}.gz").write_text("<html>Please log in</html>")
    with pytest.raises(zoo.DataUnavailable, match="the download failed"):
        load("mnist", tmp_path / "fetched", download=True)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_mirror_without_the_file(fake_mnist, mirror, tmp_path, monkeypatch):
    serve(fake_mnist, mirror, monkeypatch)
    (mirror[1] / f"{TEST_IMAGES}.gz").unlink()
    with pytest.raises(zoo.DataUnavailable, match="404"):
        load("mnist", tmp_path / "fetched", download=True)
    gc.collect()  # torchvision does not close the response


# --- the first available choice


@contextlib.contextmanager
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    caplog.clear()
    messages: list[str] = []
    with caplog.at_level(logging.WARNING, "zoo"):
        yield messages
    messages += [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_the_fallback_to_digits_is_logged(tmp_path, caplog):
    choices = [ComponentSpec(use="mnist"), ComponentSpec(use="kmnist", download=False), ComponentSpec(use="digits")]
    with logged(caplog) as warned:
        loaded = load_data(choices, tmp_path)
    assert loaded.spec.use == "digits"
    assert len(loaded.dataset.train) == 1438
    assert len(loaded.passed_over) == len(warned) == 2
    for name, reason, warning in zip(("mnist", "kmnist"), loaded.passed_over, warned, strict=True):
        assert reason.startswith(f"{name} is not available: ")
        assert warning == f"{reason} Using digits instead."


def test_the_first_available_choice_is_used(fake_mnist, tmp_path, caplog):
    with logged(caplog) as warned:
        loaded = load_data([ComponentSpec(use="mnist"), ComponentSpec(use="digits")], tmp_path)
    assert (loaded.spec.use, len(loaded.dataset.train), loaded.passed_over, warned) == ("mnist", 6, (), [])


def test_an_explicit_choice_never_falls_back(tmp_path):
    with pytest.raises(zoo.DataUnavailable, match=r"No data set is available\.\n  mnist is not available: .*refused"):
        load_data([ComponentSpec(use="mnist")], tmp_path)
    with pytest.raises(zoo.DataUnavailable, match="mnist is not available"):
        zoo.train("mlp-vae", data="mnist", data_dir=tmp_path, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists(), "nothing has been written"


@pytest.mark.parametrize("damage", [cut, flip_a_bit])
def test_damaged_data_are_never_skipped(damage, fake_mnist, tmp_path):
    damage(fake_mnist / TEST_IMAGES)
    with pytest.raises(zoo.DataError, match=TEST_IMAGES) as error:
        load_data([ComponentSpec(use="mnist"), ComponentSpec(use="digits")], tmp_path)
    assert not isinstance(error.value, zoo.DataUnavailable)


def test_a_fallback_is_recorded_in_the_run(tmp_path):
    run = zoo.train("mlp-vae", ["data=[mnist, digits]"], data_dir=tmp_path, out=tmp_path / "runs", epochs=1)
    recorded = run.environment["data"]
    assert recorded["name"] == "digits"
    assert recorded["passed_over"][0].startswith("mnist is not available: ")
    assert [block.use for block in run.recipe.data] == ["digits"], "the recipe beside the run names what was used"


# --- the data folder


def test_the_default_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_root() == tmp_path / "mine"
    monkeypatch.delenv("ZOO_DATA")
    assert data_root() == tmp_path / "cache" / "vae-zoo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data_root() == tmp_path / "home" / ".cache" / "vae-zoo"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert data_root() == tmp_path / "home" / ".cache" / "vae-zoo", "the XDG standard: empty is as good as unset"


def test_the_data_folder_of_the_environment_is_used(fake_mnist, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    assert load_data([ComponentSpec(use="mnist", download=False)]).spec.use == "mnist"
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(zoo.DataUnavailable):
        load_data([ComponentSpec(use="mnist", download=False)])
    assert load_data([ComponentSpec(use="mnist", download=False)], tmp_path).spec.use == "mnist", (
        "an argument comes first"
    )


def test_the_root_cannot_be_set_in_a_recipe():
    with pytest.raises(zoo.RecipeError, match="is set by the zoo"):
        zoo.recipe("mlp-vae", ["data=[{use: mnist, root: /tmp}]"])

"""The MNIST family: torchvision fetches the files; here they are checked before anybody trusts them, and read."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import math
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from zoo import DataError, Dataset, DataUnavailable, Images

# torchvision knows the digests of the archives only; these are of the unpacked files.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
UNKNOWN_MD5 = dict.fromkeys(MNIST_MD5)
NETWORK_TIMEOUT = 30.0  # seconds without an answer


def mnist(root: Path, download: bool = True) -> Dataset:
    """The handwritten digits of MNIST: 60000 to train on, 10000 to test on.

    Args:
        root: the folder that holds ``MNIST/raw``.
        download: fetch the files that are absent.

    Raises:
        DataUnavailable: files are absent and were not fetched.
        DataError: a file is truncated or altered; the message names it.
    """
    return _load("MNIST", root, download, MNIST_MD5)


def fashion_mnist(root: Path, download: bool = True) -> Dataset:
    """Fashion-MNIST (arXiv 1708.07747), in ``FashionMNIST/raw``; otherwise as `mnist`."""
    return _load("FashionMNIST", root, download, UNKNOWN_MD5)


def kmnist(root: Path, download: bool = True) -> Dataset:
    """Kuzushiji-MNIST (arXiv 1812.01718), in ``KMNIST/raw``; otherwise as `mnist`."""
    return _load("KMNIST", root, download, UNKNOWN_MD5)


def _load(name: str, root: Path, download: bool, digests: Mapping[str, str | None]) -> Dataset:
    folder = root / name / "raw"
    absent = [file for file in digests if not (folder / file).exists()]
    # Before any download: data that are damaged must not pass for data that cannot be had.
    parts = {file: _read(folder / file, md5) for file, md5 in digests.items() if file not in absent}
    if absent and not download:
        raise DataUnavailable(f"{', '.join(absent)} not in {folder}, and `download` is off.")
    if absent:
        import torchvision

        with _fetching(name, folder):
            getattr(torchvision.datasets, name)(root, download=True)
        parts.update({file: _read(folder / file, digests[file]) for file in absent})
    train_images, train_labels, test_images, test_labels = (parts[file] for file in digests)
    return Dataset(train=_split(train_images, train_labels), test=_split(test_images, test_labels))


def _split(images: Tensor, labels: Tensor) -> Images:
    return Images(images.unsqueeze(1), labels.to(torch.int64))


@contextlib.contextmanager
def _fetching(name: str, folder: Path) -> Iterator[None]:
    """Bound the wait, keep the progress off stdout, and say in one line why it failed."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise DataUnavailable(f"It is not in {folder} and could not be fetched ({reason}).") from error
    finally:
        socket.setdefaulttimeout(timeout)


def _read(file: Path, md5: str | None) -> Tensor:
    """The bytes of an IDX file, compared with its own header, and with its digest where that is known."""
    content = file.read_bytes()
    advice = "Delete it, and it is fetched again."
    dimensions = int(file.name.rpartition("idx")[2][0])
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, 0x08, dimensions]):
        raise DataError(
            f"{file} is no IDX file of bytes in {dimensions} dimensions: its first bytes are wrong. {advice}"
        )
    sizes = struct.unpack(f">{dimensions}I", content[4:header])
    expected = header + math.prod(sizes)
    if len(content) != expected:
        raise DataError(f"{file} has {len(content)} bytes where its header announces {expected}: truncated? {advice}")
    if md5 is not None and (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
        raise DataError(f"{file} is damaged: its MD5 is {found}, not {md5}. {advice}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[header:].view(sizes)

"""The MNIST family: images and labels in IDX files."""

from __future__ import annotations

import math
import string
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from zoo import DataError, Dataset, Split
from zoo_datasets.files import check_md5, gather

# Of the unpacked files; torchvision has only those of the archives.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
UNKNOWN_MD5 = dict.fromkeys(MNIST_MD5)


def mnist(root: Path, download: bool = True) -> Dataset:
    """The handwritten digits of MNIST: 60000 training and 10000 test images.

    Args:
        root: the folder that holds ``MNIST/raw``.
        download: download missing files.

    Raises:
        DataUnavailable: files are missing and were not downloaded.
        DataError: a file is truncated or altered; the message names it.
    """
    return _load("MNIST", root, download, MNIST_MD5)


def fashion_mnist(root: Path, download: bool = True) -> Dataset:
    """Fashion-MNIST (arXiv 1708.07747), in ``FashionMNIST/raw``; see `mnist`."""
    return _load("FashionMNIST", root, download, UNKNOWN_MD5)


def kmnist(root: Path, download: bool = True) -> Dataset:
    """Kuzushiji-MNIST (arXiv 1812.01718), in ``KMNIST/raw``; see `mnist`."""
    return _load("KMNIST", root, download, UNKNOWN_MD5)


def emnist(
    root: Path,
    split: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"] = "balanced",
    download: bool = True,
) -> Dataset:
    """EMNIST (arXiv 1702.05373), handwritten letters and digits, in ``EMNIST/raw``; see `mnist`.

    The files hold transposed images; here they are upright.

    Args:
        root: the folder that holds ``EMNIST/raw``.
        split: one of its six data sets: 62 classes; 47 classes, with similar letters merged; the same with classes of
            equal size; the 26 letters; the 10 digits; as many digits as in MNIST.
        download: download missing files (an archive of 0.5 GB with all six data sets).
    """
    files = dict.fromkeys(f"emnist-{split}-{name.replace('t10k', 'test')}" for name in MNIST_MD5)
    dataset = _load("EMNIST", root, download, files, split=split)
    first = 1 if split == "letters" else 0  # labels of letters start at 1
    train, test = (
        Split(part.x.mT.contiguous(), None if part.labels is None else part.labels - first)
        for part in (dataset.train, dataset.test)
    )
    return Dataset(train, test, label_names=tuple(_characters(split)))


def _characters(split: str) -> str:
    """The characters of a split of EMNIST, in the order of their labels."""
    digits, upper, lower = string.digits, string.ascii_uppercase, string.ascii_lowercase
    return {
        "byclass": digits + upper + lower,
        "bymerge": digits + upper + "abdefghnqrt",
        "balanced": digits + upper + "abdefghnqrt",
        "letters": lower,
    }.get(split, digits)


def _load(name: str, root: Path, download: bool, digests: Mapping[str, str | None], **options: str) -> Dataset:
    def fetch() -> None:
        import torchvision

        getattr(torchvision.datasets, name)(root, download=True, **options)

    parts = gather(
        root, f"{name}/raw", digests, lambda file: _read(file, digests[file.name]), fetch if download else None
    )
    train_images, train_labels, test_images, test_labels = parts.values()
    return Dataset(train=_split(train_images, train_labels), test=_split(test_images, test_labels))


def _split(images: Tensor, labels: Tensor) -> Split:
    return Split(images.unsqueeze(1), labels.to(torch.int64))


def _read(file: Path, md5: str | None) -> Tensor:
    """Read an IDX file of bytes, and verify its size and its digest."""
    content = file.read_bytes()
    advice = "Delete it to download it again."
    dimensions = int(file.name.rpartition("idx")[2][0])
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, 0x08, dimensions]):
        raise DataError(
            f"{file} is not an IDX file of bytes in {dimensions} dimensions: its first bytes are wrong. {advice}"
        )
    sizes = struct.unpack(f">{dimensions}I", content[4:header])
    expected = header + math.prod(sizes)
    if len(content) != expected:
        raise DataError(f"{file} has {len(content)} bytes, and its header states {expected}. {advice}")
    check_md5(file, content, md5)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[header:].view(sizes)

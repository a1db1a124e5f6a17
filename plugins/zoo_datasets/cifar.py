"""CIFAR-10: pickles, which are opened only once their digests are known to be the right ones."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo import DataError, Dataset, Split
from zoo_datasets.files import check_md5, gather

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(root: Path, download: bool = True) -> Dataset:
    """CIFAR-10: 50000 colour images of 32x32 to train on and 10000 to test on, of ten kinds of things.

    Args:
        root: the folder that holds ``cifar-10-batches-py``.
        download: fetch the files that are absent.

    Raises:
        DataUnavailable: files are absent and were not fetched.
        DataError: a file is not the one that everybody has; the message names it. It is not opened then.
    """
    from torchvision.datasets import CIFAR10

    md5 = dict([*CIFAR10.train_list, *CIFAR10.test_list])
    parts = gather(
        root,
        CIFAR10.base_folder,
        md5,
        lambda file: _batch(file, check_md5(file, file.read_bytes(), md5[file.name])),
        (lambda: CIFAR10(root, download=True)) if download else None,
    )
    batches = list(parts.values())
    train = len(CIFAR10.train_list)
    return Dataset(_joined(batches[:train]), _joined(batches[train:]), label_names=CLASSES)


def _joined(batches: Sequence[Split]) -> Split:
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return Split(torch.cat([batch.x for batch in batches]), torch.cat(labels))


def _batch(file: Path, content: bytes) -> Split:
    """A batch from the bytes whose digest has been compared: the file may be another one by now."""
    batch = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    pixels = torch.from_numpy(np.array(batch["data"], dtype=np.uint8)).view(-1, 3, 32, 32)
    return Split(pixels, torch.tensor(batch["labels"], dtype=torch.int64))


class _Unpickler(pickle.Unpickler):
    """Makes arrays of bytes and nothing else, should somebody find another file of the same MD5."""

    def find_class(self, module: str, name: str) -> Any:
        """The three names that Python 2 and its numpy wrote."""
        made = {
            ("numpy.core.multiarray", "_reconstruct"): lambda kind, shape, code: kind(shape, code),
            ("numpy", "ndarray"): np.ndarray,
            # Newer versions of numpy warn of the integers that old ones gave as flags.
            ("numpy", "dtype"): lambda code, *flags: np.dtype(code),
        }.get((module, name))
        if made is None:
            raise DataError(f"A batch of CIFAR-10 wants to run {module}.{name}, which has no business there.")
        return made

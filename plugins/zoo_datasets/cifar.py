"""CIFAR-10. Its files are pickles, which are read only after their digests are verified."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo import DataError, Dataset, Split
from zoo_datasets.augment import Augmentation, augmentation
from zoo_datasets.files import check_md5, gather

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(root: Path, download: bool = True, augment: Sequence[Augmentation] = ()) -> Dataset:
    """CIFAR-10: 50000 training and 10000 test images, 32x32 colour, of ten classes.

    Args:
        root: the folder that holds ``cifar-10-batches-py``.
        download: download missing files.
        augment: changes of training images, as in `folder`.

    Raises:
        DataUnavailable: files are missing and were not downloaded.
        DataError: the digest of a file is wrong; the message names it.
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
    return Dataset(
        _concatenate(batches[:train]), _concatenate(batches[train:]), label_names=CLASSES, augment=augmentation(augment)
    )


def _concatenate(batches: Sequence[Split]) -> Split:
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return Split(torch.cat([batch.x for batch in batches]), torch.cat(labels))


def _batch(file: Path, content: bytes) -> Split:
    """Read a batch from the bytes whose digest was verified. The file itself may have changed since."""
    batch = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    pixels = torch.from_numpy(np.array(batch["data"], dtype=np.uint8)).view(-1, 3, 32, 32)
    return Split(pixels, torch.tensor(batch["labels"], dtype=torch.int64))


class _Unpickler(pickle.Unpickler):
    """Creates only arrays, in case of a malicious file with the same MD5."""

    def find_class(self, module: str, name: str) -> Any:
        """Resolve the three names that Python 2 and its numpy wrote."""
        constructor = {
            ("numpy.core.multiarray", "_reconstruct"): lambda kind, shape, code: kind(shape, code),
            ("numpy", "ndarray"): np.ndarray,
            # New versions of numpy warn about integer flags of old ones.
            ("numpy", "dtype"): lambda code, *flags: np.dtype(code),
        }.get((module, name))
        if constructor is None:
            raise DataError(f"A CIFAR-10 batch refers to {module}.{name}, which is not allowed.")
        return constructor

"""Street View House Numbers, in MATLAB files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from zoo import Dataset, Split
from zoo_datasets.augment import Augmentation, augmentation
from zoo_datasets.files import check_md5, gather


def svhn(root: Path, download: bool = True, augment: Sequence[Augmentation] = ()) -> Dataset:
    """House numbers cropped to single digits: 73257 training and 26032 test images, 32x32 colour.

    Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, 2011. The files label the
    digit 0 as 10; here its label is 0.

    Args:
        root: the folder that holds ``train_32x32.mat`` and ``test_32x32.mat``.
        download: download missing files.
        augment: changes of training images, as in `folder`.

    Raises:
        DataUnavailable: files are missing and were not downloaded.
        DataError: the digest of a file is wrong; the message names it.
    """
    from torchvision.datasets import SVHN

    splits = {file: (split, md5) for split, (_, file, md5) in SVHN.split_list.items() if split in ("train", "test")}

    def fetch() -> None:
        for file, (split, _) in splits.items():
            if not (root / file).exists():
                SVHN(root, split, download=True)

    parts = gather(
        root,
        "",
        splits,
        lambda file: _read(check_md5(file, file.read_bytes(), splits[file.name][1])),
        fetch if download else None,
    )
    train, test = parts.values()
    return Dataset(train, test, augment=augmentation(augment))


def _read(content: bytes) -> Split:
    from scipy.io import loadmat

    arrays = loadmat(io.BytesIO(content), variable_names=("X", "y"))
    pixels = np.ascontiguousarray(arrays["X"].transpose(3, 2, 0, 1))  # from (H, W, C, N)
    return Split(torch.from_numpy(pixels), torch.from_numpy(arrays["y"].reshape(-1).astype(np.int64) % 10))

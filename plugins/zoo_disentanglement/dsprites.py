"""The dSprites data set, from the downloaded file."""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from zoo import DataError, Dataset, DataUnavailable
from zoo_datasets import cached_images

FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
SOURCE = "https://github.com/google-deepmind/dsprites-dataset"
NAMES = ("shape", "scale", "orientation", "x", "y")
LABELS = ("square", "ellipse", "heart")
READ_ERRORS = (KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
VERSION = 1  # change it whenever the cached pixels change


def dsprites(root: Path, images: PositiveInt | None = None) -> Dataset:
    """Binary 64x64 sprites with factors shape (3), scale (6), orientation (40), x and y (32 each); the label is the
    shape (Matthey et al. 2017).

    The images are in a fixed random order. The first tenth are the test split; there is no official one, and many
    papers train and evaluate on all images. Unpacking the archive needs 3 GB of temporary space, once; the images are
    then memory-mapped from the user's cache.

    Args:
        root: folder that contains the file, directly or in a folder ``dsprites``.
        images: number of images, the first in that order; all 737280 by default, which take 3 GB in the cache.

    Raises:
        DataUnavailable: the file does not exist.
        DataError: the file is damaged or has unexpected contents.
    """
    file = next((path for path in (root / FILE, root / "dsprites" / FILE) if path.is_file()), None)
    if file is None:
        raise DataUnavailable(f"{FILE} is not in {root}. Download it from {SOURCE}.")
    table = _factors(file)
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:images]
    status = file.stat()
    key = f"dsprites {VERSION} {file.resolve()} {status.st_size} {status.st_mtime_ns} {len(order)}"
    cache = cached_images(key, _sprites(file, len(table), order))
    factors = table[order]
    n = max(1, len(order) // 10)
    test, train = (
        replace(cache.part(start, stop), labels=factors[start:stop, 0].clone(), factors=factors[start:stop])
        for start, stop in ((0, n), (n, len(cache)))
    )
    return Dataset(train=train, test=test, factor_names=NAMES, label_names=LABELS, cache=(cache.file,))


def _factors(file: Path) -> Tensor:
    """Factor values as indices, int64 (N, 5). The sixth factor of the file, colour, is constant and left out."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open("latents_classes.npy") as member:
            # The pickled metadata of the file are never read.
            classes = np.lib.format.read_array(member, allow_pickle=False)
    except READ_ERRORS as error:
        raise _damaged(file, error) from error
    if classes.ndim != 2 or classes.shape[1] != 1 + len(NAMES) or classes.dtype != np.int64:
        raise _damaged(file, f"latents_classes is {classes.dtype} of shape {classes.shape}")
    return torch.from_numpy(classes[:, 1:].copy())


def _sprites(file: Path, count: int, order: Tensor) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the images in the given order from an unpacked, memory-mapped copy."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(file) as archive:
                sprites = np.load(archive.extract("imgs.npy", folder), mmap_mode="r", allow_pickle=False)
        except READ_ERRORS as error:
            raise _damaged(file, error) from error
        except OSError as error:
            raise DataError(
                f"{file} cannot be unpacked: {error}. Set TMPDIR to a folder with 3 GB of free space."
            ) from error
        if sprites.shape != (count, 64, 64) or sprites.dtype != np.uint8:
            raise _damaged(file, f"imgs is {sprites.dtype} of shape {sprites.shape}")
        for index in order.tolist():
            yield sprites[index][None] * np.uint8(255), index


def _damaged(file: Path, why: object) -> DataError:
    return DataError(f"{file} is damaged ({why}). Download it again from {SOURCE}.")

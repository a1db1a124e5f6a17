"""dSprites, from its one file where the user has it."""

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
BROKEN = (KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
VERSION = 1  # of what the cache holds


def dsprites(root: Path, images: PositiveInt | None = None) -> Dataset:
    """Sprites of known shape (3), scale (6), orientation (40), x and y (32 each), 64x64, black or white (Matthey et
    al., 2017). The label is the shape.

    The images are in a random order that is always the same: the first tenth are test images, the others to train on.
    There is no official split; much published work trains and measures on all. The archive is unpacked once, for which
    a temporary folder must hold 3 GB; what is asked for goes to the user's cache, from where it is mapped.

    Args:
        root: the folder that holds the file, itself or in a folder ``dsprites``.
        images: the first so many in that order; by default all 737280, which take 3 GB in the cache.

    Raises:
        DataUnavailable: the file is not there.
        DataError: it is damaged, or is not what it should be.
    """
    file = next((found for found in (root / FILE, root / "dsprites" / FILE) if found.is_file()), None)
    if file is None:
        raise DataUnavailable(f"{FILE} is not in {root}. Get it from {SOURCE} and put it there.")
    table = _factors(file)
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:images]
    status = file.stat()
    key = f"dsprites {VERSION} {file.resolve()} {status.st_size} {status.st_mtime_ns} {len(order)}"
    kept = cached_images(key, _sprites(file, len(table), order))
    factors = table[order]
    n = max(1, len(order) // 10)
    test, train = (
        replace(kept.part(start, stop), labels=factors[start:stop, 0].clone(), factors=factors[start:stop])
        for start, stop in ((0, n), (n, len(kept)))
    )
    return Dataset(train=train, test=test, factor_names=NAMES, label_names=LABELS, cache=(kept.file,))


def _factors(file: Path) -> Tensor:
    """The number of its value for each image and factor, without the colour, of which there is one."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open("latents_classes.npy") as stored:
            # Nothing in the file is unpickled; its metadata, which are pickled, stay unread.
            classes = np.lib.format.read_array(stored, allow_pickle=False)
    except BROKEN as error:
        raise _damaged(file, error) from error
    if classes.ndim != 2 or classes.shape[1] != 1 + len(NAMES) or classes.dtype != np.int64:
        raise _damaged(file, f"latents_classes is {classes.dtype} of shape {classes.shape}")
    return torch.from_numpy(classes[:, 1:].copy())


def _sprites(file: Path, count: int, order: Tensor) -> Iterator[tuple[np.ndarray, int]]:
    """The images in an order, from an unpacked copy, so that they never lie in memory together."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(file) as archive:
                sprites = np.load(archive.extract("imgs.npy", folder), mmap_mode="r", allow_pickle=False)
        except BROKEN as error:
            raise _damaged(file, error) from error
        except OSError as error:
            raise DataError(
                f"{file} cannot be unpacked: {error}. TMPDIR must name a folder that holds 3 GB."
            ) from error
        if sprites.shape != (count, 64, 64) or sprites.dtype != np.uint8:
            raise _damaged(file, f"imgs is {sprites.dtype} of shape {sprites.shape}")
        for index in order.tolist():
            yield sprites[index][None] * np.uint8(255), index


def _damaged(file: Path, why: object) -> DataError:
    return DataError(f"{file} is damaged ({why}). Get it again from {SOURCE}.")

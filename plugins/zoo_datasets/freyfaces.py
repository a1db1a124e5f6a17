"""The Frey faces: frames of one film of a face."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from pydantic import NonNegativeInt

from zoo import DataError, Dataset, Split
from zoo_datasets.files import gather

FILE = "freyfaces.npz"
SHAPE = (1965, 1, 28, 20)
SIZES = (1565, 200, 200)


def freyfaces(root: Path, split_seed: NonNegativeInt = 0) -> Dataset:
    """1965 grey images of 28x20 pixels, shuffled and split into 1565 to train, 200 to validate and 200 to test on.

    The sizes are those of arXiv 1705.07120, whose published code shuffles without a fixed seed. The file is not
    downloaded: save the array of the public ``frey_rawface.mat`` as ``x`` in ``images/freyfaces.npz``.

    Args:
        root: the folder that holds ``images/freyfaces.npz``.
        split_seed: of the shuffle.

    Raises:
        DataUnavailable: the file is absent.
        DataError: the file is damaged or holds another array; the message names it.
    """
    x = gather(root, "images", [FILE], _read, fetch=None)[FILE]
    order = np.random.RandomState(split_seed).permutation(len(x))
    train, validation, test = (
        Split(torch.from_numpy(x[index]), index=torch.from_numpy(index).to(torch.int64))
        for index in np.split(order, np.cumsum(SIZES)[:-1])
    )
    return Dataset(train, test, validation)


def _read(file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The images in a file, uint8 (1965, 1, 28, 20).

    Raises:
        DataError: see `freyfaces`.
    """
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as content:
            x: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = content["x"]
    except (ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{file} cannot be read as an .npz file with an array 'x': {error}") from error
    if x.dtype != np.uint8 or x.shape != SHAPE:
        raise DataError(f"{file}: expected 'x' to be uint8 of shape {SHAPE}, got {x.dtype} of shape {x.shape}.")
    return x

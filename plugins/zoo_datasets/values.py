"""Arrays that are not images: numbers of any shape, with NaN where they are missing, and codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from zoo import Column, DataError, Split
from zoo_datasets.array_file import Array
from zoo_datasets.array_images import SLACK

ArrayModality = Literal["auto", "image", "vector", "sequence"]
CHUNK = 2**24  # values inspected at a time
LARGEST_CODE = 2**24  # above it, float32 does not represent all integers


def modality_of(array: Array) -> Literal["image", "vector", "sequence"]:
    """What an array holds, by its shape, dtype and values.

    Two axes are vectors if they hold floats, and sequences of codes if they hold integers other than uint8. Floats
    with three axes are images if they are in [0, 1] or levels from 0 to 255, and sequences (N, C, L) otherwise. Other
    arrays with three or four axes are images.

    >>> modality_of(np.zeros((5, 3))), modality_of(np.zeros((5, 8, 8))), modality_of(np.full((5, 2, 8), -0.5))
    ('vector', 'image', 'sequence')
    """
    if array.dtype == np.uint8:
        return "image"
    if array.ndim == 2:
        return "sequence" if is_code_array(array) else "vector"
    if array.ndim == 3 and array.dtype.kind == "f" and array.size and not _is_image(array):
        return "sequence"
    return "image" if array.ndim < 5 else "vector"


def _is_image(array: Array) -> bool:
    levels = True
    for chunk in _chunks(array):
        finite = chunk[~np.isnan(chunk)]
        if (finite < -SLACK).any() or (finite > 255).any():
            return False
        levels = levels and bool(((finite <= 1 + SLACK) | (finite == np.rint(finite))).all())
    return levels


def is_code_array(array: Array) -> bool:
    """Whether an array holds codes: integers with two axes, but not uint8.

    >>> is_code_array(np.zeros((5, 3), np.int64)), is_code_array(np.zeros((5, 3)))
    (True, False)
    """
    return array.ndim == 2 and array.dtype.kind in "iu" and array.dtype != np.uint8


def has_missing(array: Array) -> bool:
    """Whether an array has a NaN."""
    return array.dtype.kind == "f" and any(bool(np.isnan(chunk).any()) for chunk in _chunks(array))


def _chunks(array: Array) -> list[Array]:
    step = max(1, CHUNK // max(1, array[:1].size))
    return [array[start : start + step] for start in range(0, len(array), step)]


def convert_values(place: str, array: Array, labels: Array | None = None) -> Split:
    """Copy an array as float32, with a mask if it has a NaN, which stands for a missing entry.

    An array of uint8, where i means i / 255, remains one.

    Raises:
        DataError: it holds no numbers, an infinite one, a negative code or one that float32 does not represent; or the
            labels do not fit.
    """
    if array.dtype.kind not in "fiub" or array.ndim < 2 or not array.size:
        raise DataError(
            f"{place} has dtype {array.dtype} and shape {array.shape}; expected floats (N, ...), or codes as integers."
        )
    if is_code_array(array) and (array.min() < 0 or array.max() > LARGEST_CODE):
        raise DataError(
            f"{place} holds integers from {array.min()} to {array.max()}; codes are from 0 to {LARGEST_CODE}. Convert "
            "measurements to floats."
        )
    targets = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    if array.dtype == np.uint8:
        return Split(torch.from_numpy(array.copy()), targets)
    with np.errstate(over="ignore"):
        x = torch.from_numpy(np.array(array, dtype=np.float32))
    if x.isinf().any():
        where = tuple(int(i) for i in x.isinf().nonzero()[0])
        raise DataError(f"{place} has an infinite number at {list(where)}. Use NaN for missing entries.")
    missing = x.isnan()
    if missing.all():
        raise DataError(f"{place} has no number: every entry is NaN, which means missing.")
    return Split(x.masked_fill_(missing, 0.0), targets, mask=~missing if missing.any() else None)


def code_columns(splits: Sequence[Split], columns: tuple[Column, ...] | None) -> tuple[Column, ...]:
    """The single column of arrays of codes, whose categories are the codes up to the greatest.

    Args:
        splits: the data.
        columns: those of a trained model, which has as many codes.

    Raises:
        DataError: a code is greater than those of the trained model.
    """
    size = 1 + max(int(split.x.max()) for split in splits)
    if columns and size > len(columns[0].categories):
        raise DataError(
            f"The data have the code {size - 1}, and the model was trained on codes up to "
            f"{len(columns[0].categories) - 1}."
        )
    return columns or (Column("code", "categorical", tuple(range(size)), format="integer"),)

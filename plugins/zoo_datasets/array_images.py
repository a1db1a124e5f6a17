"""Arrays as images: the layout, the dtype and the range are checked, and the levels converted to uint8."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from zoo import DataError, Split
from zoo_datasets.array_file import Array, Loader
from zoo_datasets.own import place

log = logging.getLogger("zoo")

CHANNELS = (1, 3)  # the length of an axis of channels
CHUNK = 2**24  # values checked at a time
NO_LABEL = -1
SLACK = 1e-5  # rounding error of a number in [0, 1]

Layout = Literal["auto", "nhw", "nhwc", "nchw"]


class Source(NamedTuple):
    """The origin of images: a file, the name and the loader of an array, and those of its labels."""

    file: Path
    name: str
    pixels: Loader
    labels: tuple[str, Loader] | None
    what: str = "images"

    @property
    def place(self) -> str:
        """The file and the array, for messages."""
        return f"{self.file}: {self.name}"


def convert_split(name: str, pixels: Array, labels: Array | None, layout: Layout, file: Path = Path("data")) -> Split:
    """Convert an array in memory as `arrays` converts one in a file. `pixels` is copied; NaN means missing.

    Raises:
        DataError: the arrays are not images and labels; the message says why.
    """
    source = Source(file, name, lambda: pixels, None if labels is None else ("labels", lambda: labels))
    images = _as_nchw(source, pixels, layout)
    checked = checked_labels(source, len(images))
    _check_range(source, images)
    levels = np.empty(images.shape, np.uint8)
    missing = np.zeros(images.shape, np.bool_) if images.dtype.kind == "f" else None
    for i, image in enumerate(images):
        if missing is not None:
            missing[i] = np.isnan(image)
            image = np.nan_to_num(image)
        levels[i] = _bytes(image)
    if missing is not None and missing.all():
        raise DataError(f"{source.place} has no number: every entry is NaN, which means missing.")
    mask = None if missing is None or not missing.any() else torch.from_numpy(~missing)
    return Split(torch.from_numpy(levels), None if checked is None else torch.from_numpy(checked), mask=mask)


def convert_images(source: Source, layout: Layout, seed: int | None) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Yield each image with its label, in the order of the split, or in the order of the file without a seed."""
    pixels = _as_nchw(source, source.pixels(), layout)
    labels = checked_labels(source, len(pixels))
    log.info("Reading %d images in %s. This is done once.", len(pixels), source.place)
    _check_range(source, pixels)
    for i in range(len(pixels)) if seed is None else shuffled(len(pixels), seed):
        yield _bytes(pixels[i]), NO_LABEL if labels is None else int(labels[i])


def shuffled(n: int, seed: int) -> list[int]:
    """The indices of n images in the order of the split."""
    return sorted(range(n), key=lambda i: place(seed, str(i)))


def _as_nchw(source: Source, pixels: Array, layout: Layout) -> Array:
    """Transpose the axes to (N, C, H, W)."""
    shape = pixels.shape
    if pixels.dtype != np.uint8 and pixels.dtype != np.bool_ and pixels.dtype.kind != "f":
        hint = " Convert levels from 0 to 255 with .astype(np.uint8)." if pixels.dtype.kind in "iu" else ""
        raise DataError(f"{source.place} has dtype {pixels.dtype}; expected uint8, bool, or floats in [0, 1].{hint}")
    if 0 in shape:
        raise DataError(f"{source.place} has shape {shape} and holds no image.")
    axes = {"nhw": 3, "nhwc": 4, "nchw": 4}
    if layout == "auto":
        layout = _guess(source, shape)
    elif axes[layout] != len(shape):
        raise DataError(f"{source.place} has shape {shape}, and the layout {layout} has {axes[layout]} axes.")
    if layout == "nhw":
        return pixels[:, None]
    return pixels.transpose(0, 3, 1, 2) if layout == "nhwc" else pixels


def _guess(source: Source, shape: tuple[int, ...]) -> Layout:
    if len(shape) == 3 and shape[-1] not in (*CHANNELS, 4):
        return "nhw"
    if len(shape) == 3:
        raise DataError(
            f"{source.place} has shape {shape}: one image, or {shape[0]} images {shape[2]} pixels wide? "
            "If the latter, write data.layout=nhw."
        )
    if len(shape) == 4:
        first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
        if first != last:
            return "nchw" if first else "nhwc"
        raise DataError(
            f"{source.place} has shape {shape}, in which {'either' if first else 'neither'} the second "
            f"{'or' if first else 'nor'} the last axis can hold 1 or 3 channels. "
            "Write data.layout=nhwc or data.layout=nchw."
        )
    raise DataError(
        f"{source.place} has shape {shape}; expected images (N, H, W), (N, H, W, C) or (N, C, H, W). "
        "Save it with .reshape(-1, HEIGHT, WIDTH). For other data, write data.modality=vector or =sequence."
    )


def _check_range(source: Source, pixels: Array) -> None:
    """Require that floats are in [0, 1], or NaN.

    Raises:
        DataError: one is not; the message names the first image and pixel.
    """
    if pixels.dtype.kind != "f":
        return
    step = max(1, CHUNK // pixels[0].size)
    for start in range(0, len(pixels), step):
        chunk = pixels[start : start + step]
        wrong = ~(np.isnan(chunk) | (chunk >= -SLACK) & (chunk <= 1 + SLACK))
        if wrong.any():
            i, *where = (int(index[0]) for index in np.nonzero(wrong))
            value = float(chunk[(i, *where)])
            finite = chunk[np.isfinite(chunk)]
            least, greatest = float(finite.min(initial=0)), float(finite.max(initial=0))
            hint = " If these are levels up to 255, divide by 255 or convert to uint8." if 1 < greatest <= 255 else ""
            hint = " If these are in [-1, 1], save (x + 1) / 2." if -1 <= least < 0 else hint
            raise DataError(
                f"{source.place}: image {start + i} has the value {value:g} at channel, row and column {where}; "
                f"floats must be in [0, 1].{hint}"
            )


def _bytes(image: Array) -> NDArray[np.uint8]:
    """Convert an image (C, H, W) to levels from 0 to 255."""
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.bool_:
        return image.astype(np.uint8) * np.uint8(255)
    return np.rint(np.clip(image.astype(np.float32), 0, 1) * 255).astype(np.uint8)


def checked_labels(source: Source, n: int) -> NDArray[np.int64] | None:
    """The labels of n examples.

    Raises:
        DataError: they are not non-negative integers of shape (n,) or (n, 1).
    """
    if source.labels is None:
        return None
    name, load = source.labels
    labels = load()
    if labels.shape == (n, 1):
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.shape != (n,):
        raise DataError(
            f"{source.file}: {name} has dtype {labels.dtype} and shape {labels.shape}; the labels of {n} "
            f"{source.what} are non-negative integers of shape ({n},)."
        )
    if (wrong := np.nonzero(labels < 0)[0]).size:
        raise DataError(f"{source.file}: {name} has the label {labels[wrong[0]]} at {wrong[0]}; labels count from 0.")
    return labels.astype(np.int64)

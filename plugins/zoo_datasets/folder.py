"""A folder of images: decoded once into the cache, and mapped into memory from then on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import PositiveInt

from zoo import DataError, Dataset, Split
from zoo_datasets.augment import Augmentation, augmentation
from zoo_datasets.cache import cached_images
from zoo_datasets.decoding import Mode, Size, decode_images
from zoo_datasets.listing import ImageFile, list_images, warn_left_out
from zoo_datasets.own import Fraction, Place, Seed, absolute, digest, split

log = logging.getLogger("zoo")

VERSION = 3  # of the decoding; a new version invalidates the cache


def folder(
    path: Place,
    size: tuple[PositiveInt, PositiveInt] | None = None,
    mode: Literal["auto", "grey", "rgb"] = "auto",
    test_fraction: Fraction = 0.1,
    split_seed: Seed = 0,
    augment: Sequence[Augmentation] = (),
    data_shape: tuple[int, int, int] | None = None,
) -> Dataset:
    """Images in a folder and its subfolders: BMP, GIF, JPEG, PNG, PBM, PGM, PPM, TIFF and WebP.

    If every image is in a subfolder, the subfolders of `path` are the labels, numbered by name. Images are decoded on
    first use and cached. They are decoded again when a file is added, removed or changed (size or modification time),
    and for another size or mode.

    Sibling folders ``train``, ``val`` and ``test`` (or ``training``, ``valid``, ``validation``, ``testing``, in any
    case) are splits, not labels. The labels are then the folders below the splits, or those that contain the splits
    (``cat/train``, ``cat/test``). Without ``test``, part of the training split is held out for testing; with it,
    ``test_fraction`` has no effect. Images outside the splits are left out. A folder ``test`` or ``val`` next to any
    other folder is refused, because it may be a split or a label.

    An image is converted in this order:

    - The first frame or page is used. The EXIF orientation is applied.
    - 16 bits become 8: value / 257, rounded, for grey images; the high byte for colour images, as in Pillow.
    - Palettes are expanded, and CMYK and other modes become RGB. Transparent pixels are composited over black.
    - Colour becomes grey by the luma of ITU-R 601; grey becomes RGB with three equal channels.
    - With a size, the image is scaled (bicubic, antialiased) to cover the size and cropped around its centre. Large
      JPEGs are first decoded at a half, a quarter or an eighth, to at least twice the size.

    Left out are files that cannot be decoded; image files of other formats, such as HEIC; pixels of 32 bits or more,
    whose range is unknown; images of more than 178 million pixels; links to folders, links that point outside `path`
    and links to images that are listed already. A warning gives their number, the first of them and the reasons;
    ``zoo data`` lists all. Hidden files and files that are not images are ignored.

    Args:
        path: the folder; ``~`` is the home directory.
        size: [height, width] of every image. By default the common size of all images; else the size of more than half
            of them, if it has no side above 64; else a square with the median of the shorter sides, at most 64. The
            choice is logged.
        mode: ``grey``, ``rgb``, or ``auto``: grey if all images are stored in grey, else RGB. Like Pillow, it treats
            16-bit grey with an alpha channel as RGB.
        test_fraction: fraction of test images, rounded, with at least one image in each split.
        split_seed: seed of the split. The order of the images depends only on it and on their paths relative to the
            folder: adding images moves few of the others to the other split, and moving the folder none.
        augment: changes of training images, drawn anew each time an image is used: ``flip`` (left to right), ``crop``
            (shifts by up to an eighth of the size) and ``color`` (brightness, contrast and saturation).
        data_shape: (C, H, W) of a trained model, the default of `size` and `mode`.

    Raises:
        DataUnavailable: there is no such folder.
        DataError: there are fewer than two images that can be decoded; a split is empty, or it is unclear which folders
            are splits; the cache cannot be written.
    """
    root = Path(absolute(path))
    if data_shape is not None:
        size = data_shape[1:] if size is None else size
        mode = {1: "grey", 3: "rgb"}.get(data_shape[0], mode) if mode == "auto" else mode  # type: ignore[assignment]
    listing = list_images(root, split_seed)
    files = listing.files
    cached = cached_images(_key(root, files, size, mode), decode_images(root, files, size, mode))
    assert cached.labels is not None  # the index of each image in `files`
    decoded = [files[i] for i in cached.labels.tolist()]
    left_out = sorted([*listing.left_out, *cached.notes])
    warn_left_out(root, left_out, len(files) + len(listing.left_out))
    labels, names = _labels([file.label_path for file in decoded])
    images = Split(cached.x, labels, cached.digest, paths=tuple(file.name for file in decoded))
    counts = Counter(file.split for file in decoded)
    for name in sorted(listing.official):
        if not counts[name]:
            what = "training" if name == "train" else name
            raise DataError(f"No {what} image in {root} can be decoded. The warning above gives the reasons.")
    tested, held_out = counts["test"], counts["test"] + counts["validation"]
    validation = images.part(tested, held_out) if held_out > tested else None
    train = images.part(held_out, len(images))
    if tested:
        test = images.part(0, tested)
    elif len(train) < 2:
        raise DataError(
            f"{root} holds one image, {train.paths[0]}; at least two are needed, for training and for testing."
        )
    else:
        train, test = split(train, test_fraction)
    return Dataset(
        *(train, test, validation),
        label_names=names,
        left_out=tuple(left_out),
        cache=(cached.file,),
        augment=augmentation(augment),
    )


def _key(root: Path, files: Iterable[ImageFile], size: Size, mode: Mode) -> str:
    """Identify the pixels and their order without reading the files."""
    parts = (f"{file.name}\0{file.bytes}\0{file.modified}" for file in files)
    # With the path: unpacked archives may hold different images with the same names, sizes and times.
    return f"folder {VERSION} {size} {mode} {digest(str(root.resolve()), *parts).hex()}"


def _labels(names: Sequence[str]) -> tuple[torch.Tensor | None, tuple[str, ...]]:
    """The label of each image, if all have one, and the names of the labels."""
    if not all("/" in name for name in names):
        return None, ()
    tops = [name.partition("/")[0] for name in names]
    label_names = sorted(set(tops))
    number = {name: i for i, name in enumerate(label_names)}
    return torch.tensor([number[top] for top in tops], dtype=torch.int64), tuple(label_names)

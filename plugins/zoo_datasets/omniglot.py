"""Omniglot: drawings in two archives, read without unpacking and decoded once."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import PositiveInt

from zoo import Dataset, Split
from zoo_datasets.cache import cached_images
from zoo_datasets.files import check_md5, gather
from zoo_datasets.threads import in_order

VERSION = 1  # of the decoding; a new version invalidates the cache


def omniglot(root: Path, size: PositiveInt = 28, download: bool = True) -> Dataset:
    """1623 characters of 50 alphabets, each drawn by 20 people; white strokes on black, as in MNIST.

    Lake et al., Human-level concept learning through probabilistic program induction, 2015. The training images are the
    19280 of the 30 "background" alphabets, the test images the 13180 of the other 20, so no character is in both. (In
    the split of arXiv 1509.00519, with 24345 and 8070 images, both parts have the same characters.) The labels are the
    characters, numbered by alphabet and character.

    Args:
        root: the folder that holds ``omniglot-py`` with ``images_background.zip`` and ``images_evaluation.zip``.
        size: height and width, in pixels; the drawings have 105 and are scaled down with an antialiased filter.
        download: download missing archives.

    Raises:
        DataUnavailable: archives are missing and were not downloaded.
        DataError: the digest of an archive is wrong; the message names it.
    """
    from torchvision.datasets import Omniglot

    md5 = {f"{name}.zip": digest for name, digest in Omniglot.zips_md5.items()}

    def fetch() -> None:
        for background in (True, False):
            Omniglot(root, background=background, download=True)

    archives = gather(
        root,
        Omniglot.folder,
        md5,
        lambda file: check_md5(file, file.read_bytes(), md5[file.name]),
        fetch if download else None,
    )
    splits, files, names = [], [], list[str]()
    for archive, content in archives.items():
        drawings = _drawings(content)
        first = len(names)
        characters = sorted({name.rpartition("/")[0] for name in drawings})
        number = {character: first + i for i, character in enumerate(characters)}
        names += [character.partition("/")[2] for character in characters]
        cached = cached_images(f"omniglot {VERSION} {size} {md5[archive]}", _decoded(content, drawings, size))
        labels = torch.tensor([number[name.rpartition("/")[0]] for name in drawings])
        splits.append(Split(cached.x, labels, cached.digest))
        files.append(cached.file)
    train, test = splits
    return Dataset(train, test, label_names=tuple(names), cache=tuple(files))


def _drawings(content: bytes) -> list[str]:
    """The names of the images in an archive, in order."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return sorted(name for name in archive.namelist() if name.endswith(".png"))


def _decoded(content: bytes, drawings: Sequence[str], size: int) -> Iterator[tuple[NDArray[np.uint8], int]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for pixels in in_order(lambda drawing: _decode(drawing, size), map(archive.read, drawings)):
            yield pixels, 0


def _decode(content: bytes, size: int) -> NDArray[np.uint8]:
    """Decode a drawing to (1, size, size), with the black ink in white."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        ink = ImageOps.invert(image.convert("L"))
        return np.asarray(ink.resize((size, size), Image.Resampling.BOX))[None]

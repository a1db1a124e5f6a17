"""CelebA: two hundred thousand faces as JPEG files, decoded once into the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import PositiveInt

from zoo import DataError, Dataset, DataUnavailable, Split
from zoo_datasets.cache import cached_images
from zoo_datasets.files import check_md5, gather
from zoo_datasets.own import digest
from zoo_datasets.threads import in_order

VERSION = 1  # of the decoding
PARTITION, ATTRIBUTES, FACES = "list_eval_partition.txt", "list_attr_celeba.txt", "img_align_celeba"
TRAIN, VALID, TEST = 0, 1, 2


def celeba(
    root: Path,
    size: PositiveInt = 64,
    crop: PositiveInt = 148,
    test: Literal["test", "valid"] = "test",
    attribute: str | None = None,
) -> Dataset:
    """Faces of celebrities, aligned (arXiv 1411.7766): 162770 to train on, 19867 to validate and 19962 to test on.

    Of each image, 178 pixels wide and 218 high, the square of `crop` pixels in its middle is scaled to `size` with an
    antialiased bilinear filter; 148 and 64 are what most papers on autoencoders take. That is done once.

    Nothing is fetched: torchvision cannot be sure to get the files from where they lie. In ``celeba`` must be
    ``img_align_celeba/`` with the unpacked images, ``list_eval_partition.txt`` and ``list_attr_celeba.txt``.

    Args:
        root: the folder that holds ``celeba``.
        size: of either side, in pixels.
        crop: of the square, in pixels.
        test: which of its parts to test on; the other is not used.
        attribute: one of the 40, such as ``Smiling``, as the label: 0 or 1. Without it there are no labels.

    Raises:
        DataUnavailable: files are absent.
        DataError: a file is damaged, images are absent, or there is no such attribute; the message names it.
    """
    from torchvision.datasets import CelebA

    md5 = {name: known for _, known, name in CelebA.file_list}
    folder = root / CelebA.base_folder
    wanted = [PARTITION, *([] if attribute is None else [ATTRIBUTES])]
    texts = gather(
        root,
        CelebA.base_folder,
        wanted,
        lambda file: check_md5(file, file.read_bytes(), md5[file.name], "Get it anew.").decode().splitlines(),
        None,
    )
    parts = dict(line.split() for line in texts[PARTITION] if line.strip())
    faces, splits = folder / FACES, []
    if not faces.is_dir():
        raise DataUnavailable(f"{FACES} not in {folder}. Unpack {FACES}.zip there.")
    labels = None if attribute is None else _labels(texts[ATTRIBUTES], attribute)
    files = []
    for part in (TRAIN, VALID if test == "valid" else TEST):
        names = sorted(name for name, of in parts.items() if int(of) == part)
        key = f"celeba {VERSION} {size} {crop} {_state(faces, names)}"
        kept = cached_images(key, _decoded(faces, names, size, crop))
        of_part = None if labels is None else torch.tensor([labels[name] for name in names])
        splits.append(Split(kept.x, of_part, kept.digest))
        files.append(kept.file)
    train, tested = splits
    return Dataset(
        train,
        tested,
        label_names=() if attribute is None else (f"not {attribute}", attribute),
        cache=tuple(files),
    )


def _labels(lines: Sequence[str], attribute: str) -> dict[str, int]:
    """Of each image, whether it has the attribute: the second line names them, 1 and -1 follow for each image."""
    attributes = lines[1].split()
    if attribute not in attributes:
        raise DataError(f"CelebA has no attribute {attribute!r}. There are: {', '.join(attributes)}.")
    column = 1 + attributes.index(attribute)
    return {row[0]: int(row[column] == "1") for row in map(str.split, lines[2:]) if row}


def _state(faces: Path, names: Sequence[str]) -> str:
    """What tells that a file has changed.

    Raises:
        DataError: some are absent.
    """
    parts, absent = [str(faces.resolve())], []
    for name in names:
        try:
            status = (faces / name).stat()
        except FileNotFoundError:
            absent.append(name)
        else:
            parts.append(f"{name} {status.st_size} {status.st_mtime_ns}")
    if absent:
        raise DataError(
            f"{len(absent)} of {len(names)} images are not in {faces}; {absent[0]}, for one. Unpack it again."
        )
    return digest(*parts).hex()


def _decoded(faces: Path, names: Sequence[str], size: int, crop: int) -> Iterator[tuple[NDArray[np.uint8], int]]:
    for pixels in in_order(lambda name: _decode(faces / name, size, crop), names):
        yield pixels, 0


def _decode(face: Path, size: int, crop: int) -> NDArray[np.uint8]:
    """(3, size, size)."""
    try:
        with Image.open(face, formats=["JPEG"]) as image:
            # Rounded as torchvision's CenterCrop does.
            left, top = round((image.width - crop) / 2), round((image.height - crop) / 2)
            square = image.convert("RGB").crop((left, top, left + crop, top + crop))
            return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    except (OSError, SyntaxError) as error:
        raise DataError(f"{face} is damaged: {error}. Unpack it again.") from error

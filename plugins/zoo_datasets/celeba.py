"""CelebA: 202599 faces in JPEG files, decoded once into the cache."""

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
from zoo_datasets.augment import Augmentation, augmentation
from zoo_datasets.cache import cached_images
from zoo_datasets.files import check_md5, gather
from zoo_datasets.own import digest
from zoo_datasets.threads import in_order

VERSION = 1  # of the decoding; a new version invalidates the cache
PARTITION, ATTRIBUTES, FACES = "list_eval_partition.txt", "list_attr_celeba.txt", "img_align_celeba"
TRAIN, VALID, TEST = 0, 1, 2


def celeba(
    root: Path,
    size: PositiveInt = 64,
    crop: PositiveInt = 148,
    test: Literal["test", "valid"] = "test",
    attribute: str | None = None,
    augment: Sequence[Augmentation] = (),
) -> Dataset:
    """Aligned faces of celebrities (arXiv 1411.7766): 162770 for training, 19867 for validation, 19962 for testing.

    The central square of `crop` pixels of each 178x218 image is scaled to `size` with an antialiased bilinear filter.
    Most papers on autoencoders use 148 and 64. Images are decoded once.

    The files are not downloaded, since their host limits downloads. The folder ``celeba`` must contain the unpacked
    ``img_align_celeba/``, ``list_eval_partition.txt`` and ``list_attr_celeba.txt``.

    Args:
        root: the folder that holds ``celeba``.
        size: height and width, in pixels.
        crop: side of the square, in pixels.
        test: the part used for testing. With ``valid`` there is no validation split, and the test part is not used.
        attribute: one of the 40 attributes, such as ``Smiling``, as the label: 0 or 1. By default there are no labels.
        augment: changes of training images, as in `folder`.

    Raises:
        DataUnavailable: files are missing.
        DataError: a file is damaged, images are missing, or there is no such attribute; the message names it.
    """
    from torchvision.datasets import CelebA

    md5 = {name: digest for _, digest, name in CelebA.file_list}
    folder = root / CelebA.base_folder
    tables = [PARTITION, *([] if attribute is None else [ATTRIBUTES])]
    texts = gather(
        root,
        CelebA.base_folder,
        tables,
        lambda file: check_md5(file, file.read_bytes(), md5[file.name], "Download it again.").decode().splitlines(),
        None,
    )
    parts = dict(line.split() for line in texts[PARTITION] if line.strip())
    faces, splits = folder / FACES, []
    if not faces.is_dir():
        raise DataUnavailable(f"{FACES} not in {folder}. Unpack {FACES}.zip there.")
    labels = None if attribute is None else _labels(texts[ATTRIBUTES], attribute)
    files = []
    for part in (TRAIN, VALID, TEST) if test == "test" else (TRAIN, VALID):
        names = sorted(name for name, of in parts.items() if int(of) == part)
        key = f"celeba {VERSION} {size} {crop} {_state(faces, names)}"
        cached = cached_images(key, _decoded(faces, names, size, crop))
        part_labels = None if labels is None else torch.tensor([labels[name] for name in names])
        splits.append(Split(cached.x, part_labels, cached.digest))
        files.append(cached.file)
    return Dataset(
        splits[0],
        splits[-1],
        splits[1] if test == "test" else None,
        label_names=() if attribute is None else (f"not {attribute}", attribute),
        cache=tuple(files),
        augment=augmentation(augment),
    )


def _labels(lines: Sequence[str], attribute: str) -> dict[str, int]:
    """Whether each image has the attribute. The second line names the attributes; each row has 1 or -1 for each."""
    attributes = lines[1].split()
    if attribute not in attributes:
        raise DataError(f"CelebA has no attribute {attribute!r}. Choose from: {', '.join(attributes)}.")
    column = 1 + attributes.index(attribute)
    return {row[0]: int(row[column] == "1") for row in map(str.split, lines[2:]) if row}


def _state(faces: Path, names: Sequence[str]) -> str:
    """A digest of the names, sizes and modification times of the images.

    Raises:
        DataError: images are missing.
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
            f"{len(absent)} of {len(names)} images are missing from {faces}, such as {absent[0]}. Unpack them again."
        )
    return digest(*parts).hex()


def _decoded(faces: Path, names: Sequence[str], size: int, crop: int) -> Iterator[tuple[NDArray[np.uint8], int]]:
    for pixels in in_order(lambda name: _decode(faces / name, size, crop), names):
        yield pixels, 0


def _decode(face: Path, size: int, crop: int) -> NDArray[np.uint8]:
    """Decode an image to (3, size, size)."""
    try:
        with Image.open(face, formats=["JPEG"]) as image:
            # Rounded as in torchvision's CenterCrop.
            left, top = round((image.width - crop) / 2), round((image.height - crop) / 2)
            square = image.convert("RGB").crop((left, top, left + crop, top + crop))
            return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    except (OSError, SyntaxError) as error:
        raise DataError(f"{face} is damaged: {error}. Unpack it again.") from error

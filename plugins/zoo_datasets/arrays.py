"""Arrays in a file. Images are checked and converted once into the cache, and mapped into memory from then on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from zoo import Column, DataError, Dataset, DataUnavailable, Split
from zoo_datasets.array_file import Loader, open_arrays
from zoo_datasets.array_images import NO_LABEL, Layout, Source, convert_images, shuffled
from zoo_datasets.cache import cached_images
from zoo_datasets.examples import as_dataset, convert_examples, divided
from zoo_datasets.own import Fraction, Place, Seed, absolute, digest, split
from zoo_datasets.values import ArrayModality, has_missing, is_code_array, modality_of

VERSION = 1  # of the conversion; a new version invalidates the cache

IMAGES = ("images", "x", "data", "pixels", "train_images", "x_train", "images_train", "train")
VALIDATION_IMAGES = (
    *("val_images", "valid_images", "validation_images", "x_val", "x_valid", "x_validation"),
    *("images_val", "images_valid", "images_validation", "val", "valid", "validation"),
)
TEST_IMAGES = ("test_images", "x_test", "images_test", "test")
LABELS = ("labels", "y", "targets", "train_labels", "y_train", "labels_train")
VALIDATION_LABELS = (
    *("val_labels", "valid_labels", "validation_labels", "y_val", "y_valid", "y_validation"),
    *("labels_val", "labels_valid", "labels_validation"),
)
TEST_LABELS = ("test_labels", "y_test", "labels_test")


def arrays(
    path: Place,
    images: str | None = None,
    labels: str | None = None,
    test_images: str | None = None,
    test_labels: str | None = None,
    validation_images: str | None = None,
    validation_labels: str | None = None,
    trained_columns: tuple[Column, ...] | None = None,
    modality: ArrayModality = "auto",
    layout: Layout = "auto",
    test_fraction: Fraction = 0.1,
    split_seed: Seed = 0,
    whole: bool = False,
) -> Dataset:
    """Arrays in a NumPy file (``.npy``, ``.npz``) or a PyTorch file (``.pt``, ``.pth``). No pickle is ever run.

    A file with several arrays names them. A ``.pt`` file holds a tensor, a dictionary of tensors, or a pair of images
    and labels. Default names, in any case, are ``images``, ``x``, ``data``, ``pixels``, ``train_images``, ``x_train``,
    ``images_train`` and ``train`` for the images (or the only array of the file); ``test_images``, ``x_test``,
    ``images_test`` and ``test`` for test images; ``labels``, ``y``, ``targets``, ``train_labels``, ``y_train`` and
    ``labels_train`` for labels; ``test_labels``, ``y_test`` and ``labels_test`` for those of the test images. The names
    for validation are those for testing with ``val``, ``valid`` or ``validation`` in place of ``test``.

    By default, floats (N, D) are vectors, integers (N, L) are sequences of codes, and floats (N, C, L) that are neither
    in [0, 1] nor levels from 0 to 255 are sequences. Everything else with three or four axes is images. ``modality``
    sets it. Vectors and sequences are read into memory as float32. NaN means that an entry is missing, in images too;
    infinite numbers are refused.

    Pixels are uint8, bool, or floats in [0, 1], which are rounded to the nearest level i/255. The shape is (N, H, W),
    (N, H, W, C) or (N, C, H, W). Of four axes, the second or the last holds the channels, whichever alone has length 1
    or 3; for an ambiguous shape, set the layout.

    Args:
        path: the file; ``~`` is the home directory.
        images, labels, test_images, test_labels, validation_images, validation_labels: names of the arrays.
        trained_columns: those of the trained model that the data are read for.
        modality: what the array of examples holds.
        layout: order of the axes of images.
        test_fraction: fraction of test images, if the file has none; as in `folder`.
        split_seed: seed of the split, which depends only on it and on the index of each image.
        whole: hold nothing out.

    Raises:
        DataUnavailable: there is no such file.
        DataError: it is damaged, or its arrays are not images and labels; the message says why and what to write.
    """
    file = Path(absolute(path))
    if not file.is_file():
        raise DataUnavailable(f"{file} {'is not a file' if file.exists() else 'does not exist'}.")
    contents = open_arrays(file)
    train_name = _find(file, contents, "images", images, IMAGES)
    test_name = _find(file, contents, "test_images", test_images, TEST_IMAGES)
    if train_name is None:
        raise DataError(f"{file} holds {_names(contents)}. Select the images with data.images=NAME.")
    validation_name = _find(file, contents, "validation_images", validation_images, VALIDATION_IMAGES)
    train_label_name = _find(file, contents, "labels", labels, LABELS)
    test_label_name = _find(file, contents, "test_labels", test_labels, TEST_LABELS) if test_name is not None else None
    validation_label_name = (
        _find(file, contents, "validation_labels", validation_labels, VALIDATION_LABELS) if validation_name else None
    )
    status = file.stat()
    state = digest(str(file.resolve()), str(status.st_size), str(status.st_mtime_ns)).hex()

    def load(name: str, label_name: str | None, seed: int | None) -> tuple[Split, Path | None]:
        key = f"arrays {VERSION} {name!r} {label_name!r} {layout} {seed} {state} {modality}"
        source = Source(file, name, contents[name], None if label_name is None else (label_name, contents[label_name]))
        try:
            cached = cached_images(key, _images(source, layout, modality, seed))
        except NotImages:
            labels = None if source.labels is None else source.labels[1]()
            return convert_examples(name, source.pixels(), labels, layout, modality, file), None
        assert cached.labels is not None
        unlabelled = bool((cached.labels == NO_LABEL).all())
        return Split(cached.x, None if unlabelled else cached.labels, cached.digest), cached.file

    validation, validation_cache = None, None
    if validation_name is not None:
        validation, validation_cache = load(validation_name, validation_label_name, None)
    train, cache = load(train_name, train_label_name, None if whole or test_name is not None else split_seed)
    if test_name is not None:
        test, test_cache = load(test_name, test_label_name, None)
    elif whole:
        test, test_cache = train, None
    elif cache is None:
        (train, test), test_cache = divided(train, test_fraction, split_seed, str(file)), None
    elif len(train) < 2:
        raise DataError(f"{file} holds one image; training and testing need at least two.")
    else:
        train = replace(train, index=torch.tensor(shuffled(len(train), split_seed)))
        (train, test), test_cache = split(train, test_fraction), None
    codes = cache is None and is_code_array(contents[train_name]())
    dataset = as_dataset(train, test, modality, trained_columns, codes, validation)
    caches = (validation_cache, cache, test_cache)
    return replace(dataset, cache=tuple(file for file in caches if file is not None))


class NotImages(Exception):
    """The array does not hold images, or has missing entries, which the cache does not store."""


def _images(
    source: Source, layout: Layout, modality: ArrayModality, seed: int | None
) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Yield images as `convert_images` does; iterated over if they are not in the cache yet."""
    array = source.pixels()
    kind = modality_of(array) if modality == "auto" else modality
    if kind != "image" or has_missing(array):
        raise NotImages
    yield from convert_images(source, layout, seed)


def _find(
    file: Path, contents: Mapping[str, Loader], role: str, name: str | None, defaults: Sequence[str]
) -> str | None:
    """The name of the array for a role: `name`, or the one default name that the file has."""
    if name is not None:
        if name not in contents:
            raise DataError(f"{file} has no array {name!r}. It holds {_names(contents)}; write data.{role}=NAME.")
        return name
    candidates = [name for name in contents if name.lower() in defaults]
    if len(candidates) > 1:
        raise DataError(f"{file} holds {' and '.join(candidates)}. Select one with data.{role}=NAME.")
    if not candidates and role == "images" and len(contents) == 1:
        return next(iter(contents))
    return candidates[0] if candidates else None


def _names(contents: Mapping[str, Loader]) -> str:
    return ", ".join(contents) or "nothing"

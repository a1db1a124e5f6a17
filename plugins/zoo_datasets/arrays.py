"""Images as arrays in a file: checked and converted once into the cache, and mapped into memory from then on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from zoo import DataError, Dataset, DataUnavailable, Split
from zoo_datasets.array_file import Loader, open_arrays
from zoo_datasets.array_images import NO_LABEL, Source, convert_images, shuffled
from zoo_datasets.cache import cached_images
from zoo_datasets.own import Fraction, Place, Seed, absolute, digest, split

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
    layout: Literal["auto", "nhw", "nhwc", "nchw"] = "auto",
    test_fraction: Fraction = 0.1,
    split_seed: Seed = 0,
) -> Dataset:
    """Images in a NumPy file (``.npy``, ``.npz``) or a PyTorch file (``.pt``, ``.pth``). No pickle is ever run.

    A file with several arrays names them. A ``.pt`` file holds a tensor, a dictionary of tensors, or a pair of images
    and labels. Default names, in any case, are ``images``, ``x``, ``data``, ``pixels``, ``train_images``, ``x_train``,
    ``images_train`` and ``train`` for the images (or the only array of the file); ``test_images``, ``x_test``,
    ``images_test`` and ``test`` for test images; ``labels``, ``y``, ``targets``, ``train_labels``, ``y_train`` and
    ``labels_train`` for labels; ``test_labels``, ``y_test`` and ``labels_test`` for those of the test images. The names
    for validation are those for testing with ``val``, ``valid`` or ``validation`` in place of ``test``.

    Pixels are uint8, bool, or floats in [0, 1], which are rounded to the nearest level i/255. The shape is (N, H, W),
    (N, H, W, C) or (N, C, H, W). Of four axes, the second or the last holds the channels, whichever alone has length 1
    or 3; for an ambiguous shape, set the layout.

    Args:
        path: the file; ``~`` is the home directory.
        images, labels, test_images, test_labels, validation_images, validation_labels: names of the arrays.
        layout: order of the axes.
        test_fraction: fraction of test images, if the file has none; as in `folder`.
        split_seed: seed of the split, which depends only on it and on the index of each image.

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

    def load(name: str, label_name: str | None, seed: int | None) -> tuple[Split, Path]:
        key = f"arrays {VERSION} {name!r} {label_name!r} {layout} {seed} {state}"
        source = Source(file, name, contents[name], None if label_name is None else (label_name, contents[label_name]))
        cached = cached_images(key, convert_images(source, layout, seed))
        assert cached.labels is not None
        unlabelled = bool((cached.labels == NO_LABEL).all())
        return Split(cached.x, None if unlabelled else cached.labels, cached.digest), cached.file

    validation, caches = None, []
    if validation_name is not None:
        validation, cache = load(validation_name, validation_label_name, None)
        caches.append(cache)
    train, cache = load(train_name, train_label_name, split_seed if test_name is None else None)
    caches.append(cache)
    if test_name is not None:
        test, cache = load(test_name, test_label_name, None)
        caches.append(cache)
    elif len(train) < 2:
        raise DataError(f"{file} holds one image; training and testing need at least two.")
    else:
        train = replace(train, index=torch.tensor(shuffled(len(train), split_seed)))
        train, test = split(train, test_fraction)
    return Dataset(train, test, validation, cache=tuple(caches))


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

"""Images passed as Python objects: arrays, tensors, `zoo.Split` or `zoo.Dataset`."""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
import torch

from zoo import DataError, Dataset, DataUnavailable, Split
from zoo_datasets.array_images import convert_split, shuffled
from zoo_datasets.own import Fraction, Seed, split

log = logging.getLogger("zoo")

ACCEPTED = (
    "Pass a zoo.Dataset; or images, as a tensor or an array of shape (N, H, W) or (N, C, H, W), uint8 or floats in "
    "[0, 1]; or (images, labels); or (train, test), each of them one of these."
)
ADVICE = {
    "Dataset": " Stack its images: torch.stack([image for image, *_ in dataset]).",
    "DataLoader": " Join its batches: torch.cat([images for images, *_ in loader]).",
    "DataFrame": " Take its pixels: frame.to_numpy().reshape(-1, HEIGHT, WIDTH).",
    "list": " Stack it: numpy.stack(images), or torch.stack(images).",
    "str": " Data sets with a name or a path are loaded from there: leave out data.",
}


def memory(
    source: Any,
    layout: Literal["auto", "nhw", "nhwc", "nchw"] = "auto",
    test_fraction: Fraction = 0.1,
    split_seed: Seed = 0,
) -> Dataset:
    """Images passed to ``zoo.train(data=...)`` as objects. The run does not store them: pass the same images to
    `zoo.resume`, `zoo.evaluate` and `zoo.fit_prior` as ``data``.

    Arrays and tensors are converted as in `arrays`.

    Args:
        source: a `zoo.Dataset`; images; ``(images, labels)``; or ``(train, test)``, each of them images or
            ``(images, labels)``. Images are a tensor, an array or a `zoo.Split`.
        layout: order of the axes.
        test_fraction: fraction of test images, if none are passed; as in `folder`.
        split_seed: seed of the split, which depends only on it and on the index of each image.

    Raises:
        DataUnavailable: no data were passed.
        DataError: the data are of another type, or are not images and labels; the message says why.
    """
    if source is None:
        raise DataUnavailable(
            "the images were passed as Python objects, which a run does not store. Pass them again: "
            "zoo.resume(run, data=...), zoo.evaluate(run, data=...), zoo.fit_prior(run, prior, data=...)."
        )
    splits = (source.train, source.test) if isinstance(source, Dataset) else source
    if isinstance(splits, tuple) and len(splits) == 2 and not _are_labels(splits[1]):
        if (test_fraction, split_seed) != (0.1, 0):
            raise DataError("The data are already split into (train, test): leave out test_fraction and split_seed.")
        train, test = (_images(images, name, layout) for images, name in zip(splits, ("train", "test"), strict=True))
        return source if isinstance(source, Dataset) else Dataset(train, test)
    every = _images(source, "images", layout)
    if len(every) < 2:
        raise DataError("data holds one image; training and testing need at least two.")
    order = torch.tensor(shuffled(len(every), split_seed))
    labels, factors = (None if values is None else values[order] for values in (every.labels, every.factors))
    train, test = split(Split(every.x[order], labels, factors=factors), test_fraction)
    log.info(
        "Holding out %d of %d images for testing: test_fraction %g, split_seed %d.",
        *(len(test), len(every), test_fraction, split_seed),
    )
    return Dataset(train, test)


def _images(data: Any, name: str, layout: Literal["auto", "nhw", "nhwc", "nchw"]) -> Split:
    """The images of one split."""
    if isinstance(data, Split):
        return data
    pixels, labels = data, None
    if isinstance(data, tuple) and len(data) == 2 and _are_labels(data[1]):
        pixels, labels = data
    return convert_split(name, _array(pixels), None if labels is None else _array(labels), layout)


def _are_labels(value: Any) -> bool:
    """Whether a value is an array with one axis or one column, which images are not."""
    shape = getattr(value, "shape", None)
    return isinstance(value, (np.ndarray, torch.Tensor)) and (len(shape or ()) == 1 or tuple(shape or ())[1:] == (1,))


def _array(value: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """Convert a tensor or an array to an array.

    Raises:
        DataError: it is of another type, or numpy has no such dtype or layout.
    """
    if isinstance(value, torch.Tensor):
        tensor = value.detach()
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()
        try:
            array: np.ndarray[Any, np.dtype[Any]] = tensor.cpu().numpy()
        except (TypeError, RuntimeError, NotImplementedError) as error:
            raise DataError(
                f"A tensor of {value.dtype} with layout {value.layout} on {value.device} cannot be used as images."
            ) from error
        return array
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        return np.asarray(value)
    kind = type(value)
    names = [base.__name__ for base in kind.__mro__]
    advice = next((text for name, text in ADVICE.items() if name in names), "")
    module = kind.__module__.partition(".")[0]
    name = kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"
    raise DataError(f"Data of the type {name} are not supported. {ACCEPTED}{advice}")

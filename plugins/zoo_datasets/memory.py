"""Images that are given as objects in Python: arrays, tensors, `zoo.Split`, or a whole `zoo.Dataset`."""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
import torch

from zoo import DataError, Dataset, DataUnavailable, Split
from zoo_datasets.arrays import converted
from zoo_datasets.own import Fraction, Seed, place, split

log = logging.getLogger("zoo")

ACCEPTED = (
    "Give a zoo.Dataset; or images, as a tensor or an array of shape (N, H, W) or (N, C, H, W), uint8 or floats in "
    "[0, 1]; or (images, labels); or (train, test), where each is one of these."
)
ADVICE = {
    "Dataset": " Stack its images: torch.stack([image for image, *_ in dataset]).",
    "DataLoader": " Join its batches: torch.cat([images for images, *_ in loader]).",
    "DataFrame": " Take its pixels: frame.to_numpy().reshape(-1, HEIGHT, WIDTH).",
    "list": " Stack it: numpy.stack(images), or torch.stack(images).",
    "str": " Data with a name or a path are loaded by it, and are not given again.",
}


def memory(
    source: Any,
    layout: Literal["auto", "nhw", "nhwc", "nchw"] = "auto",
    test_fraction: Fraction = 0.1,
    split_seed: Seed = 0,
) -> Dataset:
    """Images that ``zoo.train(data=...)`` is given as objects. The run does not keep them: `zoo.resume`, `zoo.evaluate`
    and `zoo.fit_prior` need them again, as ``data``, and refuse others.

    Arrays and tensors are converted as `arrays` converts those in a file.

    Args:
        source: a `zoo.Dataset`; images; ``(images, labels)``; or ``(train, test)``, where each is images or
            ``(images, labels)``. Images are a tensor, an array, or `zoo.Split`.
        layout: of the axes.
        test_fraction: the fraction of test images where none are given; as in `folder`.
        split_seed: which ones those are. It depends on this and on an image's index alone.

    Raises:
        DataUnavailable: nothing is given.
        DataError: it is something else, or cannot be taken for images and labels; the message says why.
    """
    if source is None:
        raise DataUnavailable(
            "the images were given as objects in Python, which no run keeps. Give them again: "
            "zoo.resume(run, data=...), zoo.evaluate(run, data=...), zoo.fit_prior(run, prior, data=...)."
        )
    splits = (source.train, source.test) if isinstance(source, Dataset) else source
    if isinstance(splits, tuple) and len(splits) == 2 and not _are_labels(splits[1]):
        if (test_fraction, split_seed) != (0.1, 0):
            raise DataError("The data are split into (train, test) already: leave out test_fraction and split_seed.")
        train, test = (_images(one, name, layout) for one, name in zip(splits, ("train", "test"), strict=True))
        return source if isinstance(source, Dataset) else Dataset(train, test)
    every = _images(source, "images", layout)
    if len(every) < 2:
        raise DataError("data holds one image: there must be one to train on and one to test on.")
    order = torch.tensor(sorted(range(len(every)), key=lambda i: place(split_seed, str(i))))
    labels, factors = (None if of is None else of[order] for of in (every.labels, every.factors))
    shuffled = Split(every.x[order], labels, factors=factors)
    train, test = split(shuffled, test_fraction)
    log.info(
        "%d of %d images are held out for testing: test_fraction %g, split_seed %d.",
        *(len(test), len(every), test_fraction, split_seed),
    )
    return Dataset(train, test)


def _images(given: Any, name: str, layout: Literal["auto", "nhw", "nhwc", "nchw"]) -> Split:
    """The images of one split."""
    if isinstance(given, Split):
        return given
    pixels, labels = given, None
    if isinstance(given, tuple) and len(given) == 2 and _are_labels(given[1]):
        pixels, labels = given
    return converted(name, _array(pixels), None if labels is None else _array(labels), layout)


def _are_labels(given: Any) -> bool:
    """Whether something is an array of one axis, or of one column: no array of images is."""
    shape = getattr(given, "shape", None)
    return isinstance(given, (np.ndarray, torch.Tensor)) and (len(shape or ()) == 1 or tuple(shape or ())[1:] == (1,))


def _array(given: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """A tensor or an array as an array.

    Raises:
        DataError: it is something else, or has no plain numbers.
    """
    if isinstance(given, torch.Tensor):
        tensor = given.detach()
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()
        try:
            array: np.ndarray[Any, np.dtype[Any]] = tensor.cpu().numpy()
        except (TypeError, RuntimeError, NotImplementedError) as error:
            raise DataError(
                f"A tensor of {given.dtype}, {given.layout}, on {given.device}, cannot be taken for images."
            ) from error
        return array
    if isinstance(given, np.ndarray) and not isinstance(given, np.ma.MaskedArray):
        return np.asarray(given)
    kind = type(given)
    names = [base.__name__ for base in kind.__mro__]
    advice = next((text for name, text in ADVICE.items() if name in names), "")
    module = kind.__module__.partition(".")[0]
    name = kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"
    raise DataError(f"Data of the type {name} are not supported. {ACCEPTED}{advice}")

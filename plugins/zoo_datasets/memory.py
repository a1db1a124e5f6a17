"""Examples passed as Python objects: arrays, tensors, `zoo.Split` or `zoo.Dataset`."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from zoo import Column, DataError, Dataset, DataUnavailable, Split
from zoo_datasets.array_images import Layout
from zoo_datasets.examples import as_dataset, convert_examples, divided
from zoo_datasets.iteration import as_arrays
from zoo_datasets.own import Fraction, Seed
from zoo_datasets.values import ArrayModality, is_code_array

log = logging.getLogger("zoo")

ACCEPTED = (
    "Pass a zoo.Dataset; or examples, as a tensor or an array: images (N, H, W) or (N, C, H, W), uint8 or floats in "
    "[0, 1], or floats of any shape; a Dataset or DataLoader of torch; or (examples, labels); or (train, test), "
    "each of them one of these."
)
ADVICE = {
    "DataFrame": " Take its numbers: frame.to_numpy(float).",
    "list": " Stack it: numpy.stack(images), or torch.stack(images).",
    "str": " Data sets with a name or a path are loaded from there: leave out data.",
}


def memory(
    source: Any,
    trained_columns: tuple[Column, ...] | None = None,
    modality: ArrayModality = "auto",
    layout: Layout = "auto",
    test_fraction: Fraction = 0.1,
    split_seed: Seed = 0,
    whole: bool = False,
) -> Dataset:
    """Examples passed to ``zoo.train(data=...)`` as objects. The run does not store them: pass the same examples to
    `zoo.resume`, `zoo.evaluate` and `zoo.fit_prior` as ``data``.

    Arrays and tensors are converted as in `arrays`.

    Args:
        source: a `zoo.Dataset`; examples; ``(examples, labels)``; or ``(train, test)``, each of them examples or
            ``(examples, labels)``. Examples are a tensor, an array, a `zoo.Split`, or a dataset or loader of torch,
            which is converted once.
        trained_columns: those of the trained model that the data are read for.
        modality: what arrays hold; as in `arrays`.
        layout: order of the axes of images.
        test_fraction: fraction of test examples, if none are passed; as in `folder`.
        split_seed: seed of the split, which depends only on it and on the index of each example.
        whole: hold nothing out.

    Raises:
        DataUnavailable: no data were passed.
        DataError: the data are of another type, or are not examples and labels; the message says why.
    """
    if source is None:
        raise DataUnavailable(
            "the data were passed as Python objects, which a run does not store. Pass them again: "
            "zoo.resume(run, data=...), zoo.evaluate(run, data=...), zoo.fit_prior(run, prior, data=...)."
        )
    if isinstance(source, Dataset):
        _require_defaults(test_fraction, split_seed)
        return source
    source = tuple(map(as_arrays, source)) if isinstance(source, tuple) else as_arrays(source)
    if isinstance(source, tuple) and len(source) == 2 and not _are_labels(source[1]):
        if not whole:
            _require_defaults(test_fraction, split_seed)
        train, test = (
            _examples(examples, name, layout, modality)
            for examples, name in zip(source, ("train", "test"), strict=True)
        )
        return as_dataset(train, test, modality, trained_columns, _are_codes(source[0]))
    every = _examples(source, "examples", layout, modality)
    codes = _are_codes(source)
    if whole:
        return as_dataset(every, every, modality, trained_columns, codes)
    train, test = divided(every, test_fraction, split_seed, "data")
    log.info(
        "Holding out %d of %d examples for testing: test_fraction %g, split_seed %d.",
        *(len(test), len(every), test_fraction, split_seed),
    )
    return as_dataset(train, test, modality, trained_columns, codes)


def _require_defaults(test_fraction: float, split_seed: int) -> None:
    if (test_fraction, split_seed) != (0.1, 0):
        raise DataError("The data are already split into (train, test): leave out test_fraction and split_seed.")


def _examples(data: Any, name: str, layout: Layout, modality: ArrayModality) -> Split:
    """The examples of one split."""
    if isinstance(data, Split):
        return data
    values, labels = data, None
    if isinstance(data, tuple) and len(data) == 2 and _are_labels(data[1]):
        values, labels = data
    return convert_examples(name, _array(values), None if labels is None else _array(labels), layout, modality)


def _are_codes(data: Any) -> bool:
    """Whether examples are integers with two axes."""
    values = data[0] if isinstance(data, tuple) else data
    return not isinstance(values, Split) and is_code_array(_array(values))


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
                f"A tensor of {value.dtype} with layout {value.layout} on {value.device} has no form as an array."
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

"""Arrays as examples: images, vectors or sequences, as files and Python objects hold them."""

from __future__ import annotations

from pathlib import Path

import torch

from zoo import Column, DataError, Dataset, Split
from zoo_datasets.array_file import Array
from zoo_datasets.array_images import Layout, Source, checked_labels, convert_split, shuffled
from zoo_datasets.own import split
from zoo_datasets.values import ArrayModality, code_columns, convert_values, modality_of


def convert_examples(
    name: str, array: Array, labels: Array | None, layout: Layout, modality: ArrayModality, file: Path = Path("data")
) -> Split:
    """Convert an array and its labels to a split. Both are copied.

    Raises:
        DataError: they are not examples and labels; the message says why.
    """
    if modality == "auto":
        modality = modality_of(array)
    if modality == "image":
        return convert_split(name, array, labels, layout, file)
    loader = None if labels is None else ("labels", lambda: labels)
    source = Source(file, name, lambda: array, loader, "examples")
    return convert_values(source.place, array, checked_labels(source, len(array)))


def divided(every: Split, test_fraction: float, seed: int, place: str) -> tuple[Split, Split]:
    """Split examples into training and test examples, which keep their index in `every`.

    Raises:
        DataError: there is only one.
    """
    if len(every) < 2:
        what = "image" if len(every.shape) == 3 else "example"
        raise DataError(f"{place} holds one {what}; training and testing need at least two.")
    return split(every.take(torch.tensor(shuffled(len(every), seed))), test_fraction)


def as_dataset(
    train: Split,
    test: Split,
    modality: ArrayModality,
    columns: tuple[Column, ...] | None,
    codes: bool,
    validation: Split | None = None,
) -> Dataset:
    """The data set of splits of arrays.

    Args:
        train, test, validation: the splits.
        modality: that of the arrays.
        columns: those of a trained model, if the data are read for one.
        codes: whether the arrays hold codes, which `code_columns` describes.
    """
    splits = [split for split in (train, validation, test) if split is not None]
    if modality == "auto" and (codes or len(train.shape) == 2):
        modality = "sequence"
    described = code_columns(splits, columns) if codes else ()
    return Dataset(train, test, validation, modality=None if modality == "auto" else modality, columns=described)

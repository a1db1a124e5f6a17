"""A `torch.utils.data.Dataset` or `DataLoader` as arrays, converted once."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data import Dataset as TorchDataset

from zoo import DataError

log = logging.getLogger("zoo")

BATCH = 1024
INTERVAL = 5.0
"""Seconds between two reports of progress."""


def as_arrays(source: object) -> object:
    """Collect the examples of a dataset or loader of torch; other objects are returned unchanged.

    Examples are collected in the order of the dataset, whether or not a loader shuffles them, so that the same data can
    be passed again to resume a run. A random transform is applied once.

    Returns:
        x, or (x, labels) if the examples are pairs.

    Raises:
        DataError: the examples are neither tensors nor pairs of a tensor and a label, or there are none.
    """
    if isinstance(source, TorchDataset):
        source = DataLoader(source, BATCH)
    if not isinstance(source, DataLoader):
        return source
    ordered = isinstance(source.sampler, (SequentialSampler, RandomSampler)) and source.batch_size is not None
    if ordered and not isinstance(source.dataset, IterableDataset):
        source = DataLoader(
            source.dataset, source.batch_size, collate_fn=source.collate_fn, num_workers=source.num_workers
        )
    return _collected(source, type(source.dataset).__name__)


def _collected(loader: Iterable[Any], name: str) -> object:
    total = len(loader.dataset) if hasattr(getattr(loader, "dataset", None), "__len__") else None  # type: ignore[attr-defined]
    log.info("Reading %s examples of a %s. This is done once.", "the" if total is None else total, name)
    x: list[Tensor] = []
    labels: list[Tensor] = []
    count, reported = 0, time.monotonic()
    for batch in loader:
        pair = batch if isinstance(batch, (tuple, list)) else (batch,)
        if len(pair) not in (1, 2) or not all(isinstance(part, Tensor) for part in pair):
            parts = ", ".join(type(part).__name__ for part in pair)
            raise DataError(
                f"The examples of a {name} must be tensors, or pairs of a tensor and a label; its batches are "
                f"({parts}). Convert images with torchvision.transforms.v2.functional.pil_to_tensor."
            )
        x.append(pair[0])
        labels += pair[1:]
        count += len(pair[0])
        if time.monotonic() - reported > INTERVAL:
            log.info("%d examples%s", count, "" if total is None else f" of {total}")
            reported = time.monotonic()
    if not x:
        raise DataError(f"A {name} has no examples.")
    shapes = {tuple(part.shape[1:]) for part in x}
    if len(shapes) > 1:
        raise DataError(f"The examples of a {name} have different shapes: {' and '.join(map(str, sorted(shapes)))}.")
    return torch.cat(x) if not labels else (torch.cat(x), torch.cat(labels))

"""Which data set a recipe gets: the first of its choices that can be had."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.data.cache import user_cache
from zoo.data.images import Dataset
from zoo.errors import ComponentError, DataUnavailable
from zoo.recipes.build import construct
from zoo.recipes.schema import Block

log = logging.getLogger("zoo")


@dataclass(frozen=True)
class Loaded:
    """A data set, the block that it came from, and why earlier choices were passed over."""

    block: Block
    dataset: Dataset
    passed_over: tuple[str, ...] = ()


def load_data(choices: Sequence[Block], root: Path | None = None) -> Loaded:
    """Load the first data set that can be had. Passing one over is logged as a warning, never silent.

    Args:
        choices: in order of preference.
        root: where the files of data sets lie; by default `data_root()`.

    Raises:
        DataUnavailable: none can be had; the message has the reason of each.
        DataError: the files of one are there and damaged. That is never passed over.
    """
    root = data_root() if root is None else root
    reasons: list[str] = []
    for block in choices:
        try:
            dataset = construct("dataset", block, {"root": root})
        except DataUnavailable as error:
            reasons.append(f"{block.use} could not be had: {error}")
            continue
        if not isinstance(dataset, Dataset):
            raise ComponentError(f"dataset {block.use!r} returned a {type(dataset).__name__}, not a zoo.Dataset")
        for reason in reasons:
            log.warning("%s Using %s instead.", reason, block.use)
        return Loaded(block, dataset, tuple(reasons))
    raise DataUnavailable("\n".join(["No data to train on.", *(f"  {reason}" for reason in reasons)]))


def data_root() -> Path:
    """``ZOO_DATA``, or a folder of the zoo's in the user's cache."""
    if "ZOO_DATA" in os.environ:
        return Path(os.environ["ZOO_DATA"])
    return user_cache()

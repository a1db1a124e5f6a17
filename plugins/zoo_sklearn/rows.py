"""What an estimator is fitted to, as tensors and back: rows of numbers, or tables with mixed columns."""

from __future__ import annotations

import contextlib
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import zoo
from zoo import Column, ComponentSpec, UsageError, load_data
from zoo_sklearn.scaling import Scaling

Array = NDArray[Any]


class Rows(ABC):
    """The conversion of rows to examples of a model, fitted to the training rows.

    Attributes:
        shape: event shape of x.
        columns: what the entries of x mean, if the model takes columns.
    """

    shape: tuple[int, ...]
    columns: tuple[Column, ...] = ()

    @abstractmethod
    def encode(self, rows: Any) -> tuple[Tensor, Tensor | None]:
        """Examples (N, *shape), float64 with 0 for missing entries, and the mask, if any is missing."""

    @abstractmethod
    def decode(self, x: Tensor) -> Any:
        """Rows in the units of the training rows, from examples (N, *shape)."""

    @abstractmethod
    def log_density_factor(self) -> Array:
        """What each entry of x, flattened, adds to the log-density when units of x become those of the rows."""


class NumberRows(Rows):
    """Rows of numbers (N, D), standardized if `scaling` says so."""

    def __init__(self, scaling: Scaling, shape: tuple[int, ...]) -> None:
        if np.prod(shape) != len(scaling.scale):
            raise UsageError(f"data_shape={shape} does not have the {len(scaling.scale)} entries of a row of X.")
        self.scaling, self.shape = scaling, shape

    def encode(self, rows: Array) -> tuple[Tensor, Tensor | None]:
        """Standardize the rows."""
        x = torch.tensor(self.scaling.scale_rows(rows)).reshape(-1, *self.shape)
        mask = ~torch.isnan(x)
        return (x, None) if bool(mask.all()) else (x.nan_to_num(0.0), mask)

    def decode(self, x: Tensor) -> Array:
        """Undo `encode`, as an array (N, D)."""
        return self.scaling.restore_rows(x.flatten(1).double().numpy())

    def log_density_factor(self) -> Array:
        """-log of the standard deviations."""
        return self.scaling.log_density_factor


class TableRows(Rows):
    """The rows of a data frame; kinds, categories and scales are those of the data set `frame`.

    Args:
        frame: the training rows.
        kinds: kinds of columns by name, instead of the inferred ones.
        as_array: return arrays of numbers instead of frames.
    """

    def __init__(self, frame: Any, kinds: Mapping[str, Any], as_array: bool) -> None:
        self.kinds, self.as_array = dict(kinds), as_array
        self.names = [str(name) for name in frame.columns]
        self.columns = self._load(frame).columns
        self.shape = (len(self.columns),)

    def encode(self, rows: Any) -> tuple[Tensor, Tensor | None]:
        """Encode the rows. An unknown category counts as missing, with a warning."""
        split = self._load(rows).train
        return split.x.double(), split.mask

    def decode(self, x: Tensor) -> Any:
        """Undo `encode`. Columns that the model was not fitted to are missing."""
        from zoo_tables.frames import to_frame

        frame = to_frame(x, self.columns).reindex(columns=self.names)
        return frame.to_numpy(dtype=np.float64, na_value=np.nan) if self.as_array else frame

    def log_density_factor(self) -> Array:
        """-log of the scale of each column."""
        return -np.log([column.scale for column in self.columns])

    def _load(self, frame: Any) -> zoo.Dataset:
        spec = ComponentSpec(use="frame", **({"columns": self.kinds} if self.kinds else {}))
        with _messages_as_warnings():
            return load_data([spec], columns=self.columns or None, source=frame, whole=True).dataset


@contextlib.contextmanager
def _messages_as_warnings() -> Iterator[None]:
    """Turn messages of the library into warnings, as scikit-learn does: each is shown once, and can be filtered."""
    logger = logging.getLogger("zoo")
    messages: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        messages.append(record.getMessage())
        return False

    logger.addFilter(collect)
    try:
        yield
    finally:
        logger.removeFilter(collect)
    for message in messages:
        warnings.warn(message, UserWarning, stacklevel=2)


def is_frame(X: object) -> bool:
    """Whether X is a pandas or polars DataFrame."""
    names = {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type(X).__mro__}
    return bool(names & {"pandas.DataFrame", "polars.DataFrame"})


def has_numbers_alone(frame: Any) -> bool:
    """Whether every column of a data frame can be converted to floats."""
    try:
        np.asarray(frame).astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True

"""The standardization of columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Scaling:
    """x = (X - mean) / scale, for each column.

    Attributes:
        mean, scale: float64 (D,).
    """

    mean: Array
    scale: Array

    @classmethod
    def of(cls, rows: Array) -> Self:
        """The mean and the standard deviation of the observed values (N, D); 0 and 1 where there are none.

        A constant column has the scale 1.
        """
        observed = ~np.isnan(rows)
        count = observed.sum(0).clip(1)
        # In units of the largest value, so that the squares of large values do not overflow.
        unit = np.abs(np.where(observed, rows, 0.0)).max(0)
        unit[unit == 0] = 1.0
        values = np.where(observed, rows / unit, 0.0)
        mean = values.sum(0) / count
        scale = np.sqrt((np.where(observed, values - mean, 0.0) ** 2).sum(0) / count)
        constant = scale <= 10 * np.finfo(np.float64).eps * np.abs(mean)
        return cls(mean * unit, np.where(constant, 1.0, scale * unit))

    @classmethod
    def identity(cls, columns: int) -> Self:
        """The scaling that changes nothing."""
        return cls(np.zeros(columns), np.ones(columns))

    @property
    def log_density_factor(self) -> Array:
        """What each column (D,) adds to the log-density of its value, when units of x become units of X."""
        factor: Array = -np.log(self.scale)
        return factor

    def scale_rows(self, rows: Array) -> Array:
        """Standardize rows (N, D)."""
        scaled: Array = (rows - self.mean) / self.scale
        return scaled

    def restore_rows(self, rows: Array) -> Array:
        """Undo `scale_rows`."""
        restored: Array = rows * self.scale + self.mean
        return restored

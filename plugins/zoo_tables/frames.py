"""Data frames to x and back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo import Column, DataError
from zoo_tables.reading import pandas
from zoo_tables.values import Values, plural

if TYPE_CHECKING:
    from pandas import DataFrame

log = logging.getLogger("zoo")

EPOCH = np.datetime64("1970-01-01T00:00:00", "us")
MICROSECONDS = 24 * 60 * 60 * 10**6
DATED = ("date", "datetime")
SMALLEST_POSITIVE = float(np.finfo(np.float32).tiny)
LARGEST_INTEGER = 2.0**63 - 1024
LARGEST = float(np.finfo(np.float32).max)


def encode_values(columns: Sequence[Column], values: Sequence[Values]) -> tuple[Tensor, Tensor]:
    """Encode the values of the columns.

    A category that a column does not have, and a value outside its kind (a negative count), count as missing and are
    reported.

    Raises:
        DataError: an entry exceeds the range of float32.

    Returns:
        x, float32 (N, D), 0 where missing; and the mask, bool (N, D), true where observed.
    """
    n = len(values[0].values)
    x, mask = torch.zeros(n, len(columns)), torch.zeros(n, len(columns), dtype=torch.bool)
    for i, (column, column_values) in enumerate(zip(columns, values, strict=True)):
        entries, observed = _entries(column, column_values)
        entries = np.where(observed, entries, 0.0)
        if (large := np.abs(entries) > LARGEST).any():
            first = int(large.argmax())
            raise DataError(
                f"Column {column.name!r} has the value {column_values.values[first]:g} in row {first + 1}, too far "
                "from the others for float32. Take its logarithm, or leave the column out: "
                f"data.columns.{column.name}=omit."
            )
        x[:, i] = torch.from_numpy(entries.astype(np.float32))
        mask[:, i] = torch.from_numpy(observed)
    return x, mask


def _entries(column: Column, values: Values) -> tuple[Any, Any]:
    """The entries of one column, float64 (N,), and where they are observed."""
    observed = ~values.missing
    if not column.coded:
        dated = column.format in DATED
        if not values.numeric or (values.format in DATED) != dated:
            if observed.any():
                _report(column, values, observed, "is not a date" if dated else "is not a number")
            return np.zeros(len(observed)), np.zeros_like(observed)
        entries = column.encode(values.values)
        outside = np.zeros_like(observed)
        if column.kind == "count":
            outside = observed & ((values.values < 0) | (values.values != np.rint(values.values)))
        elif column.kind == "positive":
            outside = observed & (values.values <= 0)
        if outside.any():
            _report(column, values, outside, f"is not a value of the kind {column.kind}")
        return entries, observed & ~outside
    codes = pandas().Index(column.categories, dtype=object).get_indexer(_objects(values))
    unknown = observed & (codes < 0)
    if unknown.any():
        _report(column, values, unknown, "is not a category of the training rows")
    return codes.astype(np.float64), observed & ~unknown


def _objects(values: Values) -> Any:
    """Values as objects that compare equal to categories: 1.0 to 1, but not to '1'."""
    if values.numeric:
        return values.values.astype(object)
    return values.values


def _report(column: Column, values: Values, rows: Any, reason: str) -> None:
    first = int(rows.argmax())
    value = float(values.values[first]) if values.numeric else values.values[first]
    log.warning(
        "Column %r: %s %s as missing, since %r in row %d %s.",
        *(column.name, plural(int(rows.sum()), "value"), "counts" if rows.sum() == 1 else "count"),
        *(value, first + 1, reason),
    )


def to_frame(x: Tensor, columns: Sequence[Column], mask: Tensor | None = None) -> DataFrame:
    """Rows in the original columns, kinds, units and categories.

    Args:
        x: (N, D), as in a table split. Probabilities and means are rounded for coded columns, integers and counts, and
            other numbers to the decimals of their column.
        columns: the D columns.
        mask: bool (N, D), true where an entry is known; others are missing in the frame.

    Returns:
        A `pandas.DataFrame` with N rows and D columns.
    """
    pd = pandas()
    entries = x.detach().cpu().double().numpy()
    missing = np.zeros(entries.shape, bool) if mask is None else ~mask.cpu().numpy()
    frame: DataFrame = pd.DataFrame(
        {column.name: _series(column, entries[:, i], missing[:, i]) for i, column in enumerate(columns)}
    )
    return frame


def stamps_of(days: Any) -> Any:
    """Days since 1970-01-01, float64 (N,), as datetime64[us]; NaN is NaT."""
    missing = np.isnan(days)
    stamps = EPOCH + np.rint(np.where(missing, 0.0, days) * MICROSECONDS).astype(np.int64).astype("timedelta64[us]")
    return np.where(missing, np.datetime64("NaT", "us"), stamps)


def _series(column: Column, entries: Any, missing: Any) -> Any:
    pd = pandas()
    if column.coded:
        codes = np.clip(np.rint(entries), 0, len(column.categories) - 1).astype(np.int64)
        values = pd.Series(pd.array(column.categories, dtype=object)[codes])
        values = values.where(~missing, None)
        if column.format not in (dtypes := {"integer": "Int64", "boolean": "boolean", "float": "float64"}):
            return values.astype("str").mask(missing)  # before pandas 3, astype makes text of None
        return values.astype(dtypes[column.format])
    numbers = column.decode(entries)
    if column.decimals is not None:
        numbers = numbers.round(column.decimals)
    if column.kind == "positive":
        numbers = numbers.clip(SMALLEST_POSITIVE if column.decimals is None else 10.0**-column.decimals)
    if column.format in DATED:
        days = np.rint(numbers) if column.format == "date" else numbers
        stamps = stamps_of(days)
        if column.format == "datetime":
            stamps = stamps.astype("datetime64[s]").astype("datetime64[us]")
        stamps[missing] = np.datetime64("NaT")
        return pd.Series(stamps)
    if column.format == "integer":
        whole = pd.Series(np.rint(numbers).clip(-LARGEST_INTEGER, LARGEST_INTEGER)).astype("Int64")
        return whole.mask(missing)
    return pd.Series(np.where(missing, np.nan, numbers))

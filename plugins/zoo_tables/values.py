"""The values of a column: numbers, dates, booleans and text, read from the cells of a data frame."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from zoo import Column, DataError
from zoo_tables.reading import pandas

if TYPE_CHECKING:
    from pandas import Series

log = logging.getLogger("zoo")

Format = Literal["float", "integer", "boolean", "text", "date", "datetime"]

DAY = np.timedelta64(1, "D") / np.timedelta64(1, "us")
_DAYS = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d %b %Y", "%d-%b-%Y", "%d %B %Y")
DATES = tuple(day + time for day in _DAYS for time in ("", " %H:%M", " %H:%M:%S"))
"""Patterns of dates besides those of ISO 8601."""
ISO_DATES = tuple(
    day + time + zone
    for day in ("%Y-%m-%d", "%Y/%m/%d", "%Y-%m", "%Y%m%d")
    for time in ("", " %H:%M:%S", "T%H:%M:%S", " %H:%M", "T%H:%M")
    for zone in ("", "Z", "+00:00")
)
SAMPLE = 1000
"""Values from which it is seen that a column holds no dates of some pattern."""
MOST = 0.5
"""A column with a greater share of dates is reported if the rest is text."""
EXACT = 2**53
"""Integers above it are not exact as float64."""
MOST_DECIMALS = 6


@dataclass
class Values:
    """The values of one column.

    Attributes:
        name: of the column.
        values: float64, NaN where missing; or objects, None where missing.
        format: how they are written; see `zoo.Column`.
        numeric: whether the values are float64.
        categories: those of a categorical type of pandas, if it has them.
        ordered: whether these are in order.
        note: what is unusual, for a message.
        pattern: of dates that were text, as for strftime.
        decimal_comma: whether the numbers were written with decimal commas.
    """

    name: str
    values: Any
    format: Format
    numeric: bool
    categories: tuple[Any, ...] = ()
    ordered: bool = False
    note: str = ""
    pattern: str = ""
    decimal_comma: bool = False

    @property
    def missing(self) -> Any:
        """Where values are missing, bool (N,)."""
        return np.isnan(self.values) if self.numeric else pandas().isna(self.values)


def read_values(series: Series, name: str, numeric: bool = False, column: Column | None = None) -> Values:
    """The values of a column.

    Numbers in text become numbers, with decimal commas if all of them have one; dates become days since 1970-01-01.

    Args:
        series: the column.
        name: its name.
        numeric: the user set a numeric kind: text that is not a number or a date is missing, and reported.
        column: that of the trained model for which the values are read.

    Raises:
        DataError: a number is infinite, or the column holds lists or other objects.
    """
    pd = pandas()
    if isinstance(series.dtype, pd.CategoricalDtype):
        categories = tuple(_plain(value) for value in series.cat.categories)
        objects = series.astype(object).where(series.notna(), None).to_numpy(object)
        return Values(name, objects, _format_of(categories), False, categories, bool(series.cat.ordered))
    inferred = pd.api.types.infer_dtype(series, skipna=True)
    if inferred == "boolean":
        return Values(name, series.astype(object).where(series.notna(), None).to_numpy(object), "boolean", False)
    if inferred in ("integer", "floating", "mixed-integer-float", "decimal", "empty"):
        return _numbers(name, pd.to_numeric(series, errors="coerce").to_numpy(np.float64, na_value=np.nan))
    if inferred in ("datetime64", "datetime", "date"):
        return _dates(name, pd.to_datetime(series, errors="coerce", utc=True))
    if inferred in ("string", "mixed-integer", "mixed"):
        return _Text(name, series, numeric, column).values()
    raise DataError(
        f"Column {name!r} holds values of the type {inferred}, which is not supported. Convert it to numbers or text, "
        f"or leave it out: data.columns.{name}=omit."
    )


def _numbers(name: str, values: Any, note: str = "", decimal_comma: bool = False) -> Values:
    if (infinite := np.isinf(values)).any():
        raise DataError(
            f"Column {name!r} is infinite in row {int(infinite.argmax()) + 1}. Leave the field empty if the value is "
            "missing."
        )
    finite = values[~np.isnan(values)]
    whole = bool(len(finite)) and bool((finite == np.rint(finite)).all()) and bool(np.abs(finite).max() < 2.0**63)
    return Values(name, values, "integer" if whole else "float", True, note=note, decimal_comma=decimal_comma)


def _dates(name: str, dates: Any, note: str = "", pattern: str = "") -> Values:
    stamps = dates.dt.tz_localize(None).to_numpy("datetime64[us]")
    days = stamps.astype(np.int64) / DAY
    days[np.isnat(stamps)] = np.nan
    observed = days[~np.isnan(days)]
    written = "date" if (observed == np.floor(observed)).all() else "datetime"
    return Values(name, days, written, True, note=note, pattern=pattern)  # type: ignore[arg-type]


class _Text:
    """The cells of a column of text, and what they can be read as.

    Args:
        name, series, numeric, column: as in `read_values`.
    """

    def __init__(self, name: str, series: Series, numeric: bool, column: Column | None) -> None:
        pd = pandas()
        self.name, self.numeric, self.column = name, numeric, column
        self.missing = series.isna().to_numpy(bool)
        present = series[~self.missing]
        if not isinstance(series.dtype, pd.StringDtype):
            cells = present.to_numpy(object)
            unusual = next((v for v in cells if isinstance(v, (list, dict, set, tuple, np.ndarray, bytes))), None)
            if unusual is not None:
                raise DataError(
                    f"Column {name!r} holds a {type(unusual).__name__}; expected numbers or text. Leave it out: "
                    f"data.columns.{name}=omit."
                )
            present = pd.Series(cells).astype(str)
        self.text = present.reset_index(drop=True).str.strip()

    def values(self) -> Values:
        """Booleans, codes with leading zeros, numbers, dates, or text: the first that all cells are."""
        if self.column is not None and self.column.coded and self.column.format == "text":
            return self._objects()
        lower = self.text.str.lower()
        if not self.numeric and len(lower) and bool(lower.isin(["true", "false"]).all()):
            return self._objects(values=(lower == "true").astype(object), written="boolean")
        digits = bool(self.text.str.fullmatch(r"[+-]?\d+").all())
        if digits and not self.numeric and bool(self.text.str.fullmatch(r"[+-]?0\d+").any()):
            first = self.text[self.text.str.fullmatch(r"[+-]?0\d+")].iloc[0]
            return self._objects(f"values such as {first!r} have leading zeros and are read as text")
        numbers, comma = pandas().to_numeric(self.text, errors="coerce"), False
        if numbers.isna().any() and bool(self.text.str.fullmatch(r"[+-]?\d+(?:,\d+)?").all()):
            if self.text.str.fullmatch(r"[+-]?\d{1,3}(?:,\d{3})?").all() and not self.numeric:
                note = (
                    f"values such as {self.text[numbers.isna()].iloc[0]!r} have a decimal comma or separate thousands"
                )
                return self._objects(f"{note}; set data.columns.{self.name}=real for a decimal comma")
            log.info("Column %r: decimal commas are read as decimal points.", self.name)
            numbers, comma = pandas().to_numeric(self.text.str.replace(",", ".", regex=False)), True
        numbers = pandas().Series(numbers.to_numpy(np.float64, na_value=np.nan))
        wrong = numbers.isna()
        if digits and not self.numeric and numbers.abs().max() > EXACT and numbers.nunique() < self.text.nunique():
            return self._objects("integers of more than 15 digits are read as text")
        if not wrong.any():
            return self._numbers(numbers, comma=comma)
        dates = self._as_dates()
        if dates is not None and (self.numeric or not dates[0].isna().any()):
            return self._dates(*dates)
        if self.numeric and (self.column is not None or not wrong.all()):
            note = f"{plural(int(wrong.sum()), 'value')} such as {self.text[wrong].iloc[0]!r} "
            note += (
                "is not a number and counts as missing" if wrong.sum() == 1 else "are not numbers and count as missing"
            )
            return self._numbers(numbers, note, comma)
        parsed, what = (~dates[0].isna(), "dates") if dates is not None else (~wrong, "numbers")
        note = ""
        if parsed.any():
            note = (
                f"{np.floor(100 * parsed.mean()):.0f}% of the values are {what} and others are text such as "
                f"{self.text[~parsed].iloc[0]!r}; data.columns.{self.name}=real would read the text as missing"
            )
        return self._objects(note)

    def _as_dates(self) -> tuple[Any, str] | None:
        """The dates, missing where a cell is not one, and their pattern; None if most cells are not dates.

        A pattern that reads more cells is preferred. If days and months cannot be told apart, they are not dates.
        """
        pd = pandas()
        trained = self.column.pattern if self.column is not None else ""
        best: tuple[Any, str] | None = None
        for pattern in (*((trained,) if trained else ()), "ISO8601", *DATES):
            if pd.to_datetime(self.text[:SAMPLE], errors="coerce", format=pattern, utc=True).isna().all():
                continue
            dates = pd.to_datetime(self.text, errors="coerce", format=pattern, utc=True)
            if best is None or dates.notna().sum() > best[0].notna().sum():
                best = dates, pattern
            elif not trained and dates.notna().sum() == best[0].notna().sum() and not dates.equals(best[0]):
                log.warning(
                    "Column %r: %r may be %s or %s. Write dates as 2020-01-31.",
                    *(self.name, self.text.iloc[0], _readable(best[1]), _readable(pattern)),
                )
                return None
            if dates.notna().all() and pattern in ("ISO8601", trained):
                break
        if best is None or (not self.numeric and best[0].notna().mean() <= MOST):
            return None
        return best[0], _iso_pattern(self.text[best[0].notna()].iloc[0]) if best[1] == "ISO8601" else best[1]

    def _numbers(self, numbers: Any, note: str = "", comma: bool = False) -> Values:
        filled = np.full(len(self.missing), np.nan)
        filled[~self.missing] = numbers.to_numpy(np.float64)
        return _numbers(self.name, filled, note, comma)

    def _dates(self, dates: Any, pattern: str) -> Values:
        pd = pandas()
        whole = pd.Series(pd.NaT, index=range(len(self.missing)), dtype="datetime64[us, UTC]")
        whole[~self.missing] = dates.to_numpy()
        note = ""
        if (wrong := dates.isna()).any():
            note = f"{plural(int(wrong.sum()), 'value')} such as {self.text[wrong].iloc[0]!r} "
            note += "is not a date and counts as missing" if wrong.sum() == 1 else "are not dates and count as missing"
        return _dates(self.name, whole, note, pattern)

    def _objects(self, note: str = "", values: Any = None, written: Format = "text") -> Values:
        objects = np.full(len(self.missing), None, dtype=object)
        objects[~self.missing] = (self.text if values is None else values).to_numpy(object)
        return Values(self.name, objects, written, False, note=note)


def _iso_pattern(cell: str) -> str:
    """The pattern of a date of ISO 8601, for strftime; with an offset, that of UTC."""
    pd = pandas()
    stamp = pd.Timestamp(cell)
    for pattern in ISO_DATES:
        if stamp.strftime(pattern) == cell:
            return pattern
    if stamp.tz is not None:
        return "%Y-%m-%dT%H:%M:%S+00:00"
    return "%Y-%m-%d %H:%M:%S" if stamp != stamp.normalize() else "%Y-%m-%d"


def _readable(pattern: str) -> str:
    """``%d/%m/%Y`` as ``day/month/year``."""
    for code, word in {"%d": "day", "%m": "month", "%Y": "year", "%H": "hour", "%M": "minute", "%S": "second"}.items():
        pattern = pattern.replace(code, word)
    return pattern


def decimals(values: Any) -> int | None:
    """The number of decimals with which all finite `values` are written, at most 6; None if they have more.

    >>> decimals(np.array([1.25, 3.5, np.nan])), decimals(np.array([1 / 3])), decimals(np.array([4.0]))
    (2, None, 0)
    """
    finite = values[np.isfinite(values)]
    for number in range(MOST_DECIMALS + 1):
        if np.allclose(finite, finite.round(number), rtol=1e-14, atol=0.0):
            return number
    return None


def plural(number: int, noun: str) -> str:
    """A number with its noun.

    >>> plural(1, "value"), plural(2, "value")
    ('1 value', '2 values')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _format_of(categories: Sequence[Any]) -> Literal["float", "integer", "boolean", "text"]:
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "float")):
        if categories and all(type(value) is kind for value in categories):
            return name  # type: ignore[return-value]
    return "text"

"""The kind of each column of a data frame: inferred from the training rows, or set by the user."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict

from zoo import Column, DataError, did_you_mean
from zoo_tables.reading import pandas

if TYPE_CHECKING:
    from pandas import Series

log = logging.getLogger("zoo")

Kind = Literal["real", "positive", "count", "binary", "categorical", "ordinal", "omit"]
NUMERIC = ("real", "positive", "count")
FEW = 10
"""Integers with at most this number of different values are categories."""
SKEWED = 2.0
"""Positive numbers with a greater skewness are modelled by their logarithm."""
LARGEST_COUNT = 100_000
DATES = ("ISO8601", "%d.%m.%Y", "%Y/%m/%d")
DAY = np.timedelta64(1, "D") / np.timedelta64(1, "us")


class KindOf(BaseModel):
    """A kind with its categories in order, such as ``{kind: ordinal, categories: [S, M, L]}``."""

    model_config = ConfigDict(extra="forbid")
    kind: Kind
    categories: list[Any] = []


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
    """

    name: str
    values: Any
    format: Literal["float", "integer", "boolean", "text", "date", "datetime"]
    numeric: bool
    categories: tuple[Any, ...] = ()
    ordered: bool = False
    note: str = ""

    @property
    def missing(self) -> Any:
        """Where values are missing, bool (N,)."""
        return np.isnan(self.values) if self.numeric else pandas().isna(self.values)


def read_values(series: Series, name: str, numeric: bool = False) -> Values:
    """The values of a column.

    Numbers in text become numbers, with decimal commas if all of them have one; dates become days since 1970-01-01.

    Args:
        series: the column.
        name: its name.
        numeric: the user set a numeric kind: text that is not a number is missing, and reported.

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
        return _text(name, series, numeric)
    raise DataError(
        f"Column {name!r} holds values of the type {inferred}, which is not supported. Convert it to numbers or text, "
        f"or leave it out: data.columns.{name}=omit."
    )


def _numbers(name: str, values: Any, note: str = "") -> Values:
    if (infinite := np.isinf(values)).any():
        raise DataError(
            f"Column {name!r} is infinite in row {int(infinite.argmax()) + 1}. Leave the field empty if the value is "
            "missing."
        )
    finite = values[~np.isnan(values)]
    whole = bool(len(finite)) and bool((finite == np.rint(finite)).all())
    return Values(name, values, "integer" if whole else "float", True, note=note)


def _dates(name: str, dates: Any, note: str = "") -> Values:
    stamps = dates.dt.tz_localize(None).to_numpy("datetime64[us]")
    days = stamps.astype(np.int64) / DAY
    days[np.isnat(stamps)] = np.nan
    observed = days[~np.isnan(days)]
    return Values(name, days, "date" if (observed == np.floor(observed)).all() else "datetime", True, note=note)


def _text(name: str, series: Series, numeric: bool) -> Values:
    """Numbers or dates in text, or text."""
    pd = pandas()
    values = series.to_numpy(object)
    unusual = next((v for v in values if isinstance(v, (list, dict, set, tuple, np.ndarray, bytes))), None)
    if unusual is not None:
        raise DataError(
            f"Column {name!r} holds a {type(unusual).__name__}; expected numbers or text. Leave it out: "
            f"data.columns.{name}=omit."
        )
    missing = pd.isna(values)
    text = pd.Series(values[~missing]).astype(str).str.strip()
    numbers = pd.to_numeric(text, errors="coerce")
    if numbers.isna().any() and bool(text.str.fullmatch(r"[+-]?\d+(?:,\d+)?").all()):
        if text.str.fullmatch(r"[+-]?\d{1,3}(?:,\d{3})?").all() and not numeric:
            note = f"values such as {text[numbers.isna()].iloc[0]!r} have a decimal comma or separate thousands"
            return _objects(name, text, missing, f"{note}; set data.columns.{name}=real for a decimal comma")
        log.info("Column %r: decimal commas are read as decimal points.", name)
        numbers = pd.to_numeric(text.str.replace(",", ".", regex=False))
    wrong = numbers.isna()
    if numeric or not wrong.any():
        filled = np.full(len(values), np.nan)
        filled[~missing] = numbers.to_numpy(np.float64)
        note = f"{int(wrong.sum())} values such as {text[wrong].iloc[0]!r} are not numbers and count as missing"
        return _numbers(name, filled, note if wrong.any() else "")
    for form in DATES:
        dates = pd.to_datetime(text, errors="coerce", format=form, utc=True)
        if dates.notna().all():
            whole = pd.Series(pd.NaT, index=range(len(values)), dtype="datetime64[us, UTC]")
            whole[~missing] = dates.to_numpy()
            return _dates(name, whole)
    note = ""
    if (share := 1 - wrong.mean()) > 0:
        note = (
            f"{share:.0%} of the values are numbers and others are text such as {text[wrong].iloc[0]!r}; "
            f"data.columns.{name}=real would read the text as missing"
        )
    return _objects(name, text, missing, note)


def _objects(name: str, text: Series, missing: Any, note: str) -> Values:
    values = np.full(len(missing), None, dtype=object)
    values[~missing] = text.to_numpy(object)
    return Values(name, values, "text", False, note=note)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _format_of(categories: Sequence[Any]) -> Literal["float", "integer", "boolean", "text"]:
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "float")):
        if categories and all(type(value) is kind for value in categories):
            return name  # type: ignore[return-value]
    return "text"


def column_for(values: Values, training: Any, choice: KindOf | None, max_categories: int) -> tuple[Column | None, str]:
    """The column of some values, fitted to the training rows.

    Args:
        values: of all rows.
        training: the positions of the training rows.
        choice: the kind that the user set, or None.
        max_categories: columns with more categories are left out, or refused if the user set their kind.

    Returns:
        The column, or None if it is left out; and a note, or the reason.

    Raises:
        DataError: the values do not have the kind that the user set.
    """
    observed = values.values[training]
    observed = observed[~values.missing[training]]
    if not len(observed):
        return None, "has no value in the training rows"
    distinct = [*map(_plain, pandas().unique(observed))]
    if choice is None and _is_identifier(values, len(distinct), len(observed)):
        return None, "identifies the rows: all its values differ"
    kind = choice.kind if choice else _infer(values, observed, distinct)
    if kind in NUMERIC:
        return _numeric_column(values, observed, kind), values.note
    categories = values.categories or tuple(sorted(distinct, key=lambda v: (str(type(v)), v)))
    if choice and choice.categories:
        categories = tuple(choice.categories)
    if values.numeric and values.format == "integer":
        categories = tuple(int(value) for value in categories)
    if len(categories) > max_categories:
        reason = f"has {len(categories)} different values, more than data.max_categories={max_categories}"
        if choice:
            raise DataError(f"Column {values.name!r} {reason}. Raise it, or write data.columns.{values.name}=omit.")
        return None, reason
    if kind == "binary" and len(categories) != 2:
        raise DataError(
            f"Column {values.name!r} has {len(categories)} different values in the training rows, and binary columns "
            f"have two. Write data.columns.{values.name}=categorical."
        )
    note = values.note or ("has one value" if len(categories) == 1 else "")
    return Column(values.name, kind, categories, format=values.format), note  # type: ignore[arg-type]


def _is_identifier(values: Values, distinct: int, observed: int) -> bool:
    """Whether a column is text that never repeats, or the number of the row."""
    if values.numeric:
        whole = values.format == "integer" and observed > FEW
        return whole and bool((np.diff(values.values) == 1).all())
    return values.format == "text" and not values.categories and distinct == observed > FEW


def _infer(values: Values, observed: Any, distinct: Sequence[Any]) -> Any:
    """The kind of a column; see docs/tables.md."""
    if values.ordered:
        return "ordinal"
    count = len(values.categories or distinct)
    if count == 1:
        return "categorical"
    if not values.numeric:
        return "binary" if count == 2 else "categorical"
    if values.format in ("date", "datetime"):
        return "real"
    if count == 2:
        return "binary"
    low, high = observed.min(), observed.max()
    if values.format == "integer":
        if count <= FEW and count < len(observed):
            return "categorical"
        if 0 <= low <= 1 and high <= LARGEST_COUNT:
            return "count"
    if low > 0 and _skewness(observed) > SKEWED:
        return "positive"
    return "real"


def _skewness(values: Any) -> float:
    centered = values - values.mean()
    spread = math.sqrt((centered**2).mean())
    return float((centered**3).mean() / spread**3) if spread > 0 else 0.0


def _numeric_column(values: Values, observed: Any, kind: Any) -> Column:
    if not values.numeric:
        raise DataError(
            f"Column {values.name!r} holds text such as {observed[0]!r}, so it cannot be {kind}. Write "
            f"data.columns.{values.name}=categorical."
        )
    if kind == "count":
        if values.format != "integer" or observed.min() < 0:
            wrong = observed[(observed < 0) | (observed != np.rint(observed))][0]
            raise DataError(f"Column {values.name!r} has the value {wrong:g}; counts are 0, 1, 2, ...")
        return Column(values.name, kind, format="integer")
    if kind == "positive":
        if observed.min() <= 0:
            raise DataError(
                f"Column {values.name!r} has the value {observed.min():g}; positive columns are above 0. Write "
                f"data.columns.{values.name}=real."
            )
        return Column(values.name, kind, scale=float(np.exp(np.log(observed).mean())), format=values.format)
    spread = float(observed.std())
    location = float(observed.mean())
    scale = spread if spread > 1e-12 * max(1.0, abs(location)) else 1.0
    return Column(values.name, kind, location=location, scale=scale, format=values.format)


def check_choices(choices: Mapping[str, Any], names: Sequence[str]) -> dict[str, KindOf]:
    """The kinds that the user set.

    Raises:
        DataError: there is no such column or kind.
    """
    kinds = {}
    for name, choice in choices.items():
        if name not in names:
            raise DataError(
                f"data.columns.{name}: there is no column {name!r}.{did_you_mean(name, names)} Columns: "
                f"{', '.join(names)}."
            )
        try:
            kinds[name] = KindOf.model_validate({"kind": choice} if isinstance(choice, str) else choice)
        except ValueError:
            raise DataError(
                f"data.columns.{name}={choice!r}: expected one of {', '.join(get_args(Kind))}, or "
                "{kind: ordinal, categories: [...]}."
            ) from None
    return kinds

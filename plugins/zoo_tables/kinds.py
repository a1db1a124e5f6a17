"""The kind of each column of a data frame: inferred from the training rows, or set by the user."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict

from zoo import Column, DataError, did_you_mean
from zoo_tables.reading import pandas
from zoo_tables.values import Values, decimals

Kind = Literal["real", "positive", "count", "binary", "categorical", "ordinal", "omit"]
NUMERIC = ("real", "positive", "count")
FEW = 10
"""Integers with at most this number of different values are categories."""
MOST_DISTINCT = 0.5
"""Text with a greater share of different values is reported."""
SKEWED = 2.0
"""Positive numbers with a greater skewness are modelled by their logarithm."""
LARGEST_COUNT = 100_000
MANY_ROWS = 50
"""Fewer integers may all differ by chance."""


class KindOf(BaseModel):
    """A kind with its categories in order, such as ``{kind: ordinal, categories: [S, M, L]}``."""

    model_config = ConfigDict(extra="forbid")
    kind: Kind
    categories: list[Any] = []


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
    distinct = pandas().unique(observed).tolist()
    if choice is None and _is_identifier(values, observed, len(distinct)):
        first = int(distinct[0]) if values.format == "integer" else distinct[0]
        return None, f"identifies the rows: all its values differ, such as {first!r}"
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
    note = values.note
    if len(categories) == 1:
        note = note or f"it has one value, {categories[0]!r}"
    elif choice is None and values.format == "text" and len(categories) > MOST_DISTINCT * len(observed) > FEW:
        note = note or (
            f"it has {len(categories)} different values in {len(observed)} rows, such as {categories[0]!r}; "
            f"data.columns.{values.name}=omit leaves it out"
        )
    return Column(values.name, kind, categories, format=values.format), note  # type: ignore[arg-type]


def _is_identifier(values: Values, observed: Any, distinct: int) -> bool:
    """Whether a column is text that never repeats, or the number of the row, in any order and some left out."""
    if distinct < len(observed) or distinct <= FEW:
        return False
    if values.numeric:
        dense = len(observed) > MANY_ROWS and np.ptp(observed) < 3 * len(observed)
        return values.format == "integer" and bool(dense or (np.diff(values.values) == 1).all())
    return values.format == "text" and not values.categories


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
    values = values / np.abs(values).max()
    centered = values - values.mean()
    spread = math.sqrt((centered**2).mean())
    return float((centered**3).mean() / spread**3) if spread > 0 else 0.0


def _numeric_column(values: Values, observed: Any, kind: Any) -> Column:
    if not values.numeric:
        raise DataError(
            f"Column {values.name!r} holds text such as {observed[0]!r}, so it cannot be {kind}. Write "
            f"data.columns.{values.name}=categorical."
        )
    written: dict[str, Any] = {"format": values.format, "pattern": values.pattern, "decimals": None}
    if values.format == "float":
        written["decimals"] = decimals(observed)
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
        return Column(values.name, kind, scale=float(np.exp(np.log(observed).mean())), **written)
    largest = float(np.abs(observed).max()) or 1.0  # squares of very large or small numbers are not finite or 0
    location, spread = float((observed / largest).mean()), float((observed / largest).std())
    scale = largest * spread if spread > 1e-12 * abs(location) else 1.0
    return Column(values.name, kind, location=largest * location, scale=scale, **written)


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

"""Columns of tables: the name, the kind and the scale of each entry of x."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from zoo.errors import DataError

ColumnKind = Literal["real", "positive", "count", "binary", "categorical", "ordinal"]
CODED = ("binary", "categorical", "ordinal")
"""Kinds whose entries are codes: the indices of their categories."""


@dataclass(frozen=True)
class Column:
    """What one entry of x means, for data with `Dataset.columns`.

    ====================================  ===============================================
    kind                                  entry of x, float32
    ====================================  ===============================================
    ``real``                              (value - location) / scale
    ``positive``                          value / scale, above 0
    ``count``                             the value: 0, 1, 2, ...
    ``binary, categorical, ordinal``      the code of the value: its index in categories
    ====================================  ===============================================

    Args:
        name: name of the column.
        kind: one of the kinds above. The categories of an ordinal column are in ascending order.
        categories: the values of a coded column in the units of the user, in the order of their codes: strings,
            numbers or booleans.
        location, scale: statistics of the training split; 0 and 1 for counts and codes.
        format: how values are written: ``float``, ``integer``, ``boolean``, ``text``, or ``date`` or ``datetime`` (days
            since 1970-01-01 before scaling).
        decimals: of numbers with a fraction, if all are written with few.
        pattern: of dates that were read from text, as for strftime.

    Raises:
        DataError: there is no such kind, a coded column has no categories or repeats one, or the scale is not positive.

    >>> age = Column("age", "real", location=40.0, scale=12.0)
    >>> age.encode(52.0), age.decode(1.0)
    (1.0, 52.0)
    """

    name: str
    kind: ColumnKind
    categories: tuple[Any, ...] = ()
    location: float = 0.0
    scale: float = 1.0
    format: Literal["float", "integer", "boolean", "text", "date", "datetime"] = "float"
    decimals: int | None = field(default=None, repr=False)  # the digest of the data is that of the other attributes
    pattern: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(self.categories))
        if self.kind not in get_args(ColumnKind):
            raise DataError(
                f"Column {self.name!r} has the kind {self.kind!r}; expected one of {', '.join(get_args(ColumnKind))}."
            )
        if (self.kind in CODED) != bool(self.categories) or len(set(self.categories)) != len(self.categories):
            raise DataError(
                f"Column {self.name!r} is {self.kind} with {len(self.categories)} categories. Columns of the kinds "
                f"{', '.join(CODED)} have distinct categories, and others have none."
            )
        if self.kind == "binary" and len(self.categories) != 2:
            raise DataError(f"Column {self.name!r} is binary with {len(self.categories)} categories; expected two.")
        if not (math.isfinite(self.location) and math.isfinite(self.scale) and self.scale > 0):
            raise DataError(
                f"Column {self.name!r} has location {self.location} and scale {self.scale}; expected finite numbers "
                "and a scale above 0."
            )

    @property
    def coded(self) -> bool:
        """Whether the entries are codes of categories."""
        return self.kind in CODED

    def encode(self, values: Any) -> Any:
        """Scale numbers, or arrays of numbers, to entries of x; counts and codes are returned unchanged."""
        return (values - self.location) / self.scale

    def decode(self, entries: Any) -> Any:
        """Undo `encode`."""
        return entries * self.scale + self.location

    def to_json(self) -> dict[str, Any]:
        """Return plain mappings and lists."""
        return {**asdict(self), "categories": list(self.categories)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Column:
        """The column that `to_json` describes."""
        return cls(**content)

"""Tables as files: rows in the original formats, and tables whose missing cells are filled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from zoo import Column, UsageError
from zoo_tables.frames import DATED, stamps_of, to_frame
from zoo_tables.reading import pandas, read_file, separator_of
from zoo_tables.values import Values, read_values

if TYPE_CHECKING:
    from pandas import DataFrame, Series

TEXT = (".csv", ".tsv")
NUMBER = "imputation"
PATTERNS = {"date": "%Y-%m-%d", "datetime": "%Y-%m-%d %H:%M:%S"}


def write_frame(frame: DataFrame, file: IO[bytes], ending: str, separator: str = ",") -> None:
    """Write a frame in the format of a file ending; `separator` is that of ``.csv``."""
    if ending == ".parquet":
        frame.to_parquet(file, index=False)
    else:
        frame.to_csv(file, index=False, sep="\t" if ending == ".tsv" else separator)


def with_text_dates(frame: DataFrame, columns: Sequence[Column]) -> DataFrame:
    """The rows of `to_frame` with dates as text, in the pattern in which they were read."""
    texts = {c.name: frame[c.name].dt.strftime(c.pattern) for c in columns if c.format in DATED and c.pattern}
    return frame.assign(**texts)


def stacked(tables: Sequence[DataFrame], numbered: bool) -> DataFrame:
    """The rows of several tables below each other, with the number of the table in a first column `imputation`.

    Raises:
        UsageError: the tables have a column of this name.
    """
    if numbered:
        if NUMBER in tables[0].columns:
            raise UsageError(
                f"The table has a column {NUMBER!r}, the name of the column that numbers imputations. Rename it."
            )
        for number, table in enumerate(tables, start=1):
            table.insert(0, NUMBER, number)
    rows: DataFrame = pandas().concat(tables, ignore_index=True)
    return rows


def write_completed(
    file: IO[bytes],
    ending: str,
    completions: Sequence[Tensor],
    columns: Sequence[Column],
    source: Path,
    mask: Tensor,
    separator: str | None,
    numbered: bool,
) -> None:
    """Write the table of a file with its missing cells filled; several completions are written below each other.

    Other cells are written as they are in the source. If both are text, so are the separator, the decimal comma and
    the pattern of dates; categories are filled as they are spelled in the source.

    Args:
        file: opened for writing.
        ending: of its name.
        completions: rows (N, D), one or several times.
        columns: the D columns.
        source: the table with missing cells.
        mask: bool (N, D), true where an entry is observed.
        separator: of the source, if it is not inferred.
        numbered: number the completions in a first column `imputation`.
    """
    text = source.suffix.lower() in TEXT and ending in TEXT
    original = read_file(source, separator)
    by_name = {
        column.name: read_values(original[column.name], column.name, not column.coded, column) for column in columns
    }
    target = read_file(source, separator, verbatim=True) if text else original
    tables = []
    for rows in completions:
        table, filling = target.copy(), to_frame(rows, columns)
        for entry, column in enumerate(columns):
            observed = mask[:, entry].numpy()
            keep = observed | original[column.name].notna().to_numpy() if column.coded else observed
            values = by_name[column.name]
            if text:
                cells = _cells(filling[column.name], column, values, original[column.name])
                table[column.name] = target[column.name].astype(object).where(keep, cells)
            else:
                table[column.name] = _filled(original[column.name], filling[column.name], values, keep)
        tables.append(table)
    same = separator_of(source, separator) if text else ","
    write_frame(stacked(tables, numbered), file, ending, same)


def _cells(filling: Series, column: Column, values: Values, original: Series) -> Any:
    """Values as the text of cells, objects (N,)."""
    if column.coded:
        present = ~values.missing
        spelling = dict(zip(values.values[present][::-1], original.to_numpy(object)[present][::-1], strict=True))
        return np.array([spelling.get(value, str(value)) for value in filling], dtype=object)
    if column.format in DATED:
        return filling.dt.strftime(values.pattern or PATTERNS[column.format]).to_numpy(object)
    if column.format == "integer":
        return filling.astype(str).to_numpy(object)
    digits = ".7g" if column.decimals is None else f".{column.decimals}f"
    cells = [format(value, digits) for value in filling]
    return np.array([cell.replace(".", ",") for cell in cells] if values.decimal_comma else cells, dtype=object)


def _filled(original: Series, filling: Series, values: Values, keep: Any) -> Series:
    """A column with its missing cells filled, in its type. A column of text gets the type of its values."""
    pd = pandas()
    known = original
    if values.numeric and values.format in DATED and original.dtype.kind != "M":
        known = pd.Series(stamps_of(values.values))
    elif values.numeric and not pd.api.types.is_numeric_dtype(original.dtype):
        known = pd.Series(values.values)
    elif values.format == "boolean" and original.dtype != bool:
        known = pd.Series(values.values, dtype="boolean")
    if keep.all():
        return known
    filled = known.astype(object).where(keep, filling.to_numpy(dtype=object)).infer_objects()
    if values.format == "boolean":
        return filled.astype("boolean")
    return filled.astype("Int64") if values.numeric and values.format == "integer" else filled

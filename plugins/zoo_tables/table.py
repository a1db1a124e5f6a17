"""Data sets of tables: files, data frames in memory, and the tables of scikit-learn."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import PositiveInt

from zoo import Column, DataError, Dataset, DataUnavailable, HoldOut, Split, derive_seed, did_you_mean
from zoo_datasets.own import Fraction, Place, Seed
from zoo_tables.frames import encode_values
from zoo_tables.kinds import KindOf, check_choices, column_for
from zoo_tables.reading import pandas, read_file, require_distinct
from zoo_tables.values import Values, read_values

if TYPE_CHECKING:
    from pandas import DataFrame

log = logging.getLogger("zoo")

TEST, VALIDATION = 21, 22
"""Streams of random numbers for the choice of test and validation rows."""


Choices = dict[str, Any]


def table(
    path: Place,
    columns: Choices = {},  # noqa: B006 - a recipe's parameter, which is never changed
    label: str | None = None,
    max_categories: PositiveInt = 1000,
    separator: str | None = None,
    test_fraction: Fraction = 0.1,
    split_seed: Seed = 0,
    validation: HoldOut = 0,
    seed: int = 0,
    trained_columns: tuple[Column, ...] | None = None,
    whole: bool = False,
) -> Dataset:
    """The rows of a CSV, TSV or Parquet file, with a kind for each column; see docs/tables.md.

    Args:
        path: the file; ``~`` is the home directory.
        columns: kinds by name, instead of the inferred ones: ``real``, ``positive``, ``count``, ``binary``,
            ``categorical``, ``ordinal``, ``omit``, or ``{kind: ordinal, categories: [S, M, L]}``.
        label: a column whose values are the labels of a conditional model, instead of a column of x.
        max_categories: columns of text with more different values are left out.
        separator: between the fields of a row; inferred by default.
        test_fraction: fraction of test rows.
        split_seed: seed of the split.
        validation: rows to hold out of the training split: a number, or a fraction. Kinds, categories and scales are
            those of the remaining training rows.
        seed: determines which rows are held out for validation.
        trained_columns: those of the trained model that the data are read for.
        whole: hold nothing out.

    Raises:
        DataUnavailable: there is no such file, or pandas is not installed.
        DataError: the table cannot be read; the message says why and what to write.
    """
    choices = Choosing(columns, label, max_categories, trained_columns)
    rows = read_file(Path(path), separator)
    return _dataset(rows, path, choices, test_fraction, split_seed, validation, seed, whole)


def frame(
    source: Any,
    columns: Choices = {},  # noqa: B006 - a recipe's parameter, which is never changed
    label: str | None = None,
    max_categories: PositiveInt = 1000,
    test_fraction: Fraction = 0.1,
    split_seed: Seed = 0,
    validation: HoldOut = 0,
    seed: int = 0,
    trained_columns: tuple[Column, ...] | None = None,
    whole: bool = False,
) -> Dataset:
    """The rows of a pandas or polars data frame passed to ``zoo.train(data=...)``. The run does not store them: pass
    the same frame to `zoo.resume`, `zoo.evaluate` and `zoo.fit_prior` as ``data``.

    Args:
        source: the data frame.
        columns, label, max_categories, test_fraction, split_seed, validation, seed, trained_columns, whole: as in
            `table`.

    Raises:
        DataUnavailable: no data frame was passed, or pandas is not installed.
        DataError: the table cannot be read; the message says why and what to write.
    """
    if source is None:
        raise DataUnavailable(
            "the data frame was passed as a Python object, which a run does not store. Pass it again: "
            "zoo.resume(run, data=...), zoo.evaluate(run, data=...), zoo.fit_prior(run, prior, data=...)."
        )
    pandas()
    names = [f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type(source).__mro__]
    if "polars.DataFrame" in names:
        source = source.to_pandas()
    elif "pandas.DataFrame" not in names:
        raise DataError(f"Expected a pandas or polars DataFrame, not a {type(source).__name__}.")
    choices = Choosing(columns, label, max_categories, trained_columns)
    return _dataset(source, "The data frame", choices, test_fraction, split_seed, validation, seed, whole)


def sklearn_table(
    name: Literal["wine", "breast-cancer", "diabetes", "iris"] = "wine",
    label: bool = False,
    test_fraction: Fraction = 0.2,
    split_seed: Seed = 0,
    validation: HoldOut = 0,
    seed: int = 0,
    trained_columns: tuple[Column, ...] | None = None,
    whole: bool = False,
) -> Dataset:
    """A table inside scikit-learn: no download, small enough to train on in seconds. The target is a further column.

    Args:
        name: ``wine`` (178 rows), ``breast-cancer`` (569), ``diabetes`` (442, in the original units) or ``iris`` (150).
        label: use the target as the label of a conditional model instead of a column; not for ``diabetes``, whose
            target is a number.
        test_fraction, split_seed, validation, seed, trained_columns, whole: as in `table`.

    Raises:
        DataUnavailable: pandas is not installed.
        DataError: the target has no labels.
    """
    from sklearn import datasets

    pandas()
    load = getattr(datasets, f"load_{name.replace('-', '_')}")
    bunch = load(as_frame=True, scaled=False) if name == "diabetes" else load(as_frame=True)
    rows = bunch.frame
    if name == "diabetes":
        if label:
            raise DataError("The target of diabetes is a number, not a label. Omit data.label.")
        kinds: Choices = {"age": "real", "sex": "binary", "s4": "positive"}
    else:
        rows["target"] = np.asarray(bunch.target_names, dtype=object)[rows["target"].to_numpy()]
        kinds = {"magnesium": "count", "proline": "positive"} if name == "wine" else {}
    choices = Choosing(kinds, "target" if label else None, 1000, trained_columns)
    return _dataset(rows, f"The table {name}", choices, test_fraction, split_seed, validation, seed, whole)


class Choosing:
    """How columns are chosen.

    Args:
        columns, label, max_categories: as in `table`.
        trained: the columns of a trained model, or None to choose them from the data.
    """

    def __init__(
        self, columns: Choices, label: str | None, max_categories: int, trained: tuple[Column, ...] | None
    ) -> None:
        self.columns, self.label, self.max_categories, self.trained = columns, label, max_categories, trained

    def read(self, rows: DataFrame, where: str) -> tuple[dict[str, Values], dict[str, KindOf], list[str]]:
        """The values by name, the kinds that the user set, and the omitted columns with the reasons."""
        names = [str(name) for name in rows.columns]
        require_distinct(names, where)
        if self.trained is None:
            choices = check_choices(self.columns, names)
            numeric = {name for name, choice in choices.items() if choice.kind in ("real", "positive", "count")}
            omitted = [name for name, choice in choices.items() if choice.kind == "omit"]
        else:
            choices, omitted = {}, [name for name in names if name not in {c.name for c in self.trained}]
            numeric = {c.name for c in self.trained if not c.coded}
            if missing := [column.name for column in self.trained if column.name not in names]:
                raise DataError(
                    f"{where} has no column {missing[0]!r}, which the model was trained on."
                    f"{did_you_mean(missing[0], names)} Columns: {', '.join(names)}."
                )
        trained = {column.name: column for column in self.trained or ()}
        values = {
            name: read_values(rows.iloc[:, i], name, name in numeric, trained.get(name))
            for i, name in enumerate(names)
            if name not in omitted and name != self.label
        }
        reasons = [f"column {name}: omitted" for name in omitted if name != self.label]
        return values, choices, reasons if self.trained is None else []

    def fit(
        self, values: dict[str, Values], choices: dict[str, KindOf], training: Any
    ) -> tuple[tuple[Column, ...], list[str]]:
        """The columns, fitted to the training rows, and those that are left out, with the reasons."""
        if self.trained is not None:
            return self.trained, []
        columns, left_out = [], []
        for name, column_values in values.items():
            column, note = column_for(column_values, training, choices.get(name), self.max_categories)
            if column is None:
                left_out.append(f"column {name}: {note}")
                log.warning("Column %r is left out: it %s.", name, note)
            else:
                columns.append(column)
                if note:
                    log.warning("Column %r is %s: %s.", name, column.kind, note)
        return tuple(columns), left_out

    def labels(self, rows: DataFrame, where: str) -> tuple[torch.Tensor | None, tuple[str, ...]]:
        """The labels and their names."""
        if self.label is None:
            return None, ()
        names = [str(name) for name in rows.columns]
        if self.label not in names:
            if self.trained is not None:
                return None, ()
            raise DataError(
                f"data.label={self.label}: there is no column {self.label!r}.{did_you_mean(self.label, names)}"
            )
        series = rows.iloc[:, names.index(self.label)]
        if series.isna().any():
            row = int(series.isna().to_numpy().argmax())
            raise DataError(f"{where}: the label {self.label!r} is missing in row {row + 1}.")
        values = read_values(series, self.label)
        codes, distinct = pandas().factorize(values.values, sort=True)
        texts = (str(int(value)) if values.format == "integer" else str(value) for value in distinct)
        return torch.from_numpy(codes.astype(np.int64)), tuple(texts)


def _dataset(
    rows: DataFrame,
    where: str,
    choosing: Choosing,
    test_fraction: float,
    split_seed: int,
    validation: float,
    seed: int,
    whole: bool,
) -> Dataset:
    if getattr(rows.columns, "nlevels", 1) > 1:
        raise DataError(
            f"{where} has names of several levels. Join them: frame.columns = map('_'.join, frame.columns)."
        )
    if not len(rows) or not len(rows.columns):
        raise DataError(f"{where} has no rows.")
    values, choices, omitted = choosing.read(rows, where)
    labels, label_names = choosing.labels(rows, where)
    indices = _indices(len(rows), where, test_fraction, split_seed, validation, seed, whole)
    columns, left_out = choosing.fit(values, choices, indices["train"].numpy())
    if not columns:
        raise DataError(f"{where} has no column to train on: {'; '.join([*omitted, *left_out])}.")
    x, observed = encode_values(columns, [values[column.name] for column in columns])
    every = Split(x, labels, mask=None if observed.all() else observed)
    splits = {name: every if whole else every.take(index) for name, index in indices.items()}
    return Dataset(
        splits["train"],
        splits["test"],
        splits.get("validation"),
        label_names=label_names,
        left_out=(*omitted, *left_out),
        modality="table",
        columns=columns,
    )


def _indices(
    n: int, where: str, test_fraction: float, split_seed: int, validation: float, seed: int, whole: bool
) -> dict[str, torch.Tensor]:
    """The positions of the rows of each split, in ascending order."""
    if whole:
        every = torch.arange(n)
        return {"train": every, "test": every}
    if n < 2:
        raise DataError(f"{where} has one row; training and testing need at least two.")
    tested = min(max(round(test_fraction * n), 1), n - 1)
    order = _permutation(n, split_seed, TEST)
    indices = {"test": order[:tested].sort().values, "train": order[tested:].sort().values}
    if validation:
        train = indices["train"]
        count = int(validation) if validation >= 1 else max(1, round(validation * len(train)))
        if count >= len(train):
            raise DataError(
                f"data.validation={validation} would hold out {count} of {len(train)} training rows. Expected a "
                "fraction below 1, or a number of rows below that of the training split."
            )
        order = _permutation(len(train), seed, VALIDATION)
        indices |= {"validation": train[order[:count].sort().values], "train": train[order[count:].sort().values]}
    return indices


def _permutation(n: int, seed: int, stream: int) -> torch.Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(seed, stream)))

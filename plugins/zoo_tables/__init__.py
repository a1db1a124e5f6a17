"""Tables: mixed columns with missing entries, read from files and data frames."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, View, hookimpl

SUFFIXES = (".csv", ".tsv", ".parquet")


@hookimpl
def zoo_components() -> Iterable[Component]:
    """The encoders, the likelihood and the data sets."""
    return (
        Component("encoder", "table", "zoo_tables.encoder:TableEncoder", "Embeddings, scaled numbers and the mask"),
        Component(
            "encoder",
            "conditional-table",
            "zoo_tables.encoder:ConditionalTableEncoder",
            "The encoder of tables, with the label as a further input",
        ),
        Component("likelihood", "mixed", "zoo_tables.mixed:MixedLikelihood", "A distribution for each column"),
        Component("dataset", "table", "zoo_tables.table:table", "the rows of a CSV, TSV or Parquet file", SUFFIXES),
        Component(
            "dataset",
            "frame",
            "zoo_tables.table:frame",
            "a pandas or polars data frame passed to zoo.train",
            ("pandas.DataFrame", "polars.DataFrame"),
        ),
        Component("dataset", "sklearn-table", "zoo_tables.table:sklearn_table", "tables inside scikit-learn"),
    )


@hookimpl
def zoo_views() -> Iterable[View]:
    """Figures of tables, and files of rows."""
    writers = {"csv": "zoo_tables.views:write_csv", "parquet": "zoo_tables.views:write_parquet"}
    return (View("table", "zoo_tables.views:figures", writers),)

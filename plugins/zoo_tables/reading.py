"""Reading of tables from files into data frames, with one message for each thing that can be wrong."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from zoo import DataError, DataUnavailable

if TYPE_CHECKING:
    from pandas import DataFrame

log = logging.getLogger("zoo")

SEPARATORS = ",;\t|"
SAMPLE = 2**16
"""Bytes from which the encoding and the separator are inferred."""


def pandas() -> ModuleType:
    """The package pandas.

    Raises:
        DataUnavailable: it is not installed.
    """
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise DataUnavailable("Tables need the package pandas: pip install 'vae-zoo[tables]'.") from error


def read_file(file: Path, separator: str | None = None, verbatim: bool = False) -> DataFrame:
    """Read a CSV, TSV or Parquet file.

    The cells of a CSV file are text, as written, without surrounding white space. The file is UTF-8, with or without a
    byte-order mark, or otherwise Latin-1, which is reported. Its first row has the names of the columns. Fields may be
    quoted and contain line breaks. An empty field is a missing value, as are the usual names of one, such as ``NA`` and
    ``nan``.

    Args:
        file: the file.
        separator: between the fields; by default the most frequent one of comma, semicolon, tab and bar in the names.
        verbatim: keep the cells of a CSV file that mean a missing value, and white space.

    Raises:
        DataUnavailable: there is no such file, or pandas is not installed.
        DataError: the file is empty or damaged, rows have different numbers of fields, or a name is used twice.
    """
    if not file.is_file():
        raise DataUnavailable(f"{file} {'is not a file' if file.exists() else 'does not exist'}.")
    pd = pandas()
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty.")
    with _explained(file, pd):
        if file.suffix.lower() == ".parquet":
            stored: DataFrame = pd.read_parquet(file)
            return stored
        encoding = _encoding(file)
        names, separator = _header(file, encoding, separator)
        options: dict[str, Any] = {"dtype": str, "header": 0, "index_col": False}
        options |= {"skipinitialspace": not verbatim, "keep_default_na": not verbatim}
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # fields would be dropped
            try:
                frame: DataFrame = pd.read_csv(file, sep=separator, encoding=encoding, **options)
            except pd.errors.ParserWarning as error:
                raise DataError(
                    f"{file}: rows have more fields than the {len(names)} names in the first row. Name every column."
                ) from error
    if len(frame.columns) == len(names):
        frame.columns = [name.strip() or f"column_{i}" for i, name in enumerate(names, 1)]
    return frame


def separator_of(file: Path, separator: str | None = None) -> str:
    """The separator between the fields of a CSV file; see `read_file`."""
    return _header(file, _encoding(file), separator)[1]


def _encoding(file: Path) -> str:
    """``utf-8-sig``, which drops a byte-order mark, or ``latin-1`` if the file is not UTF-8."""
    try:
        with file.open(encoding="utf-8") as text:
            while text.read(2**20):
                pass
    except UnicodeDecodeError as error:
        if file.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return "utf-16"
        log.warning("%s is not UTF-8 (byte %d) and is read as Latin-1.", file, error.start)
        return "latin-1"
    return "utf-8-sig"


def _header(file: Path, encoding: str, separator: str | None) -> tuple[list[str], str]:
    """The names of the columns, and the separator.

    Raises:
        DataError: a name is used twice.
    """
    with file.open(encoding=encoding) as text:  # any of the three line ends
        sample = text.read(SAMPLE).lstrip("\r\n")
    if not sample.strip():
        raise DataError(f"{file} is empty.")
    if separator is None:
        rows = {s: next(csv.reader(io.StringIO(sample), delimiter=s), []) for s in SEPARATORS}
        default = "\t" if file.suffix.lower() == ".tsv" else ","
        separator = max(rows, key=lambda s: (len(rows[s]), s == default))
    names = next(csv.reader(io.StringIO(sample), delimiter=separator, skipinitialspace=True))
    require_distinct([name.strip() for name in names if name.strip()], str(file))
    return names, separator


def require_distinct(names: list[Any], where: str) -> None:
    """Require that each column has its own name.

    Raises:
        DataError: one is used twice.
    """
    repeated = sorted({str(name) for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise DataError(
            f"{where} has several columns named {', '.join(map(repr, repeated))}. Rename them, so that each has its "
            "own name."
        )


@contextlib.contextmanager
def _explained(file: Path, pd: ModuleType) -> Iterator[None]:
    """Turn an error of pandas or of the file system into a `DataError` that names the file."""
    try:
        yield
    except DataError:
        raise
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{file} is empty.") from error
    except pd.errors.ParserError as error:
        reason = " ".join(str(error).split()).removeprefix("Error tokenizing data. C error: ")
        raise DataError(
            f"{file}: {reason}. Every row needs as many fields as the first one; quote text that contains the "
            "separator."
        ) from error
    except ImportError as error:
        raise DataUnavailable(f"{file}: {error.name} is missing: pip install 'vae-zoo[tables]'.") from error
    except (OSError, ValueError, csv.Error, UnicodeError) as error:
        raise DataError(f"{file} is damaged or is not a {file.suffix} file: {' '.join(str(error).split())}") from error
    except Exception as error:
        if type(error).__module__.startswith("pyarrow"):
            raise DataError(f"{file} is damaged or is not a {file.suffix} file: {error}") from error
        raise

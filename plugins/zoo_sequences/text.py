"""Lines of text as sequences of characters."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from zoo import Column, DataError, Dataset, DataUnavailable, HoldOut, Split
from zoo_datasets.array_images import shuffled
from zoo_datasets.own import Fraction, Place, Seed, absolute, split
from zoo_sequences.tokens import END

log = logging.getLogger("zoo")

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
LONGEST = 256
"""The largest default number of characters of a line."""


def text(
    path: Place,
    length: PositiveInt | None = None,
    encoding: str = "utf-8",
    test_fraction: Fraction = 0.1,
    split_seed: Seed = 0,
    validation: HoldOut = 0,
    seed: int = 0,
    data_shape: tuple[int, ...] | None = None,
    trained_columns: tuple[Column, ...] | None = None,
    whole: bool = False,
) -> Dataset:
    """The lines of a text file, as sequences of L characters. Empty lines are left out.

    A character is a Unicode code point of the line in the normal form NFC. The vocabulary has the end of a line,
    then the characters of the training lines in ascending order, then one token for unknown characters (U+FFFD), which
    other lines may have. A line shorter than L is padded with the end of the line; a longer one is cut to its first L
    characters, has no end, and is reported.

    Args:
        path: the file; ``~`` is the home directory.
        length: number L of characters, the end of the line included. By default that of the longest training line, but
            at most 256.
        encoding: such as ``utf-8`` (a byte order mark is skipped) or ``latin-1``.
        test_fraction: fraction of test lines.
        split_seed: seed of the split, which depends only on it and on the index of each line.
        validation: lines to hold out of the training split before its vocabulary is collected.
        seed: determines which lines are held out.
        data_shape, trained_columns: those of the trained model that the data are read for.
        whole: hold nothing out.

    Raises:
        DataUnavailable: there is no such file.
        DataError: it is not text in this encoding, or has fewer than two lines.
    """
    file = Path(absolute(path))
    if not file.is_file():
        raise DataUnavailable(f"{file} {'is not a file' if file.exists() else 'does not exist'}.")
    lines = _read_lines(file, encoding)
    if data_shape is not None:
        length = data_shape[0]
    points = Split(code_points(lines, length or LONGEST))
    if whole:
        return tokenized(Dataset(points, points), length, trained_columns)
    if len(lines) < 2:
        raise DataError(f"{file} has one line that is not empty; training and testing need at least two.")
    order = torch.tensor(shuffled(len(lines), split_seed))
    dataset = Dataset(*split(replace(points, x=points.x[order], index=order), test_fraction))
    if validation:
        dataset = dataset.hold_out(validation, seed)
    return tokenized(dataset, length, trained_columns)


def code_points(lines: Sequence[str], length: int) -> Tensor:
    """Convert lines to their Unicode code points, float32 (N, length), padded with 0 and cut with a warning.

    >>> code_points(["ab", "c"], 3)
    tensor([[97., 98.,  0.],
            [99.,  0.,  0.]])
    """
    points = torch.zeros(len(lines), length)
    for row, line in zip(points, lines, strict=True):
        characters = np.frombuffer(line[:length].encode("utf-32-le"), dtype="<u4").astype(np.float32)
        row[: len(characters)] = torch.from_numpy(characters)
    _report_cut(sum(len(line) > length for line in lines), len(lines), length)
    return points


def tokenized(points: Dataset, length: int | None, columns: tuple[Column, ...] | None = None) -> Dataset:
    """Convert code points to codes of a vocabulary.

    Args:
        points: lines as of `code_points`.
        length: number of characters; by default that of the longest training line and its end, if there is room.
        columns: the vocabulary; by default that of the training split.
    """
    train = points.train.x
    if length is None:
        length = min(int((train > 0).sum(1).max()) + 1, train.shape[1])
        rest = [split for name, split in points.splits.items() if name != "train"]
        longer = sum(int((split.x[:, length:] > 0).any(1).sum()) for split in rest)
        _report_cut(longer, sum(map(len, rest)), length)
    if columns is None:
        characters = (chr(int(point)) for point in torch.unique(train).tolist() if point and chr(int(point)) != UNKNOWN)
        columns = (Column("character", "categorical", (END, *characters, UNKNOWN), format="text"),)
    categories = columns[0].categories
    code_of = {ord(character): code for code, character in enumerate(categories) if character != END} | {0: 0}
    unknown = categories.index(UNKNOWN)

    def convert(part: Split) -> Split:
        values, inverse = torch.unique(part.x[:, :length], return_inverse=True)
        codes = torch.tensor([code_of.get(int(value), unknown) for value in values.tolist()], dtype=torch.float32)
        return replace(part, x=codes[inverse])

    converted = {part: convert(part) for part in points.splits.values()}  # a split may serve as both
    parts = {name: converted[part] for name, part in points.splits.items()}
    validation = parts.get("validation")
    return Dataset(parts["train"], parts["test"], validation, modality="sequence", columns=columns)


def _read_lines(file: Path, encoding: str) -> list[str]:
    """The lines of a file that are not empty, in the normal form NFC.

    Raises:
        DataError: the file is not text, or has no line.
    """
    content = file.read_bytes()
    try:
        decoded = content.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except LookupError:
        raise DataError(f"There is no encoding {encoding!r}: expected one such as utf-8 or latin-1.") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{file} is not text in {encoding}: line {line} has the byte 0x{content[error.start]:02x}. Set "
            "its encoding, such as data.encoding=latin-1."
        ) from error
    if "\0" in decoded:
        raise DataError(
            f"{file} is not a text file: line {decoded[: decoded.index(chr(0))].count(chr(10)) + 1} has a NUL."
        )
    lines = [
        unicodedata.normalize("NFC", line) for line in decoded.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    ]
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise DataError(f"{file} has no lines that are not empty.")
    return lines


def _report_cut(count: int, total: int, length: int) -> None:
    if count:
        log.warning("Cut %d of %d lines to their first %d characters. Set data.length for more.", count, total, length)

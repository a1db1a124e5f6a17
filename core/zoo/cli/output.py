"""How results look on stdout."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import click

MIN_WRAPPED = 20
"""Columns below which wrapping would make the last column harder to read, not easier."""


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=2))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows in aligned columns; on a terminal the last column is wrapped at its edge."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header) - 1)]
    indent = sum(widths) + 2 * len(widths)
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for position, row in enumerate((header, *rows)):
        start = "".join(cell.ljust(width) + "  " for cell, width in zip(row[:-1], widths, strict=True))
        wraps = columns - indent >= MIN_WRAPPED
        lines = textwrap.wrap(row[-1], columns - indent) if wraps else [row[-1]]
        text = f"\n{' ' * indent}".join(lines)
        line = (start + text).rstrip()
        click.echo(click.style(line, bold=True) if position == 0 else line)

"""How results look on stdout."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import click


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=2))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows in aligned columns; on a terminal the last column is cut to the width."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for position, row in enumerate((header, *rows)):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        if limit is not None and len(line) > limit:
            line = line[: limit - 1] + "…"
        click.echo(click.style(line, bold=True) if position == 0 else line)

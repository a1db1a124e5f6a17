"""Results on stdout, messages on stderr."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import click

from zoo.cli.streams import Stream
from zoo.plugins.isolation import stdout_to_stderr
from zoo.storage.files import to_json

MIN_WRAPPED = 20
"""Minimum width of the last column of a table to wrap it."""

_results: TextIO | None = None
"""The original stdout while stdout is redirected to stderr, else None."""


def keep_stdout_for_json(ctx: click.Context, parameter: click.Parameter, as_json: bool) -> bool:
    """Redirect stdout to stderr, except for `print_json`; the callback of ``--json``."""
    if as_json and not ctx.resilient_parsing:
        ctx.with_resource(_stdout_for_results())
    return as_json


@contextlib.contextmanager
def _stdout_for_results() -> Iterator[None]:
    global _results
    before = _results
    with contextlib.ExitStack() as stack:
        _results = _duplicate(sys.stdout, stack)
        try:
            with stdout_to_stderr:
                yield
        finally:
            _results = before


def _duplicate(stream: TextIO, stack: contextlib.ExitStack) -> TextIO:
    """Duplicate a stream, so that redirecting its descriptor does not affect the result; `stack` closes it."""
    try:
        descriptor = os.dup(stream.fileno())
    except (OSError, ValueError, AttributeError):  # not a file, so it has no descriptor to redirect
        return stream
    file = stack.enter_context(os.fdopen(descriptor, "w", encoding=stream.encoding, errors=stream.errors))
    return stack.enter_context(Stream(file, dispensable=False))  # type: ignore[return-value]


def print_json(value: Any) -> None:
    """Print one JSON document; see `to_json`."""
    click.echo(to_json(value), file=_results)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns. On a terminal, the last column is wrapped."""
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


def print_resume_command(reason: str, command: str, folder: Path, data_dir: Path | None, device: str) -> None:
    """Print to stderr why a command stopped and the command line that resumes it."""
    line = ["zoo", command, "--resume", str(folder)]
    line += [] if data_dir is None else ["--data-dir", str(data_dir)]
    line += [] if device == "auto" else ["--device", device]
    click.echo(f"{reason} The state is saved. To resume:\n\n  {shlex.join(line)}", err=True)


def log_to_stderr(level: int) -> None:
    """Print log records of the library at `level` or above to stderr."""
    log = logging.getLogger("zoo")
    if not any(isinstance(handler, _ToStderr) for handler in log.handlers):
        log.addHandler(_ToStderr())
    log.setLevel(level)


class _ToStderr(logging.Handler):
    """Prints each message once: a command may read the same data several times."""

    def __init__(self) -> None:
        super().__init__()
        self.printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() in self.printed:
            return
        self.printed.add(record.getMessage())
        prefix = "Warning: " if record.levelno >= logging.WARNING else ""
        click.echo(prefix + record.getMessage(), err=True)

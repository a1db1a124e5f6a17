"""The progress of an evaluation on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

PRINT_EVERY = 10.0  # seconds
REDRAW_EVERY = 0.1


class EvaluationProgress:
    """Receives the progress of an evaluation. This one shows nothing."""

    def begin(self, metric: str) -> None:
        """Called before each metric; the argument `announce` of `zoo.evaluate`."""

    def update(self, done: int, total: int) -> None:
        """Called while a metric is computed; the argument `progress` of `zoo.evaluate`."""


class _Lines(EvaluationProgress):
    def begin(self, metric: str) -> None:
        self.metric, self.printed = metric, time.monotonic()

    def update(self, done: int, total: int) -> None:
        if time.monotonic() - self.printed > PRINT_EVERY:
            self.printed = time.monotonic()
            click.echo(f"{self.metric}: {done} of {total}", err=True)


class _Bar(EvaluationProgress):
    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(file=sys.stderr), transient=True)
        self.task = self.bar.add_task("", total=None)
        self.drawn = 0.0

    def begin(self, metric: str) -> None:
        self.bar.reset(self.task, description=metric, total=None)

    def update(self, done: int, total: int) -> None:
        if time.monotonic() - self.drawn > REDRAW_EVERY:
            self.drawn = time.monotonic()
            self.bar.update(self.task, completed=done, total=total)


@contextmanager
def evaluation_progress(shown: bool = True) -> Iterator[EvaluationProgress]:
    """Show the progress of an evaluation: a bar on a terminal, else a line every ten seconds."""
    if not shown:
        yield EvaluationProgress()
    elif sys.stderr.isatty():
        bar = _Bar()
        with bar.bar:
            yield bar
    else:
        yield _Lines()

"""Show the progress of an evaluation on stderr."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress

PRINT_EVERY, REDRAW_EVERY = 10.0, 0.1  # seconds


class EvaluationProgress:
    """The progress of an evaluation: a bar, a line per interval, or nothing."""

    def __init__(self, bar: Progress | None, interval: float) -> None:
        self._bar = bar
        self._task = None if bar is None else bar.add_task("", total=None)
        self._interval = interval

    def begin(self, metric: str) -> None:
        """Called before each metric; the argument `announce` of `zoo.evaluate`."""
        self._metric, self._shown = metric, time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.reset(self._task, description=metric, total=None)

    def update(self, done: int, total: int) -> None:
        """Called while a metric is computed; the argument `progress` of `zoo.evaluate`."""
        if time.monotonic() - self._shown > self._interval:
            self._shown = time.monotonic()
            if self._bar is None or self._task is None:
                click.echo(f"{self._metric}: {done} of {total}", err=True)
            else:
                self._bar.update(self._task, completed=done, total=total)


@contextlib.contextmanager
def evaluation_progress(shown: bool = True) -> Iterator[EvaluationProgress]:
    """Show the progress of an evaluation: a bar on a terminal, otherwise a line every ten seconds."""
    if not (shown and sys.stderr.isatty()):
        yield EvaluationProgress(None, PRINT_EVERY if shown else math.inf)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        yield EvaluationProgress(bar, REDRAW_EVERY)

"""Following a training: a bar on a terminal, a line for each epoch elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from zoo.training.history import Epoch
    from zoo.training.trainer import Observer

REFRESH = 0.1  # seconds


def progress() -> Observer:
    """What suits the place that stderr goes to."""
    return ProgressBar() if sys.stderr.isatty() else EpochLines()


class EpochLines:
    """One line for each epoch."""

    def training_started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Note how many there will be."""
        self.epochs = epochs

    def step_ended(self, step: int) -> None:
        """Say nothing."""

    def epoch_ended(self, epoch: Epoch) -> None:
        """Say how it went."""
        click.echo(describe(epoch, self.epochs), err=True)

    def training_ended(self) -> None:
        """Say nothing."""


class ProgressBar(EpochLines):
    """A bar for the epoch under way, below the lines of those that are done."""

    def training_started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Draw the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        super().training_started(epochs, steps_per_epoch, step)
        self.steps_per_epoch = steps_per_epoch
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            transient=True,
        )
        self.task = self.bar.add_task(f"epoch {step // steps_per_epoch + 1}/{epochs}", total=steps_per_epoch)
        self.drawn = time.monotonic()
        self.bar.start()

    def step_ended(self, step: int) -> None:
        """Move the bar, a few times a second."""
        now = time.monotonic()
        if now - self.drawn > REFRESH:
            self.drawn = now
            self.bar.update(self.task, completed=(step - 1) % self.steps_per_epoch + 1)

    def epoch_ended(self, epoch: Epoch) -> None:
        """Print the line above the bar and start the next."""
        self.bar.console.print(describe(epoch, self.epochs), highlight=False)
        self.bar.reset(self.task, description=f"epoch {min(epoch.epoch + 1, self.epochs)}/{self.epochs}")

    def training_ended(self) -> None:
        """Take the bar away."""
        self.bar.stop()


def describe(epoch: Epoch, epochs: int) -> str:
    """An epoch in one line."""
    rest = ", ".join(f"{name} {value:.2f}" for name, value in epoch.test.items() if name != "loss")
    return (
        f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}   train {epoch.train['loss']:8.2f}   "
        f"test {epoch.test['loss']:8.2f} nats" + (f"   ({rest})" if rest else "") + f"   {epoch.seconds:.1f} s"
    )

"""Progress of a training on stderr: a bar on a terminal or in a notebook, one line per epoch otherwise."""

from __future__ import annotations

import sys
import time

import click

from zoo.training.callbacks import Callback, Training
from zoo.training.history import Epoch

REFRESH = 0.1  # seconds


def progress() -> Callback:
    """A bar if the output is watched, or one line per epoch."""
    return ProgressBar() if is_watched() else EpochLines()


def is_watched() -> bool:
    """Whether stderr is a terminal, or the code runs in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class EpochLines(Callback):
    """Prints one line per epoch."""

    def on_epoch_end(self, trainer: Training, epoch: Epoch) -> None:
        """Print the line."""
        click.echo(describe(epoch, trainer.config.epochs), err=True)


class ProgressBar(Callback):
    """Shows a bar for the current epoch, below the lines of the finished ones."""

    def on_train_begin(self, trainer: Training) -> None:
        """Show the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            transient=True,
        )
        epoch = trainer.step // trainer.steps_per_epoch + 1
        self.task = self.bar.add_task(f"epoch {epoch}/{trainer.config.epochs}", total=trainer.steps_per_epoch)
        self.drawn = time.monotonic()
        self.bar.start()

    def on_step_end(self, trainer: Training) -> None:
        """Update the bar, at most every `REFRESH` seconds."""
        now = time.monotonic()
        if now - self.drawn > REFRESH:
            self.drawn = now
            self.bar.update(self.task, completed=(trainer.step - 1) % trainer.steps_per_epoch + 1)

    def on_epoch_end(self, trainer: Training, epoch: Epoch) -> None:
        """Print the line of the epoch above the bar and start the next."""
        epochs = trainer.config.epochs
        self.bar.console.print(describe(epoch, epochs), highlight=False)
        self.bar.reset(self.task, description=f"epoch {min(epoch.epoch + 1, epochs)}/{epochs}")

    def on_train_end(self, trainer: Training, finished: bool) -> None:
        """Remove the bar."""
        if hasattr(self, "bar"):
            self.bar.stop()


def describe(epoch: Epoch, epochs: int) -> str:
    """An epoch in one line."""
    splits = {"train": epoch.train, **epoch.held_out}
    losses = "   ".join(f"{split} {terms['loss']:8.2f}" for split, terms in splits.items())
    rest = ", ".join(f"{name} {value:.2f}" for name, value in epoch.test.items() if name != "loss")
    return (
        f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}   {losses} nats"
        + (f"   (test: {rest})" if rest else "")
        + f"   {epoch.seconds:.1f} s"
    )

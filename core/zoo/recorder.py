"""The callbacks of a run: the one that writes its folder, and those of plugins."""

from __future__ import annotations

from collections.abc import Iterator

from zoo.plugins.registry import registry
from zoo.run import Run
from zoo.training.callbacks import Callback, Isolated, Training
from zoo.training.history import Epoch


class RunRecorder(Callback):
    """Writes the metrics of each epoch, and the final weights, into a run folder.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_begin(self, trainer: Training) -> None:
        """Drop the metrics of epochs after the checkpoint that is resumed from."""
        if not self.run.finished:
            self.run.rewind(trainer.history)

    def on_epoch_end(self, trainer: Training, epoch: Epoch) -> None:
        """Append the epoch to the metrics."""
        self.run.append(epoch)

    def on_train_end(self, trainer: Training, finished: bool) -> None:
        """Write the final weights."""
        if finished and not self.run.finished:
            self.run.finish()


def plugin_callbacks(run: Run, figures: bool) -> Iterator[Callback]:
    """The callbacks that plugins have for a run. A failing one is logged and does not end the training.

    Args:
        run: the run.
        figures: whether plugins may draw.
    """
    for plugin, callback in registry().plugins.collect("zoo_callbacks", run=run, figures=figures):
        if isinstance(callback, Callback):
            yield Isolated(callback, str(plugin))
        else:
            plugin.errors.append(f"zoo_callbacks returned {callback!r}, not a zoo.Callback")

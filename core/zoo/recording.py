"""Who is told of a training besides the terminal: the run folder, and the trackers of plugins."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from zoo.plugins.registry import registry
from zoo.run import Run
from zoo.training.history import Epoch

log = logging.getLogger("zoo")


class Tracking:
    """Writes each epoch into the run folder and passes it on to the plugins.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def training_started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Tell the trackers."""
        self.tell("zoo_run_started")

    def step_ended(self, step: int) -> None:
        """Nothing: no hook is called once for each step."""

    def epoch_ended(self, epoch: Epoch) -> None:
        """Write the epoch down, then tell the trackers."""
        self.run.append(epoch)
        self.tell("zoo_epoch_ended", epoch=epoch)

    def training_ended(self) -> None:
        """Nothing: whether it came to its end is for `tracking` to say."""

    def tell(self, hook: str, **arguments: Any) -> None:
        """Call a hook of every tracker; one that raises is reported, and harms nobody."""
        plugins = registry().plugins
        failures = {plugin: len(plugin.errors) for plugin in plugins.found}
        plugins.notify(hook, run=self.run, **arguments)
        for plugin in plugins.found:
            for error in plugin.errors[failures[plugin] :]:
                log.warning("The tracker %s of %s failed and the training goes on: %s", plugin.name, plugin, error)


@contextlib.contextmanager
def tracking(run: Run) -> Iterator[Tracking]:
    """Follow the training inside the block, and tell the trackers at its end whether the run is finished."""
    tracker = Tracking(run)
    try:
        yield tracker
    finally:
        tracker.tell("zoo_run_ended", finished=run.finished)

"""Callbacks: how anything follows a training."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from zoo.data.loader import Loader
from zoo.model.loss import Loss
from zoo.model.vae import VAE
from zoo.plugins.isolation import describe, plugin_code
from zoo.recipes.schema import TrainConfig
from zoo.training.history import Epoch

log = logging.getLogger("zoo")


class Training(Protocol):
    """What a callback sees of a training; `zoo.Trainer` is one.

    Attributes:
        vae: the model that is optimized.
        model: the model that is evaluated and saved: the moving average where ``ema_decay`` is set, else `vae`.
        loss: the objective.
        config: how it is trained.
        step: optimizer steps taken so far.
        steps_per_epoch: optimizer steps in one epoch.
        history: the finished epochs.
        test: the test data.
        validation: the validation data, or None.
    """

    vae: VAE
    loss: Loss
    config: TrainConfig
    step: int
    history: list[Epoch]
    test: Loader
    validation: Loader | None

    @property
    def model(self) -> VAE:
        """See above."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """See above."""
        ...


class Callback:
    """Follows a training. Override the methods you need; by default each does nothing.

    With several processes, callbacks run on rank 0 alone. An exception in a callback of your own ends the training; one
    in a plugin's callback is logged, and the training continues.

    .. code-block:: python

        class PrintLoss(zoo.Callback):
            def on_epoch_end(self, trainer, epoch):
                print(epoch.epoch, epoch.test["loss"])

        zoo.train("mlp-vae", callbacks=[PrintLoss()])

    Attributes:
        every_n_steps: `on_step_end` is called after every so many steps.
    """

    every_n_steps: int = 1

    def on_train_begin(self, trainer: Training) -> None:
        """Called once before the first step. ``trainer.step`` is positive when a training is resumed."""

    def on_step_end(self, trainer: Training) -> None:
        """Called after a step. Reading a tensor here makes an accelerator wait for the step."""

    def on_epoch_end(self, trainer: Training, epoch: Epoch) -> None:
        """Called after an epoch, with its averaged terms."""

    def on_train_end(self, trainer: Training, finished: bool) -> None:
        """Called once after the last step, however the training ended.

        Args:
            trainer: the trainer.
            finished: False if the training was interrupted or failed.
        """


class Isolated(Callback):
    """A plugin's callback. If it raises, a warning is logged, it is not called again, and the training continues.

    Args:
        callback: the plugin's callback.
        name: the plugin, for the message.
    """

    def __init__(self, callback: Callback, name: str) -> None:
        self.callback = callback
        self.name = name
        self.every_n_steps = callback.every_n_steps

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        try:
            with plugin_code():
                yield
        except Exception as error:
            log.warning(
                "The callback %s of %s failed, and the training continues: %s",
                *(type(self.callback).__name__, self.name, describe(error)),
            )
            self.callback = Callback()

    def on_train_begin(self, trainer: Training) -> None:
        """Call the plugin's method."""
        with self._logged():
            self.callback.on_train_begin(trainer)

    def on_step_end(self, trainer: Training) -> None:
        """Call the plugin's method."""
        with self._logged():
            self.callback.on_step_end(trainer)

    def on_epoch_end(self, trainer: Training, epoch: Epoch) -> None:
        """Call the plugin's method."""
        with self._logged():
            self.callback.on_epoch_end(trainer, epoch)

    def on_train_end(self, trainer: Training, finished: bool) -> None:
        """Call the plugin's method."""
        with self._logged():
            self.callback.on_train_end(trainer, finished)


class Callbacks:
    """Several callbacks, called in order.

    Args:
        callbacks: the callbacks; the first one is called first.
    """

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self.callbacks = callbacks
        inner = ((c, c.callback if isinstance(c, Isolated) else c) for c in callbacks)
        self._stepping = [
            c for c, own in inner if getattr(own.on_step_end, "__func__", own) is not Callback.on_step_end
        ]

    @contextlib.contextmanager
    def training(self, trainer: Training) -> Iterator[None]:
        """Call `on_train_begin` before the block and `on_train_end` after it, however it ends."""
        with contextlib.ExitStack() as stack:
            # The stack unwinds in reverse, and calls the others if one raises.
            for callback in reversed(self.callbacks):
                stack.push(_ending(callback, trainer))
            for callback in self.callbacks:
                callback.on_train_begin(trainer)
            yield

    def step_end(self, trainer: Training) -> None:
        """Call `on_step_end` of those that are due."""
        for callback in self._stepping:
            if trainer.step % callback.every_n_steps == 0:
                callback.on_step_end(trainer)

    def epoch_end(self, trainer: Training, epoch: Epoch) -> None:
        """Call `on_epoch_end`."""
        for callback in self.callbacks:
            callback.on_epoch_end(trainer, epoch)


def _ending(callback: Callback, trainer: Training) -> Callable[[object, BaseException | None, object], None]:
    """What calls `on_train_end` when the block of a training is left."""

    def end(kind: object, error: BaseException | None, traceback: object) -> None:
        callback.on_train_end(trainer, finished=error is None)

    return end

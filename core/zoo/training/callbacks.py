"""Callbacks: observers of a training."""

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
    """The interface of `zoo.Trainer` that callbacks use.

    Attributes:
        vae: the model that is optimized.
        model: the model that is evaluated and saved: the moving average if ``ema_decay`` is set, else `vae`.
        loss: the objective.
        config: how to train.
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
    """Observes a training. Override the methods you need; by default each does nothing.

    With several processes, callbacks run on rank 0 only. An exception in the user's callback ends the training. One in
    a plugin's callback is logged, and the training continues.

    .. code-block:: python

        class PrintLoss(zoo.Callback):
            def on_epoch_end(self, trainer, epoch):
                print(epoch.epoch, epoch.test["loss"])

        zoo.train("mlp-vae", callbacks=[PrintLoss()])

    Attributes:
        every_n_steps: interval between the calls of `on_step_end`, in steps.
    """

    every_n_steps: int = 1

    def on_train_begin(self, trainer: Training) -> None:
        """Called once before the first step. ``trainer.step`` is positive when a training is resumed."""

    def on_step_end(self, trainer: Training) -> None:
        """Called after a step. Reading a tensor here makes an accelerator wait for the step."""

    def on_epoch_end(self, trainer: Training, epoch: Epoch) -> None:
        """Called after an epoch with its averaged terms."""

    def on_train_end(self, trainer: Training, finished: bool) -> None:
        """Called once after the last step, however the training ended.

        Args:
            trainer: the trainer.
            finished: False if the training was interrupted or failed.
        """


class Isolated(Callback):
    """Isolates a plugin's callback. If it raises, a warning is logged, and the training continues without it.

    Args:
        callback: the plugin's callback.
        name: name of the plugin, for the message.
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
                "The callback %s of %s failed. The training continues without it: %s",
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
    """Calls several callbacks in order.

    Args:
        callbacks: the callbacks.
    """

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self.callbacks = callbacks
        self._stepping = [callback for callback in callbacks if _has_step_end(callback)]

    @contextlib.contextmanager
    def training(self, trainer: Training) -> Iterator[None]:
        """Call `on_train_begin` before the block and `on_train_end` after it, however it ends."""
        with contextlib.ExitStack() as stack:
            # The stack unwinds in reverse order. If one raises, the others are still called.
            for callback in reversed(self.callbacks):
                stack.push(_train_end(callback, trainer))
            for callback in self.callbacks:
                callback.on_train_begin(trainer)
            yield

    def step_end(self, trainer: Training) -> None:
        """Call `on_step_end` of the callbacks that are due."""
        for callback in self._stepping:
            if trainer.step % callback.every_n_steps == 0:
                callback.on_step_end(trainer)

    def epoch_end(self, trainer: Training, epoch: Epoch) -> None:
        """Call `on_epoch_end`."""
        for callback in self.callbacks:
            callback.on_epoch_end(trainer, epoch)


def _has_step_end(callback: Callback) -> bool:
    """Whether a callback overrides `on_step_end`."""
    inner = callback.callback if isinstance(callback, Isolated) else callback
    return getattr(inner.on_step_end, "__func__", None) is not Callback.on_step_end


def _train_end(callback: Callback, trainer: Training) -> Callable[[object, BaseException | None, object], None]:
    """An exit callback of the block of a training that calls `on_train_end`."""

    def call(kind: object, error: BaseException | None, traceback: object) -> None:
        callback.on_train_end(trainer, finished=error is None)

    return call

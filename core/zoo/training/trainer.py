"""The trainer: one loop for every model."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.dataset import Dataset, Split
from zoo.data.loader import Loader
from zoo.errors import RunError, UsageError
from zoo.model.context import derive_seed, deterministic, flushed_denormals, reseed, seeded
from zoo.model.devices import resolve_device
from zoo.model.loss import Loss, Terms
from zoo.model.memory_format import to_channels_last
from zoo.model.parts import Scheduled
from zoo.model.vae import VAE
from zoo.recipes.schema import Binarize, TrainConfig
from zoo.storage.checkpoints import Checkpoint, Checkpoints
from zoo.training.callbacks import Callback, Callbacks
from zoo.training.distributed import Group
from zoo.training.failures import as_training_error, not_finite, require_finite_parameters, require_folder
from zoo.training.history import Epoch, Record, packed, unpacked
from zoo.training.optimization import moving_average, optimized_phases, require_no_score
from zoo.training.preflight import preflight as preflight_step
from zoo.training.progress import is_watched
from zoo.training.progress import progress as progress_callback
from zoo.training.signals import StopRequest, interruption
from zoo.training.step import PIXELS, Part, TrainingStep
from zoo.training.terms import mean_terms

log = logging.getLogger("zoo")

Steps = Generator[list[Part], Terms, None]
EVALUATION_BATCH = 1000
SYNC_STEPS = 10
"""Interval in steps at which several processes agree on whether to stop."""


class Trainer:
    """Trains a VAE.

    Draws are seeded by the seed, the step and the part of the batch; the order of the data is seeded by the seed and
    the epoch. The state of a training is therefore its weights, its optimizers and the number of steps, and a resumed
    training is bit-identical to an uninterrupted one.

    Args:
        vae: the model, moved to `device`.
        loss: the objective, moved to `device`.
        dataset: the data, moved to `device` in the stored type if they take at most half of its free memory.
        config: how to train.
        binarize: ``none``, ``threshold`` or ``dynamic``; see `zoo.Recipe`.
        callbacks: observers of the training; see `zoo.Callback`.
        progress: show progress on stderr. By default it is shown on a terminal and in a notebook.
        device: device of the training; ``auto`` is the accelerator, if there is one.
        checkpoints: folder of the checkpoints, which are saved as ``config.checkpoint`` specifies; None saves nothing.
        time_limit: seconds after which the training saves its state and stops.
        group: the processes that train together.
        compile: apply `torch.compile` to the objectives.
        names: names of ``encoder``, ``decoder``, ``prior`` and ``loss`` in messages; by default their classes.

    Raises:
        UsageError, RecipeError: the options and the data do not agree; the message names the option.
        ComponentError: the loss, the optimizer or the scheduler failed.

    >>> digits = zoo.load_dataset("digits")
    >>> vae = zoo.create_model("mlp-vae", data_shape=digits.shape)
    >>> loss = zoo.create_loss("mlp-vae", data_shape=digits.shape)
    >>> history = zoo.Trainer(vae, loss, digits, zoo.TrainConfig(epochs=2)).fit()
    >>> history[1].train["loss"] < history[0].train["loss"]
    True
    """

    def __init__(
        self,
        vae: VAE,
        loss: Loss,
        dataset: Dataset,
        config: TrainConfig | None = None,
        *,
        binarize: Binarize = "none",
        callbacks: Sequence[Callback] = (),
        progress: bool | None = None,
        device: torch.device | str = "auto",
        checkpoints: Checkpoints | Path | str | None = None,
        time_limit: float | None = None,
        group: Group | None = None,
        compile: bool = False,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.config = TrainConfig() if config is None else config
        self.device = device = resolve_device(str(device))
        self.vae = vae.to(device)
        self.loss = loss.to(device)
        if self.config.memory_format == "channels-last":
            for module in (self.vae, self.loss):
                to_channels_last(module)
        self.binarize = binarize
        if (parts := self.config.microbatches) > len(dataset.train):
            raise UsageError(f"train.microbatches={parts} exceeds the {len(dataset.train)} training examples.")
        self.dataset = dataset
        self.train = Loader(dataset.train, self.config.batch_size, binarize, device, augment=dataset.augment)
        self.test = self._evaluation_loader(dataset.test)
        held_out = dataset.validation
        self.validation = None if held_out is None else self._evaluation_loader(held_out)
        self.callbacks = callbacks
        self.progress = progress
        if isinstance(checkpoints, str | Path):
            checkpoints = Checkpoints(Path(checkpoints), self.config.checkpoint.keep)
        self.checkpoints = checkpoints
        self.stop = StopRequest(time_limit)
        self.group = group or Group()
        self.names = names
        self._checked = False
        self.frozen = [getattr(vae, part) for part in self.config.freeze]
        for part in self.frozen:
            part.requires_grad_(False)
        self.phases = optimized_phases(self.loss, self.vae, self.config)
        if self.validation is None:
            require_no_score(self.config, self.phases)
        self.take_step = TrainingStep(self.vae, self.loss, self.phases, self.config, self.group, self.device, compile)
        self.averaged = None if self.config.ema_decay is None else moving_average(self.vae, self.config.ema_decay)
        roots = (self.vae, self.loss, *([self.averaged] if self.averaged else []))
        excluded = [getattr(vae, part) for vae in (self.vae, self.model) for part in self.config.freeze]
        frozen = {module for part in excluded for module in part.modules()}
        self._scheduled = [m for root in roots for m in root.modules() if isinstance(m, Scheduled) and m not in frozen]
        last_step = self.config.epochs * len(self.train)
        self.last_step = min(last_step, self.config.steps or last_step)
        self.step = 0
        self.record = Record()
        self.history: list[Epoch] = []
        self.best = math.inf
        self.since_best = 0
        self._saved, self._saved_step = time.monotonic(), -1

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch."""
        return len(self.train)

    @property
    def model(self) -> VAE:
        """The model that is evaluated and saved: the moving average if ``ema_decay`` is set."""
        if self.averaged is None:
            return self.vae
        assert isinstance(self.averaged.module, VAE)
        return self.averaged.module

    def preflight(self) -> None:
        """Take one step on copies of the model and the loss, to check every component. `fit` calls it first.

        Raises:
            ComponentError, RecipeError: see `zoo.training.preflight.preflight`.
        """
        batch = self.train[torch.arange(min(2, len(self.dataset.train)), device=self.device)]
        epochs = -(-self.last_step // len(self.train))
        scheduler_steps = self.last_step if self.config.scheduler_unit == "step" else epochs
        preflight_step(self.config, self.vae, self.loss, batch, self.names, scheduler_steps)
        self._checked = True

    def fit(self, *, preflight: bool = True) -> list[Epoch]:
        """Train to the end.

        Args:
            preflight: call `preflight` first.

        Returns:
            The finished epochs.

        Raises:
            ComponentError: a component failed in the `preflight`. Nothing has been trained.
            TrainingError: a number is NaN or infinite, the disk is full, or another process has died.
            Interrupted: a signal or the time limit stopped the training. Its state is saved.
        """
        with flushed_denormals(), seeded(self.config.seed, self.device):
            if preflight and not self._checked:
                self.preflight()
            with self.fitting() as steps, deterministic(self.config.deterministic), self.stop:
                self._take(steps)
        return self.history

    @contextlib.contextmanager
    def fitting(self) -> Iterator[Steps]:
        """Call the callbacks around the block, and yield the steps of `fit` for a caller that takes them.

        The generator yields the parts of each batch and is sent the terms of the step, after the model is updated.
        """
        shows_progress = is_watched() if self.progress is None else self.progress
        observers = [*self.callbacks, *([progress_callback()] if shows_progress else [])]
        with (callbacks := Callbacks(observers if self.group.is_rank_zero else ())).training(self):
            yield self._steps(callbacks)

    def _steps(self, callbacks: Callbacks) -> Steps:
        while not self.finished:
            yield from self._epoch(callbacks)
            self._end_epoch(callbacks)

    def _take(self, steps: Steps) -> None:
        """Take steps to their end."""
        parts = next(steps, None)
        with contextlib.suppress(StopIteration):
            while parts is not None:
                with as_training_error(f"Step {self.step + 1}"):
                    terms = self.take_step(self.step, parts)
                parts = steps.send(terms)

    def resume(self) -> bool:
        """Restore the newest valid checkpoint in the folder `checkpoints`.

        Returns:
            Whether there is one.

        Raises:
            RunError: it belongs to another model.
        """
        checkpoint = None if self.checkpoints is None else self.checkpoints.newest()
        if checkpoint is not None:
            self.restore(checkpoint)
        return checkpoint is not None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the weights and the state of a checkpoint.

        Raises:
            RunError: it is damaged, or belongs to another model.
        """
        state = checkpoint.state()
        if state["step"] != checkpoint.step:
            raise RunError(f"{checkpoint.path} has the state of step {state['step']}.")
        changes = []
        if state["processes"] != self.group.size:
            changes.append(f"by {state['processes']} processes and resumes with {self.group.size}")
        if (device := state.get("device", self.device.type)) != self.device.type:  # runs of older versions do not say
            changes.append(f"on {device} and resumes on {self.device.type}")
        for change in changes:
            log.warning("The run was trained %s: the result will not be bit-identical.", change)
        try:
            self.load_state_dict(checkpoint.weights(), state)
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{checkpoint.path} does not belong to this model and configuration: {error}") from error

    @property
    def finished(self) -> bool:
        """Whether the last step has been taken, or patience is exhausted."""
        return self.step >= self.last_step or self.since_best >= (self.config.patience or math.inf)

    def train_epoch(self) -> None:
        """Take the remaining steps of an epoch. Their terms are added to `record`."""
        self._take(self._epoch(Callbacks()))

    def _epoch(self, callbacks: Callbacks) -> Steps:
        """The remaining steps of an epoch."""
        epoch, position = divmod(self.step, len(self.train))
        started = time.perf_counter()
        self.vae.train()
        self.loss.train()
        for part in self.frozen:
            part.eval()
        for index in self.train.shuffled(self.config.seed, epoch, position):
            with as_training_error(f"Step {self.step + 1}"):
                self._schedule(self.step)
                parts = self._parts(index)
            terms = yield parts
            if self.averaged:
                self.averaged.update_parameters(self.vae)
            self.record.add(terms, len(index))
            self.step += 1
            callbacks.step_end(self)
            if self.step % len(self.train) == 0 or self.step == self.last_step:
                break
            self._pause(started)
        self.record.seconds += time.perf_counter() - started

    def _schedule(self, step: int) -> None:
        """Update the modules that follow a schedule."""
        for module in self._scheduled:
            module.schedule(step, step / len(self.train))

    def _parts(self, index: Tensor) -> list[Part]:
        """This process's parts of a batch."""
        count = self.group.size * self.config.microbatches
        shares = [index] if count == 1 else torch.tensor_split(index, count)
        parts = []
        for number in self.group.share(self.config.microbatches):
            if len(shares[number]):
                reseed(derive_seed(self.config.seed, PIXELS, number, self.step), self.device)
                parts.append(Part(number, self.train[shares[number]], len(shares[number]) / len(index)))
        if not parts:  # fewer examples than processes: add one with weight 0, so that every process has the terms
            parts.append(Part(self.group.share(self.config.microbatches)[0], self.train[index[:1]], 0.0))
        return parts

    def _end_epoch(self, callbacks: Callbacks) -> None:
        """Evaluate the held-out splits, update the best score, and save a checkpoint if it is due."""
        started = time.perf_counter()
        curve = self.record.curve(self.group)
        self.group.on_rank_zero(lambda: require_folder(self.checkpoints, self.step))
        # With a weight that rises during training, early epochs would look better. All are evaluated with the last one.
        self._schedule(self.last_step)
        with as_training_error(f"The evaluation after step {self.step}"):
            test = self._mean_terms(self.test)
            validation = {} if self.validation is None else self._mean_terms(self.validation)
        score = validation.get(self.config.monitor)
        better = score is not None and score < self.best  # never true of a NaN
        if score is not None:
            self.best, self.since_best = (score, 0) if better else (self.best, self.since_best + 1)
        if self.finished:
            self._require_finite_model(score)
        for optimized in self.phases:
            if self.config.scheduler_unit == "epoch":
                with as_training_error(f"The scheduler after step {self.step}"):
                    optimized.advance(score)
        seconds = self.record.seconds + time.perf_counter() - started
        means, curves = self.record.mean(curve), {name: values.tolist() for name, values in curve.items()}
        self.history.append(Epoch(len(self.history) + 1, self.step, seconds, means, test, curves, validation))
        self.record = Record()
        callbacks.epoch_end(self, self.history[-1])
        every = self.config.checkpoint
        due = better or self.finished or (every.epochs is not None and len(self.history) % every.epochs == 0)
        due = due or self._is_due()
        reason = 0 if self.finished else self.group.all_reduce_max(self.stop.reason, self.device)
        if due or reason:
            self.save(score if better else None)
        if reason:
            raise interruption(reason)

    def _require_finite_model(self, score: float | None) -> None:
        """Require that a validation score was finite or, without one, that the score on training examples is."""
        best = self.best
        if score is None:
            first = self.dataset.train.part(0, EVALUATION_BATCH)
            best = score = self._mean_terms(self._evaluation_loader(first))[self.config.monitor]
        if not math.isfinite(best):
            raise not_finite(self.config.monitor, score)

    def _evaluation_loader(self, split: Split) -> Loader:
        return Loader.for_evaluation(split, EVALUATION_BATCH, self.binarize, self.device)

    def _mean_terms(self, loader: Loader) -> dict[str, float]:
        return self.group.on_rank_zero(lambda: mean_terms(self.model, self.loss, loader, self.config.seed))

    def _pause(self, started: float) -> None:
        """Within an epoch, save a checkpoint if it is due, and stop if requested."""
        synchronizes = self.group.size == 1 or self.step % SYNC_STEPS == 0
        if self._is_due(by_time=synchronizes):
            self.save()
        reason = self.group.all_reduce_max(self.stop.reason, self.device) if synchronizes else 0
        if reason:
            self.record.seconds += time.perf_counter() - started
            self.save()
            raise interruption(reason)

    def _is_due(self, by_time: bool = True) -> bool:
        """Whether to save a checkpoint, by the number of steps or the time; the same on every process."""
        every = self.config.checkpoint
        if every.steps is not None and self.step % every.steps == 0:
            return True
        is_late = every.minutes is not None and time.monotonic() - self._saved > 60 * every.minutes
        return by_time and bool(self.group.all_reduce_max(is_late, self.device))

    def save(self, score: float | None = None) -> None:
        """Save a checkpoint.

        Raises:
            TrainingError: a parameter is not finite, the disk is full, or the folder was removed.
        """
        if self.checkpoints is None or self._saved_step == self.step:
            return
        require_finite_parameters(self.vae, self.model, self.loss)
        self.group.on_rank_zero(lambda: require_folder(self.checkpoints, self.step))
        checkpoints, state = self.checkpoints, self.state_dict()
        # The others wait: if one ended now, torchrun might terminate rank 0 before it has saved.
        self.group.on_rank_zero(lambda: checkpoints.save(self.step, self.model.state_dict(), state, score))
        self._saved, self._saved_step = time.monotonic(), self.step

    def state_dict(self) -> dict[str, Any]:
        """The state of the training, except the evaluated weights."""
        return {
            "step": self.step,
            "processes": self.group.size,
            "device": self.device.type,
            "history": packed(self.history),
            "best": self.best,
            "since_best": self.since_best,
            "record": self.record.state_dict(self.group),
            "loss": self.loss.state_dict(),
            "phases": [optimized.state_dict() for optimized in self.phases],
            "average": {"vae": self.vae.state_dict(), "count": self.averaged.n_averaged} if self.averaged else None,
        }

    def load_state_dict(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Load the evaluated weights and the result of `state_dict`."""
        self.model.load_state_dict(weights)
        if self.averaged:
            self.vae.load_state_dict(state["average"]["vae"])
            self.averaged.n_averaged.copy_(state["average"]["count"])
        self.step = state["step"]
        self.history = unpacked(state["history"])
        self.best, self.since_best = state["best"], state["since_best"]
        self.record.load_state_dict(state["record"], self.group)
        self.loss.load_state_dict(state["loss"])
        for optimized, saved in zip(self.phases, state["phases"], strict=True):
            optimized.load_state_dict(saved)

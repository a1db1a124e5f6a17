"""The trainer: one loop for every recipe."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zoo.data.dataset import Dataset
from zoo.data.loader import Loader
from zoo.errors import TrainingError, UsageError, ZooError, reason
from zoo.model.context import derive_seed, deterministic, reseed
from zoo.model.loss import Loss
from zoo.model.parts import Scheduled
from zoo.model.vae import VAE
from zoo.recipes.schema import Recipe
from zoo.storage.checkpoints import Checkpoints
from zoo.training.distributed import Group
from zoo.training.history import Epoch, Record
from zoo.training.signals import StopRequest, interruption
from zoo.training.step import ADVICE, PIXELS, Part, TrainingStep, not_finite, optimized_phases
from zoo.training.terms import mean_terms

EVALUATION_BATCH = 1000
TALK_EVERY = 10
"""Steps after which several processes ask each other whether to stop."""


class Observer(Protocol):
    """Who follows a training: a progress bar, a run folder."""

    def training_started(self, epochs: int, steps_per_epoch: int, step: int) -> None:
        """Called once, before the first step. `step` is not 0 where a training is resumed."""

    def step_ended(self, step: int) -> None:
        """Called after each step, without its result: reading that would make the device wait."""

    def epoch_ended(self, epoch: Epoch) -> None:
        """Called after each epoch."""

    def training_ended(self) -> None:
        """Called once, however the training ended."""


class Trainer:
    """Trains the model of any recipe.

    Every draw is seeded by the recipe's seed, the step and the part of the batch, and the order of the data by the seed
    and the epoch. So the state of a training is its weights, its optimisers and a number of steps, and one that was
    stopped goes on to the very bits of one that was not.

    Args:
        recipe: how to train.
        vae, loss: what to train; moved to `device`.
        dataset: moved to `device` as bytes, where it stays, if half of the free memory there is enough.
        device: of everything.
        observers: who is told.
        checkpoints: where the state is saved; without, it is not.
        stop: asked after each step whether to stop.
        group: the processes that train together.
        compiled: whether `torch.compile` works on the objectives.
    """

    def __init__(
        self,
        recipe: Recipe,
        vae: VAE,
        loss: Loss,
        dataset: Dataset,
        device: torch.device | str = "cpu",
        observers: Sequence[Observer] = (),
        checkpoints: Checkpoints | None = None,
        stop: StopRequest | None = None,
        group: Group | None = None,
        compiled: bool = False,
    ) -> None:
        self.settings = recipe.train
        self.device = torch.device(device)
        self.vae = vae.to(device)
        self.loss = loss.to(device)
        if self.settings.microbatches > len(dataset.train):
            parts, images = self.settings.microbatches, len(dataset.train)
            raise UsageError(f"train.microbatches={parts}: no batch of {images} images has so many parts.")
        self.train = Loader(dataset.train, self.settings.batch_size, recipe.binarize, device)
        self.test = Loader(dataset.test, EVALUATION_BATCH, recipe.binarize, device)
        self.observers = observers
        self.checkpoints = checkpoints
        self.stop = stop or StopRequest()
        self.group = group or Group()

        self.phases = optimized_phases(self.loss, self.vae, self.settings)
        self.take_step = TrainingStep(
            self.vae, self.loss, self.phases, self.settings, self.group, self.device, compiled
        )
        self.averaged: AveragedModel | None = None
        if self.settings.ema_decay is not None:
            decay = get_ema_multi_avg_fn(self.settings.ema_decay)  # type: ignore[no-untyped-call]
            # Buffers are copied: a counter, a flag, a schedule or a codebook has no meaningful average.
            self.averaged = AveragedModel(self.vae, multi_avg_fn=decay, use_buffers=False)
        trained = (self.vae, self.loss, *([self.averaged] if self.averaged else []))
        self._scheduled = [m for root in trained for m in root.modules() if isinstance(m, Scheduled)]
        self.last_step = self.settings.epochs * len(self.train)
        if self.settings.steps is not None:
            self.last_step = min(self.last_step, self.settings.steps)

        self.step = 0
        self.record = Record()
        self.history: list[Epoch] = []
        self.best = math.inf
        self.since_best = 0
        self._saved, self._saved_step = time.monotonic(), -1

    @property
    def tested(self) -> VAE:
        """The model that is tested and saved: with averaged weights where the recipe wants them."""
        if self.averaged is None:
            return self.vae
        assert isinstance(self.averaged.module, VAE)
        return self.averaged.module

    def fit(self) -> list[Epoch]:
        """Train to the end.

        Raises:
            TrainingError: a number became NaN or infinite, a disk is full, another process is gone.
            Interrupted: the training was asked to stop. Its state is saved.
        """
        for observer in self.observers:
            observer.training_started(self.settings.epochs, len(self.train), self.step)
        try:
            with deterministic(self.settings.deterministic), self.stop:
                while not self.finished:
                    self.train_epoch()
                    self._end_epoch()
        finally:
            for observer in self.observers:
                observer.training_ended()
        return self.history

    @property
    def finished(self) -> bool:
        """Whether the last step is taken, or patience is at an end."""
        return self.step >= self.last_step or self.since_best >= (self.settings.patience or math.inf)

    @property
    def outlasts_schedule(self) -> bool:
        """Whether the training is longer than a schedule that has an end, such as ``OneCycleLR``."""
        by_step = self.settings.scheduler_unit == "step"
        units = self.last_step - self.settings.warmup_steps if by_step else self.settings.epochs
        return any(getattr(optimized.schedule, "total_steps", math.inf) < units for optimized in self.phases)

    def train_epoch(self) -> None:
        """The steps of an epoch, from where it was left. Their terms are in `record`."""
        epoch, position = divmod(self.step, len(self.train))
        started = time.perf_counter()
        self.vae.train()
        self.loss.train()
        for index in self.train.shuffled(self.settings.seed, epoch, position):
            self._schedule(self.step)
            with self._named(f"Step {self.step + 1}"):
                terms = self.take_step(self.step, self._parts(index))
            if self.averaged:
                self.averaged.update_parameters(self.vae)
            self.record.add(terms, len(index))
            self.step += 1
            for observer in self.observers:
                observer.step_ended(self.step)
            if self.step % len(self.train) == 0 or self.step == self.last_step:
                break
            self._pause(started)
        self.record.seconds += time.perf_counter() - started

    @staticmethod
    @contextlib.contextmanager
    def _named(what: str) -> Iterator[None]:
        """Make a failure of a component, of an optimiser or of an allocation inside the block one of the training."""
        try:
            yield
        except ZooError:
            raise
        except Exception as error:
            raise TrainingError(f"{what} failed: {reason(error)}") from error

    @property
    def schedule_units(self) -> int:
        """How often a learning-rate schedule is advanced in this training."""
        return self.last_step if self.settings.scheduler_unit == "step" else -(-self.last_step // len(self.train))

    def _schedule(self, step: int) -> None:
        """Let every module that changes during training do so."""
        for module in self._scheduled:
            module.schedule(step, step / len(self.train))

    def _parts(self, index: Tensor) -> list[Part]:
        """The parts of a batch that are this process's to work through."""
        shares = torch.tensor_split(index, self.group.size * self.settings.microbatches)
        parts = []
        for number in self.group.share(self.settings.microbatches):
            if len(shares[number]):
                reseed(derive_seed(self.settings.seed, PIXELS, number, self.step), self.device)
                parts.append(Part(number, self.train[shares[number]], len(shares[number]) / len(index)))
        if not parts:  # fewer images than processes: one of them counts for nothing here, so that all have the terms
            parts.append(Part(self.group.share(self.settings.microbatches)[0], self.train[index[:1]], 0.0))
        return parts

    def _end_epoch(self) -> None:
        """Test, remember whether it was the best, save."""
        started = time.perf_counter()
        curve = self.record.curve(self.group)
        self.group.on_rank_zero(self._require_folder)
        # A weight that rises during training would make early epochs look good: all are tested under the final one.
        self._schedule(self.last_step)
        with self._named(f"The test after step {self.step}"):
            test = self.group.on_rank_zero(lambda: mean_terms(self.tested, self.loss, self.test, self.settings.seed))
        score = test[self.settings.monitor]
        better = score < self.best  # never true of a NaN
        self.best, self.since_best = (score, 0) if better else (self.best, self.since_best + 1)
        if self.finished and math.isinf(self.best):
            raise not_finite(self.settings.monitor, score)  # after the last epoch, as after every one before
        for optimized in self.phases:
            if self.settings.scheduler_unit == "epoch":
                with self._named(f"The schedule after step {self.step}"):
                    optimized.advance(score)
        self.history.append(
            Epoch(
                epoch=len(self.history) + 1,
                step=self.step,
                seconds=self.record.seconds + time.perf_counter() - started,
                train=self.record.mean(curve),
                test=test,
                curve={name: values.tolist() for name, values in curve.items()},
            )
        )
        self.record = Record()
        for observer in self.observers:
            observer.epoch_ended(self.history[-1])
        every = self.settings.checkpoint
        due = better or self.finished or (every.epochs is not None and len(self.history) % every.epochs == 0)
        if due or self._counted() or self._late():
            self.save(score if better else None)
        reason = 0 if self.finished else self.group.all_reduce_max(self.stop.reason, self.device)
        if reason:
            self.save(score if better else None)
            raise interruption(reason)

    def _pause(self, started: float) -> None:
        """In the middle of an epoch: save if it is time to, stop if asked to."""
        talk = self.group.size == 1 or self.step % TALK_EVERY == 0
        if self._counted() or (talk and self._late()):
            self.save()
        reason = self.group.all_reduce_max(self.stop.reason, self.device) if talk else 0
        if reason:
            self.record.seconds += time.perf_counter() - started
            self.save()
            raise interruption(reason)

    def _counted(self) -> bool:
        """Whether the state is to be saved after so many steps."""
        every = self.settings.checkpoint.steps
        return every is not None and self.step % every == 0

    def _late(self) -> bool:
        """Whether it is so long since it was saved that it is time again; the processes agree on that."""
        every = self.settings.checkpoint.minutes
        late = every is not None and time.monotonic() - self._saved > 60 * every
        return bool(self.group.all_reduce_max(late, self.device))

    def save(self, score: float | None = None) -> None:
        """Save the state of the training.

        Raises:
            TrainingError: the state holds a NaN, which is never saved; the disk is full, or the folder was removed.
        """
        if self.checkpoints is None or self._saved_step == self.step:
            return
        self._refuse_broken_parameters()
        self.group.on_rank_zero(self._require_folder)
        checkpoints, state = self.checkpoints, self.state_dict()
        # The others wait: were one to end now, whoever started the processes might end the first too.
        self.group.on_rank_zero(lambda: checkpoints.save(self.step, self.tested.state_dict(), state, score))
        self._saved, self._saved_step = time.monotonic(), self.step

    def _require_folder(self) -> None:
        """Notice that the folder of the run was removed. It is not made anew: the earlier checkpoints are lost."""
        if self.checkpoints is not None and not self.checkpoints.folder.parent.is_dir():
            raise TrainingError(
                f"The folder {self.checkpoints.folder.parent} was removed during the training, and its checkpoints "
                f"with it. The training ends after step {self.step}; nothing of it is saved."
            )

    def _refuse_broken_parameters(self) -> None:
        """An update may overflow although every term and every gradient was finite."""
        for module in (self.vae, self.tested, self.loss):
            for name, parameter in module.named_parameters():
                if parameter.requires_grad and not torch.isfinite(parameter).all():
                    raise TrainingError(f"The parameter {name!r} is not finite any more. {ADVICE}")

    def state_dict(self) -> dict[str, Any]:
        """Everything but the tested weights; read back by `load_state_dict`."""
        return {
            "step": self.step,
            "processes": self.group.size,
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.best,
            "since_best": self.since_best,
            "record": self.record.state_dict(self.group),
            "loss": self.loss.state_dict(),
            "phases": [optimized.state_dict() for optimized in self.phases],
            "average": {"vae": self.vae.state_dict(), "count": self.averaged.n_averaged} if self.averaged else None,
        }

    def load_state_dict(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Take up the state that `state_dict` gave, and the tested weights."""
        self.tested.load_state_dict(weights)
        if self.averaged:
            self.vae.load_state_dict(state["average"]["vae"])
            self.averaged.n_averaged.copy_(state["average"]["count"])
        self.step = state["step"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.best, self.since_best = state["best"], state["since_best"]
        self.record.load_state_dict(state["record"], self.group)
        self.loss.load_state_dict(state["loss"])
        for optimized, saved in zip(self.phases, state["phases"], strict=True):
            optimized.load_state_dict(saved)

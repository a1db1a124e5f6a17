"""The trainer: one loop for every recipe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from zoo.data.batches import Batches
from zoo.data.images import Dataset
from zoo.errors import TrainingError
from zoo.loss import Loss
from zoo.recipes.schema import Recipe
from zoo.training.history import Epoch
from zoo.training.step import OptimizedPhase, make_optimizer, training_step
from zoo.training.terms import mean_terms
from zoo.vae import VAE

EVALUATION_BATCH = 1000


class Observer(Protocol):
    """Who follows a training: a progress bar, a run folder."""

    def training_started(self, epochs: int, steps_per_epoch: int) -> None:
        """Called once, before the first step."""

    def step_ended(self, step: int) -> None:
        """Called after each step, without its result: reading that would make the device wait."""

    def epoch_ended(self, epoch: Epoch) -> None:
        """Called after each epoch."""

    def training_ended(self) -> None:
        """Called once, however the training ended."""


class Trainer:
    """Trains the model of any recipe. Draws come from torch's global generators: seed them first.

    Args:
        recipe: how to train.
        vae, loss: what to train; moved to `device`.
        dataset: moved to `device` as bytes, where it stays.
        device: of everything.
        observers: who is told.
    """

    def __init__(
        self,
        recipe: Recipe,
        vae: VAE,
        loss: Loss,
        dataset: Dataset,
        device: torch.device | str = "cpu",
        observers: Sequence[Observer] = (),
    ) -> None:
        self.settings = recipe.train
        self.vae = vae.to(device)
        self.loss = loss.to(device)
        self.train = Batches(dataset.train, self.settings.batch_size, recipe.binarize, device)
        self.test = Batches(dataset.test, EVALUATION_BATCH, recipe.binarize, device)
        self.phases = [
            OptimizedPhase(phase, make_optimizer(self.settings.optimizer, phase.parameters))
            for phase in self.loss.phases(self.vae)
        ]
        self.observers = observers
        self.step = 0
        self.history: list[Epoch] = []

    def fit(self) -> list[Epoch]:
        """Train to the last epoch.

        Raises:
            TrainingError: a term became NaN or infinite; the message names it.
        """
        for observer in self.observers:
            observer.training_started(self.settings.epochs, len(self.train))
        try:
            for epoch in range(len(self.history), self.settings.epochs):
                self.history.append(self._epoch(epoch))
                for observer in self.observers:
                    observer.epoch_ended(self.history[-1])
        finally:
            for observer in self.observers:
                observer.training_ended()
        return self.history

    def _epoch(self, epoch: int) -> Epoch:
        start = time.perf_counter()
        self.vae.train()
        self.loss.train()
        names: list[str] = []
        record = torch.empty(0)
        for position, batch in enumerate(self.train.shuffled(self.settings.seed, epoch)):
            self.loss.schedule(self.step, self.step / len(self.train))
            terms = training_step(self.vae, batch, self.phases)
            if not names:
                names = list(terms)
                record = torch.empty(len(self.train), len(names), device=batch.x.device)
            torch.stack([terms[name] for name in names], out=record[position])
            self.step += 1
            for observer in self.observers:
                observer.step_ended(self.step)
        # The first moment at which the device is waited for.
        curve = dict(zip(names, record.T.double().cpu(), strict=True))
        self._check_finite(curve, epoch)
        test = mean_terms(self.vae, self.loss, self.test, self.settings.seed)
        return Epoch(
            epoch=epoch + 1,
            step=self.step,
            seconds=time.perf_counter() - start,
            train={name: float(self.train.sizes() @ values) / len(self.train.pixels) for name, values in curve.items()},
            test=test,
            curve={name: values.tolist() for name, values in curve.items()},
        )

    def _check_finite(self, curve: dict[str, Tensor], epoch: int) -> None:
        for name, values in curve.items():
            bad = (~torch.isfinite(values)).nonzero()
            if len(bad):
                first = int(bad[0])
                raise TrainingError(
                    f"The term {name!r} became {values[first].item()} in step {first + 1} of epoch {epoch + 1}. "
                    "Try a smaller train.optimizer.lr, or another likelihood."
                )

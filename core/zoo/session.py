"""A training of a recipe: processes, data, model and run folder brought together."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from zoo.errors import NoRun, RunError, UsageError, ZooError
from zoo.model.context import evaluating, flushed_denormals, seeded
from zoo.model.devices import resolve_device
from zoo.model.memory import require_memory
from zoo.model.vae import in_support
from zoo.plugins.weights import is_weights_name
from zoo.recipes.advice import likelihood_advice
from zoo.recipes.components import build
from zoo.recipes.datasets import LoadedDataset, data_name, load_data
from zoo.recipes.schema import Recipe
from zoo.recorder import RunRecorder, plugin_callbacks
from zoo.run import Run
from zoo.storage.checkpoints import Checkpoint
from zoo.storage.locate import RECIPE, require_path, runs_in
from zoo.training.callbacks import Callback
from zoo.training.distributed import Group, local_device
from zoo.training.signals import Interrupted
from zoo.training.trainer import Trainer

log = logging.getLogger("zoo")

SKIPPED = "It is skipped."


@dataclass(frozen=True)
class Session:
    """What a training of a recipe needs besides the recipe.

    Attributes:
        group: the processes that train together.
        device: where this process trains.
        locks: holds the lock of the run until the session ends.
        root: where the files of data sets are.
        time_limit: seconds after which the training saves its state and stops.
        compile: whether `torch.compile` is applied.
        callbacks: those of the user.
        progress: whether progress is shown; None where somebody watches.
        figures: whether plugins may draw.
    """

    group: Group
    device: torch.device
    locks: contextlib.ExitStack
    root: Path | None
    time_limit: float | None
    compile: bool
    callbacks: Sequence[Callback]
    progress: bool | None
    figures: bool

    def train(self, recipe: Recipe, out: Path, folder: Path | None, given: object = None) -> Run:
        """Train a new run; see `zoo.train`."""
        data = load_data(recipe.data, self.root, given=given)
        trainer = self._trainer(recipe, data)

        def create() -> Run:
            run = Run.create(out, recipe, data, self.device, folder)
            self.locks.enter_context(run.held())
            return run

        return self._fit(trainer, self.group.on_rank_zero(create))

    def claim(self, run: str | Path | Run) -> tuple[Run, Checkpoint | None]:
        """Lock the run to resume, and find its newest valid checkpoint; see `zoo.resume`."""
        return self.group.on_rank_zero(lambda: self._claim(run))

    def _claim(self, run: str | Path | Run) -> tuple[Run, Checkpoint | None]:
        if isinstance(run, str) and is_weights_name(run) and not Path(run).exists():
            run = Run.open(run)  # which cannot be held; the message says why
        path = run.path if isinstance(run, Run) else require_path(run)
        if (path / RECIPE).is_file():
            run = run if isinstance(run, Run) else Run(path)
            self.locks.enter_context(run.held())
            return run, run.checkpoint("last")
        for candidate in _unfinished(path):
            with contextlib.ExitStack() as attempt:
                try:
                    attempt.enter_context(candidate.held())
                    checkpoint = candidate.checkpoint("last")
                except ZooError as error:
                    log.warning("%s %s", error, SKIPPED)
                    continue
                if checkpoint is not None and not candidate.finished:
                    self.locks.push(attempt.pop_all())
                    return candidate, checkpoint
        raise NoRun(f"{run} holds no unfinished run that can be resumed.")

    def resume(self, run: Run, checkpoint: Checkpoint | None, epochs: int | None, given: object = None) -> Run:
        """Train a run further; see `zoo.resume`."""
        longer = _is_longer(run, epochs)
        run.verify()
        if run.finished and not longer:
            if self.group.is_rank_zero:
                log.info("%s is finished: there is nothing left to train. --epochs N trains it longer.", run.path)
            return run
        if checkpoint is None:
            raise RunError(f"{run.path} holds no valid checkpoint to resume from.")
        recipe = run.recipe
        if longer:
            recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": epochs})})
        trainer = self._trainer(recipe, run.loaded(self.root, given))
        trainer.restore(checkpoint)
        if longer and epochs is not None:
            if trainer.finished:
                raise RunError(
                    f"{run.path} cannot be trained for {epochs} epochs: train.steps or train.patience has ended it."
                )
            self.group.on_rank_zero(lambda: run.extend(epochs))
        return self._fit(trainer, run)

    def _trainer(self, recipe: Recipe, data: LoadedDataset) -> Trainer:
        """Build the model and check it. Nothing is written."""
        dataset = data.dataset
        if self.group.is_rank_zero:
            log.info(
                "%s on %s: %d training and %d test images of %s, on %s, seed %d",
                *(recipe.name, data_name(data.block), len(dataset.train), len(dataset.test)),
                *("x".join(map(str, dataset.shape)), self.device, recipe.train.seed),
            )
        with flushed_denormals(), seeded(recipe.train.seed, self.device):
            vae, loss = build(recipe, dataset.shape, dataset.classes, len(dataset.train))
            require_memory((*vae.parameters(), *loss.parameters()), self.device)
            trainer = Trainer(
                *(vae, loss, dataset, recipe.train),
                binarize=recipe.binarize,
                progress=self.progress,
                device=self.device,
                time_limit=self.time_limit,
                group=self.group,
                compile=self.compile,
                names={k: f"{k} {getattr(recipe, k).use!r}" for k in ("encoder", "decoder", "prior", "loss")},
            )
            trainer.preflight()
            self._check_support(recipe, trainer)
        return trainer

    def _check_support(self, recipe: Recipe, trainer: Trainer) -> None:
        """Log a note if the likelihood is not one of these data."""
        batch = trainer.train[torch.arange(min(2, len(trainer.dataset.train)), device=trainer.device)]
        with evaluating(trainer.vae), torch.no_grad():  # so that no running mean moves
            supported = in_support(trainer.vae.trace(batch).p, batch.x, batch.mask)
        if self.group.is_rank_zero and not supported:
            log.info(
                "Note: the pixels lie outside the support of the likelihood (real values under a Bernoulli?), "
                "so the loss is no bound on log p(x). %s",
                likelihood_advice(recipe, trainer.dataset.train.x),
            )

    def _fit(self, trainer: Trainer, run: Run) -> Run:
        """Train, and leave the result in the run folder."""
        trainer.checkpoints = run.checkpoints
        plugins = plugin_callbacks(run, self.figures) if self.group.is_rank_zero else ()
        trainer.callbacks = [RunRecorder(run), *plugins, *self.callbacks]
        try:
            trainer.fit()
        except Interrupted as interrupted:
            interrupted.run = run.path
            raise
        return run


@contextlib.contextmanager
def session(
    device: str,
    data_dir: Path | str | None,
    time_limit: float | None,
    compile: bool,
    callbacks: Sequence[Callback],
    progress: bool | None,
    figures: bool,
) -> Iterator[Session]:
    """A session, whose processes and locks are released at the end of the block."""
    root = None if data_dir is None else Path(data_dir)
    with processes(device) as (group, target), contextlib.ExitStack() as locks:
        yield Session(group, target, locks, root, time_limit, compile, callbacks, progress, figures)


@contextlib.contextmanager
def processes(device: str) -> Iterator[tuple[Group, torch.device]]:
    """The processes that work together, and the device of this one."""
    target = local_device(resolve_device(device))
    group = Group.join(target)
    try:
        yield group, target
    finally:
        group.leave()


def _unfinished(folder: Path) -> Iterator[Run]:
    """The runs in a folder that were stopped after their first checkpoint, the newest first."""
    for path in runs_in(folder):
        run = Run(path)
        if run.finished:
            continue
        try:
            saved = next(iter(run.checkpoints), None)
        except ZooError as error:
            log.warning("%s %s", " ".join(str(error).split()), SKIPPED)
            continue
        if saved is None:
            log.info("%s was stopped before its first checkpoint. %s", path, SKIPPED)
            continue
        yield run


def _is_longer(run: Run, epochs: int | None) -> bool:
    """Whether the run is to be trained for more epochs than its recipe has."""
    planned = run.recipe.train.epochs
    if epochs is not None and epochs < planned:
        raise UsageError(f"{run.path} is a training of {planned} epochs; --epochs {epochs} cannot make it shorter.")
    return epochs is not None and epochs > planned

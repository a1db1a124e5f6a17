"""Training of a recipe: brings processes, data, model and run folder together."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zoo.errors import NoRun, RunError, UsageError, ZooError
from zoo.model.context import evaluating, flushed_denormals, seeded
from zoo.model.devices import device_name, multiplies_bfloat16, resolve_device
from zoo.model.likelihood import in_support
from zoo.model.memory import require_memory
from zoo.model.parts import DataDependent
from zoo.plugins.weights import is_weights_name
from zoo.recipes.advice import likelihood_advice, scale_advice
from zoo.recipes.building import build
from zoo.recipes.datasets import LoadedDataset, data_name, load_data
from zoo.recipes.schema import Recipe
from zoo.recorder import RunRecorder, create_run, plugin_callbacks
from zoo.run import Run
from zoo.storage.checkpoints import Checkpoint
from zoo.storage.locate import RECIPE, require_path, runs_in
from zoo.training.callbacks import Callback
from zoo.training.distributed import Group, local_device
from zoo.training.signals import Interrupted
from zoo.training.trainer import Trainer
from zoo.warm_start import WarmStart

log = logging.getLogger("zoo")

SKIPPED = "It is skipped."
_ADJECTIVES = {"train": "training"}


@dataclass
class Session:
    """Trains and resumes recipes. The processes join when the session is entered, and locks are held until it is left.

    Args:
        device_name: device of every process; see `zoo.train`.
        data_dir: folder of the files of data sets.
        time_limit: seconds after which the training saves its state and stops.
        compile: whether to apply `torch.compile`.
        callbacks: callbacks of the user.
        progress: whether to show progress; None shows it on a terminal and in a notebook.
        figures: whether plugins may draw figures.

    Attributes:
        group: the processes that train together.
        device: device of this process.
    """

    device_name: str
    data_dir: Path | str | None
    time_limit: float | None
    compile: bool
    callbacks: Sequence[Callback]
    progress: bool | None
    figures: bool

    def __enter__(self) -> Session:
        self._stack = contextlib.ExitStack()
        self.group, self.device = self._stack.enter_context(processes(self.device_name))
        self.root = None if self.data_dir is None else Path(self.data_dir)
        return self

    def __exit__(self, *details: Any) -> None:
        self._stack.__exit__(*details)

    def train(
        self,
        recipe: Recipe,
        out: Path,
        folder: Path | None,
        source: object = None,
        init: WarmStart | None = None,
    ) -> Run:
        """Train a new run; see `zoo.train`."""
        data = load_data(recipe.data, self.root, source=source, seed=recipe.train.seed)
        trainer, start = self.trainer(recipe, data, init)
        return self._fit(trainer, self.create(recipe, data, out, folder, start))

    def create(
        self,
        recipe: Recipe,
        data: LoadedDataset,
        out: Path,
        folder: Path | None,
        start: dict[str, Any] | None = None,
    ) -> Run:
        """Create and lock the folder of a new run."""

        def create() -> Run:
            run = create_run(out, recipe, data, self.device, folder, init=start)
            self._stack.enter_context(run.held())
            return run

        return self.group.on_rank_zero(create)

    def claim(self, run: str | Path | Run) -> tuple[Run, Checkpoint | None]:
        """Lock the run to resume, and return it with its newest valid checkpoint; see `zoo.resume`."""
        return self.group.on_rank_zero(lambda: self._claim(run))

    def _claim(self, run: str | Path | Run) -> tuple[Run, Checkpoint | None]:
        if isinstance(run, str) and is_weights_name(run) and not Path(run).exists():
            run = Run.open(run)  # which cannot be held; the message says why
        path = run.path if isinstance(run, Run) else require_path(run)
        if (path / RECIPE).is_file():
            run = run if isinstance(run, Run) else Run(path)
            self._stack.enter_context(run.held())
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
                    self._stack.push(attempt.pop_all())
                    return candidate, checkpoint
        raise NoRun(f"{run} has no unfinished run that can be resumed.")

    def resume(self, run: Run, checkpoint: Checkpoint | None, epochs: int | None, source: object = None) -> Run:
        """Resume a run that `claim` returned; see `zoo.resume`."""
        longer = _is_longer(run, epochs)
        run.verify()
        if run.finished and not longer:
            if self.group.is_rank_zero:
                log.info("%s is already finished. Use --epochs N to train it longer.", run.path)
            return run
        if checkpoint is None:
            raise RunError(f"{run.path} has no valid checkpoint to resume from.")
        recipe = run.recipe
        if longer:
            recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": epochs})})
        trainer, _ = self.trainer(recipe, run.loaded(self.root, source), initialize=False)
        trainer.restore(checkpoint)
        if longer and epochs is not None:
            if trainer.finished:
                raise RunError(
                    f"{run.path} cannot be trained for {epochs} epochs: train.steps or train.patience ended it earlier."
                )
            self.group.on_rank_zero(lambda: RunRecorder(run).extend(epochs))
        return self._fit(trainer, run)

    def trainer(
        self, recipe: Recipe, data: LoadedDataset, init: WarmStart | None = None, initialize: bool = True
    ) -> tuple[Trainer, dict[str, Any] | None]:
        """Build and check the model without writing files. Also return the record of a warm start.

        Args:
            initialize: whether to initialize `DataDependent` modules; a checkpoint that is restored has their state.
        """
        dataset = data.dataset
        if self.group.is_rank_zero:
            log.info(
                "%s on %s: %s examples of %s, on %s, seed %d",
                *(recipe.name, data_name(data.spec)),
                ", ".join(f"{len(split)} {_ADJECTIVES.get(name, name)}" for name, split in dataset.splits.items()),
                *("x".join(map(str, dataset.shape)), self.device, recipe.train.seed),
            )
            if recipe.train.precision == "bfloat16" and multiplies_bfloat16(self.device) is False:
                log.warning(
                    "The processor of %s has no bfloat16 instructions, so train.precision=bfloat16 is slower than "
                    "float32 and less accurate. Set train.precision=float32.",
                    device_name(self.device),
                )
        with flushed_denormals(), seeded(recipe.train.seed, self.device):
            vae, loss = build(recipe, dataset.shape, dataset.classes, len(dataset.train), dataset.columns)
            if initialize and (dependent := [module for module in vae.modules() if isinstance(module, DataDependent)]):
                mean = dataset.train.mean()
                for module in dependent:
                    module.initialize(mean)
            require_memory((*vae.parameters(), *loss.parameters()), self.device)
            start = None if init is None else init.apply(vae)
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
            advice = None if dataset.columns else scale_advice(dataset.train)
            if self.group.is_rank_zero and advice:
                log.warning(advice)
        return trainer, start

    def _check_support(self, recipe: Recipe, trainer: Trainer) -> None:
        """Log a note if the data are outside the support of the likelihood."""
        batch = trainer.train[torch.arange(min(2, len(trainer.dataset.train)), device=trainer.device)]
        with evaluating(trainer.vae), torch.no_grad():  # leaves running means unchanged
            supported = in_support(trainer.vae.trace(batch).p, batch.x, batch.mask)
        if self.group.is_rank_zero and not supported:
            log.info(
                "Note: the data are outside the support of the likelihood (real values under a Bernoulli?), "
                "so the loss is not a bound on log p(x). %s",
                likelihood_advice(recipe, trainer.dataset.train.x),
            )

    def attach(self, trainer: Trainer, run: Run) -> Run:
        """Let a trainer write its checkpoints, metrics and weights into the folder of a run; return the run."""
        trainer.checkpoints = run.checkpoints
        plugins = plugin_callbacks(run, self.figures) if self.group.is_rank_zero else ()
        trainer.callbacks = [RunRecorder(run), *plugins, *self.callbacks]
        return run

    def _fit(self, trainer: Trainer, run: Run) -> Run:
        """Train, and write the result into the run folder."""
        self.attach(trainer, run)
        try:
            trainer.fit()
        except Interrupted as interrupted:
            interrupted.run = run.path
            raise
        return run


@contextlib.contextmanager
def processes(device: str) -> Iterator[tuple[Group, torch.device]]:
    """Join the processes that work together; yield them and the device of this one."""
    target = local_device(resolve_device(device))
    group = Group.join(target)
    try:
        yield group, target
    finally:
        group.leave()


def _unfinished(folder: Path) -> Iterator[Run]:
    """The runs in a folder that were stopped after their first checkpoint, newest first."""
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
    """Whether to train for more epochs than the recipe has."""
    planned = run.recipe.train.epochs
    if epochs is not None and epochs < planned:
        raise UsageError(f"{run.path} has {planned} epochs in its recipe; --epochs {epochs} cannot shorten it.")
    return epochs is not None and epochs > planned

"""Training of several trials in one stack. Each writes its own run folder, and agrees with its training alone."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

import zoo
from zoo import Batch, Interrupted, Recipe, Session, StopRequest, Trainer, UsageError
from zoo_sweep.axes import SEED, Axis
from zoo_sweep.draws import CannotStack
from zoo_sweep.stack import require_stackable, signature
from zoo_sweep.stacked_step import StackedStep
from zoo_sweep.trial import Trial

log = logging.getLogger("zoo")

MOST = 64
"""Models in one stack. A larger sweep trains several stacks, one after the other."""


@dataclass
class Member:
    """A trial in a stack.

    Attributes:
        trial: the trial.
        trainer: its trainer.
        new: its recipe and data if its run is to be created; None if its run is resumed.
        batch: of the next step; None after the last one.
        interruption: why it was stopped, or None.
    """

    trial: Trial
    trainer: Trainer
    new: tuple[Recipe, Any] | None = None
    batch: Batch | None = None
    interruption: Interrupted | None = None

    def start(self, session: Session) -> None:
        """Create the run folder of a new run, and gather the first batch."""
        if self.new is not None:
            recipe, data = self.new
            self.trial.prepare()
            session.attach(self.trainer, session.create(recipe, data, self.trial.path.parent, self.trial.path))
        self._steps = self._fit()
        self.batch = next(self._steps)

    def advance(self, terms: dict[str, Tensor]) -> None:
        """Record a step, and gather the next batch."""
        self.batch = self._steps.send(terms)

    def finish(self) -> None:
        """Call the callbacks after the last step, which write the weights and draw the figures."""
        next(self._steps, None)

    def close(self) -> None:
        """Stop, unless the training has ended."""
        self._steps.close()

    def recorded(self, action: Callable[..., None], *arguments: Any) -> bool:
        """Call a method of this member. If it fails, record the failure of the trial and return False."""
        try:
            action(*arguments)
        except Interrupted as interruption:
            self.interruption = interruption
        except Exception as error:
            self.trial.fail(error)
        else:
            return True
        return False

    def _fit(self) -> Generator[Batch | None, dict[str, Tensor], None]:
        with self.trainer.fitting() as steps:
            parts = next(steps, None)
            while parts is not None:
                terms = yield parts[0].batch
                try:
                    parts = steps.send(terms)
                except StopIteration:
                    break
            yield None


class SampledStop(StopRequest):
    """A stop request that is read once before each step, so that all members stop after the same step.

    Attributes:
        sampled: the reason when it was last read; see `zoo.StopRequest`.
    """

    sampled = 0

    @property
    def reason(self) -> int:
        """The attribute `sampled`."""
        return self.sampled


class StackedTraining:
    """Trains the trials of a sweep that can be stacked, and leaves the others as they are, with the reason logged.

    Args:
        base: the recipe that the settings of the trials change.
        stop: requests to stop.
        data_dir, device, callbacks, progress: as in `zoo.train`.
    """

    def __init__(
        self,
        base: Recipe,
        stop: StopRequest,
        *,
        data_dir: Path | str | None = None,
        device: str = "auto",
        callbacks: Sequence[zoo.Callback] = (),
        progress: bool | None = None,
    ) -> None:
        self._base = base
        self._stop = stop
        self._root = None if data_dir is None else Path(data_dir)
        self._device = device
        self._callbacks = callbacks
        self._progress = sys.stderr.isatty() if progress is None else progress

    def train(self, trials: Sequence[Trial]) -> None:
        """Train unfinished trials, those with the same shapes and the same number of steps so far together.

        Raises:
            Interrupted: a signal stopped it; the state of each member is saved in its run.
        """
        stacks: dict[Any, list[Trial]] = {}
        shapes: dict[int, Any] = {}
        for trial in trials:
            if trial.number not in shapes:
                shapes[trial.number] = self._signature(trial)
            checkpoint = trial.run.checkpoints.newest() if trial.is_resumable else None
            key = shapes[trial.number], 0 if checkpoint is None else checkpoint.step
            if shapes[trial.number] is not None:
                stacks.setdefault(key, []).append(trial)
        for stack in stacks.values():
            for start in range(0, len(stack), MOST):
                self._train_stack(stack[start : start + MOST])

    def _signature(self, trial: Trial) -> Any:
        """The `signature` of a trial, or None if it cannot be built; training it alone reports why."""
        self._stop.raise_if_requested()
        try:
            recipe = trial.recipe(self._base)
            return signature(trainer_of(recipe, zoo.load_data(recipe.data, self._root, seed=recipe.train.seed).dataset))
        except Exception:
            return None

    def _train_stack(self, trials: Sequence[Trial]) -> None:
        with Session(self._device, self._root, None, False, self._callbacks, False, True) as session:
            loaded: dict[str, Any] = {}
            members = []
            for trial in trials:
                self._stop.raise_if_requested()
                if len(trials) > 1 and (member := self._member(trial, session, loaded)) is not None:
                    members.append(member)
            if len(members) < 2:
                return
            try:
                with zoo.flushed_denormals(), zoo.seeded(self._base.train.seed, session.device):
                    step = stacked_step([member.trainer for member in members])
                    self._fit([member for member in members if member.recorded(member.start, session)], step)
            except CannotStack as reason:
                log.warning("%s cannot be stacked: %s. Its trials are trained one by one.", self._base.name, reason)

    def _member(self, trial: Trial, session: Session, loaded: dict[str, Any]) -> Member | None:
        """Build the trainer of a trial; None if it fails, since training the trial alone reports why.

        Args:
            trial: the trial.
            session: holds the lock of a resumed run.
            loaded: data that members share, by their parameters.
        """
        try:
            if trial.is_resumable:
                run, checkpoint = session.claim(trial.run)
                run.verify()
                trainer, _ = session.trainer(run.recipe, run.loaded(self._root), initialize=checkpoint is None)
                if checkpoint is not None:
                    trainer.restore(checkpoint)
                session.attach(trainer, run)
                return Member(trial, trainer)
            recipe = trial.recipe(self._base)
            key = repr((recipe.data, recipe.train.seed))
            if key not in loaded:
                loaded[key] = zoo.load_data(recipe.data, self._root, seed=recipe.train.seed)
            trainer, _ = session.trainer(recipe, loaded[key])
            return Member(trial, trainer, (recipe, loaded[key]))
        except Exception:
            return None

    def _fit(self, members: Sequence[Member], step: StackedStep) -> None:
        """Train the members to the end. One that fails is recorded, and the others continue."""
        if not members:
            return
        names = [member.trial.path.name for member in members]
        log.info("Training %d trials in one stack: %s to %s", len(members), names[0], names[-1])
        stop = SampledStop()
        for member in members:
            member.trainer.stop = stop
        try:
            running = list(members)
            while running := _without_trained(running):
                if len(running) < len(step.stack.trainers):
                    step = StackedStep([member.trainer for member in running], step)
                terms = _taken(step, running)
                stop.sampled = self._stop.reason
                running = [m for m, own in zip(running, terms, strict=True) if m.recorded(m.advance, own)]
                self._show(running)
        finally:
            for member in members:
                member.close()
        for member in members:
            if member.interruption is not None:
                raise member.interruption

    def _show(self, members: Sequence[Member]) -> None:
        """Print a line after each epoch."""
        trainers = [member.trainer for member in members]
        histories = [trainer.history for trainer in trainers if trainer.history]
        if not self._progress or not histories or histories[0][-1].step != trainers[0].step:
            return
        epoch = histories[0][-1]
        splits = []
        for split in ("train", *epoch.held_out):
            losses = [getattr(history[-1], split)["loss"] for history in histories]
            splits.append(f"{split} {min(losses):.2f} to {max(losses):.2f}")
        epochs = trainers[0].config.epochs
        line = f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}   {len(histories)} models   {'   '.join(splits)} nats"
        click.echo(f"{line}   {epoch.seconds:.1f} s", err=True)


def _taken(step: StackedStep, members: Sequence[Member]) -> list[dict[str, Tensor]]:
    """The terms of a step of the members.

    Raises:
        CannotStack: it failed. Trained one by one, the members resume from their last checkpoints.
    """
    batches = [member.batch for member in members if member.batch is not None]
    try:
        return step(members[0].trainer.step, batches)
    except CannotStack:
        raise
    except Exception as error:
        raise CannotStack(zoo.error_summary(error)) from error


def _without_trained(members: Sequence[Member]) -> list[Member]:
    """Finish the members that have taken their last step, and return the others."""
    for member in members:
        if member.batch is None:
            member.recorded(member.finish)
    return [member for member in members if member.batch is not None]


def stacked_step(trainers: Sequence[Trainer]) -> StackedStep:
    """Stack trainers that have not taken a step of an epoch, and compare a step with that of each model alone.

    The trainers then hold views of the stack, and their checkpoints contain copies.

    Raises:
        CannotStack: they cannot be stacked; the trainers must not be used.
    """
    for trainer in trainers:
        require_stackable(trainer)
        trainer.vae.train()
        trainer.loss.train()
        for part in trainer.frozen:
            part.eval()
    step = StackedStep(trainers)
    size, examples = trainers[0].config.batch_size, len(trainers[0].dataset.train)
    for count in {min(size, examples), examples % size or size}:
        step.stack.gradient(trainers[0].step, [trainer.train[torch.arange(count)] for trainer in trainers])
    for trainer in trainers:
        for source in (trainer.vae, trainer.loss):
            source.register_state_dict_post_hook(  # type: ignore[no-untyped-call]
                lambda module, state, prefix, metadata: _own_tensors(state)
            )
        trainer.phases[0].optimizer.register_state_dict_post_hook(lambda optimizer, state: _own_tensors(state))
    return step


def _own_tensors(state: dict[Any, Any]) -> None:
    """Replace the tensors in a state by copies, since saving a view would save the whole stack."""
    for key, value in state.items():
        if isinstance(value, Tensor):
            state[key] = value.detach().clone()
        elif isinstance(value, dict):
            state[key] = dict(value)
            _own_tensors(state[key])


def trainer_of(recipe: Recipe, dataset: zoo.Dataset) -> Trainer:
    """A trainer of a recipe that only has the right shapes."""
    with zoo.seeded(recipe.train.seed):
        vae, loss = zoo.build(recipe, dataset.shape, dataset.classes, len(dataset.train), dataset.columns)
    return Trainer(vae, loss, dataset, recipe.train, binarize=recipe.binarize, device="cpu")


def require_one_shape(base: Recipe, axes: Sequence[Axis], seeds: Sequence[int] | None, dataset: zoo.Dataset) -> None:
    """Check that at least two trials of a sweep have the same shapes.

    Raises:
        UsageError: every swept key changes the shapes; the message names them.
    """
    if seeds is not None and len(seeds) > 1:
        return
    for axis in axes:
        signatures = {signature(trainer_of(zoo.recipe(base, {axis.key: end}), dataset)) for end in axis.ends}
        if len(signatures) < len(axis.ends):
            return
    raise UsageError(
        f"--stacked trains models of the same shapes together, and every value of {', '.join(a.key for a in axes)} "
        f"has its own shapes. Leave out --stacked, or sweep a seed, a learning rate or a weight, such as {SEED}=0..7."
    )

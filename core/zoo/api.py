"""What ``import zoo`` offers: list, get, create, train, load."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from zoo.data.dataset import Dataset
from zoo.data.loader import Loader
from zoo.devices import resolve_device
from zoo.errors import NoRun, RunError, UsageError, ZooError
from zoo.evaluation import priors
from zoo.evaluation.evaluate import Evaluation, importance_sampled, measure
from zoo.evaluation.metric import SPLITS, EvaluationContext
from zoo.memory import require_memory
from zoo.model.context import evaluating, flushed_denormals, seeded
from zoo.model.loss import Loss
from zoo.model.vae import VAE, in_support
from zoo.plugins.registry import registry
from zoo.recipes.advice import likelihood_advice
from zoo.recipes.components import build, build_prior, explicit, validate
from zoo.recipes.datasets import Found, Loaded, block_for, data_name, load_data, survey
from zoo.recipes.library import load as load_recipe
from zoo.recipes.merge import merge, parse_overrides
from zoo.recipes.schema import ComponentSpec, Recipe
from zoo.recipes.source import Raw
from zoo.recorder import RunRecorder, plugin_callbacks
from zoo.run import Run
from zoo.storage.checkpoints import Checkpoint
from zoo.storage.locate import RECIPE, runs_in
from zoo.training.callbacks import Callback
from zoo.training.distributed import Group, local_device
from zoo.training.preflight import preflight
from zoo.training.progress import looked_at
from zoo.training.progress import progress as progress_callback
from zoo.training.signals import Interrupted, StopRequest
from zoo.training.trainer import Trainer

log = logging.getLogger("zoo")

MNIST_SHAPE = (1, 28, 28)
MNIST_TRAIN = 60_000
PASSED_OVER = "It is passed over."


def recipe(
    model: str | Recipe,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    registries: Sequence[Path] = (),
    **changes: Any,
) -> Recipe:
    """The recipe of a model, resolved, changed and checked.

    Args:
        model: a name, or a YAML file that holds just one model, or a recipe.
        overrides: changes as on the command line, such as ``encoder.hidden=[512,256]``, or a mapping from dotted keys
            to values, such as ``{"encoder.hidden": [512, 256]}``.
        registries: recipe files of your own, which come before what is installed.
        changes: changes as keyword arguments, such as ``encoder={"hidden": [512, 256]}``; they come last.

    >>> recipe("mlp-vae", ["latent_dim=2"], loss="mse").loss.use
    'mse'

    Raises:
        UnknownName, NameConflict: there is no such model, or two distributions claim the name.
        RecipeError: what comes out is not valid; holds every problem.
    """
    return recipe_for(None, model, overrides, registries=registries, **changes)


def recipe_for(
    data: object,
    /,
    model: str | Recipe,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    registries: Sequence[Path] = (),
    **changes: Any,
) -> Recipe:
    """The recipe of a model for one data set and no other, with the parameters that the recipe gives it, if it does.

    Args:
        data: a name, or the path of a folder of images or of a file of arrays, or the data themselves; None leaves the
            recipe its choices.
        model, overrides, registries, changes: as in `recipe`; ``data.size=[64,64]`` changes one of the data.

    Raises:
        UsageError: there is no such data set, or the changes want another.
    """
    if isinstance(model, Recipe):
        name, raw = model.name, model.to_raw()
    else:
        name, raw = load_recipe(model, registries)
    if data is None:
        return validate(name, merge(merge(raw, parse_overrides(overrides)), changes))
    block = block_for(data)
    raw = {**raw, "data": _as_wanted(block, raw.get("data"))}
    checked = validate(name, merge(merge(raw, parse_overrides(overrides)), changes))
    wanted = [given for given in checked.data if registry().same(given.use, block.use)]
    if not wanted:
        what = str(data) if isinstance(data, str | os.PathLike) else f"a {type(data).__name__}"
        raise UsageError(f"Two data sets are wanted: {what}, and {', '.join(given.use for given in checked.data)}.")
    return checked.model_copy(update={"data": wanted[:1]})


def _as_wanted(block: ComponentSpec, choices: Any) -> Raw:
    """The block, with the parameters that the recipe gives this data set, if it is among its choices."""
    for choice in choices if isinstance(choices, list) else [choices]:
        if isinstance(choice, dict) and registry().same(str(choice.get("use")), block.use):
            return {**choice, "use": block.use, **block.parameters}
    return {"use": block.use, **block.parameters}


def load_dataset(data: object, *, data_dir: Path | str | None = None, **parameters: Any) -> Dataset:
    """A data set, as a training gets it.

    Args:
        data: its name, the path of a folder of images or of a file of arrays, or the data themselves; as in `train`.
        data_dir: as in `train`.
        parameters: of the data set, such as ``size=[64, 64]`` of a folder, or ``test_fraction=0.2`` of arrays.

    >>> digits = load_dataset("digits")
    >>> digits.train.x.shape
    torch.Size([1438, 1, 8, 8])
    >>> digits.summary()["range"]
    [0.0, 1.0]

    Raises:
        UnknownName: there is no such data set.
        DataUnavailable: its files are not here.
        DataError: they are damaged, or not what they should be.
        RecipeError: a parameter is wrong.
    """
    if data is None:
        raise UsageError("Give the name of a data set, a path, or the data themselves.")
    block = block_for(data)
    block = ComponentSpec(use=block.use, **{**block.parameters, **parameters})
    return load_data([block], None if data_dir is None else Path(data_dir), given=objects(data)).dataset


def objects(data: object) -> object:
    """The data themselves, where they are not a name or a path."""
    return None if isinstance(data, str | os.PathLike) else data


def survey_data(data_dir: Path | str | None = None) -> list[Found]:
    """What is here of every registered data set: what ``zoo data`` lists. Nothing is fetched or decoded for it.

    >>> {found.name: found.status for found in survey_data()}["digits"]
    'available'
    """
    return survey(None if data_dir is None else Path(data_dir))


def create_model(
    model: str | Recipe, *, data_shape: tuple[int, int, int] = MNIST_SHAPE, classes: int = 10, **changes: Any
) -> VAE:
    """A new model for images of one shape, its weights drawn from torch's global generator.

    Args:
        model: as in `recipe`.
        data_shape: (C, H, W); what is no image, a row of D numbers, is (1, 1, D).
        classes: number of labels, for conditional models.
        changes: to the recipe, as in `recipe`.

    >>> vae = create_model("mlp-vae", latent_dim=2, data_shape=(1, 8, 8))
    >>> vae.sample(4).shape
    torch.Size([4, 1, 8, 8])
    """
    return build(recipe(model, **changes), _image_shape(data_shape), classes)[0]


def create_loss(
    model: str | Recipe,
    *,
    data_shape: tuple[int, int, int] = MNIST_SHAPE,
    classes: int = 10,
    train_size: int = MNIST_TRAIN,
    **changes: Any,
) -> Loss:
    """The loss of a model's recipe; the arguments are those of `create_model`, and `train_size`, the number of training
    images, for losses that estimate something about all of them from a batch.

    >>> x = torch.rand(5, 1, 28, 28).round()
    >>> terms = create_loss("mlp-vae")(create_model("mlp-vae"), zoo.Batch(x))
    >>> sorted(terms)
    ['distortion', 'loss', 'rate']
    """
    return build(recipe(model, **changes), _image_shape(data_shape), classes, train_size)[1]


def _image_shape(shape: object) -> tuple[int, int, int]:
    """The shape of images, (C, H, W).

    Raises:
        UsageError: it is something else.
    """
    sizes = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    if len(sizes) != 3 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise UsageError(f"data_shape is (channels, height, width), three whole numbers from 1; got {shape!r}.")
    channels, height, width = sizes
    return channels, height, width


def train(
    model: str | Recipe,
    overrides: Sequence[str] = (),
    *,
    data: object = None,
    data_dir: Path | str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    out: Path | str = "runs",
    folder: Path | str | None = None,
    time_limit: float | None = None,
    compile: bool = False,
    registries: Sequence[Path] = (),
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    figures: bool = True,
    **changes: Any,
) -> Run:
    """Train a model and leave a run folder with its recipe, environment, metrics, weights, checkpoints and figures.

    One thread of a process trains at a time, since torch's random generators are the process's: others wait.

    Args:
        model, overrides, registries, changes: as in `recipe`.
        data: this data set and no other: its name, with the parameters that the recipe gives it, if it is among its
            choices; or the path of a folder of images or of a file of arrays. ``data.size=[64,64]`` among the overrides
            changes a parameter. Or the data themselves: a `zoo.Dataset`; images as a tensor or an array, uint8 or
            floats in [0, 1] of shape (N, H, W) or (N, C, H, W), a tenth of which is held out for testing
            (``data.test_fraction=0.2`` changes that); ``(images, labels)``; or ``(train, test)``, where each is one of
            these. They are not saved in the run, and must be given again to `resume` or `evaluate` it.
        data_dir: where the files of data sets lie; by default ``ZOO_DATA``, else the user's cache folder.
        epochs, seed: in place of the recipe's.
        device: ``auto`` (the accelerator, where there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or whatever torch
            knows.
        out: the folder of all runs, in which this one becomes ``<model>/<time>``.
        folder: just this folder for the run, in place of one below `out`.
        time_limit: seconds after which the training saves its state and stops.
        compile: let `torch.compile` work on the losses; it takes a while and needs a C++ compiler.
        callbacks: what follows the training; see `zoo.Callback`.
        progress: show the progress on stderr. By default it is shown on a terminal and in a notebook.
        figures: draw figures of the trained model in the run folder.

    Raises:
        UsageError: a name, a value, the data or the output folder is wrong. Nothing has been trained or written.
        ComponentError: a component misbehaves in the dry run. Nothing has been written.
        TrainingError: the training could not go on. Its last checkpoint is there.
        Interrupted: it was stopped by a signal or the time limit. Its state is saved; see `resume`.
    """
    shorthands = {key: value for key, value in (("epochs", epochs), ("seed", seed)) if value is not None}
    changes = merge(changes, {"train": shorthands} if shorthands else {})
    checked = recipe_for(data, model, overrides, registries=registries, **changes)
    with _session(device, data_dir, time_limit, compile, callbacks, progress, figures) as session:
        return session.train(checked, Path(out), None if folder is None else Path(folder), objects(data))


def resume(
    run: str | Path | Run,
    *,
    epochs: int | None = None,
    data: object = None,
    data_dir: Path | str | None = None,
    device: str = "auto",
    time_limit: float | None = None,
    compile: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    figures: bool = True,
) -> Run:
    """Resume a training from its newest valid checkpoint; the result is bit-identical to an uninterrupted one.

    One process at a time may train a run. One that is finished is left as it is.

    Args:
        run: the folder, or one such as ``runs/mlp-vae`` whose newest unfinished run is meant. Runs in it that cannot be
            read, or that another process trains, are reported and passed over.
        epochs: train so many epochs in all, in place of the number in the recipe, which must be smaller. The change is
            recorded in ``recipe.yaml`` and ``environment.json``. A finished run is trained longer.
        data: what the run was trained on, where `train` was given the data themselves and not their name.
        data_dir, device, time_limit, compile, callbacks, progress, figures: as in `train`.

    Raises:
        RunLocked: another process trains the run.
        RunError: there is no such run, it holds no valid checkpoint, it or its recipe was changed, or the data are not
            the same any more.
        UsageError: the number of epochs is smaller than that of the recipe.
    """
    with _session(device, data_dir, time_limit, compile, callbacks, progress, figures) as session:
        return session.resume(*session.claim(run), epochs, data)


def resume_or_train(
    model: str | Recipe,
    *,
    epochs: int | None = None,
    out: Path | str = "runs",
    data_dir: Path | str | None = None,
    device: str = "auto",
    time_limit: float | None = None,
    compile: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    figures: bool = True,
) -> Run:
    """Resume the newest unfinished run of a model, or train a new one if there is none: ``zoo train --resume auto``.

    The arguments and errors are those of `resume` and of `train`.
    """
    checked = recipe(model, train={} if epochs is None else {"epochs": epochs})
    with _session(device, data_dir, time_limit, compile, callbacks, progress, figures) as session:
        try:
            claimed = session.claim(Path(out) / checked.name)
        except NoRun:
            if session.group.is_rank_zero:
                log.info("There is no unfinished run of %s in %s: a new one starts.", checked.name, out)
            return session.train(checked, Path(out), None)
        return session.resume(*claimed, epochs)


@dataclass(frozen=True)
class _Session:
    """The processes that train together, and how; the run that they train is theirs until `held` is closed."""

    group: Group
    device: torch.device
    held: contextlib.ExitStack
    root: Path | None
    time_limit: float | None
    compiled: bool
    callbacks: Sequence[Callback]
    progress: bool | None
    figures: bool

    def train(self, recipe: Recipe, out: Path, folder: Path | None, given: object = None) -> Run:
        """Train a new run; see `train`."""
        loaded = load_data(recipe.data, self.root, given=given)
        training = self._prepare(recipe, loaded)

        def create() -> Run:
            run = Run.create(out, recipe, loaded, self.device, folder)
            self.held.enter_context(run.held())
            return run

        return training.into(self.group.on_rank_zero(create), self.callbacks, self.progress, self.figures)

    def claim(self, run: str | Path | Run) -> tuple[Run, Checkpoint | None]:
        """Own the run to resume, and find its newest valid checkpoint; see `resume`."""
        return self.group.on_rank_zero(lambda: self._claim(run))

    def _claim(self, run: str | Path | Run) -> tuple[Run, Checkpoint | None]:
        if isinstance(run, Run) or (Path(run) / RECIPE).is_file():
            run = run if isinstance(run, Run) else Run(Path(run))
            self.held.enter_context(run.held())
            return run, run.checkpoint("last")
        for candidate in _unfinished(Path(run)):
            with contextlib.ExitStack() as attempt:
                try:
                    attempt.enter_context(candidate.held())
                    checkpoint = candidate.checkpoint("last")
                except ZooError as error:
                    log.warning("%s %s", error, PASSED_OVER)
                    continue
                if checkpoint is not None and not candidate.finished:
                    self.held.push(attempt.pop_all())
                    return candidate, checkpoint
        raise NoRun(f"{run} holds no unfinished run that can be resumed.")

    def resume(self, run: Run, checkpoint: Checkpoint | None, epochs: int | None, data: object = None) -> Run:
        """Train a run further; see `resume`."""
        longer = _is_longer(run, epochs)
        run.verify()
        if run.finished and not longer:
            if self.group.is_rank_zero:
                log.info("%s is finished: there is nothing left to train. --epochs N trains it longer.", run.path)
            if checkpoint is None or any(run.figures.iterdir()):
                return run
        if checkpoint is None:
            raise RunError(f"{run.path} holds no valid checkpoint to go on from.")
        recipe = run.recipe
        if longer:
            recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": epochs})})
        training = self._prepare(recipe, run.loaded(self.root, data))
        training.restore(checkpoint)
        if longer and epochs is not None:
            if training.trainer.finished:
                raise RunError(
                    f"{run.path} cannot be trained for {epochs} epochs: train.steps or train.patience has ended it."
                )
            if training.trainer.outlasts_schedule:
                raise RunError(
                    f"{run.path} cannot be trained for {epochs} epochs: train.scheduler is planned for fewer steps."
                )
            self.group.on_rank_zero(lambda: run.extend(epochs))
        return training.into(run, self.callbacks, self.progress, self.figures)

    def _prepare(self, recipe: Recipe, loaded: Loaded) -> _Training:
        return _Training(recipe, loaded, self.device, self.group, self.time_limit, self.compiled)


@contextlib.contextmanager
def _session(
    device: str,
    data_dir: Path | str | None,
    time_limit: float | None,
    compiled: bool,
    callbacks: Sequence[Callback],
    progress: bool | None,
    figures: bool,
) -> Iterator[_Session]:
    root = None if data_dir is None else Path(data_dir)
    with _processes(device) as (group, target), contextlib.ExitStack() as held:
        yield _Session(group, target, held, root, time_limit, compiled, callbacks, progress, figures)


def _unfinished(folder: Path) -> Iterator[Run]:
    """The runs in a folder that were stopped after their first checkpoint, the newest first."""
    for path in runs_in(folder):
        run = Run(path)
        if run.finished:
            continue
        try:
            saved = next(iter(run.checkpoints), None)
        except ZooError as error:
            log.warning("%s %s", " ".join(str(error).split()), PASSED_OVER)
            continue
        if saved is None:
            log.info("%s was stopped before its first checkpoint. %s", path, PASSED_OVER)
            continue
        yield run


def _is_longer(run: Run, epochs: int | None) -> bool:
    """Whether the run is to be trained for more epochs than its recipe has."""
    planned = run.recipe.train.epochs
    if epochs is not None and epochs < planned:
        raise UsageError(f"{run.path} is a training of {planned} epochs; --epochs {epochs} cannot make it shorter.")
    return epochs is not None and epochs > planned


class _Training:
    """A training that is ready for its first step: everything is checked, nothing is written."""

    def __init__(
        self,
        recipe: Recipe,
        loaded: Loaded,
        device: torch.device,
        group: Group,
        time_limit: float | None,
        compiled: bool,
    ) -> None:
        self.recipe = recipe
        self.loaded = loaded
        dataset = loaded.dataset
        if group.is_rank_zero:
            log.info(
                "%s on %s: %d training and %d test images of %s, on %s, seed %d",
                *(recipe.name, data_name(loaded.block), len(dataset.train), len(dataset.test)),
                *("x".join(map(str, dataset.shape)), device, recipe.train.seed),
            )
        with flushed_denormals(), seeded(recipe.train.seed, device):
            vae, loss = build(recipe, dataset.shape, dataset.classes, len(dataset.train))
            require_memory((*vae.parameters(), *loss.parameters()), device)
            self.trainer = Trainer(
                *(vae, loss, dataset, recipe.train),
                binarize=recipe.binarize,
                device=device,
                stop=StopRequest(time_limit),
                group=group,
                compile=compiled,
            )
            first = torch.arange(min(2, len(dataset.train)), device=device)
            batch = self.trainer.train[first]
            preflight(recipe, vae, loss, batch, self.trainer.schedule_units)
            with evaluating(vae), torch.no_grad():  # so that no running mean moves
                supported = in_support(vae.trace(batch).p, batch.x)
            if group.is_rank_zero and not supported:
                log.info(
                    "Note: the pixels lie outside the support of the likelihood (real values under a Bernoulli?), "
                    "so the loss is no bound on log p(x). %s",
                    likelihood_advice(recipe, dataset.train.x),
                )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up the state of a checkpoint."""
        state = checkpoint.state()
        if state["step"] != checkpoint.step:
            raise RunError(f"{checkpoint.path} holds the state of step {state['step']}.")
        if state["processes"] != self.trainer.group.size:
            log.warning(
                "The run was trained by %d processes and goes on with %d: the result will not be equal bit by bit.",
                *(state["processes"], self.trainer.group.size),
            )
        try:
            self.trainer.load_state_dict(checkpoint.weights(), state)
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{checkpoint.path} is not of the model that its recipe makes here: {error}") from error

    def into(self, run: Run, callbacks: Sequence[Callback], progress: bool | None, figures: bool) -> Run:
        """Train, and leave the result in the run folder."""
        trainer = self.trainer
        trainer.checkpoints = run.checkpoints
        shown = looked_at() if progress is None else progress
        trainer.callbacks = [
            RunRecorder(run),
            *([progress_callback()] if shown else []),
            *(plugin_callbacks(run, figures) if trainer.group.is_rank_zero else []),
            *callbacks,
        ]
        with flushed_denormals(), seeded(self.recipe.train.seed, trainer.device):
            try:
                trainer.fit()
            except Interrupted as interrupted:
                interrupted.run = run.path
                raise
        return run


@contextlib.contextmanager
def _processes(device: str) -> Iterator[tuple[Group, torch.device]]:
    """The processes that train together, and the device of this one."""
    target = local_device(resolve_device(device))
    group = Group.join(target)
    try:
        yield group, target
    finally:
        group.leave()


def load(
    run: str | Path | Run,
    which: Literal["best", "last"] = "best",
    prior: Literal["fitted", "original"] = "fitted",
) -> VAE:
    """The trained model of a run, in evaluation mode, from its folder alone.

    Args:
        run: the folder, or one such as ``runs/mlp-vae`` whose newest finished run is meant.
        which: of the best epoch by the term ``train.monitor``, or as it was last saved.
        prior: the one fitted after training (`fit_prior`), where there is one, or the one that it was trained with.

    Raises:
        RunError: there is no run, or its weights are absent or damaged.
    """
    return (run if isinstance(run, Run) else Run.open(run)).load(which, prior)


def fit_prior(
    run: str | Path | Run,
    prior: str,
    overrides: Sequence[str] = (),
    *,
    samples_per_image: int = 1,
    seed: int = 0,
    data: object = None,
    data_dir: Path | str | None = None,
    device: str = "auto",
    **changes: Any,
) -> dict[str, Any]:
    """Fit a prior to the aggregate posterior of a trained model, q(z) = 1/N sum_n q(z | x_n) over the training images.

    It is saved in the run folder and used from then on by whoever loads the run; what was trained stays as it is, and
    ``load(run, prior="original")`` has it. Fitted again, it takes the place of the one before.

    Args:
        run: as in `load`.
        prior: a component that is an `ExPostPrior`.
        overrides, changes: its parameters, such as ``components=20``.
        samples_per_image: draws from q(z | x) for each training image.
        seed: of the draws and of the fit.
        data: as in `resume`.
        data_dir, device: as in `train`.

    Returns:
        The prior and what it was fitted to: ``images``, ``samples_per_image``, ``seed``, and ``log_likelihood``, the
        mean log p(z) in nats at draws from q(z | x) of the training and of the test images, also under the ``original``
        prior.

    Raises:
        UsageError: a name or a value is wrong, the prior cannot be fitted, or the data are not those of the run.
        RunLocked: another process trains the run.
        TrainingError: the fit gave no finite density, or it could not be written. What was there before is intact.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    change = merge(merge({"prior": prior}, {"prior": parse_overrides(tuple(overrides))}), {"prior": changes})
    block = ComponentSpec.model_validate(change["prior"])
    priors.require_fittable(block)
    if samples_per_image < 1:
        raise UsageError(f"samples_per_image must be at least 1, not {samples_per_image}.")
    target = resolve_device(device)
    with run.held():
        if not run.finished:
            raise RunError(f"{run.path} is not finished: go on with `zoo train --resume {run.path}` first.")
        vae = run.load(prior="original")
        dataset = run.loaded(None if data_dir is None else Path(data_dir), data).dataset
        with flushed_denormals(), seeded(seed, target):
            fitted = build_prior(block, run.recipe, vae.encoder, run.data_shape, run.classes)
            vae.to(target), fitted.to(target)
            train_split, test_split = (
                Loader(split, 512, run.recipe.binarize, target) for split in (dataset.train, dataset.test)
            )
            facts = priors.fit(fitted, vae, train_split, test_split, samples_per_image, seed)
        run.fitted_prior.save(explicit("prior", block), fitted, facts)
    return {"run": str(run.path), "prior": explicit("prior", block).model_dump(), **facts}


def evaluate(
    run: str | Path | Run,
    metrics: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    samples: int | None = None,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    prior: Literal["fitted", "original"] = "fitted",
    data: object = None,
    data_dir: Path | str | None = None,
    device: str = "auto",
    announce: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure the trained model of a run.

    Args:
        run: the folder, as in `load`.
        metrics: names. By default all that cost little and apply; the evaluation says why one was left out.
        settings: of metrics, such as ``{"active-units": {"threshold": 0.05}}``; one that has any is measured too.
        samples: measure what is importance-sampled too, the log-likelihood, with so many samples for each image.
        split, limit: ``test`` or ``train``, and how many of its images, from the first.
        seed: of every draw, binarisation included.
        prior: as in `Run.load`; where it is a fitted one, the protocol names it.
        data: as in `resume`.
        data_dir, device: as in `train`.
        announce, progress: called with each metric's name, and with (done, of) while it works.

    Raises:
        RunError: there is no such run, or the data are not those that it was trained on.
        UsageError: there is no such metric, or this model or these data do not have it.
    """
    if split not in SPLITS or (limit is not None and limit < 1):
        raise UsageError(f"There is no split {split!r} with limit {limit}: write test or train, and at least 1.")
    run = run if isinstance(run, Run) else Run.open(run)
    settings = {} if settings is None else dict(settings)
    if samples is not None:
        for name in importance_sampled():
            settings[name] = {**settings.get(name, {}), "samples": samples}
    asked = [ComponentSpec(use=name, **settings.get(name, {})) for name in dict.fromkeys((*metrics, *settings))]
    with _processes(device) as (group, target):
        loaded = run.loaded(None if data_dir is None else Path(data_dir), data)
        another = prior == "fitted" and run.fitted_prior.exists
        subject = EvaluationContext(
            *(run.load(prior=prior), run.recipe, loaded.dataset, split, limit, seed, target),
            group=group,
            progress=progress,
            prior=run.fitted_prior.name if another else None,
        )
        with flushed_denormals():
            return measure(subject, asked, by_default=not metrics, announce=announce)

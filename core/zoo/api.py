"""Train, resume, load, evaluate: what ``import zoo`` does with runs."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from zoo.catalog import objects, recipe, recipe_for
from zoo.data.loader import Loader
from zoo.errors import NoRun, RunError, UsageError
from zoo.evaluation import priors
from zoo.evaluation.evaluate import Evaluation, importance_sampled, measure
from zoo.evaluation.metric import SPLITS, EvaluationContext
from zoo.model.context import flushed_denormals, seeded
from zoo.model.devices import resolve_device
from zoo.model.vae import VAE
from zoo.recipes.components import build_prior, explicit, unchecked
from zoo.recipes.datasets import LoadedDataset, block_for
from zoo.recipes.library import ResolvedRecipe
from zoo.recipes.merge import merge, parse_overrides
from zoo.recipes.schema import ComponentSpec, Recipe
from zoo.run import Run
from zoo.session import processes, session
from zoo.training.callbacks import Callback
from zoo.training.trainer import Trainer

log = logging.getLogger("zoo")


def train(
    model: str | Recipe | ResolvedRecipe,
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
    with session(device, data_dir, time_limit, compile, callbacks, progress, figures) as opened:
        return opened.train(checked, Path(out), None if folder is None else Path(folder), objects(data))


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
    with session(device, data_dir, time_limit, compile, callbacks, progress, figures) as opened:
        return opened.resume(*opened.claim(run), epochs, data)


def resume_or_train(
    model: str | Recipe | ResolvedRecipe,
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
    with session(device, data_dir, time_limit, compile, callbacks, progress, figures) as opened:
        try:
            claimed = opened.claim(Path(out) / checked.name)
        except NoRun:
            if opened.group.is_rank_zero:
                log.info("There is no unfinished run of %s in %s: a new one starts.", checked.name, out)
            return opened.train(checked, Path(out), None)
        return opened.resume(*claimed, epochs)


def save_run(trainer: Trainer, folder: Path | str, *, name: str = "model", data: object = None) -> Run:
    """Save a training of `Trainer` as a run, which `load`, `evaluate` and the tools accept.

    A model of the user's own classes cannot be rebuilt from the folder. The run that is returned holds the model and
    the data; one that is opened later gets them by `Run.attach`.

    Args:
        trainer: a trainer whose `fit` has ended.
        folder: the folder of the run, which must not hold a run.
        name: of the model.
        data: the name or path of the data set, if it has one; the data themselves are not saved.

    Returns:
        The run. Its weights are those of the best checkpoint, if the trainer saved any, else the last ones.

    Raises:
        UsageError: `fit` has not ended.
        RunError: the folder cannot be written, or holds a run.
    """
    if not trainer.finished:
        raise UsageError("The training is not finished: call trainer.fit() first.")
    vae = trainer.model
    block = block_for(trainer.dataset if data is None else data)
    raw: dict[str, Any] = {
        "encoder": type(trainer.vae.encoder).__name__,
        "decoder": type(trainer.vae.decoder).__name__,
        "prior": type(trainer.vae.prior).__name__,
        "loss": type(trainer.loss).__name__,
        "latent_dim": math.prod(vae.latent_shape),
        "data": [block.model_dump()],
        "binarize": trainer.binarize,
        "train": trainer.config.model_dump(),
    }
    loaded = LoadedDataset(block, trainer.dataset)
    run = Run.create(Path(folder), unchecked(name, raw), loaded, trainer.device, Path(folder), code=True)
    run.attach(copy.deepcopy(vae).cpu(), trainer.dataset)
    best = None if trainer.checkpoints is None else trainer.checkpoints.best()
    with run.held():
        run.rewind(trainer.history)
        run.finish(vae.state_dict() if best is None else best.weights())
    return run


def load(
    run: str | Path | Run,
    which: Literal["best", "last"] = "best",
    prior: Literal["fitted", "original"] = "fitted",
) -> VAE:
    """The trained model of a run, in evaluation mode, from its folder alone.

    Args:
        run: the folder, one such as ``runs/mlp-vae`` whose newest finished run is meant, or the name of installed
            weights, such as ``mlp-vae@mnist``.
        which: of the best epoch by the term ``train.monitor``, or as it was last saved.
        prior: the one fitted after training (`fit_prior`), where there is one, or the one that it was trained with.

    Raises:
        RunError: there is no run, or its weights are absent or damaged.
        NameConflict: two distributions bring weights of that name.
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
    with processes(device) as (group, target):
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

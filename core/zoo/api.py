"""Train, resume, load and evaluate runs."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from zoo.catalog import recipe, recipe_for
from zoo.data.loader import Loader
from zoo.errors import NoRun, RunError, UsageError
from zoo.evaluation import priors
from zoo.evaluation.evaluate import Evaluation, importance_sampled, measure
from zoo.evaluation.metric import SPLITS, EvaluationContext
from zoo.model.context import flushed_denormals, seeded
from zoo.model.devices import resolve_device
from zoo.model.vae import VAE
from zoo.recipes.building import build_prior
from zoo.recipes.components import explicit, unchecked
from zoo.recipes.datasets import LoadedDataset, in_memory, spec_for
from zoo.recipes.library import ResolvedRecipe
from zoo.recipes.merge import merge, parse_overrides
from zoo.recipes.schema import ComponentSpec, Recipe
from zoo.recorder import RunRecorder, create_run
from zoo.run import Run
from zoo.session import Session, processes
from zoo.training.callbacks import Callback
from zoo.training.distributed import Group
from zoo.training.trainer import Trainer
from zoo.warm_start import WarmStart

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
    init: str | Path | Run | None = None,
    init_parts: Sequence[str] = (),
    init_partial: bool = False,
    **changes: Any,
) -> Run:
    """Train a model, and write its recipe, environment, metrics, weights, checkpoints and figures into a run folder.

    torch's random generators are global, so only one thread of a process trains at a time; others wait.

    Args:
        model, overrides, registries, changes: as in `recipe`.
        data: the data set. By default, the first available one in the recipe.

            - The name of a data set. If the recipe lists it, its parameters there apply. ``data.size=[64,64]`` among
              the overrides changes a parameter.
            - The path of a folder of images or of a file of arrays.
            - A Python object: a `zoo.Dataset`; images as a tensor or an array, uint8 or floats in [0, 1] of shape
              (N, H, W) or (N, C, H, W), a tenth of which is held out for testing (``data.test_fraction=0.2`` changes
              that); ``(images, labels)``; or ``(train, test)``, each of them images or ``(images, labels)``. The run
              does not store the data: pass them again to `resume` and `evaluate`.
        data_dir: folder of the files of data sets; by default ``ZOO_DATA``, or the user's cache folder.
        epochs, seed: override ``train.epochs`` and ``train.seed``.
        device: ``auto`` (the accelerator, if there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or another device of
            torch.
        out: the folder of all runs; the new run is ``<model>/<time>`` in it.
        folder: the folder of the run, instead of one in `out`.
        time_limit: seconds after which the training saves its state and stops.
        compile: apply `torch.compile` to the losses. Compilation takes a while and requires a C++ compiler.
        callbacks: observers of the training; see `zoo.Callback`.
        progress: show progress on stderr. By default it is shown on a terminal and in a notebook.
        figures: draw figures of the trained model in the run folder.
        init: a run whose weights are the initial weights; it is recorded in ``environment.json``.
        init_parts: initialize only these parts: ``encoder``, ``decoder``, ``prior``. By default all of them.
        init_partial: skip tensors that `init` does not have, or that have another shape there. By default they are an
            error.

    Returns:
        The run.

    Raises:
        UsageError: a name, a value, the data or the output folder is not valid. Nothing has been written.
        ComponentError: a component failed in the dry run. Nothing has been written.
        TrainingError: the training failed. Its last checkpoint remains.
        Interrupted: a signal or the time limit stopped the training. Its state is saved; see `resume`.
    """
    shorthands = {key: value for key, value in (("epochs", epochs), ("seed", seed)) if value is not None}
    changes = merge(changes, {"train": shorthands} if shorthands else {})
    checked = recipe_for(data, model, overrides, registries=registries, **changes)
    if init is None and (init_parts or init_partial):
        raise UsageError("--init-part and --init-partial require --init, the run to start from.")
    start = None if init is None else WarmStart.of(init, init_parts, init_partial)
    with Session(device, data_dir, time_limit, compile, callbacks, progress, figures) as session:
        return session.train(checked, Path(out), None if folder is None else Path(folder), in_memory(data), start)


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
    """Resume a training from its newest valid checkpoint. The result is bit-identical to that of an uninterrupted one.

    Only one process at a time can train a run. A finished run is returned unchanged.

    Args:
        run: the folder of a run, or a folder of runs such as ``runs/mlp-vae``, whose newest unfinished run is resumed.
            Runs in it that cannot be read, or that another process is training, are reported and skipped.
        epochs: the total number of epochs, at least that in the recipe; a finished run is trained longer. The change is
            recorded in ``recipe.yaml`` and ``environment.json``.
        data: the data of the run, if `train` was called with a Python object.
        data_dir, device, time_limit, compile, callbacks, progress, figures: as in `train`.

    Returns:
        The run.

    Raises:
        RunLocked: another process is training the run.
        RunError: there is no such run, it has no valid checkpoint, it or its recipe was edited, or the data have
            changed.
        UsageError: `epochs` is less than the number in the recipe.
        TrainingError, Interrupted: as in `train`.
    """
    with Session(device, data_dir, time_limit, compile, callbacks, progress, figures) as session:
        return session.resume(*session.claim(run), epochs, data)


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
    """Resume the newest unfinished run of a model, or train a new one if there is none; ``zoo train --resume auto``.

    For the arguments and errors, see `resume` and `train`.
    """
    checked = recipe(model, train={} if epochs is None else {"epochs": epochs})
    with Session(device, data_dir, time_limit, compile, callbacks, progress, figures) as session:
        try:
            claimed = session.claim(Path(out) / checked.name)
        except NoRun:
            if session.group.is_rank_zero:
                log.info("There is no unfinished run of %s in %s; training a new one.", checked.name, out)
            return session.train(checked, Path(out), None)
        return session.resume(*claimed, epochs)


def save_run(trainer: Trainer, folder: Path | str, *, name: str = "model", data: object = None) -> Run:
    """Save the result of a `Trainer` as a run, which `load`, `evaluate` and the tools accept.

    A model of the user's own classes cannot be rebuilt from the folder. The returned run has the model and the data;
    a run that is opened later gets them from `Run.attach`.

    Args:
        trainer: a trainer whose `fit` has returned.
        folder: the folder of the run, which must not contain a run.
        name: name of the model.
        data: name or path of the data set, if it has one. The data are not saved.

    Returns:
        The run. Its weights are those of the best checkpoint, or the last ones if the trainer saved no checkpoint.

    Raises:
        UsageError: `fit` has not returned.
        RunError: the folder cannot be written, or contains a run.
    """
    if not trainer.finished:
        raise UsageError("The training is not finished: call trainer.fit() first.")
    vae = trainer.model
    spec = spec_for(trainer.dataset if data is None else data)
    raw: dict[str, Any] = {
        "encoder": type(trainer.vae.encoder).__name__,
        "decoder": type(trainer.vae.decoder).__name__,
        "prior": type(trainer.vae.prior).__name__,
        "loss": type(trainer.loss).__name__,
        "latent_dim": math.prod(vae.latent_shape),
        "data": [spec.model_dump()],
        "binarize": trainer.binarize,
        "train": trainer.config.model_dump(),
    }
    loaded = LoadedDataset(spec, trainer.dataset)
    run = create_run(Path(folder), unchecked(name, raw), loaded, trainer.device, Path(folder), code=True)
    run.attach(copy.deepcopy(vae).cpu(), trainer.dataset)
    best = None if trainer.checkpoints is None else trainer.checkpoints.best()
    with run.held():
        recorder = RunRecorder(run)
        recorder.rewind(trainer.history)
        recorder.finish(vae.state_dict() if best is None else best.weights())
    return run


def load(
    run: str | Path | Run,
    which: Literal["best", "last"] = "best",
    prior: Literal["fitted", "original"] = "fitted",
) -> VAE:
    """Load the trained model of a run in evaluation mode.

    Args:
        run: the folder, one such as ``runs/mlp-vae`` whose newest finished run is meant, or the name of installed
            weights, such as ``mlp-vae@mnist``.
        which: the weights of the best epoch by ``train.monitor``, or those of the last checkpoint.
        prior: the prior fitted after training (`fit_prior`) if there is one, or the prior of the training.

    Raises:
        RunError: there is no run, or its weights are missing or damaged.
        NameConflict: two distributions provide weights of that name.
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
    """Fit a prior to the aggregate posterior of a trained model, q(z) = 1/N sum_n q(z | x_n) over the training split.

    The prior is saved in the run folder, and replaces one that was fitted before. `load` returns the model with it, or
    with the prior of the training for ``prior="original"``.

    Args:
        run: as in `load`.
        prior: a component that is an `ExPostPrior`.
        overrides, changes: its parameters, such as ``components=20``.
        samples_per_image: draws from q(z | x) per training example.
        seed: seed of the draws and of the fit.
        data: as in `resume`.
        data_dir, device: as in `train`.

    Returns:
        The prior and a summary of the fit: ``images``, ``samples_per_image``, ``seed``, and ``log_likelihood``, the
        mean log p(z) in nats at draws from q(z | x) of the training and test examples, also for the ``original`` prior.

    Raises:
        UsageError: a name or a value is not valid, or the prior cannot be fitted after training.
        RunError: there is no such run, it is not finished, or the data have changed.
        RunLocked: another process is training the run.
        TrainingError: the density of the fitted prior is not finite, or the prior could not be written. A prior that
            was fitted before is intact.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    change = merge(merge({"prior": prior}, {"prior": parse_overrides(tuple(overrides))}), {"prior": changes})
    spec = ComponentSpec.model_validate(change["prior"])
    priors.require_fittable(spec)
    if samples_per_image < 1:
        raise UsageError(f"samples_per_image must be at least 1, not {samples_per_image}.")
    target = resolve_device(device)
    with run.held():
        if not run.finished:
            raise RunError(f"{run.path} is not finished. Resume it first: zoo train --resume {run.path}")
        vae = run.load(prior="original")
        dataset = run.loaded(None if data_dir is None else Path(data_dir), data).dataset
        with flushed_denormals(), seeded(seed, target):
            new_prior = build_prior(spec, run.recipe, vae.encoder, run.data_shape, run.classes, run.columns)
            vae.to(target), new_prior.to(target)
            splits = (dataset.train, dataset.test)
            train, test = (Loader.for_evaluation(split, 512, run.recipe.binarize, target) for split in splits)
            summary = priors.fit(new_prior, vae, train, test, samples_per_image, seed)
        spec = explicit("prior", spec)
        run.fitted_prior.save(spec, new_prior, summary)
    return {"run": str(run.path), "prior": spec.model_dump(), **summary}


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
        run: as in `load`.
        metrics: names of metrics. By default, all inexpensive metrics that apply; `Evaluation.left_out` has the reasons
            for the others.
        settings: parameters by metric, such as ``{"active-units": {"threshold": 0.05}}``; these metrics are measured
            in addition to `metrics`.
        samples: also measure importance-sampled metrics (the log-likelihood), with this number of samples per example.
        split, limit: ``test``, ``validation`` or ``train``, and the number of examples to use, from the first.
        seed: seed of every draw, binarization included.
        prior: as in `load`; the protocol names a fitted prior.
        data: as in `resume`.
        data_dir, device: as in `train`.
        announce: called with the name of each metric before it is measured.
        progress: called with the number of examples processed so far, and of all examples.

    Returns:
        The measured values and their protocol.

    Raises:
        RunError: there is no such run, or the data have changed.
        UsageError: there is no such metric, or it does not apply to this model or these data.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    settings = {} if settings is None else dict(settings)
    if samples is not None:
        for name in importance_sampled():
            settings[name] = {**settings.get(name, {}), "samples": samples}
    specs = [ComponentSpec(use=name, **settings.get(name, {})) for name in dict.fromkeys((*metrics, *settings))]
    with processes(device) as (group, target):
        context = evaluation_context(
            run,
            split=split,
            limit=limit,
            seed=seed,
            prior=prior,
            data=data,
            data_dir=data_dir,
            device=target,
            group=group,
            progress=progress,
        )
        with flushed_denormals():
            return measure(context, specs, by_default=not metrics, announce=announce)


def evaluation_context(
    run: str | Path | Run,
    *,
    split: str | None = "test",
    limit: int | None = None,
    seed: int = 0,
    prior: Literal["fitted", "original"] = "fitted",
    data: object = None,
    data_dir: Path | str | None = None,
    device: torch.device | str = "auto",
    group: Group | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationContext:
    """The trained model of a run and the examples to measure it on, for tools that measure models.

    Args:
        run, limit, seed, prior, data, data_dir, device, progress: as in `evaluate`.
        split: as in `evaluate`; None for ``validation`` if there is one, else ``test``.
        group: processes that share the work.

    Raises:
        RunError, UsageError: as in `evaluate`.
    """
    if split is not None and split not in SPLITS:
        raise UsageError(f"split must be one of {', '.join(SPLITS)}, not {split!r}.")
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1, not {limit}.")
    run = run if isinstance(run, Run) else Run.open(run)
    dataset = run.loaded(None if data_dir is None else Path(data_dir), data).dataset
    split = split or ("test" if dataset.validation is None else "validation")
    return EvaluationContext(
        *(run.load(prior=prior), run.recipe, dataset, split, limit, seed, resolve_device(str(device))),
        group=group,
        progress=progress,
        prior=run.fitted_prior.name if prior == "fitted" and run.fitted_prior.exists else None,
    )

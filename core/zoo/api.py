"""What ``import zoo`` offers: list, get, create, train, load."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.errors import UsageError
from zoo.evaluation import figures
from zoo.loss import Loss
from zoo.modes import seeded
from zoo.recipes.build import build, validate
from zoo.recipes.datasets import load_data
from zoo.recipes.library import library
from zoo.recipes.library import load as load_recipe
from zoo.recipes.merge import merge, parse_overrides
from zoo.recipes.schema import Recipe
from zoo.registry import registry
from zoo.run import Run
from zoo.training.dryrun import dry_run
from zoo.training.history import Epoch
from zoo.training.trainer import Observer, Trainer
from zoo.vae import VAE

log = logging.getLogger("zoo")

MNIST_SHAPE = (1, 28, 28)


def list_models(pattern: str = "*") -> list[str]:
    """The names of the models that match a shell pattern, in natural order.

    >>> list_models("conv*")
    ['conv-vae', 'conv-vae-mse']
    """
    return library().names(pattern)


def list_components(kind: str, pattern: str = "*") -> list[str]:
    """The names of the components of one kind that match a shell pattern.

    >>> list_components("likelihood", "*bernoulli")
    ['bernoulli', 'continuous-bernoulli']

    Raises:
        UnknownName: there is no such kind.
    """
    return registry().names(kind).matching(pattern)


def get(kind: str, name: str) -> Any:
    """The class of a component (for a data set: its function).

    >>> get("encoder", "mlp").__name__
    'MLPEncoder'

    Raises:
        UnknownName, NameConflict: there is no such component, or two distributions claim the name.
        ComponentError: it cannot be imported.
    """
    return registry().get(kind, name)


def recipe(
    model: str | Recipe, overrides: Sequence[str] = (), *, registries: Sequence[Path] = (), **changes: Any
) -> Recipe:
    """The recipe of a model, resolved, changed and checked.

    Args:
        model: a name, or a YAML file that holds just one model, or a recipe.
        overrides: changes as on the command line, such as ``encoder.hidden=[512,256]``.
        registries: recipe files of your own, which come before what is installed.
        changes: changes as keyword arguments, such as ``encoder={"hidden": [512, 256]}``; they come last.

    >>> recipe("mlp-vae", ["latent_dim=2"], loss="mse").loss.use
    'mse'

    Raises:
        UnknownName, NameConflict: there is no such model, or two distributions claim the name.
        RecipeError: what comes out is not valid; holds every problem.
    """
    if isinstance(model, Recipe):
        name, raw = model.name, model.to_raw()
    else:
        name, raw = load_recipe(model, registries)
    return validate(name, merge(merge(raw, parse_overrides(tuple(overrides))), changes))


def create_model(model: str | Recipe, *, data_shape: tuple[int, int, int] = MNIST_SHAPE, **changes: Any) -> VAE:
    """A new model for images of one shape, its weights drawn from torch's global generator.

    Args:
        model: as in `recipe`.
        data_shape: (C, H, W).
        changes: to the recipe, as in `recipe`.

    >>> vae = create_model("mlp-vae", latent_dim=2, data_shape=(1, 8, 8))
    >>> vae.sample(4).shape
    torch.Size([4, 1, 8, 8])
    """
    return build(recipe(model, **changes), data_shape)[0]


def create_loss(model: str | Recipe, *, data_shape: tuple[int, int, int] = MNIST_SHAPE, **changes: Any) -> Loss:
    """The loss of a model's recipe; the arguments are those of `create_model`.

    >>> x = torch.rand(5, 1, 28, 28).round()
    >>> terms = create_loss("mlp-vae")(create_model("mlp-vae"), zoo.Batch(x))
    >>> sorted(terms)
    ['distortion', 'loss', 'rate']
    """
    return build(recipe(model, **changes), data_shape)[1]


def train(
    model: str | Recipe,
    overrides: Sequence[str] = (),
    *,
    data: str | None = None,
    data_dir: Path | str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    out: Path | str = "runs",
    registries: Sequence[Path] = (),
    observers: Sequence[Observer] = (),
    **changes: Any,
) -> Run:
    """Train a model and leave a run folder with its recipe, environment, metrics, weights and figures.

    Args:
        model, overrides, registries, changes: as in `recipe`.
        data: this data set and no other, in place of the recipe's choices.
        data_dir: where the files of data sets lie; by default ``ZOO_DATA``, else the user's cache folder.
        epochs, seed: in place of the recipe's.
        device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``.
        out: the folder of all runs.
        observers: who follows the training.

    Raises:
        UsageError: a name, a value, the data or the output folder is wrong. Nothing has been trained or written.
        ComponentError: a component misbehaves in the dry run. Nothing has been written.
        TrainingError: the training could not go on.
    """
    shorthands = {"epochs": epochs, "seed": seed}
    changes = merge(changes, {"train": {key: value for key, value in shorthands.items() if value is not None}})
    checked = recipe(
        model, overrides, registries=registries, **(changes if data is None else {**changes, "data": data})
    )
    target = resolve_device(device)
    loaded = load_data(checked.data, None if data_dir is None else Path(data_dir))
    dataset = loaded.dataset
    log.info(
        "%s on %s: %d training and %d test images of %s, on %s, seed %d",
        *(checked.name, loaded.block.use, len(dataset.train), len(dataset.test)),
        *("x".join(map(str, dataset.shape)), target, checked.train.seed),
    )

    with seeded(checked.train.seed, target):
        vae, loss = build(checked, dataset.shape)
        recorder = _Recorder()
        trainer = Trainer(checked, vae, loss, dataset, target, [recorder, *observers])
        dry_run(checked, vae, loss, trainer.train[torch.arange(min(2, len(dataset.train)), device=target)])
        run = recorder.run = Run.create(Path(out), checked, loaded, target)
        history = trainer.fit()

    run.save(vae)
    images = trainer.test[torch.arange(min(2 * figures.COLUMNS, len(dataset.test)), device=target)]
    title = f"{checked.name} on {loaded.block.use}"
    figures.save(figures.curves(history, title), run.figures / "curves.png")
    figures.save(figures.reconstructions(vae, images.x, f"{title}: test images"), run.figures / "reconstructions.png")
    figures.save(figures.samples(vae, 64, f"{title}: samples from the prior"), run.figures / "samples.png")
    return run


def load(run: str | Path | Run) -> VAE:
    """The trained model of a run, in evaluation mode, from its folder alone.

    Args:
        run: the folder, or one such as ``runs/mlp-vae`` whose newest finished run is meant.

    Raises:
        RunError: there is no run, or its weights are absent or damaged.
    """
    return (run if isinstance(run, Run) else Run.open(run)).load()


def resolve_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``cuda`` stands for here.

    Raises:
        UsageError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"There is no device {name!r}. Write auto, cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("There is no CUDA device here (torch.cuda.is_available() is false). Write --device cpu.")
    return device


class _Recorder:
    """Writes each epoch into the run folder as it ends."""

    run: Run

    def training_started(self, epochs: int, steps_per_epoch: int) -> None: ...

    def step_ended(self, step: int) -> None: ...

    def epoch_ended(self, epoch: Epoch) -> None:
        self.run.append(epoch)

    def training_ended(self) -> None: ...

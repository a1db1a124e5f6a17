"""The run folder: everything about one training, written once and never overwritten."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.data.loader import Loader
from zoo.errors import DataError, RecipeError, RunError, TrainingError
from zoo.evaluation.priors import FittedPrior
from zoo.locate import RECIPE, WEIGHTS, run_folder
from zoo.model.context import seeded
from zoo.model.vae import VAE, Batch
from zoo.plugins.manager import DISTRIBUTION
from zoo.plugins.registry import registry
from zoo.recipes.components import build, validate, written_out
from zoo.recipes.datasets import Loaded, load_data
from zoo.recipes.schema import Recipe
from zoo.recipes.source import read_models, write_models
from zoo.storage.checkpoints import Checkpoints, load_weights, save_weights
from zoo.training.history import Epoch

METRICS = "metrics.jsonl"
PACKAGES = ("vae-zoo", "torch", "torchvision", "numpy", "pluggy", "pydantic", "safetensors", "scikit-learn")


class Run:
    """A run folder. `path` is its place; the rest is read from its files.

    The folder holds ``recipe.yaml``, ``environment.json``, ``metrics.jsonl`` (a line for each epoch),
    ``model.safetensors``, ``checkpoints/``, ``figures/`` and, once one was fitted, ``prior/``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @classmethod
    def create(
        cls, root: Path, recipe: Recipe, loaded: Loaded, device: torch.device, folder: Path | None = None
    ) -> Run:
        """Make the folder ``root/<model>/<time>``, or just `folder`, and write down what is about to be trained.

        Raises:
            RunError: the folder cannot be made or written, or `folder` holds a run already.
        """
        parent = root / recipe.name if folder is None else folder.parent
        if parent.is_symlink():
            raise RunError(f"{parent} is a link to {parent.readlink()}; runs are not written through links.")
        stamp = datetime.datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            path = _unused(parent, stamp) if folder is None else folder
            path.mkdir(exist_ok=True)
            if (path / RECIPE).exists():
                raise RunError(f"{path} holds a run already, and runs are never overwritten.")
            run = cls(path)
            raw = written_out(recipe.model_copy(update={"data": [loaded.block]})).to_raw()
            (path / RECIPE).write_text(write_models({recipe.name: raw}))
            (path / "environment.json").write_text(json.dumps(_environment(recipe, loaded, device), indent=2) + "\n")
            (path / "figures").mkdir()
        except OSError as error:
            raise RunError(
                f"The output folder {parent} cannot be written: {error.strerror or error}. Choose another with --out."
            ) from error
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """The run at `path`, or the newest finished one below it (``runs/mlp-vae``).

        Raises:
            RunError: there is none.
        """
        return cls(run_folder(path))

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe, with every default written out."""
        ((name, raw),) = read_models(self.path / RECIPE).items()
        try:
            return validate(name, raw)
        except RecipeError as error:
            changed = f"The recipe of {self.path} does not fit the components as they are installed now:"
            raise RecipeError(changed, error.problems) from error

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, plugins, data, seed and device."""
        try:
            environment: dict[str, Any] = json.loads((self.path / "environment.json").read_text())
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / 'environment.json'} cannot be read: {error}") from error
        return environment

    @property
    def data_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that the model was trained on."""
        channels, height, width = self.environment["data"]["shape"]
        return channels, height, width

    @property
    def classes(self) -> int:
        """The number of labels in the data, 0 where they have none."""
        return int(self.environment["data"].get("classes", 0))

    @property
    def title(self) -> str:
        """The model and the data, for the titles of figures: ``mlp-vae on mnist``."""
        return f"{self.recipe.name} on {self.environment['data']['name']}"

    @property
    def figures(self) -> Path:
        """The folder of the figures."""
        return self.path / "figures"

    @property
    def checkpoints(self) -> Checkpoints:
        """The saved states of the training."""
        return Checkpoints(self.path / "checkpoints", self.recipe.train.checkpoint.keep)

    @property
    def finished(self) -> bool:
        """Whether the training came to its end."""
        return (self.path / WEIGHTS).exists()

    def append(self, epoch: Epoch) -> None:
        """Add an epoch to ``metrics.jsonl``.

        Raises:
            TrainingError: the disk is full.
        """
        self._write_metrics("a", [epoch])

    def rewind(self, history: list[Epoch]) -> None:
        """Make ``metrics.jsonl`` hold these epochs: those after the checkpoint that is resumed are trained again.

        Raises:
            TrainingError: the disk is full.
        """
        self._write_metrics("w", history)

    def _write_metrics(self, mode: Literal["a", "w"], epochs: list[Epoch]) -> None:
        try:
            with (self.path / METRICS).open(mode) as file:
                file.write("".join(json.dumps(asdict(epoch)) + "\n" for epoch in epochs))
        except OSError as error:
            raise TrainingError(
                f"{self.path / METRICS} could not be written: {error}. The checkpoints are intact."
            ) from error

    def epochs(self) -> list[Epoch]:
        """The epochs of ``metrics.jsonl``."""
        try:
            lines = (self.path / METRICS).read_text().splitlines()
        except OSError as error:
            raise RunError(f"{self.path} has no metrics: {error.strerror}") from error
        return [Epoch(**json.loads(line)) for line in lines]

    def finish(self) -> None:
        """Put the best weights into ``model.safetensors``: now the run is finished.

        Raises:
            TrainingError: the disk is full.
        """
        try:
            save_weights(self._weights("best"), self.path / WEIGHTS, model=self.recipe.name)
        except OSError as error:
            raise TrainingError(
                f"{self.path / WEIGHTS} could not be written: {error}. The checkpoints are intact."
            ) from error

    @property
    def fitted_prior(self) -> FittedPrior:
        """The prior that was fitted after training, if any was: see `zoo.fit_prior`."""
        return FittedPrior(self.path / "prior", self.path / WEIGHTS)

    def load(self, which: Literal["best", "last"] = "best", prior: Literal["fitted", "original"] = "fitted") -> VAE:
        """The trained model, in evaluation mode on the CPU.

        Args:
            which: of the best epoch by the term ``train.monitor``, or as it was last saved.
            prior: the one fitted after training, where there is one, or the one that the model was trained with. A
                prior is fitted to the best weights; the last ones come with the original.

        Raises:
            RunError: there are no weights, or they are damaged or of another model; so too for a fitted prior.
        """
        vae, _ = build(self.recipe, self.data_shape, self.classes, self.environment["data"]["train"])
        finished = which == "best" and self.finished
        weights = load_weights(self.path / WEIGHTS) if finished else self._weights(which)
        try:
            vae.load_state_dict(weights)
        except RuntimeError as error:
            raise RunError(f"The weights of {self.path} are not those of its recipe: {error}") from error
        if which == "best" and prior == "fitted" and self.fitted_prior.exists:
            vae.prior = self.fitted_prior.load(self.recipe, vae.encoder, self.data_shape, self.classes)
        return vae.eval()

    def _weights(self, which: Literal["best", "last"]) -> dict[str, Tensor]:
        checkpoint = self.checkpoints.best() if which == "best" else self.checkpoints.newest()
        if checkpoint is None:
            raise RunError(f"{self.path} holds no weights: it was stopped before it saved any.")
        return checkpoint.weights()

    def loaded(self, root: Path | None = None) -> Loaded:
        """The data that it was trained on.

        Args:
            root: as in `load_data`.

        Raises:
            DataError: they cannot be had here, or are damaged.
            RunError: they are others now.
        """
        loaded = load_data(self.recipe.data, root)
        if loaded.dataset.sha256() != self.environment["data"]["sha256"]:
            raise RunError(f"The data are not those that {self.path} was trained on: their digests differ.")
        return loaded

    def test_images(self, n: int, root: Path | None = None) -> Tensor:
        """The first `n` test images, (n, C, H, W); otherwise as `test_batch`."""
        return self.test_batch(n, root).x

    def test_batch(self, n: int | None = None, root: Path | None = None) -> Batch:
        """The first `n` test images as the model met them, or all, with their labels where they have any.

        Binarisation is drawn with the run's seed: an image is the same whatever `n` is.

        Args:
            n: how many; fewer come if there are no more.
            root: where the files of data sets lie, if not where `load_data` looks.

        Raises:
            DataError: the data cannot be had here, or are not those of the run any more.
        """
        dataset = load_data(self.recipe.data, root).dataset
        if dataset.shape != self.data_shape:
            raise DataError(f"{self.path} was trained on images of {self.data_shape}, these are {dataset.shape}.")
        n = len(dataset.test) if n is None else min(n, len(dataset.test))
        with seeded(self.recipe.train.seed):
            return Loader(dataset.test, n, self.recipe.binarize)[torch.arange(n)]

    def result(self) -> dict[str, Any]:
        """What ``zoo train --json`` prints."""
        epochs = self.epochs()
        return {
            "run": str(self.path),
            "model": self.recipe.name,
            "data": self.environment["data"]["name"],
            "epochs": len(epochs),
            "seconds": round(sum(epoch.seconds for epoch in epochs), 3),
            "train": {name: value for name, value in epochs[-1].train.items() if name in epochs[-1].test},
            "test": epochs[-1].test,
        }


def _unused(parent: Path, stamp: str) -> Path:
    """A new folder: two runs that start in one second get two."""
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        try:
            path = parent / (stamp + suffix)
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise RunError(f"{parent} holds a thousand runs of {stamp}")


def _environment(recipe: Recipe, loaded: Loaded, device: torch.device) -> dict[str, Any]:
    dataset = loaded.dataset
    return {
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": recipe.train.seed,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "versions": {name: version(name) for name in PACKAGES},
        "plugins": {
            plugin.name: str(plugin)
            for plugin in registry().plugins.found
            if plugin.status == "ok" and plugin.distribution != DISTRIBUTION
        },
        "data": {
            "name": loaded.block.use,
            "shape": list(dataset.shape),
            "classes": dataset.classes,
            "train": len(dataset.train),
            "test": len(dataset.test),
            "binarize": recipe.binarize,
            "sha256": dataset.sha256(),
            "passed_over": list(loaded.passed_over),
        },
    }

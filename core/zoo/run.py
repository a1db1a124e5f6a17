"""The run folder: everything about one training, written once and never overwritten."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.data.dataset import Dataset
from zoo.data.loader import Loader
from zoo.errors import DataError, RecipeError, RunError
from zoo.evaluation.priors import FittedPrior
from zoo.model.batch import Batch
from zoo.model.context import seeded
from zoo.model.vae import VAE
from zoo.recipes.components import build, unchecked, validate
from zoo.recipes.datasets import LoadedDataset, data_name, load_data
from zoo.recipes.schema import Recipe
from zoo.recipes.source import read_models
from zoo.storage.checkpoints import Checkpoint, Checkpoints, load_weights
from zoo.storage.environment import require_environment
from zoo.storage.files import (
    MANIFEST,
    read_manifest,
    remove_leftovers,
    sha256,
    to_json,
    verify_files,
)
from zoo.storage.locate import ENVIRONMENT, RECIPE, WEIGHTS, is_finished, run_folder
from zoo.storage.lock import hold
from zoo.training.history import Epoch, best_epoch

log = logging.getLogger("zoo")

METRICS, LOCK = "metrics.jsonl", ".lock"
SEALED = (RECIPE, ENVIRONMENT, METRICS, WEIGHTS)
"""The files that the manifest of a finished run covers."""
PACKAGES = ("vae-zoo", "torch", "torchvision", "numpy", "pluggy", "pydantic", "safetensors", "scikit-learn")


class Run:
    """A run folder. `path` is its place; the rest is read from its files.

    The folder holds ``recipe.yaml``, ``environment.json``, ``metrics.jsonl`` (a line for each epoch),
    ``model.safetensors``, ``checkpoints/``, ``figures/`` and, once one was fitted, ``prior/``. The last file of a
    training is ``manifest.json``, with the SHA-256 of the others.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._damage_reported = False
        self._attached: tuple[VAE, Dataset] | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """The run at `path`, or the newest finished one below it (``runs/mlp-vae``).

        Raises:
            RunError: there is none.
        """
        return cls(run_folder(path))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Own the run inside the block: one process at a time may train it, or fit a prior to it.

        Raises:
            RunLocked: another process owns it.
            RunError: the folder cannot be written.
        """
        with hold(self.path / LOCK, str(self.path)):
            remove_leftovers(self.path, (*SEALED, MANIFEST))
            yield

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe, with every default written out."""
        models = read_models(self.path / RECIPE)
        if len(models) != 1:
            raise RunError(f"{self.path / RECIPE} holds {len(models)} models; expected the one that was trained.")
        ((name, raw),) = models.items()
        try:
            return unchecked(name, raw) if self.environment.get("code") else validate(name, raw)
        except RecipeError as error:
            changed = f"The recipe of {self.path} does not fit the components as they are installed now:"
            raise RecipeError(changed, error.problems) from error

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, plugins, data, seed and device."""
        path = self.path / ENVIRONMENT
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        return require_environment(content, path)

    @property
    def data_name(self) -> str:
        """What to call the data that it was trained on: the file or folder, else the data set."""
        return data_name(self.recipe.data[0])

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The event shape of the data that the model was trained on."""
        return tuple(self.environment["data"]["shape"])

    @property
    def classes(self) -> int:
        """The number of labels in the data, 0 where they have none."""
        return int(self.environment["data"].get("classes", 0))

    @property
    def label_names(self) -> tuple[str, ...]:
        """What the labels are called, if anything."""
        return tuple(self.environment["data"].get("label_names", ()))

    @property
    def title(self) -> str:
        """The model and the data, for the titles of figures: ``mlp-vae on mnist``."""
        return f"{self.recipe.name} on {self.data_name}"

    @property
    def figures(self) -> Path:
        """The folder of the figures."""
        return self.path / "figures"

    @property
    def checkpoints(self) -> Checkpoints:
        """The saved states of the training."""
        origin = {"run": self.environment["id"], "recipe": _trained(self.recipe)}
        return Checkpoints(self.path / "checkpoints", self.recipe.train.checkpoint.keep, origin)

    def checkpoint(self, which: Literal["best", "last"] = "last") -> Checkpoint | None:
        """The newest valid checkpoint, or the best one, if there is any.

        Raises:
            RunError: ``recipe.yaml`` is not the recipe that it was trained with; the message names what differs.
        """
        checkpoints = self.checkpoints
        checkpoint = checkpoints.best() if which == "best" else checkpoints.newest()
        if checkpoint is None:
            return None
        changes = dict(_changes(_trained(self.recipe), checkpoint.manifest().get("recipe")))
        if changes.get("train.epochs", (0, None))[1] in self._former_epochs:
            del changes["train.epochs"]
        if changes:
            differences = "; ".join(f"{key} is {now!r}, was {before!r}" for key, (now, before) in changes.items())
            raise RunError(
                f"{self.path / RECIPE} is not the recipe that {checkpoint.path} was trained with: {differences}. "
                f"Restore it, or train a new run: zoo train {self.path / RECIPE}. Of a run that exists, only the "
                f"number of epochs may grow: zoo train --resume {self.path} --epochs N."
            )
        return checkpoint

    @property
    def _former_epochs(self) -> set[int]:
        """The numbers of epochs that were raised by `extend`."""
        return {change["epochs"]["from"] for change in self.environment.get("extended", ())}

    @property
    def finished(self) -> bool:
        """Whether the training came to its end."""
        return is_finished(self.path)

    def verify(self) -> None:
        """Compare the files of a finished run with its manifest. Of one that is not finished there is nothing to say.

        Raises:
            RunError: the recipe, the environment or the weights are damaged or were edited; the message names the file.
        """
        if self.finished:
            verify_files(self.path, read_manifest(self.path)["sha256"], (RECIPE, ENVIRONMENT, WEIGHTS))

    def epochs(self) -> list[Epoch]:
        """The epochs of ``metrics.jsonl``. A torn line is reported and left out.

        Raises:
            RunError: there is no such file.
        """
        path = self.path / METRICS
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RunError(f"{self.path} has no metrics: {error.strerror}") from error
        epochs, damaged = [], []
        for number, line in enumerate(content.splitlines(), start=1):
            try:
                epochs.append(Epoch.from_json(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                damaged.append(str(number))
        if not self._damage_reported:
            self._damage_reported = True
            if damaged:
                log.warning("%s: line %s cannot be read and is left out.", path, ", ".join(damaged))
            elif self.finished and sha256(path) != read_manifest(self.path)["sha256"].get(METRICS):
                log.warning("%s was changed after the training: its SHA-256 is not that of the manifest.", path)
        return epochs

    def attach(self, vae: VAE, dataset: Dataset) -> Run:
        """Give a run whose model was built in code the objects that cannot be rebuilt from its folder.

        Args:
            vae: a model of the same classes and sizes; the weights of the run are loaded into a copy of it.
            dataset: the data of the run.

        Returns:
            The run itself, which `zoo.load`, `zoo.evaluate` and the tools then accept.
        """
        self._attached = vae, dataset
        return self

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
        self.verify()
        vae = self._new_model()
        finished = which == "best" and self.finished
        weights = load_weights(self.path / WEIGHTS) if finished else self.saved_weights(which)
        try:
            vae.load_state_dict(weights)
        except RuntimeError as error:
            raise RunError(f"The weights of {self.path} are not those of its recipe: {error}") from error
        if which == "best" and prior == "fitted" and self.fitted_prior.exists:
            vae.prior = self.fitted_prior.load(self.recipe, vae.encoder, self.data_shape, self.classes)
        return vae.eval()

    def _new_model(self) -> VAE:
        """A model without the weights of the run."""
        if self._attached is not None:
            return copy.deepcopy(self._attached[0]).cpu()
        if self.environment.get("code"):
            parts = ", ".join(f"{kind} {getattr(self.recipe, kind).use}" for kind in ("encoder", "decoder", "prior"))
            raise RunError(
                f"The model of {self.path} was built in code ({parts}) and cannot be rebuilt from the folder. "
                "In Python, give the run a model and its data: zoo.Run.open(...).attach(vae, dataset)."
            )
        return build(self.recipe, self.data_shape, self.classes, self.environment["data"]["train"])[0]

    def saved_weights(self, which: Literal["best", "last"]) -> dict[str, Tensor]:
        """The weights of the best or the newest checkpoint.

        Raises:
            RunError: there is no valid checkpoint.
        """
        checkpoint = self.checkpoint(which)
        if checkpoint is None:
            if (self.path / WEIGHTS).exists():
                raise RunError(f"{self.path / MANIFEST} is missing, which the weights are verified with.")
            raise RunError(f"{self.path} holds no weights: it was stopped before it saved any.")
        return checkpoint.weights()

    def loaded(self, root: Path | None = None, given: object = None) -> LoadedDataset:
        """The data that it was trained on.

        Args:
            root, given: as in `load_data`.

        Raises:
            DataError: they cannot be had here, or are damaged.
            RunError: they are others now.
        """
        loaded = self._data(root, given)
        if loaded.dataset.sha256() != self.environment["data"]["sha256"]:
            raise RunError(f"The data are not those that {self.path} was trained on: their digests differ.")
        return loaded

    def _data(self, root: Path | None, given: object = None) -> LoadedDataset:
        if given is None and self._attached is not None:
            return LoadedDataset(self.recipe.data[0], self._attached[1])
        return load_data(self.recipe.data, root, given=given, seed=self.recipe.train.seed)

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
        dataset = self._data(root).dataset
        if dataset.shape != self.data_shape:
            raise DataError(f"{self.path} was trained on data of shape {self.data_shape}, these are {dataset.shape}.")
        n = len(dataset.test) if n is None else min(n, len(dataset.test))
        with seeded(self.recipe.train.seed):
            return Loader(dataset.test, n, self.recipe.binarize)[torch.arange(n)]

    def best_epoch(self) -> Epoch:
        """The epoch whose weights the run holds: see `train.monitor` in `zoo.TrainConfig`.

        Raises:
            RunError: no epoch has ended.
        """
        epochs = self.epochs()
        if not epochs:
            raise RunError(f"{self.path / METRICS} holds no epoch.")
        return best_epoch(epochs, self.recipe.train.monitor)

    def result(self) -> dict[str, Any]:
        """What ``zoo train --json`` prints: the terms of each split at the `best_epoch`."""
        best, epochs = self.best_epoch(), self.epochs()
        return {
            "run": str(self.path),
            "model": self.recipe.name,
            "data": self.data_name,
            "epochs": len(epochs),
            "seconds": round(sum(epoch.seconds for epoch in epochs), 3),
            "epoch": best.epoch,
            "train": {name: value for name, value in best.train.items() if name in best.test},
            **best.held_out,
        }


def _trained(recipe: Recipe) -> dict[str, Any]:
    """What a checkpoint is tied to: the recipe, as JSON has it."""
    trained: dict[str, Any] = json.loads(to_json({**recipe.to_raw(), "summary": ""}))
    return trained


def _changes(now: Any, before: Any, place: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """What differs between two recipes: dotted keys, with the value now and the one before."""
    if isinstance(now, Mapping) and isinstance(before, Mapping):
        for key in dict.fromkeys([*now, *before]):
            yield from _changes(now.get(key), before.get(key), f"{place}.{key}".lstrip("."))
    elif now != before:
        yield place, (now, before)

"""The run folder, which has everything about one training and is never overwritten."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.data.columns import Column
from zoo.data.dataset import Dataset, Split, joined
from zoo.data.loader import Loader
from zoo.errors import DataError, RecipeError, RunError
from zoo.evaluation.priors import FittedPrior
from zoo.model.batch import Batch
from zoo.model.context import seeded
from zoo.model.vae import VAE
from zoo.plugins.registry import registry
from zoo.plugins.weights import find_run, verify_weights, weights_at
from zoo.recipes.components import build_model, unchecked, validate
from zoo.recipes.datasets import LoadedDataset, data_name, in_memory, load_data, spec_for
from zoo.recipes.schema import ComponentSpec, Recipe
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
from zoo.storage.locate import ENVIRONMENT, RECIPE, WEIGHTS, is_finished
from zoo.storage.lock import hold
from zoo.training.history import Epoch, best_epoch

log = logging.getLogger("zoo")

METRICS, LOCK = "metrics.jsonl", ".lock"
SEALED = (RECIPE, ENVIRONMENT, METRICS, WEIGHTS)
"""The files that the manifest of a finished run covers."""


class Run:
    """A run folder at `path`, whose files are read when needed.

    The folder contains ``recipe.yaml``, ``environment.json``, ``metrics.jsonl`` (one line per epoch),
    ``model.safetensors``, ``checkpoints/``, ``figures/`` and, if a prior was fitted, ``prior/``. ``manifest.json`` is
    written last and has the SHA-256 of the other files.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._damage_reported = False
        self._attached: tuple[VAE, Dataset] | None = None

    def __repr__(self) -> str:
        return f"Run({str(self)!r})"

    def __str__(self) -> str:
        """What commands call the run: its path, or the name of installed weights."""
        return self.weights or str(self.path)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """The run at `path`, the newest finished one below it (``runs/mlp-vae``), or installed weights of that name.

        Raises:
            RunError: there is none, or a file of the weights is damaged.
            NameConflict: two distributions bring weights of that name.
        """
        return cls(find_run(path))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Own the run inside the block: one process at a time may train it, or fit a prior to it.

        Raises:
            RunLocked: another process owns it.
            RunError: the folder cannot be written, or the run is installed weights, which are read-only.
        """
        if self.weights is not None:
            raise RunError(
                f"{self} belongs to an installed package and is read-only. Copy the run, and use the copy: "
                + shlex.join(["cp", "-r", str(self.path), "my-run"])
            )
        with hold(self.path / LOCK, str(self.path)):
            remove_leftovers(self.path, (*SEALED, MANIFEST))
            yield

    @cached_property
    def weights(self) -> str | None:
        """The name of the installed weights that this run is, or None for a run of the user's own."""
        return weights_at(self.path)

    @property
    def output(self) -> Path:
        """The folder that tools write to by default, created if needed: the run; of installed weights, ``runs/<name>``.

        Raises:
            RunError: it cannot be created.
        """
        return _created(self.path if self.weights is None else Path("runs") / self.weights.replace(":", "."))

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe, with every default filled in."""
        models = read_models(self.path / RECIPE)
        if len(models) != 1:
            raise RunError(f"{self.path / RECIPE} has {len(models)} models; expected one.")
        ((name, raw),) = models.items()
        try:
            return unchecked(name, raw) if self.environment.get("code") else validate(name, raw)
        except RecipeError as error:
            title = f"The recipe of {self.path} does not match the installed components:"
            raise RecipeError(title, error.problems) from error

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
        """The display name of its data: that of the file or folder, or the name of the data set."""
        return data_name(self.recipe.data[0])

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The event shape of its data."""
        return tuple(self.environment["data"]["shape"])

    @property
    def classes(self) -> int:
        """The number of labels in its data, 0 if they have none."""
        return int(self.environment["data"].get("classes", 0))

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the labels, if they have any."""
        return tuple(self.environment["data"].get("label_names", ()))

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the entries of its data mean; see `zoo.Dataset`."""
        return tuple(Column.from_json(column) for column in self.environment["data"].get("columns", ()))

    @property
    def title(self) -> str:
        """The title of figures, such as ``mlp-vae on mnist``."""
        return f"{self.recipe.name} on {self.data_name}"

    @property
    def figures(self) -> Path:
        """The folder of the figures in `output`; that of installed weights is created if needed."""
        folder = self.output / "figures"
        return folder if self.weights is None else _created(folder)

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of the training."""
        origin = {"run": self.environment["id"], "recipe": _trained(self.recipe)}
        return Checkpoints(self.path / "checkpoints", self.recipe.train.checkpoint.keep, origin)

    def checkpoint(self, which: Literal["best", "last"] = "last") -> Checkpoint | None:
        """The newest valid checkpoint or the best one, or None.

        Raises:
            RunError: ``recipe.yaml`` is not the recipe of the training; the message lists the differences.
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
                f"Restore it, or train a new run: zoo train {self.path / RECIPE}. Only the number of epochs can be "
                f"increased: zoo train --resume {self.path} --epochs N."
            )
        return checkpoint

    @property
    def _former_epochs(self) -> set[int]:
        """The numbers of epochs before the training was extended."""
        return {change["epochs"]["from"] for change in self.environment.get("extended", ())}

    @property
    def finished(self) -> bool:
        """Whether the training is finished."""
        return is_finished(self.path)

    def verify(self) -> None:
        """Compare the files of a finished run with its manifest. An unfinished run has none.

        Raises:
            RunError: the recipe, the environment or the weights are damaged or were edited; the message names the file.
        """
        if self.weights is not None:
            verify_weights(self.weights)
        elif self.finished:
            verify_files(self.path, read_manifest(self.path)["sha256"], (RECIPE, ENVIRONMENT, WEIGHTS))

    def epochs(self) -> list[Epoch]:
        """The epochs in ``metrics.jsonl``. An incomplete line is reported and skipped.

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
                log.warning("%s: line %s cannot be read and is skipped.", path, ", ".join(damaged))
            elif self.finished and sha256(path) != read_manifest(self.path)["sha256"].get(METRICS):
                log.warning("%s was edited after the training: its SHA-256 is not that in the manifest.", path)
        return epochs

    def attach(self, vae: VAE, dataset: Dataset) -> Run:
        """Attach the model and the data to a run whose model was built in code.

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
        """The prior that was fitted after training, if there is one; see `zoo.fit_prior`."""
        return FittedPrior(self.path / "prior", self.path / WEIGHTS)

    def load(self, which: Literal["best", "last"] = "best", prior: Literal["fitted", "original"] = "fitted") -> VAE:
        """Load the trained model in evaluation mode on the CPU.

        Args:
            which: the weights of the best epoch by ``train.monitor``, or those of the last checkpoint.
            prior: the prior fitted after training if there is one, or the prior of the training. A prior is fitted to
                the best weights; with the last weights, the original prior is loaded.

        Raises:
            RunError: the weights or the fitted prior are missing, damaged or of another model.
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
            vae.prior = self.fitted_prior.load(*(self.recipe, vae.encoder, self.data_shape, self.classes, self.columns))
        return vae.eval()

    def _new_model(self) -> VAE:
        """The model with initial weights. Its loss is not built, which may need files that only a training has."""
        if self._attached is not None:
            return copy.deepcopy(self._attached[0]).cpu()
        if self.environment.get("code"):
            parts = ", ".join(f"{kind} {getattr(self.recipe, kind).use}" for kind in ("encoder", "decoder", "prior"))
            raise RunError(
                f"The model of {self.path} was built in code ({parts}) and cannot be rebuilt from the folder. "
                "In Python, attach a model and the data: zoo.Run.open(...).attach(vae, dataset)."
            )
        return build_model(self.recipe, self.data_shape, self.classes, self.columns)

    def saved_weights(self, which: Literal["best", "last"]) -> dict[str, Tensor]:
        """The weights of the best or the newest checkpoint.

        Raises:
            RunError: there is no valid checkpoint.
        """
        checkpoint = self.checkpoint(which)
        if checkpoint is None:
            if (self.path / WEIGHTS).exists():
                raise RunError(f"{self.path / MANIFEST} is missing, so the weights cannot be verified.")
            raise RunError(f"{self.path} has no weights: the training stopped before its first checkpoint.")
        return checkpoint.weights()

    def loaded(self, root: Path | None = None, source: object = None) -> LoadedDataset:
        """Load the data of the training.

        Args:
            root, source: as in `load_data`.

        Raises:
            DataError: the data are not available, or are damaged.
            RunError: the data have changed.
        """
        loaded = self._data(root, source)
        if loaded.dataset.sha256() != self.environment["data"]["sha256"]:
            raise RunError(f"The data are not those that {self.path} was trained on: their SHA-256 differs.")
        return loaded

    def _data(self, root: Path | None, source: object = None) -> LoadedDataset:
        if source is None and self._attached is not None:
            return LoadedDataset(self.recipe.data[0], self._attached[1])
        return load_data(self.recipe.data, root, source=source, seed=self.recipe.train.seed)

    def read(self, data: object, root: Path | None = None) -> Split:
        """Read every example of other data with the shape, the columns and the labels of the run.

        Args:
            data: the name of a data set, the path of a file or folder, or a Python object; as in `zoo.train`. Its
                parameters are those in the recipe, if the run was trained on the same kind of data.
            root: as in `load_data`.

        Returns:
            The examples in the order of the source. Nothing is held out, and scales and categories are those of the
            training.

        Raises:
            DataUnavailable: there are no such data.
            DataError: the data have another shape, or a label that the training data did not have.
        """
        split, names = self.read_labelled(data, root)
        return _relabelled(split, names, self.label_names)

    def read_labelled(self, data: object, root: Path | None = None) -> tuple[Split, tuple[str, ...]]:
        """As `read`, with the labels of the data, which the training data need not have, and their names."""
        spec = spec_for(data)
        for choice in self.recipe.data:
            if registry().same(choice.use, spec.use):
                spec = ComponentSpec(use=spec.use, **{**choice.parameters, **spec.parameters})
        loaded = load_data(
            [spec], root, self.data_shape, columns=self.columns or None, source=in_memory(data), whole=True
        )
        dataset = loaded.dataset
        if dataset.shape != self.data_shape:
            raise DataError(f"{self.path} was trained on data of shape {self.data_shape}; got {dataset.shape}.")
        return joined(dataset), dataset.label_names

    def test_images(self, n: int, root: Path | None = None) -> Tensor:
        """The first `n` test examples, (n, *data_shape), as in `test_batch`."""
        return self.test_batch(n, root).x

    def test_batch(self, n: int | None = None, root: Path | None = None) -> Batch:
        """The first `n` test examples in the form that the model was tested on, with their labels if they have any.

        Binarization is drawn with the seed of the run, so an example does not depend on `n`.

        Args:
            n: number of examples, at most all; by default all.
            root: as in `load_data`.

        Raises:
            DataError: the data are not available, or their shape is not that of the training.
        """
        dataset = self._data(root).dataset
        if dataset.shape != self.data_shape:
            raise DataError(f"{self.path} was trained on data of shape {self.data_shape}; got {dataset.shape}.")
        n = len(dataset.test) if n is None else min(n, len(dataset.test))
        with seeded(self.recipe.train.seed):
            return Loader(dataset.test, n, self.recipe.binarize)[torch.arange(n)]

    def best_epoch(self) -> Epoch:
        """The epoch of the run's weights; see `monitor` in `zoo.TrainConfig`.

        Raises:
            RunError: no epoch has finished.
        """
        return self._best(self.epochs())

    def _best(self, epochs: list[Epoch]) -> Epoch:
        if not epochs:
            raise RunError(f"{self.path / METRICS} has no epoch.")
        return best_epoch(epochs, self.recipe.train.monitor)

    def result(self) -> dict[str, Any]:
        """The terms of each split at the `best_epoch`, as ``zoo train --json`` prints them."""
        epochs = self.epochs()
        best = self._best(epochs)
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


def _relabelled(split: Split, names: tuple[str, ...], trained: tuple[str, ...]) -> Split:
    """Number the labels as in the training.

    Raises:
        DataError: the training data did not have one of the labels.
    """
    if split.labels is None or names == trained or not (names and trained):
        return split
    if unknown := [name for name in names if name not in trained]:
        raise DataError(
            f"The data have the label {unknown[0]!r}, which the training data did not have. Labels: "
            f"{', '.join(trained)}."
        )
    return replace(split, labels=torch.tensor([trained.index(name) for name in names])[split.labels])


def _created(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be created: {error.strerror}. Choose another with --out.") from error
    return folder


def _trained(recipe: Recipe) -> dict[str, Any]:
    """The recipe in the form that checkpoints record: as JSON, without its summary."""
    trained: dict[str, Any] = json.loads(to_json({**recipe.to_raw(), "summary": ""}))
    return trained


def _changes(now: Any, before: Any, place: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The dotted keys at which two recipes differ, each with the value now and the one before."""
    if isinstance(now, Mapping) and isinstance(before, Mapping):
        for key in dict.fromkeys([*now, *before]):
            yield from _changes(now.get(key), before.get(key), f"{place}.{key}".lstrip("."))
    elif now != before:
        yield place, (now, before)

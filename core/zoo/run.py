"""The run folder: everything about one training, written once and never overwritten."""

from __future__ import annotations

import contextlib
import copy
import datetime
import json
import logging
import os
import platform
import secrets
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.data.dataset import Dataset
from zoo.data.loader import Loader
from zoo.errors import DataError, RecipeError, RunError, TrainingError
from zoo.evaluation.priors import FittedPrior
from zoo.model.context import seeded
from zoo.model.devices import device_name
from zoo.model.vae import VAE, Batch
from zoo.plugins.manager import DISTRIBUTION
from zoo.plugins.registry import registry
from zoo.plugins.weights import find_run, verify_weights, weights_at
from zoo.recipes.components import build, unchecked, validate, with_defaults
from zoo.recipes.datasets import LoadedDataset, data_name, load_data
from zoo.recipes.schema import Recipe
from zoo.recipes.source import read_models, write_models
from zoo.storage.checkpoints import Checkpoint, Checkpoints, load_weights, save_weights
from zoo.storage.environment import require_environment
from zoo.storage.files import (
    MANIFEST,
    read_manifest,
    remove_leftovers,
    sealed,
    sha256,
    sync_folder,
    synced,
    to_json,
    verify_files,
    write_bytes,
    write_json,
    write_text,
)
from zoo.storage.locate import ENVIRONMENT, RECIPE, STAMP, WEIGHTS, is_finished
from zoo.storage.lock import hold
from zoo.training.history import Epoch

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
        return f"Run({str(self)!r})"

    def __str__(self) -> str:
        """What commands call the run: its path, or the name of installed weights."""
        return self.weights or str(self.path)

    @classmethod
    def create(
        cls,
        root: Path,
        recipe: Recipe,
        loaded: LoadedDataset,
        device: torch.device,
        folder: Path | None = None,
        code: bool = False,
    ) -> Run:
        """Make the folder ``root/<model>/<time>``, or just `folder`, and write down what is about to be trained.

        Args:
            code: whether the model was built in code, so that the recipe names classes instead of components.

        Raises:
            RunError: the folder cannot be made or written, or `folder` holds a run already.
        """
        parent = root / recipe.name if folder is None else folder.parent
        stamp = datetime.datetime.now().strftime(STAMP)
        path, made = folder or parent, False
        try:
            for place in (parent,) if folder is None else (parent, folder):
                if place.is_symlink():
                    raise RunError(f"{place} is a link to {place.readlink()}; runs are not written through links.")
            parent.mkdir(parents=True, exist_ok=True)
            path = _unused(parent, stamp) if folder is None else folder
            made = folder is None or not path.exists()
            path.mkdir(exist_ok=True)
            if (path / RECIPE).exists():
                raise RunError(f"{path} holds a run already, and runs are never overwritten.")
            recipe = recipe.model_copy(update={"data": [loaded.block]})
            written = recipe if code else with_defaults(recipe)
            (path / "figures").mkdir(exist_ok=True)
            write_json({**_environment(recipe, loaded, device), "code": code}, path / ENVIRONMENT)
            write_text(write_models({recipe.name: written.to_raw()}), path / RECIPE)  # the last: now it is a run
        except BaseException as error:
            if made:
                shutil.rmtree(path, ignore_errors=True)
            if not isinstance(error, OSError | ValueError):  # ValueError: there is a NUL in the path
                raise
            raise RunError(
                f"The output folder {parent} cannot be written: {getattr(error, 'strerror', None) or error}. "
                "Choose another with --out."
            ) from error
        run = cls(path)
        run.recipe = written
        return run

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
        """The folder of the figures in `output`, created if needed."""
        return _created(self.output / "figures")

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

    def extend(self, epochs: int) -> None:
        """Raise the number of epochs of the training, and record it in ``environment.json``. Call it inside `held`.

        Raises:
            TrainingError: the files cannot be written.
        """
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        change = {"time": now, "epochs": {"from": self.recipe.train.epochs, "to": epochs}}
        environment = {**self.environment, "extended": [*self.environment.get("extended", ()), change]}
        train = self.recipe.train.model_copy(update={"epochs": epochs})
        recipe = self.recipe.model_copy(update={"train": train})
        try:
            (self.path / MANIFEST).unlink(missing_ok=True)  # the first: now it is not finished any more
            sync_folder(self.path)
            write_json(environment, self.path / ENVIRONMENT)
            write_text(write_models({recipe.name: recipe.to_raw()}), self.path / RECIPE)
        except OSError as error:
            raise TrainingError(f"{self.path} could not be written: {error}. The checkpoints are intact.") from error
        self.__dict__.update(environment=environment, recipe=recipe)

    @property
    def finished(self) -> bool:
        """Whether the training came to its end."""
        return is_finished(self.path)

    def verify(self) -> None:
        """Compare the files of a finished run with its manifest. Of one that is not finished there is nothing to say.

        Raises:
            RunError: the recipe, the environment or the weights are damaged or were edited; the message names the file.
        """
        if self.weights is not None:
            verify_weights(self.weights)
        elif self.finished:
            verify_files(self.path, read_manifest(self.path)["sha256"], (RECIPE, ENVIRONMENT, WEIGHTS))

    def append(self, epoch: Epoch) -> None:
        """Add an epoch to ``metrics.jsonl``.

        Raises:
            TrainingError: the disk is full.
        """
        with self._writing(METRICS), synced(self.path / METRICS, "ab") as file:
            file.write(_lines([epoch]))

    def rewind(self, history: list[Epoch]) -> None:
        """Make ``metrics.jsonl`` hold these epochs: those after the checkpoint that is resumed are trained again.

        Raises:
            TrainingError: the disk is full.
        """
        with self._writing(METRICS):
            write_bytes(_lines(history), self.path / METRICS)

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"{self.path / name} could not be written: {error}. The checkpoints are intact."
            ) from error

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

    def finish(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write ``model.safetensors`` and seal the run: now it is finished.

        Args:
            weights: the final weights; by default those of the best checkpoint.

        Raises:
            TrainingError: the disk is full.
            RunError: there are no weights, or the recipe was edited during the training.
        """
        reread = Run(self.path)
        if read_models(self.path / RECIPE) == {self.recipe.name: self.recipe.to_raw()}:  # nobody edited it
            reread.recipe = self.recipe
        weights = reread._weights("best") if weights is None else weights
        with self._writing(WEIGHTS):
            save_weights(weights, self.path / WEIGHTS)
        with self._writing(MANIFEST):
            write_bytes(sealed(self.path, SEALED), self.path / MANIFEST)

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
        weights = load_weights(self.path / WEIGHTS) if finished else self._weights(which)
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

    def _weights(self, which: Literal["best", "last"]) -> dict[str, Tensor]:
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
        return load_data(self.recipe.data, root, given=given)

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

    def result(self) -> dict[str, Any]:
        """What ``zoo train --json`` prints."""
        epochs = self.epochs()
        if not epochs:
            raise RunError(f"{self.path / METRICS} holds no epoch.")
        return {
            "run": str(self.path),
            "model": self.recipe.name,
            "data": self.data_name,
            "epochs": len(epochs),
            "seconds": round(sum(epoch.seconds for epoch in epochs), 3),
            "train": {name: value for name, value in epochs[-1].train.items() if name in epochs[-1].test},
            "test": epochs[-1].test,
        }


def _created(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be created: {error.strerror}. Choose another with --out.") from error
    return folder


def _lines(epochs: Iterable[Epoch]) -> bytes:
    return "".join(to_json(asdict(epoch), indent=None) + "\n" for epoch in epochs).encode()


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


def _environment(recipe: Recipe, loaded: LoadedDataset, device: torch.device) -> dict[str, Any]:
    dataset = loaded.dataset
    return {
        "id": secrets.token_hex(8),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": recipe.train.seed,
        "device": device_name(device),
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
            "label_names": list(dataset.label_names),
            "train": len(dataset.train),
            "test": len(dataset.test),
            **({} if dataset.validation is None else {"validation": len(dataset.validation)}),
            "modality": dataset.modality,
            "binarize": recipe.binarize,
            "sha256": dataset.sha256(),
            "passed_over": list(loaded.passed_over),
        },
    }

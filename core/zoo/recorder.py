"""Writing of run folders: creation, the callback that records a training, and the callbacks of plugins."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import RunError, TrainingError
from zoo.model.devices import device_name, multiplies_bfloat16
from zoo.plugins.manager import DISTRIBUTION
from zoo.plugins.registry import registry
from zoo.recipes.components import with_defaults
from zoo.recipes.datasets import LoadedDataset
from zoo.recipes.schema import Recipe
from zoo.recipes.source import read_models, write_models
from zoo.run import METRICS, SEALED, Run
from zoo.storage.checkpoints import save_weights
from zoo.storage.files import MANIFEST, sealed, sync_folder, synced, to_json, write_bytes, write_json, write_text
from zoo.storage.locate import ENVIRONMENT, RECIPE, STAMP, WEIGHTS
from zoo.training.callbacks import Callback, Isolated, Training
from zoo.training.history import Epoch

PACKAGES = ("vae-zoo", "torch", "torchvision", "numpy", "pluggy", "pydantic", "safetensors", "scikit-learn")
"""Packages whose versions are recorded."""


def create_run(
    root: Path,
    recipe: Recipe,
    loaded: LoadedDataset,
    device: torch.device,
    folder: Path | None = None,
    code: bool = False,
    init: Mapping[str, Any] | None = None,
) -> Run:
    """Create the folder ``root/<model>/<time>``, or `folder`, with the recipe and the environment of a training.

    Args:
        root: the folder of all runs.
        recipe: what is trained.
        loaded: the data.
        device: the device of the training.
        folder: the folder of the run, instead of one in `root`.
        code: whether the model was built in code, so that the recipe names classes instead of components.
        init: the record of a warm start.

    Raises:
        RunError: the folder cannot be created or written, or `folder` contains a run already.
    """
    parent = root / recipe.name if folder is None else folder.parent
    stamp = datetime.datetime.now().strftime(STAMP)
    path, created = folder or parent, False
    try:
        for place in (parent,) if folder is None else (parent, folder):
            if place.is_symlink():
                raise RunError(f"{place} is a link to {place.readlink()}; runs are not written through links.")
        parent.mkdir(parents=True, exist_ok=True)
        path = _new_folder(parent, stamp) if folder is None else folder
        created = folder is None or not path.exists()
        path.mkdir(exist_ok=True)
        if (path / RECIPE).exists():
            raise RunError(f"{path} already contains a run. Runs are never overwritten.")
        recipe = recipe.model_copy(update={"data": [loaded.spec]})
        recipe = recipe if code else with_defaults(recipe)
        (path / "figures").mkdir(exist_ok=True)
        environment = {**_environment(recipe, loaded, device), "code": code, **({"init": dict(init)} if init else {})}
        write_json(environment, path / ENVIRONMENT)
        write_text(write_models({recipe.name: recipe.to_raw()}), path / RECIPE)  # last: it makes the folder a run
    except BaseException as error:
        if created:
            shutil.rmtree(path, ignore_errors=True)
        if not isinstance(error, OSError | ValueError):  # ValueError: the path contains a NUL
            raise
        raise RunError(
            f"The output folder {parent} cannot be written: {getattr(error, 'strerror', None) or error}. "
            "Choose another with --out."
        ) from error
    run = Run(path)
    run.recipe = recipe
    return run


def _new_folder(parent: Path, stamp: str) -> Path:
    """Create a folder. Runs that start in the same second get different ones."""
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        try:
            path = parent / (stamp + suffix)
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise RunError(f"{parent} already contains a thousand runs of {stamp}.")


def _environment(recipe: Recipe, loaded: LoadedDataset, device: torch.device) -> dict[str, Any]:
    dataset = loaded.dataset
    return {
        "id": secrets.token_hex(8),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": recipe.train.seed,
        "device": device_name(device),
        "bfloat16_instructions": multiplies_bfloat16(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "versions": {name: version(name) for name in PACKAGES},
        "plugins": {
            plugin.name: str(plugin)
            for plugin in registry().plugins
            if plugin.status == "ok" and plugin.distribution != DISTRIBUTION
        },
        "data": {
            "name": loaded.spec.use,
            "shape": list(dataset.shape),
            "classes": dataset.classes,
            "label_names": list(dataset.label_names),
            **{name: len(split) for name, split in dataset.splits.items()},
            "modality": dataset.modality,
            "columns": [column.to_json() for column in dataset.columns],
            "binarize": recipe.binarize,
            "sha256": dataset.sha256(),
            "passed_over": list(loaded.passed_over),
        },
    }


class RunRecorder(Callback):
    """Writes the metrics of each epoch and the final weights into a run folder. Use it inside `Run.held`.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.path = run.path

    def on_train_begin(self, trainer: Training) -> None:
        """Drop the metrics of epochs after the resumed checkpoint."""
        if not self.run.finished:
            self.rewind(trainer.history)

    def on_epoch_end(self, trainer: Training, epoch: Epoch) -> None:
        """Append the epoch to the metrics.

        They are synced at the end. Until then, every checkpoint has the epochs that a resumed training starts from.
        """
        with self._writing(METRICS), (self.path / METRICS).open("ab") as file:
            file.write(_lines([epoch]))

    def on_train_end(self, trainer: Training, finished: bool) -> None:
        """Write the final weights."""
        if finished and not self.run.finished:
            self.finish()

    def rewind(self, history: list[Epoch]) -> None:
        """Replace the content of ``metrics.jsonl``.

        Raises:
            TrainingError: the disk is full.
        """
        with self._writing(METRICS):
            write_bytes(_lines(history), self.path / METRICS)

    def finish(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write ``model.safetensors`` and the manifest, which makes the run a finished one.

        Args:
            weights: the final weights; by default those of the best checkpoint.

        Raises:
            TrainingError: the disk is full.
            RunError: there are no weights, or the recipe was edited during the training.
        """
        reopened = Run(self.path)
        if read_models(self.path / RECIPE) == {self.run.recipe.name: self.run.recipe.to_raw()}:  # not edited
            reopened.recipe = self.run.recipe
        weights = reopened.saved_weights("best") if weights is None else weights
        with self._writing(WEIGHTS):
            save_weights(weights, self.path / WEIGHTS)
        with self._writing(METRICS), synced(self.path / METRICS, "ab"):
            pass
        with self._writing(MANIFEST):
            write_bytes(sealed(self.path, SEALED), self.path / MANIFEST)

    def extend(self, epochs: int) -> None:
        """Raise the number of epochs of the training, and record the change in ``environment.json``.

        Raises:
            TrainingError: the files cannot be written.
        """
        run = self.run
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        change = {"time": now, "epochs": {"from": run.recipe.train.epochs, "to": epochs}}
        environment = {**run.environment, "extended": [*run.environment.get("extended", ()), change]}
        train = run.recipe.train.model_copy(update={"epochs": epochs})
        recipe = run.recipe.model_copy(update={"train": train})
        with self._writing(RECIPE):
            (self.path / MANIFEST).unlink(missing_ok=True)  # first: the run is no longer finished
            sync_folder(self.path)
            write_json(environment, self.path / ENVIRONMENT)
            write_text(write_models({recipe.name: recipe.to_raw()}), self.path / RECIPE)
        run.environment, run.recipe = environment, recipe

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"{self.path / name} could not be written: {error}. The checkpoints are intact."
            ) from error


def _lines(epochs: Iterable[Epoch]) -> bytes:
    return "".join(to_json(asdict(epoch), indent=None) + "\n" for epoch in epochs).encode()


def plugin_callbacks(run: Run, figures: bool) -> Iterator[Callback]:
    """The callbacks of plugins for a run. If one raises, the error is logged and the training continues.

    Args:
        run: the run.
        figures: whether plugins may draw figures.
    """
    for plugin, callback in registry().plugins.collect("zoo_callbacks", run=run, figures=figures):
        if isinstance(callback, Callback):
            yield Isolated(callback, str(plugin))
        else:
            plugin.errors.append(f"zoo_callbacks returned {callback!r}, not a zoo.Callback")

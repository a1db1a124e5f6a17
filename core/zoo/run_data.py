"""The recipe, the environment and the data of a run folder."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from zoo.data.columns import Column
from zoo.data.dataset import Dataset, Split, joined
from zoo.data.loader import Loader
from zoo.errors import DataError, RecipeError, RunError
from zoo.model.batch import Batch
from zoo.model.context import seeded
from zoo.model.vae import VAE
from zoo.plugins.registry import registry
from zoo.recipes.components import unchecked, validate
from zoo.recipes.datasets import LoadedDataset, data_name, in_memory, load_data, spec_for
from zoo.recipes.schema import ComponentSpec, Recipe
from zoo.recipes.source import Raw, read_models
from zoo.storage.environment import require_environment
from zoo.storage.locate import ENVIRONMENT, RECIPE


class RunData:
    """What a run was trained on, and with which recipe; see `zoo.Run`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._attached: tuple[VAE, Dataset] | None = None

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe, with every default filled in."""
        name, raw = self._written
        try:
            return unchecked(name, raw) if self.environment.get("code") else validate(name, raw)
        except RecipeError as error:
            title = f"The recipe of {self.path} does not match the installed components:"
            raise RecipeError(title, error.problems) from error

    @cached_property
    def _written(self) -> tuple[str, Raw]:
        """The name and the content of ``recipe.yaml``."""
        models = read_models(self.path / RECIPE)
        if len(models) != 1:
            raise RunError(f"{self.path / RECIPE} has {len(models)} models; expected one.")
        ((name, raw),) = models.items()
        return name, raw

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

    def attach(self, vae: VAE, dataset: Dataset) -> Self:
        """Attach the model and the data to a run whose model was built in code.

        Args:
            vae: a model of the same classes and sizes; the weights of the run are loaded into a copy of it.
            dataset: the data of the run.

        Returns:
            The run itself, which `zoo.load`, `zoo.evaluate` and the tools then accept.
        """
        self._attached = vae, dataset
        return self

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

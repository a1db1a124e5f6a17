"""The catalog: models, components and data sets by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from zoo.data.columns import Column
from zoo.data.dataset import Dataset
from zoo.errors import UsageError
from zoo.evaluation.metric import Metric
from zoo.model.loss import Loss
from zoo.model.vae import VAE
from zoo.plugins.hookspecs import KINDS
from zoo.plugins.registry import registry
from zoo.recipes.building import build_loss, build_model
from zoo.recipes.components import validate
from zoo.recipes.datasets import DatasetStatus, in_memory, load_data, spec_for, survey
from zoo.recipes.library import ResolvedRecipe
from zoo.recipes.library import load as load_recipe
from zoo.recipes.merge import merge, parse_overrides
from zoo.recipes.schema import ComponentSpec, Recipe
from zoo.recipes.signatures import INTERFACES
from zoo.recipes.source import Raw

T = TypeVar("T")


def register(component: T, *, kind: str | None = None, name: str | None = None) -> T:
    """Register a component in this process, without a package. For notebooks and scripts.

    Recipes can use it until the process ends. Registering another class under the same name replaces it.

    Args:
        component: the class, or the function of a data set.
        kind: one of `zoo.KINDS`; by default that of its base class.
        name: its name in recipes; by default that of the class, in lower case with hyphens.

    Returns:
        The component itself, so that `register` can be used as a decorator.

    >>> @register
    ... class WideEncoder(zoo.get("encoder", "mlp")):
    ...     pass
    >>> recipe("mlp-vae", encoder="wide-encoder").encoder.use
    'wide-encoder'

    Raises:
        UsageError: the kind cannot be inferred, or the name is not valid or provided by a plugin.
    """
    bases = component.__mro__ if isinstance(component, type) else ()
    kind = kind or next((k for k, interface in {**INTERFACES, "metric": Metric}.items() if interface in bases), None)
    if kind is None:
        raise UsageError(f"The kind of {component!r} cannot be inferred: set kind to one of {', '.join(KINDS)}.")
    label = getattr(component, "__name__", "")
    registry().register(kind, name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", "-", label).lower(), component)
    return component


def recipe(
    model: str | Recipe | ResolvedRecipe,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    registries: Sequence[Path] = (),
    **changes: Any,
) -> Recipe:
    """Resolve, change and check the recipe of a model.

    Args:
        model: a name, a YAML file that contains exactly one model, or a recipe.
        overrides: changes as on the command line, such as ``encoder.hidden=[512,256]``, or a mapping from dotted keys
            to values, such as ``{"encoder.hidden": [512, 256]}``.
        registries: recipe files, which take precedence over installed recipes.
        changes: changes as keyword arguments, such as ``encoder={"hidden": [512, 256]}``; they are applied last.

    >>> recipe("mlp-vae", ["latent_dim=2"], loss="mse").loss.use
    'mse'

    Raises:
        UnknownName, NameConflict: there is no such model, or several distributions provide it.
        RecipeError: the result is not valid; the message lists every problem.
    """
    return recipe_for(None, model, overrides, registries=registries, **changes)


def recipe_for(
    data: object,
    /,
    model: str | Recipe | ResolvedRecipe,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    registries: Sequence[Path] = (),
    **changes: Any,
) -> Recipe:
    """Resolve the recipe of a model for one data set. If the recipe lists it, its parameters there apply.

    Args:
        data: a name, the path of a folder of images or of a file of arrays, or a Python object; None keeps the data
            sets of the recipe.
        model, overrides, registries, changes: as in `recipe`; ``data.size=[64,64]`` changes a parameter of the data.

    Raises:
        UsageError: there is no such data set, or the changes name another.
    """
    if isinstance(model, Recipe):
        model = ResolvedRecipe(model.name, model.to_raw())
    name, raw = load_recipe(model, registries) if isinstance(model, str) else model
    spec = None if data is None else spec_for(data)
    if spec is not None:
        raw = {**raw, "data": _with_parameters(spec, raw.get("data"))}
    checked = validate(name, merge(merge(raw, parse_overrides(overrides)), changes))
    if spec is None:
        return checked
    matching = [choice for choice in checked.data if registry().same(choice.use, spec.use)]
    if not matching:
        first = f"a {type(data).__name__}" if in_memory(data) is not None else str(data)
        others = ", ".join(choice.use for choice in checked.data)
        raise UsageError(f"Two data sets were given: {first} and {others}. Choose one of them.")
    return checked.model_copy(update={"data": matching[:1]})


def _with_parameters(spec: ComponentSpec, choices: Any) -> Raw:
    """The data set, with its parameters in the recipe if it is among the recipe's choices."""
    for choice in choices if isinstance(choices, list) else [choices]:
        if isinstance(choice, dict) and registry().same(str(choice.get("use")), spec.use):
            return {**choice, "use": spec.use, **spec.parameters}
    return {"use": spec.use, **spec.parameters}


def load_dataset(data: object, *, data_dir: Path | str | None = None, seed: int = 0, **parameters: Any) -> Dataset:
    """Load a data set as for training.

    Args:
        data: its name, the path of a folder of images or of a file of arrays, or a Python object; as in `train`.
        data_dir: as in `train`.
        seed: determines which examples ``validation`` holds out; a training uses ``train.seed``.
        parameters: parameters of the data set, such as ``size=[64, 64]`` of a folder, ``test_fraction=0.2`` of arrays,
            or ``validation=0.1`` of any.

    >>> digits = load_dataset("digits")
    >>> digits.train.x.shape
    torch.Size([1438, 1, 8, 8])
    >>> digits.summary()["range"]
    [0.0, 1.0]

    Raises:
        UnknownName: there is no such data set.
        DataUnavailable: its files do not exist.
        DataError: its files are damaged or invalid.
        RecipeError: a parameter is not valid.
        UsageError: `data` is None.
    """
    if data is None:
        raise UsageError("Expected the name of a data set, a path, or a Python object; got None.")
    spec = spec_for(data)
    spec = ComponentSpec(use=spec.use, **{**spec.parameters, **parameters})
    root = None if data_dir is None else Path(data_dir)
    return load_data([spec], root, source=in_memory(data), seed=seed).dataset


def survey_data(data_dir: Path | str | None = None) -> list[DatasetStatus]:
    """List the status of every registered data set, as ``zoo data`` does. Nothing is downloaded or decoded.

    >>> {dataset.name: dataset.status for dataset in survey_data()}["digits"]
    'available'
    """
    return survey(None if data_dir is None else Path(data_dir))


def create_model(
    model: str | Recipe,
    *,
    data_shape: tuple[int, ...],
    classes: int = 0,
    columns: tuple[Column, ...] = (),
    **changes: Any,
) -> VAE:
    """Create a model. The weights are drawn from torch's global generator.

    Args:
        model, changes: as in `recipe`.
        data_shape: event shape of x: (C, H, W) for images, (D,) for rows of D numbers.
        classes: number of labels, for conditional models.
        columns: what the entries of x mean, for models of tables; see `zoo.Dataset`.

    >>> vae = create_model("mlp-vae", latent_dim=2, data_shape=(1, 28, 28))
    >>> vae.sample(4).shape
    torch.Size([4, 1, 28, 28])
    """
    return build_model(recipe(model, **changes), _data_shape(data_shape), classes, columns)


def create_loss(
    model: str | Recipe,
    *,
    data_shape: tuple[int, ...],
    classes: int = 0,
    train_size: int = 0,
    columns: tuple[Column, ...] = (),
    **changes: Any,
) -> Loss:
    """Create the loss of a model's recipe.

    Args:
        model, data_shape, classes, columns, changes: as in `create_model`.
        train_size: number of training examples, for losses that estimate a quantity of the training split from a batch;
            0 if it is unknown.

    >>> shape = (1, 28, 28)
    >>> x = torch.rand(5, *shape).round()
    >>> terms = create_loss("mlp-vae", data_shape=shape)(create_model("mlp-vae", data_shape=shape), zoo.Batch(x))
    >>> sorted(terms)
    ['distortion', 'loss', 'rate']
    """
    return build_loss(recipe(model, **changes), _data_shape(data_shape), classes, train_size, columns)


def _data_shape(shape: object) -> tuple[int, ...]:
    """Convert an event shape to a tuple.

    Raises:
        UsageError: it is not a sequence of positive integers.
    """
    sizes = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    if not sizes or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise UsageError(
            "data_shape must be the shape of one example in positive integers, such as (channels, height, width) or "
            f"(columns,); got {shape!r}."
        )
    return sizes

"""The catalogue: models, components and data sets by name, and what is made of them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from zoo.data.dataset import Dataset
from zoo.errors import UsageError
from zoo.evaluation.metric import Metric
from zoo.model.loss import Loss
from zoo.model.vae import VAE
from zoo.plugins.hookspecs import KINDS
from zoo.plugins.registry import registry
from zoo.recipes.components import build_loss, build_model, validate
from zoo.recipes.datasets import DatasetStatus, block_for, load_data, survey
from zoo.recipes.library import ResolvedRecipe
from zoo.recipes.library import load as load_recipe
from zoo.recipes.merge import merge, parse_overrides
from zoo.recipes.schema import ComponentSpec, Recipe
from zoo.recipes.signatures import INTERFACES
from zoo.recipes.source import Raw

T = TypeVar("T")


def register(component: T, *, kind: str | None = None, name: str | None = None) -> T:
    """Register a component in this process, without a package: for notebooks and scripts.

    Recipes may name it as long as the process runs; registering another class of the same name replaces it.

    Args:
        component: the class (for a data set: the function).
        kind: one of `zoo.KINDS`; by default that of its base class.
        name: what recipes call it; by default the name of the class, in lower case with hyphens.

    Returns:
        The component itself, so that this is a decorator too.

    >>> @register
    ... class WideEncoder(zoo.get("encoder", "mlp")):
    ...     pass
    >>> recipe("mlp-vae", encoder="wide-encoder").encoder.use
    'wide-encoder'

    Raises:
        UsageError: the kind is not known, the name is not valid, or a plugin has it.
    """
    bases = component.__mro__ if isinstance(component, type) else ()
    kind = kind or next((k for k, interface in {**INTERFACES, "metric": Metric}.items() if interface in bases), None)
    if kind is None:
        raise UsageError(f"The kind of {component!r} is not known: give kind=, one of {', '.join(KINDS)}.")
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
    """The recipe of a model, resolved, changed and checked.

    Args:
        model: a name, or a YAML file that holds just one model, or a recipe.
        overrides: changes as on the command line, such as ``encoder.hidden=[512,256]``, or a mapping from dotted keys
            to values, such as ``{"encoder.hidden": [512, 256]}``.
        registries: recipe files of your own, which come before what is installed.
        changes: changes as keyword arguments, such as ``encoder={"hidden": [512, 256]}``; they come last.

    >>> recipe("mlp-vae", ["latent_dim=2"], loss="mse").loss.use
    'mse'

    Raises:
        UnknownName, NameConflict: there is no such model, or two distributions claim the name.
        RecipeError: what comes out is not valid; holds every problem.
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
    """The recipe of a model for one data set and no other, with the parameters that the recipe gives it, if it does.

    Args:
        data: a name, or the path of a folder of images or of a file of arrays, or the data themselves; None leaves the
            recipe its choices.
        model, overrides, registries, changes: as in `recipe`; ``data.size=[64,64]`` changes one of the data.

    Raises:
        UsageError: there is no such data set, or the changes want another.
    """
    if isinstance(model, Recipe):
        model = ResolvedRecipe(model.name, model.to_raw())
    name, raw = load_recipe(model, registries) if isinstance(model, str) else model
    if data is None:
        return validate(name, merge(merge(raw, parse_overrides(overrides)), changes))
    block = block_for(data)
    raw = {**raw, "data": _as_wanted(block, raw.get("data"))}
    checked = validate(name, merge(merge(raw, parse_overrides(overrides)), changes))
    wanted = [given for given in checked.data if registry().same(given.use, block.use)]
    if not wanted:
        what = str(data) if isinstance(data, str | os.PathLike) else f"a {type(data).__name__}"
        raise UsageError(f"Two data sets are wanted: {what}, and {', '.join(given.use for given in checked.data)}.")
    return checked.model_copy(update={"data": wanted[:1]})


def _as_wanted(block: ComponentSpec, choices: Any) -> Raw:
    """The block, with the parameters that the recipe gives this data set, if it is among its choices."""
    for choice in choices if isinstance(choices, list) else [choices]:
        if isinstance(choice, dict) and registry().same(str(choice.get("use")), block.use):
            return {**choice, "use": block.use, **block.parameters}
    return {"use": block.use, **block.parameters}


def load_dataset(data: object, *, data_dir: Path | str | None = None, seed: int = 0, **parameters: Any) -> Dataset:
    """A data set, as a training gets it.

    Args:
        data: its name, the path of a folder of images or of a file of arrays, or the data themselves; as in `train`.
        data_dir: as in `train`.
        seed: determines which examples ``validation`` holds out; in a training that is ``train.seed``.
        parameters: of the data set, such as ``size=[64, 64]`` of a folder, ``test_fraction=0.2`` of arrays, or
            ``validation=0.1`` of any.

    >>> digits = load_dataset("digits")
    >>> digits.train.x.shape
    torch.Size([1438, 1, 8, 8])
    >>> digits.summary()["range"]
    [0.0, 1.0]

    Raises:
        UnknownName: there is no such data set.
        DataUnavailable: its files are not here.
        DataError: they are damaged, or not what they should be.
        RecipeError: a parameter is wrong.
    """
    if data is None:
        raise UsageError("Give the name of a data set, a path, or the data themselves.")
    block = block_for(data)
    block = ComponentSpec(use=block.use, **{**block.parameters, **parameters})
    root = None if data_dir is None else Path(data_dir)
    return load_data([block], root, given=objects(data), seed=seed).dataset


def objects(data: object) -> object:
    """The data themselves, where they are not a name or a path."""
    return None if isinstance(data, str | os.PathLike) else data


def survey_data(data_dir: Path | str | None = None) -> list[DatasetStatus]:
    """What is here of every registered data set: what ``zoo data`` lists. Nothing is fetched or decoded for it.

    >>> {dataset.name: dataset.status for dataset in survey_data()}["digits"]
    'available'
    """
    return survey(None if data_dir is None else Path(data_dir))


def create_model(model: str | Recipe, *, data_shape: tuple[int, ...], classes: int = 0, **changes: Any) -> VAE:
    """Create a model for data of one shape. The weights are drawn from torch's global generator.

    Args:
        model: as in `recipe`.
        data_shape: event shape of x: (C, H, W) for images, (D,) for rows of D numbers.
        classes: number of labels, for conditional models.
        changes: changes of the recipe, as in `recipe`.

    >>> vae = create_model("mlp-vae", latent_dim=2, data_shape=(1, 28, 28))
    >>> vae.sample(4).shape
    torch.Size([4, 1, 28, 28])
    """
    return build_model(recipe(model, **changes), _data_shape(data_shape), classes)


def create_loss(
    model: str | Recipe, *, data_shape: tuple[int, ...], classes: int = 0, train_size: int = 0, **changes: Any
) -> Loss:
    """Create the loss of a model's recipe.

    Args:
        model, data_shape, classes, changes: as in `create_model`.
        train_size: number of training examples, for losses that estimate a quantity of the whole training split from a
            batch; 0 if it is unknown.

    >>> shape = (1, 28, 28)
    >>> x = torch.rand(5, *shape).round()
    >>> terms = create_loss("mlp-vae", data_shape=shape)(create_model("mlp-vae", data_shape=shape), zoo.Batch(x))
    >>> sorted(terms)
    ['distortion', 'loss', 'rate']
    """
    return build_loss(recipe(model, **changes), _data_shape(data_shape), classes, train_size)


def _data_shape(shape: object) -> tuple[int, ...]:
    """The event shape of the data.

    Raises:
        UsageError: it is something else.
    """
    sizes = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    if not sizes or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise UsageError(
            "data_shape is the shape of one example, such as (channels, height, width) or (columns,), whole numbers "
            f"from 1; got {shape!r}."
        )
    return sizes

"""Recipes by name: built-in ones, those of plugins and those in the user's files."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from zoo.errors import Problem, RecipeError, UnknownName
from zoo.plugins.manager import DISTRIBUTION, Plugin
from zoo.plugins.registry import Claim, Names, Registry, matches, registry
from zoo.recipes.merge import merge
from zoo.recipes.qualify import qualify
from zoo.recipes.source import Raw, builtin_registry, read_models
from zoo.storage.locate import natural


class ResolvedRecipe(NamedTuple):
    """A recipe with everything that it inherits, not yet validated.

    Attributes:
        name: its name as that of a folder: ``acme.wide-vae`` for ``acme:wide-vae``.
        raw: its keys, without ``extends``.
    """

    name: str
    raw: Raw


class Library:
    """Recipes by name. The user's files take precedence over plugins; a name that two plugins provide is an error.

    Args:
        source: the registry whose plugins provide recipes.
        files: the user's recipe files; later ones take precedence.

    Raises:
        RecipeError: one of the user's files is not a recipe file. (For a plugin's file, the error is recorded with the
            plugin.)
    """

    def __init__(self, source: Registry, files: Sequence[Path] = ()) -> None:
        self.models: Names[Raw] = Names("model", source.plugins)
        self._files = files
        self._own = [read_models(file) for file in files]
        builtin = Plugin("registry.yaml", DISTRIBUTION, version(DISTRIBUTION))
        for name, recipe in read_models(builtin_registry()).items():
            self.models.add(name, builtin, recipe)
        for plugin, file in source.plugins.collect("zoo_recipes"):
            with source.plugins.isolate(plugin):
                if not isinstance(file, Traversable):
                    raise TypeError(f"zoo_recipes returned {file!r}, which is not a file")
                for name, recipe in read_models(file).items():
                    self.models.add(name, plugin, recipe)

    def names(self, pattern: str = "*") -> list[str]:
        """The names that match a pattern, in natural order."""
        own = {name for layer in self._own for name in layer if matches(name, pattern)}
        return sorted(own.union(self.models.matching(pattern)), key=natural)

    def source(self, name: str) -> str:
        """The distribution and version of a recipe, or its file."""
        layer = self._find(name, len(self._own))[1]
        return str(self._files[layer - 1] if layer else self.models.find(name).plugin)

    def summary(self, name: str) -> str:
        """The one-line summary of a recipe."""
        return str(self.written(name).get("summary", ""))

    def written(self, name: str) -> Raw:
        """The recipe as written, with its ``extends``."""
        return self._find(name, len(self._own))[0]

    def resolve(self, name: str) -> Raw:
        """The recipe, merged with those that it extends.

        Raises:
            UnknownName, NameConflict: there is no such recipe, or several distributions provide it; so too for one that
                it extends.
            RecipeError: the recipes extend each other in a cycle.
        """
        return self._resolve(name, len(self._own), ())

    def _resolve(self, name: str, layers: int, seen: tuple[tuple[str, int], ...]) -> Raw:
        recipe, layer = self._find(name, layers)
        if (name, layer) in seen:
            cycle = " -> ".join([n for n, _ in seen] + [name])
            raise RecipeError(f"Model {name!r} cannot be resolved:", [Problem("extends", f"forms a cycle: {cycle}")])
        claim = None if layer else self.models.find(name)
        parent = recipe.get("extends")
        if parent is None:
            return dict(recipe) if claim is None else qualify(recipe, {}, claim.plugin.distribution)
        if not isinstance(parent, str):
            raise RecipeError(
                f"Model {name!r} cannot be resolved:",
                [Problem("extends", f"expected the name of a model, got {parent!r}")],
            )
        # A user's recipe that extends its own name extends the one that it replaces.
        below = layer - 1 if parent == name else len(self._own)
        if claim is not None:
            parent = self._parent(parent, claim)
        try:
            base = self._resolve(parent, below, (*seen, (name, layer)))
        except UnknownName as error:
            source = self._files[layer - 1] if claim is None else claim.plugin
            raise RecipeError(
                f"Model {name!r} of {source} cannot be resolved:", [Problem("extends", str(error))]
            ) from None
        own = {key: value for key, value in recipe.items() if key != "extends"}
        if claim is not None:
            own = qualify(own, base, claim.plugin.distribution)
        return merge({key: value for key, value in base.items() if key != "summary"}, own)

    def _parent(self, parent: str, claim: Claim[Raw]) -> str:
        """The recipe that a plugin's recipe extends. A contested name refers to the plugin's own distribution.

        A recipe that extends its own name extends that of another distribution.
        """
        if any(parent in layer for layer in self._own):
            return parent
        if parent == claim.name:
            others = [other.qualified for other in self.models if other.name == parent and other is not claim]
            return others[0] if len(others) == 1 else parent
        return self.models.qualify(parent, claim.plugin.distribution)

    def _find(self, name: str, layers: int) -> tuple[Raw, int]:
        """The recipe as written, and its layer: 0 for plugins, i for the user's i-th file."""
        for layer in range(layers, 0, -1):
            if name in self._own[layer - 1]:
                return self._own[layer - 1][name], layer
        return self.models.find(name).item, 0


def load(name: str, files: Sequence[Path] = ()) -> ResolvedRecipe:
    """Resolve the recipe of a model.

    Args:
        name: the name of a recipe, or a file that contains exactly one.
        files: the user's recipe files.

    Raises:
        UnknownName, NameConflict, RecipeError: see `Library`.
    """
    if not name.endswith((".yaml", ".yml")):
        return ResolvedRecipe(plain(name), library(*files).resolve(name))
    path = Path(name)
    names = list(read_models(path))
    if len(names) != 1:
        raise UnknownName(
            f"Expected a file with one model; {path} has {len(names)} ({', '.join(names)}). "
            f"Choose one: zoo train NAME --registry {path}"
        )
    return ResolvedRecipe(names[0], library(*files, path).resolve(names[0]))


def plain(name: str) -> str:
    """The name of a recipe as that of a folder."""
    return name.replace(":", ".")


@functools.lru_cache(maxsize=8)
def _library(source: Registry) -> Library:
    return Library(source)


def library(*files: Path) -> Library:
    """The installed recipes and those in the user's `files`."""
    return Library(registry(), files) if files else _library(registry())


def list_models(pattern: str = "*") -> list[str]:
    """List the names of models that contain a string or match a shell pattern, in natural order.

    >>> list_models("conv"), list_models("conv*e")
    (['conv-vae', 'conv-vae-mse'], ['conv-vae', 'conv-vae-mse'])
    """
    return library().names(pattern)

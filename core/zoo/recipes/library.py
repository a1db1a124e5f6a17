"""Every recipe by name: the built-in ones, those of plugins, and those of the user's own files."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources.abc import Traversable
from pathlib import Path

from zoo.errors import Problem, RecipeError, UnknownName
from zoo.plugins.manager import DISTRIBUTION, Plugin
from zoo.plugins.registry import Claim, Names, Registry, matches, registry
from zoo.recipes.home import at_home
from zoo.recipes.merge import merge
from zoo.recipes.source import Raw, builtin_registry, read_models
from zoo.storage.locate import natural


class Library:
    """Recipes by name. A user's files come before what is installed; between plugins, a name claimed twice is an error.

    Args:
        source: the registry whose plugins bring recipes.
        files: recipe files of the user's, later ones before earlier ones.

    Raises:
        RecipeError: one of the user's files is no recipe file. (A plugin's is recorded as that plugin's failure.)
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
        """Where a recipe comes from: a distribution and its version, or a file."""
        layer = self._find(name, len(self._own))[1]
        return str(self._files[layer - 1] if layer else self.models.find(name).plugin)

    def summary(self, name: str) -> str:
        """What a recipe says of itself."""
        return str(self.written(name).get("summary", ""))

    def written(self, name: str) -> Raw:
        """The recipe as its author wrote it, with its ``extends``."""
        return self._find(name, len(self._own))[0]

    def resolve(self, name: str) -> Raw:
        """The recipe with everything that it inherits.

        Raises:
            UnknownName, NameConflict: it, or one that it extends.
            RecipeError: the recipes extend each other in a circle.
        """
        return self._resolve(name, len(self._own), ())

    def _resolve(self, name: str, layers: int, seen: tuple[tuple[str, int], ...]) -> Raw:
        recipe, layer = self._find(name, layers)
        if (name, layer) in seen:
            circle = " -> ".join([n for n, _ in seen] + [name])
            raise RecipeError(
                f"Model {name!r} cannot be resolved:", [Problem("extends", f"goes in a circle: {circle}")]
            )
        home = None if layer else self.models.find(name)
        parent = recipe.get("extends")
        if parent is None:
            return dict(recipe) if home is None else at_home(recipe, {}, home.plugin.distribution)
        if not isinstance(parent, str):
            raise RecipeError(
                f"Model {name!r} cannot be resolved:",
                [Problem("extends", f"expected the name of a model, got {parent!r}")],
            )
        # A recipe of the user's that extends its own name adds to the one that it hides.
        below = layer - 1 if parent == name else len(self._own)
        if home is not None:
            parent = self._meant(parent, home)
        try:
            base = self._resolve(parent, below, (*seen, (name, layer)))
        except UnknownName as error:
            where = self._files[layer - 1] if layer else self.models.find(name).plugin
            raise RecipeError(
                f"Model {name!r} of {where} cannot be resolved:", [Problem("extends", str(error))]
            ) from None
        own = {key: value for key, value in recipe.items() if key != "extends"}
        if home is not None:
            own = at_home(own, base, home.plugin.distribution)
        return merge({key: value for key, value in base.items() if key != "summary"}, own)

    def _meant(self, parent: str, claim: Claim[Raw]) -> str:
        """The recipe that a plugin's recipe extends: of a contested name, that of its own distribution.

        One that extends a recipe of its own name means that of somebody else.
        """
        if any(parent in layer for layer in self._own):
            return parent
        if parent == claim.name:
            others = [other.qualified for other in self.models if other.name == parent and other is not claim]
            return others[0] if len(others) == 1 else parent
        return self.models.at_home(parent, claim.plugin.distribution)

    def _find(self, name: str, layers: int) -> tuple[Raw, int]:
        """The recipe as written, and the layer that holds it: 0 for what is installed, i for the i-th own file."""
        for layer in range(layers, 0, -1):
            if name in self._own[layer - 1]:
                return self._own[layer - 1][name], layer
        return self.models.find(name).item, 0


def load(name: str, files: Sequence[Path] = ()) -> tuple[str, Raw]:
    """The name and the resolved recipe of a model, given its name or a file that holds just one.

    What is called ``acme:wide-vae`` here is called ``acme.wide-vae`` as a recipe, since that is the name of a folder.

    Raises:
        UnknownName, NameConflict, RecipeError: see `Library`.
    """
    if not name.endswith((".yaml", ".yml")):
        return plain(name), library(*files).resolve(name)
    path = Path(name)
    names = list(read_models(path))
    if len(names) != 1:
        raise UnknownName(
            f"{path} holds {len(names)} models ({', '.join(names)}), so it names none of them. "
            f"Write: zoo train NAME --registry {path}"
        )
    return names[0], library(*files, path).resolve(names[0])


def plain(name: str) -> str:
    """The name that a recipe has where files and folders are named after it."""
    return name.replace(":", ".")


@functools.lru_cache(maxsize=8)
def _library(source: Registry) -> Library:
    return Library(source)


def library(*files: Path) -> Library:
    """The recipes of this process, with `files` of the user's before them."""
    return Library(registry(), files) if files else _library(registry())


def list_models(pattern: str = "*") -> list[str]:
    """List the names of the models that contain a text or match a shell pattern, in natural order.

    >>> list_models("conv"), list_models("conv*e")
    (['conv-vae', 'conv-vae-mse'], ['conv-vae', 'conv-vae-mse'])
    """
    return library().names(pattern)

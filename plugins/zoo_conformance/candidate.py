"""What is checked, and the model in which it is: a component is checked inside the first recipe that uses it."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

import zoo
from zoo import (
    INJECTED,
    KINDS,
    VAE,
    Batch,
    ComponentError,
    ComponentFactory,
    ComponentSpec,
    Dataset,
    Loader,
    Loss,
    Plugin,
    Recipe,
    RecipeError,
    Scheduled,
    Split,
    UnknownName,
    ZooError,
    components_of,
    did_you_mean,
    registry,
    seeded,
)
from zoo_conformance.check import CHECKS, skip

DISTRIBUTION = "vae-zoo"
NEUTRAL = f"{DISTRIBUTION}:mlp-vae"
"""The plainest recipe: a component that no recipe uses is checked in its place here, or in the first that it fits."""

SHAPE = (1, 8, 8)
FEATURES = 16
DIGITS = ComponentSpec(use=f"{DISTRIBUTION}:digits")
PARTS = ("encoder", "decoder", "prior", "loss")
BASES: dict[str, type] = {
    "encoder": zoo.Encoder,
    "posterior": zoo.Posterior,
    "decoder": zoo.Decoder,
    "likelihood": zoo.Likelihood,
    "prior": zoo.Prior,
    "loss": Loss,
}


@dataclass(eq=False)
class Candidate:
    """A component, a model or a plugin to be checked.

    Attributes:
        kind: one of `zoo.KINDS`, or ``model`` or ``plugin``.
        name: as recipes would write it.
        plugin: which brings it.
    """

    kind: str
    name: str
    plugin: Plugin

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that it is checked in, on small digits."""
        recipe = self._recipe()
        return recipe.model_copy(update={"data": [DIGITS]})

    def _recipe(self) -> Recipe:
        if self.kind == "model":
            return zoo.recipe(self.name)
        if self.kind not in BASES:
            return zoo.recipe(NEUTRAL)
        registry().get(self.kind, self.name)  # where it cannot be imported, that is said, and of no recipe
        me = (self.kind, self.name)
        used = next((model for model in _models() if me in _components_in(registry(), model)), None)
        if used is not None:
            return zoo.recipe(used)
        try:
            neutral = self._in(NEUTRAL)
        except RecipeError as error:
            _skip_if_incomplete(error.problems)
            raise
        if _can_be_built(neutral):
            return neutral
        for model in _models():
            with contextlib.suppress(RecipeError):
                recipe = self._in(model)
                if _can_be_built(recipe):
                    return recipe
        return neutral

    def _in(self, model: str) -> Recipe:
        """The recipe of a model, with this component in its place."""
        return zoo.recipe(model, **self._in_its_place())

    def _in_its_place(self) -> dict[str, Any]:
        """The change that puts it into a recipe: a head goes into the encoder or decoder."""
        if self.kind in PARTS:
            return {self.kind: self.name}
        for kind in PARTS:
            block = getattr(zoo.recipe(NEUTRAL), kind)
            for parameter in zoo.describe(kind, block.use).parameters:
                if parameter.nested == self.kind:
                    return {kind: {parameter.name: self.name}}
        raise AssertionError(f"{NEUTRAL} has no place for a {self.kind}")

    @cached_property
    def block(self) -> ComponentSpec:
        """It, with the parameters that its recipe gives it. A data set is taken from where it lies, never fetched."""
        if self.kind == "dataset" and "download" in inspect.signature(self.target).parameters:
            return ComponentSpec.model_validate({"use": self.name, "download": False})
        if self.kind in ("dataset", "metric"):
            return ComponentSpec(use=self.name)
        return _components(self.recipe)[self.kind, self.name]

    @property
    def target(self) -> Any:
        """Its class or function."""
        return registry().get(self.kind, self.name)

    def factory(self) -> ComponentFactory:
        """What makes it, if it has all that it needs; else the check is left out."""
        factory = ComponentFactory(self.kind, self.block.use, **self.block.parameters)
        _skip_if_incomplete(factory.problems())
        return factory

    def given(self) -> dict[str, Any]:
        """What the zoo passes to its constructor."""
        if self.kind in ("dataset", "metric"):
            known: dict[str, Any] = {"root": zoo.data_root(), "source": digits()}
        else:
            vae, _ = self.build()
            known = {
                "data_shape": SHAPE,
                "latent_dim": self.recipe.latent_dim,
                "latent_shape": vae.latent_shape,
                "classes": digits().classes,
                "train_size": len(digits().train),
                "features": FEATURES,
                "model_encoder": vae.encoder,
            }
        accepted = inspect.signature(self.target).parameters
        return {name: known[name] for name in INJECTED[self.kind] if name in accepted and name in known}

    def make(self, **given: Any) -> Any:
        """A new one on its own, from whatever of `given` it asks for."""
        with seeded(0):
            return self.factory()(**given)

    def build(
        self, seed: int = 0, data_shape: tuple[int, int, int] = SHAPE, latent_dim: int | None = None
    ) -> tuple[VAE, Loss]:
        """The model and the loss of its recipe, past any warm-up."""
        recipe = self.recipe
        if latent_dim is not None:
            recipe = recipe.model_copy(update={"latent_dim": latent_dim})
        with seeded(seed):
            vae, loss = zoo.build(recipe, data_shape, digits().classes, len(digits().train))
        for module in (*vae.modules(), *loss.modules()):
            if isinstance(module, Scheduled):
                module.schedule(10**6, 10.0**4)
        return vae, loss

    def batch(self, n: int) -> Batch:
        """The first `n` digits, binarised as the recipe says."""
        with seeded(0):
            return Loader(digits().train, n, self.recipe.binarize)[torch.arange(n)]

    def parts(self, vae: VAE, loss: Loss) -> list[nn.Module]:
        """Where it is in a model that `build` made."""
        if self.kind == "model":
            return [vae, loss]
        if self.kind in PARTS:
            return [loss if self.kind == "loss" else getattr(vae, self.kind)]
        wanted = self.target if isinstance(self.target, type) else BASES[self.kind]
        return [module for root in (vae, loss) for module in root.modules() if isinstance(module, wanted)]

    @cached_property
    def expected(self) -> Mapping[str, str]:
        """The checks that its author said it would fail, and why."""
        if self.kind not in KINDS:
            return {}
        return _expected(registry().names(self.kind).find(self.name))

    @cached_property
    def expected_around_it(self) -> Mapping[str, str]:
        """The checks that another component of its recipe fails by its author's word, for which it is not to blame."""
        if self.kind in ("plugin", "dataset", "metric"):
            return {}
        try:
            used = _components(self.recipe)
        except ZooError:
            return {}
        found: dict[str, str] = {}
        for kind, name in used:
            if (kind, name) != (self.kind, self.name):
                claim = registry().names(kind).find(name)
                found |= {check: f"{kind}/{name}: {why}" for check, why in _expected(claim).items()}
        return found


def candidates(name: str) -> list[Candidate]:
    """What a name stands for: a component (``encoder/mlp``), a model (``mlp-vae``, or ``model/mlp-vae`` where a plugin
    has that name too), or all that a plugin or a distribution brings.

    Raises:
        UnknownName, NameConflict: there is nothing, or no one thing, of that name.
    """
    kind, slash, short = name.rpartition("/")
    if slash and kind != "model":
        names = registry().names(kind)
        claim = names.find(short)
        return [Candidate(kind, names.shortest(claim), claim.plugin)]
    brought = [candidate for candidate in _all() if name in (candidate.plugin.name, candidate.plugin.distribution)]
    if brought:
        return brought
    models = zoo.library().models
    if short.rpartition(":")[2] in models:
        model = models.find(short)
        return [Candidate("model", models.shortest(model), model.plugin)]
    known = {*zoo.library().names(), *(plugin.name for plugin in registry().plugins)}
    raise UnknownName(
        f"There is no model and no plugin named {name!r}.{did_you_mean(name, known)} "
        "A component is written with its kind, such as encoder/mlp."
    )


def _all() -> Iterator[Candidate]:
    models, plugins = zoo.library().models, registry().plugins
    yield from (Candidate("plugin", plugin.name, plugin) for plugin in plugins if not plugin.disabled)
    for kind in KINDS:
        names = registry().names(kind)
        yield from (Candidate(kind, name, names.find(name).plugin) for name in names.matching())
    yield from (Candidate("model", name, models.find(name).plugin) for name in models.matching())


def _can_be_built(recipe: Recipe) -> bool:
    try:
        zoo.build(recipe, SHAPE, digits().classes, len(digits().train))
    except ZooError:
        return False
    return True


def _skip_if_incomplete(problems: Sequence[zoo.Problem]) -> None:
    """Leave the check out where nothing is wrong but that no recipe says what a parameter should be."""
    if problems and all(problem.message.startswith("is required") for problem in problems):
        skip(f"needs {', '.join(problem.place for problem in problems)}, and no recipe says what it should be")


def _expected(claim: Any) -> Mapping[str, str]:
    expected: Mapping[str, str] = claim.item.expected_failures
    for name in expected:
        if name not in CHECKS:
            raise ComponentError(
                f"{claim.item.kind} {claim.name!r} of {claim.plugin} expects to fail {name!r}, which is no check."
                f"{did_you_mean(name, CHECKS)} `zoo check --list` shows them."
            )
    return expected


def _models() -> Iterator[str]:
    """Every recipe, the built-in ones first and in the order in which they were written."""
    models = zoo.library().models
    builtin = zoo.parse_yaml(zoo.builtin_registry().read_text("utf-8"))["models"]
    first = [models.shortest(models.find(f"{DISTRIBUTION}:{name}")) for name in builtin]
    yield from first
    yield from (name for name in models.matching() if name not in first)


@functools.lru_cache(maxsize=1024)
def _components_in(source: object, model: str) -> Mapping[tuple[str, str], ComponentSpec]:
    """The components of a model; none if its recipe or a component is not available."""
    try:
        return _components(zoo.recipe(model))
    except ZooError:
        return {}


def _components(recipe: Recipe) -> dict[tuple[str, str], ComponentSpec]:
    """The components of a recipe; of several with one name, the outermost."""
    return {(kind, spec.use): spec for _, kind, spec in reversed(components_of(recipe))}


def digits() -> Dataset:
    """The digits that come inside scikit-learn."""
    return _digits(registry())


@functools.lru_cache(maxsize=2)
def _digits(source: object) -> Dataset:
    return zoo.load_dataset(DIGITS.use)


def few_digits(train: int, test: int) -> Dataset:
    """The first of them."""
    few = [
        Split(split.x[:n], None if split.labels is None else split.labels[:n])
        for split, n in ((digits().train, train), (digits().test, test))
    ]
    return Dataset(train=few[0], test=few[1])


def images(n: int, data_shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Random images (n, C, H, W)."""
    with seeded(n):
        return torch.rand(n, *data_shape)

"""Candidates for checks. A component is checked inside a model: that of the first recipe that uses it."""

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
"""The recipe for components that no recipe uses. If a component does not fit, the first recipe that it fits is used."""

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
        name: as written in recipes.
        plugin: the plugin that provides it.
    """

    kind: str
    name: str
    plugin: Plugin

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of the model that it is checked in, with the data set digits."""
        recipe = self._recipe()
        return recipe.model_copy(update={"data": [DIGITS]})

    def _recipe(self) -> Recipe:
        if self.kind == "model":
            return zoo.recipe(self.name)
        if self.kind not in BASES:
            return zoo.recipe(NEUTRAL)
        registry().get(self.kind, self.name)  # reports an import error as that of the component
        key = (self.kind, self.name)
        user = next((model for model in _models() if key in _components_in(registry(), model)), None)
        if user is not None:
            return zoo.recipe(user)
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
        """The recipe of a model with this component."""
        return zoo.recipe(model, **self._change())

    def _change(self) -> dict[str, Any]:
        """The change that inserts it into a recipe. A head is nested in the encoder or decoder."""
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
        """The component with its parameters in the recipe. Data sets are not downloaded."""
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
        """Its factory. Skips the check if the recipe does not set a required parameter."""
        factory = ComponentFactory(self.kind, self.block.use, **self.block.parameters)
        _skip_if_incomplete(factory.problems())
        return factory

    def injected(self) -> dict[str, Any]:
        """The arguments that the zoo passes to its constructor."""
        if self.kind in ("dataset", "metric"):
            values: dict[str, Any] = {"root": zoo.data_root(), "source": digits()}
        else:
            vae, _ = self.build()
            values = {
                "data_shape": SHAPE,
                "latent_dim": self.recipe.latent_dim,
                "latent_shape": vae.latent_shape,
                "classes": digits().classes,
                "train_size": len(digits().train),
                "features": FEATURES,
                "model_encoder": vae.encoder,
            }
        accepted = inspect.signature(self.target).parameters
        return {name: values[name] for name in INJECTED[self.kind] if name in accepted and name in values}

    def make(self, **injected: Any) -> Any:
        """Create the component outside of a model. Injected arguments that it does not accept are ignored."""
        with seeded(0):
            return self.factory()(**injected)

    def build(
        self, seed: int = 0, data_shape: tuple[int, int, int] = SHAPE, latent_dim: int | None = None
    ) -> tuple[VAE, Loss]:
        """Build the model and the loss of its recipe, after any warm-up."""
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
        """The first `n` digits, binarised as in the recipe."""
        with seeded(0):
            return Loader(digits().train, n, self.recipe.binarize)[torch.arange(n)]

    def parts(self, vae: VAE, loss: Loss) -> list[nn.Module]:
        """The modules of the candidate in a model of `build`."""
        if self.kind == "model":
            return [vae, loss]
        if self.kind in PARTS:
            return [loss if self.kind == "loss" else getattr(vae, self.kind)]
        cls = self.target if isinstance(self.target, type) else BASES[self.kind]
        return [module for root in (vae, loss) for module in root.modules() if isinstance(module, cls)]

    @cached_property
    def expected(self) -> Mapping[str, str]:
        """The declared failures, with their reasons."""
        if self.kind not in KINDS:
            return {}
        return _expected(registry().names(self.kind).find(self.name))

    @cached_property
    def expected_of_others(self) -> Mapping[str, str]:
        """The declared failures of the other components in its recipe."""
        if self.kind in ("plugin", "dataset", "metric"):
            return {}
        try:
            components = _components(self.recipe)
        except ZooError:
            return {}
        failures: dict[str, str] = {}
        for kind, name in components:
            if (kind, name) != (self.kind, self.name):
                claim = registry().names(kind).find(name)
                failures |= {check: f"{kind}/{name}: {reason}" for check, reason in _expected(claim).items()}
        return failures


def candidates(name: str) -> list[Candidate]:
    """The candidates for a name.

    Args:
        name: a component (``encoder/mlp``), a model (``mlp-vae``, or ``model/mlp-vae`` if a plugin has the same name),
            or a plugin or distribution, for everything that it provides.

    Raises:
        UnknownName: there is nothing with that name.
        NameConflict: the name is ambiguous.
    """
    kind, slash, short = name.rpartition("/")
    if slash and kind != "model":
        names = registry().names(kind)
        claim = names.find(short)
        return [Candidate(kind, names.shortest(claim), claim.plugin)]
    provided = [candidate for candidate in _all() if name in (candidate.plugin.name, candidate.plugin.distribution)]
    if provided:
        return provided
    models = zoo.library().models
    if short.rpartition(":")[2] in models:
        model = models.find(short)
        return [Candidate("model", models.shortest(model), model.plugin)]
    choices = {*zoo.library().names(), *(plugin.name for plugin in registry().plugins)}
    raise UnknownName(
        f"There is no model and no plugin named {name!r}.{did_you_mean(name, choices)} "
        "Write a component with its kind, such as encoder/mlp."
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
    """Skip the check if the only problems are required parameters that no recipe sets."""
    if problems and all(problem.message.startswith("is required") for problem in problems):
        skip(f"requires {', '.join(problem.place for problem in problems)}, and no recipe sets it")


def _expected(claim: Any) -> Mapping[str, str]:
    expected: Mapping[str, str] = claim.item.expected_failures
    for name in expected:
        if name not in CHECKS:
            raise ComponentError(
                f"{claim.item.kind} {claim.name!r} of {claim.plugin} expects to fail {name!r}, which is not a check."
                f"{did_you_mean(name, CHECKS)} `zoo check --list` lists the checks."
            )
    return expected


def _models() -> Iterator[str]:
    """Every recipe, the built-in ones first, in the order of the registry."""
    models = zoo.library().models
    builtin = zoo.parse_yaml(zoo.builtin_registry().read_text("utf-8"))["models"]
    first = [models.shortest(models.find(f"{DISTRIBUTION}:{name}")) for name in builtin]
    yield from first
    yield from (name for name in models.matching() if name not in first)


@functools.lru_cache(maxsize=1024)
def _components_in(source: object, model: str) -> Mapping[tuple[str, str], ComponentSpec]:
    """The components of a model; empty if its recipe or a component is not available."""
    try:
        return _components(zoo.recipe(model))
    except ZooError:
        return {}


def _components(recipe: Recipe) -> dict[tuple[str, str], ComponentSpec]:
    """The components of a recipe; the outermost of several with one name."""
    return {(kind, spec.use): spec for _, kind, spec in reversed(components_of(recipe))}


def digits() -> Dataset:
    """The digits of scikit-learn."""
    return _digits(registry())


@functools.lru_cache(maxsize=2)
def _digits(source: object) -> Dataset:
    return zoo.load_dataset(DIGITS.use)


def few_digits(train: int, test: int) -> Dataset:
    """The first digits of each split."""
    few = [
        Split(split.x[:n], None if split.labels is None else split.labels[:n])
        for split, n in ((digits().train, train), (digits().test, test))
    ]
    return Dataset(train=few[0], test=few[1])


def images(n: int, data_shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Random images (n, C, H, W)."""
    with seeded(n):
        return torch.rand(n, *data_shape)

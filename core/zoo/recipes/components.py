"""Components: the check of their arguments, and the construction of their modules."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.distributions import Distribution
from torch.nn import Module

from zoo.errors import ComponentError, Problem, RecipeError, ZooError, error_summary
from zoo.model.context import evaluating, exclusive
from zoo.model.loss import Loss
from zoo.model.measures import require_same_measure
from zoo.model.memory import bounded
from zoo.model.parts import Encoder, Prior
from zoo.model.vae import VAE
from zoo.plugins.hookspecs import INJECTED, KINDS
from zoo.plugins.isolation import plugin_code
from zoo.plugins.registry import registry
from zoo.recipes.checking import as_plain, check, check_recipe, keys_of
from zoo.recipes.merge import merge
from zoo.recipes.qualify import qualify_component
from zoo.recipes.schema import ComponentSpec, Recipe
from zoo.recipes.signatures import INTERFACES, Signature, find, read_signature
from zoo.recipes.source import Raw

PARTS = ("encoder", "decoder", "prior", "loss")


class ComponentFactory:
    """Constructs a component by name. Use it as the default of a constructor's parameter that is itself a component.

    Args:
        kind, use: kind and name of the component.
        parameters: its parameters, as in a recipe.

    >>> import zoo
    >>> head = zoo.ComponentFactory("posterior", "gaussian")
    >>> head(features=8, latent_dim=2)(torch.zeros(5, 8)).mean.shape
    torch.Size([5, 2])
    """

    def __init__(self, kind: str, use: str, /, **parameters: Any) -> None:
        self.kind = kind
        self.spec = ComponentSpec(use=use, **parameters)

    @classmethod
    def of(cls, kind: str, spec: ComponentSpec) -> ComponentFactory:
        """The factory of a spec."""
        factory = cls(kind, spec.use)
        factory.spec = spec
        return factory

    def __call__(self, **context: Any) -> Any:
        """Construct the component. `context` has the values of injected parameters; others are ignored."""
        return construct(self.kind, self.spec, context)

    def problems(self) -> list[Problem]:
        """List the problems of the parameters, without constructing anything."""
        return check_spec(self.kind, self.spec, self.kind)[1]

    def arguments(self) -> dict[str, Any]:
        """Return the checked arguments of the constructor."""
        return checked(self.kind, self.spec).arguments

    def with_defaults(self) -> ComponentFactory:
        """Return the component with every default filled in, those of nested components included."""
        return ComponentFactory.of(self.kind, explicit(self.kind, self.spec))

    def __repr__(self) -> str:
        parameters = "".join(f", {name}={value!r}" for name, value in self.spec.parameters.items())
        return f"ComponentFactory({self.kind!r}, {self.spec.use!r}{parameters})"


def construct(kind: str, spec: ComponentSpec, context: Mapping[str, Any]) -> Any:
    """Construct a component. Its arguments are checked unless its spec carries checked ones.

    Args:
        kind: its kind.
        spec: its name and parameters.
        context: values of injected parameters; those that the constructor does not have are ignored.

    Raises:
        UnknownName, NameConflict: there is no such component, or several distributions provide it.
        RecipeError: parameters are unknown or of the wrong type; the message lists all of them.
        ComponentError: the constructor failed, or returned an object of another kind.
    """
    target, signature, spec = find(kind, spec.use), read_signature(kind, spec.use), checked(kind, spec)
    injected = {name: value for name, value in context.items() if name in signature.injected}
    arguments = {name: value for name, value in spec.arguments.items() if name not in signature.common}
    try:
        with plugin_code():
            component = target(**injected, **copy.deepcopy(arguments))
    except ZooError:
        raise
    except Exception as error:
        raise ComponentError(f"{kind} {spec.use!r} cannot be constructed: {error_summary(error)}") from error
    if not isinstance(component, INTERFACES.get(kind, object)):
        raise ComponentError(
            f"{kind} {spec.use!r} is a {type(component).__name__}, not a zoo.{INTERFACES[kind].__name__}"
        )
    return component


def checked(kind: str, spec: ComponentSpec) -> ComponentSpec:
    """The spec with checked arguments; returned unchanged if it carries them.

    Raises:
        UnknownName, NameConflict, RecipeError, ComponentError: see `construct`.
    """
    if not spec.is_checked:
        read_signature(kind, spec.use)
        spec, problems = check_spec(kind, spec, kind)
        if problems:
            raise RecipeError(f"{kind} {spec.use!r} is not valid:", problems)
    return spec


def check_spec(
    kind: str, spec: ComponentSpec, place: str, keys: Sequence[str] = ()
) -> tuple[ComponentSpec, list[Problem]]:
    """Check a component and those nested in it, without constructing anything.

    Args:
        kind: its kind.
        spec: its name and parameters.
        place: its key in the recipe.
        keys: all keys of the recipe, for suggestions.

    Returns:
        The spec with its valid arguments, and the problems.
    """
    try:
        signature = read_signature(kind, spec.use)
    except ZooError as error:
        return spec, [Problem(place, str(error))]
    written = spec.parameters
    problems = [
        Problem(f"{place}.{name}", "is set by the zoo, so a recipe cannot set it")
        for name in written
        if name in INJECTED[kind]
    ]
    arguments: dict[str, Any] = {}
    for name, inner in signature.nested.items():
        try:
            nested = _nested_spec(kind, spec, signature, name)
        except ValueError as error:
            problems.append(Problem(f"{place}.{name}", str(error)))
            continue
        if nested is not None:
            nested, more = check_spec(inner, nested, f"{place}.{name}", keys)
            arguments[name] = ComponentFactory.of(inner, nested)
            problems += more
    own = {name: value for name, value in written.items() if name not in (*INJECTED[kind], *signature.nested)}
    values, more = check(signature.parameters, own, place, list(signature.nested), keys)
    arguments |= {name: getattr(values, name) for name in own} if values is not None else {}
    return spec.with_arguments(arguments), problems + more


def _nested_spec(kind: str, spec: ComponentSpec, signature: Signature, name: str) -> ComponentSpec | None:
    """The component that is a parameter of another: the constructor's default, changed by the spec.

    Raises:
        ValueError: it is required, or is not a component.
    """
    inner, default = signature.nested[name], signature.defaults.get(name)
    base = default.spec if isinstance(default, ComponentFactory) else None
    if base is not None and kind in KINDS:  # defaults refer to components of the same distribution
        distribution = registry().names(kind).find(spec.use).plugin.distribution
        base = ComponentSpec.model_validate(qualify_component(inner, base.model_dump(), None, distribution))
    if name not in spec.parameters:
        if name not in signature.defaults:
            raise ValueError(f"is required; expected the name of a {inner}")
        return base
    value = spec.parameters[name]
    if isinstance(value, dict) and "use" not in value and base is not None:
        value = merge({"use": base.use, **base.parameters}, value)
    try:
        return ComponentSpec.model_validate(value)
    except ValueError:
        raise ValueError(f"expected the name of a {inner}, or a mapping with `use`, got {value!r}") from None


def explicit(kind: str, spec: ComponentSpec) -> ComponentSpec:
    """The spec with every default of its constructor filled in, those of nested components included."""
    spec, signature = checked(kind, spec), read_signature(kind, spec.use)
    arguments = spec.arguments
    own = {name: value for name, value in arguments.items() if name not in signature.nested}
    values = signature.parameters.model_construct(**own)
    parameters = values.model_dump(mode="json")
    arguments |= {name: getattr(values, name) for name in parameters}
    for name, argument in arguments.items():
        if isinstance(argument, ComponentFactory):
            arguments[name] = factory = argument.with_defaults()
            parameters[name] = factory.spec.model_dump()
    return ComponentSpec(use=spec.use, **parameters).with_arguments(arguments)


def with_defaults(recipe: Recipe) -> Recipe:
    """The recipe with every default of its components filled in."""
    parts = {kind: explicit(kind, getattr(recipe, kind)) for kind in PARTS}
    data = [explicit("dataset", spec) for spec in recipe.data]
    return recipe.model_copy(update={**parts, "data": data})


def components_of(recipe: Recipe) -> list[tuple[str, str, ComponentSpec]]:
    """List the key, kind and spec of each component of a model, followed by those of the components nested in it.

    >>> import zoo
    >>> components_of(zoo.recipe("mlp-vae"))[3]
    ('decoder.likelihood', 'likelihood', ComponentSpec(use='bernoulli'))
    """
    return [component for part in PARTS for component in _components(part, part, getattr(recipe, part))]


def _components(place: str, kind: str, spec: ComponentSpec) -> Iterator[tuple[str, str, ComponentSpec]]:
    yield place, kind, spec
    for name, argument in checked(kind, spec).arguments.items():
        if isinstance(argument, ComponentFactory):
            yield from _components(f"{place}.{name}", argument.kind, argument.spec)


def unchecked(name: str, raw: Raw) -> Recipe:
    """A recipe whose components are not looked up, such as that of a model built in code.

    Raises:
        RecipeError: the recipe is not valid; the message lists every problem.
    """
    recipe, problems = check_recipe(name, raw)
    if problems:
        raise RecipeError(f"The recipe {name!r} is not valid:", problems)
    assert isinstance(recipe, Recipe)
    return recipe


def validate(name: str, raw: Raw) -> Recipe:
    """Check a resolved recipe: its keys and the arguments of every component, which the specs then carry.

    Raises:
        RecipeError: the recipe is not valid; the message lists every problem.
    """
    try:
        components = list(_specs(as_plain(raw)))
    except (ValueError, TypeError, RecursionError):
        components = []  # `check_recipe` reports the problem
    keys = [*keys_of(Recipe), *(key for component in components for key in _keys_inside(*component))]
    recipe, problems = check_recipe(name, raw, keys)
    if recipe is not None:
        components = list(_specs({**vars(recipe), "train": vars(recipe.train)}))
    valid: dict[str, list[ComponentSpec]] = {}
    for kind, spec, place in components:
        spec, more = check_spec(kind, spec, place, keys)
        valid.setdefault(kind, []).append(spec)
        problems += more
    if problems:
        raise RecipeError(f"The recipe {name!r} is not valid:", problems)
    assert isinstance(recipe, Recipe)
    optim: dict[str, ComponentSpec] = {kind: valid[kind][0] for kind in ("optimizer", "scheduler") if kind in valid}
    parts = {kind: valid[kind][0] for kind in PARTS}
    train = recipe.train.model_copy(update=optim)
    return recipe.model_copy(update={**parts, "data": valid["dataset"], "train": train})


def _specs(values: Mapping[str, Any]) -> Iterator[tuple[str, ComponentSpec, str]]:
    """The kind, spec and key of each component of a recipe. `check_recipe` reports invalid ones."""
    data, train = values.get("data"), values.get("train")
    places = [(kind, values.get(kind), kind) for kind in PARTS]
    places += [("dataset", value, "data") for value in (data if isinstance(data, list) else [data])]
    if isinstance(train, dict):
        places += [(kind, train.get(kind), f"train.{kind}") for kind in ("optimizer", "scheduler")]
    for kind, value, place in places:
        with contextlib.suppress(ValueError):
            yield kind, ComponentSpec.model_validate(value), place


def _keys_inside(kind: str, spec: ComponentSpec, place: str) -> list[str]:
    """The keys of a component and of those nested in it; empty if there is no such component."""
    try:
        signature = read_signature(kind, spec.use)
    except ZooError:
        return []
    keys = [f"{place}.{name}" for name in signature.parameters.model_fields]
    for name, inner in signature.nested.items():
        keys.append(f"{place}.{name}")
        with contextlib.suppress(ValueError):
            nested = _nested_spec(kind, spec, signature, name)
            keys += _keys_inside(inner, nested, f"{place}.{name}") if nested is not None else []
    return keys


@torch.inference_mode(False)  # parameters created in inference mode could not be trained
def build(recipe: Recipe, data_shape: tuple[int, ...], classes: int = 0, train_size: int = 0) -> tuple[VAE, Loss]:
    """Build the model and the loss of a recipe. The weights are drawn from torch's global generator.

    Args:
        recipe: a checked recipe.
        data_shape: event shape of x.
        classes: number of labels in the data, 0 if they have none.
        train_size: number of training examples, 0 if it is unknown.

    Raises:
        ComponentError: a component failed, or posterior and prior have different base measures (see
            `zoo.base_measure`); the message names them.
        UsageError: the model does not fit into the memory of this machine.
    """
    context = _context(recipe, data_shape, classes)
    with exclusive(), bounded():
        vae = _build_model(recipe, context)
        loss: Loss = construct("loss", recipe.loss, {**context, "train_size": train_size})
    return vae, loss


@torch.inference_mode(False)
def build_model(recipe: Recipe, data_shape: tuple[int, ...], classes: int = 0) -> VAE:
    """Build the model of a recipe; see `build`."""
    with exclusive(), bounded():
        return _build_model(recipe, _context(recipe, data_shape, classes))


@torch.inference_mode(False)
def build_loss(recipe: Recipe, data_shape: tuple[int, ...], classes: int = 0, train_size: int = 0) -> Loss:
    """Build the loss of a recipe; see `build`. The encoder is built only if the loss has a parameter `latent_shape`."""
    context = {**_context(recipe, data_shape, classes), "train_size": train_size}
    with exclusive(), bounded():
        if "latent_shape" in read_signature("loss", recipe.loss.use).injected:
            encoder = construct("encoder", recipe.encoder, context)
            context["latent_shape"] = tuple(_posterior(recipe.encoder.use, encoder, data_shape, classes).event_shape)
        loss: Loss = construct("loss", recipe.loss, context)
    return loss


def _context(recipe: Recipe, data_shape: tuple[int, ...], classes: int) -> dict[str, Any]:
    """The values of injected parameters."""
    return {"data_shape": data_shape, "latent_dim": recipe.latent_dim, "classes": classes}


def _build_model(recipe: Recipe, context: dict[str, Any]) -> VAE:
    """Build encoder, decoder and prior, and add the shape of the latent to the context."""
    encoder = construct("encoder", recipe.encoder, context)
    q = _posterior(recipe.encoder.use, encoder, context["data_shape"], context["classes"])
    context["latent_shape"] = tuple(q.event_shape)
    decoder = construct("decoder", recipe.decoder, context)
    vae = VAE(encoder, decoder, _prior_of(q, recipe, recipe.prior, encoder, context))
    vae.data_shape, vae.latent_shape = context["data_shape"], context["latent_shape"]
    return vae


@torch.inference_mode(False)
def build_prior(
    spec: ComponentSpec, recipe: Recipe, encoder: Encoder, data_shape: tuple[int, ...], classes: int = 0
) -> Prior:
    """Build another prior for a model of a recipe.

    Raises:
        UnknownName, NameConflict, RecipeError, ComponentError: see `construct` and `build`.
    """
    q = _posterior(recipe.encoder.use, encoder, data_shape, classes)
    context = {**_context(recipe, data_shape, classes), "latent_shape": tuple(q.event_shape)}
    return _prior_of(q, recipe, spec, encoder, context)


def _prior_of(
    q: Distribution, recipe: Recipe, spec: ComponentSpec, encoder: Encoder, context: Mapping[str, Any]
) -> Prior:
    """Build a prior, and compare its base measure with that of the posterior `q`."""
    with exclusive():
        prior: Prior = construct("prior", spec, {**context, "model_encoder": encoder})
    name = f"prior {spec.use!r}"
    p = _distribution(name, "", prior, encoder, modules=(encoder, prior))
    require_same_measure(q, p, f"encoder {recipe.encoder.use!r}", name)
    return prior


def _posterior(name: str, encoder: torch.nn.Module, data_shape: tuple[int, ...], classes: int) -> Distribution:
    """The posterior of one example.

    Raises:
        ComponentError: the encoder fails, or does not return one distribution per example.
    """
    condition = torch.zeros(1, dtype=torch.int64) if classes else None
    x = torch.zeros(1, *data_shape)
    q = _distribution(f"encoder {name!r}", f" on data of shape {data_shape}", encoder, x, condition)
    if len(q.batch_shape) > 1:
        head = type(getattr(encoder, "posterior", q)).__name__
        raise ComponentError(
            f"encoder {name!r} must return a distribution with batch shape (N,), not (N, "
            f"{', '.join(map(str, q.batch_shape[1:]))}): {head} is for flat latents. For a spatial latent, choose a "
            "posterior that acts on each position, such as encoder.posterior=gaussian."
        )
    return q


def _distribution(name: str, where: str, module: Module, *inputs: Any, modules: Sequence[Module] = ()) -> Distribution:
    """What a part of the model returns in evaluation mode.

    Raises:
        ComponentError: it fails, or returns no distribution.
    """
    try:
        with torch.no_grad(), evaluating(*(modules or [module])):
            value = module(*inputs)
    except ZooError:
        raise
    except Exception as error:
        raise ComponentError(f"{name} fails{where}: {type(error).__name__}: {error}") from error
    if not isinstance(value, Distribution):
        raise ComponentError(f"{name} must return a torch.distributions.Distribution, not a {type(value).__name__}")
    return value

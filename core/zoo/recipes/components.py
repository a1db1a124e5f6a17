"""From a recipe to modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.distributions import Distribution

from zoo.errors import ComponentError, Problem, RecipeError, ZooError
from zoo.measures import require_same_measure
from zoo.memory import bounded
from zoo.model.context import evaluating, exclusive
from zoo.model.loss import Loss
from zoo.model.parts import Encoder, Prior
from zoo.model.vae import VAE
from zoo.plugins.hookspecs import INJECTED, KINDS
from zoo.plugins.manager import describe, plugin_code
from zoo.plugins.registry import registry
from zoo.recipes.home import block_at_home
from zoo.recipes.merge import merge
from zoo.recipes.optimizers import find_optim
from zoo.recipes.schema import ComponentSpec, Recipe, as_plain, check, check_recipe, keys_of
from zoo.recipes.signatures import INTERFACES, Signature, signature_of
from zoo.recipes.source import Raw


class ComponentFactory:
    """A component by name, made when called: the default of a constructor's parameter that is itself a component.

    Args:
        kind, use: which component.
        parameters: its own parameters, as in a recipe.

    >>> import zoo
    >>> head = zoo.ComponentFactory("posterior", "gaussian")
    >>> head(features=8, latent_dim=2)(torch.zeros(5, 8)).mean.shape
    torch.Size([5, 2])
    """

    def __init__(self, kind: str, use: str, /, **parameters: Any) -> None:
        self.kind = kind
        self.block = ComponentSpec(use=use, **parameters)

    def __call__(self, **given: Any) -> Any:
        """Make the component, from whatever of `given` its constructor asks for."""
        return construct(self.kind, self.block, given)

    def problems(self) -> list[Problem]:
        """List what is wrong with the parameters, without making anything."""
        return check_block(self.kind, self.block, self.kind)[1]

    def arguments(self) -> dict[str, Any]:
        """Return the checked parameters as they are passed to the constructor."""
        return check_block(self.kind, self.block, self.kind)[0]

    def with_defaults(self) -> ComponentFactory:
        """Return the same component with every default written out, those of nested components included."""
        block = explicit(self.kind, self.block)
        return ComponentFactory(self.kind, block.use, **block.parameters)

    def __repr__(self) -> str:
        return f"ComponentFactory({self.kind!r}, {self.block.use!r}, **{self.block.parameters!r})"


def find(kind: str, name: str) -> Callable[..., Any]:
    """What makes a component: optimisers and schedules are torch's, all else is in the registry."""
    target: Callable[..., Any] = registry().get(kind, name) if kind in KINDS else find_optim(kind, name)
    return target


def construct(kind: str, block: ComponentSpec, given: Mapping[str, Any]) -> Any:
    """Make a component from its block, with whatever of `given` its constructor asks for.

    Raises:
        UnknownName, NameConflict: there is no such component, or two claim the name.
        RecipeError: parameters that are unknown or of the wrong type, all of them at once.
        ComponentError: the constructor refused, or what it made is not of its kind.
    """
    target = find(kind, block.use)
    arguments, problems = check_block(kind, block, kind)
    if problems:
        raise RecipeError(f"{kind} {block.use!r} cannot be made:", problems)
    asked = signature_of(kind, target).injected
    try:
        with plugin_code():
            made = target(**{name: value for name, value in given.items() if name in asked}, **arguments)
    except ZooError:
        raise
    except Exception as error:
        raise ComponentError(f"{kind} {block.use!r} cannot be made: {describe(error)}") from error
    if not isinstance(made, INTERFACES.get(kind, object)):
        raise ComponentError(f"{kind} {block.use!r} is a {type(made).__name__}, not a zoo.{INTERFACES[kind].__name__}")
    return made


def check_block(
    kind: str, block: ComponentSpec, place: str, elsewhere: Sequence[str] = ()
) -> tuple[dict[str, Any], list[Problem]]:
    """The arguments that a block stands for, without making anything, and the problems in it.

    Args:
        place: where the block stands.
        elsewhere: all keys of the recipe, for suggestions.
    """
    try:
        signature = signature_of(kind, find(kind, block.use))
    except ZooError as error:
        return {}, [Problem(place, str(error))]
    problems, arguments, own = [], _contested_defaults(kind, block, signature), {}
    for name, value in block.parameters.items():
        if name in INJECTED[kind]:
            problems.append(Problem(f"{place}.{name}", "is set by the zoo and cannot be set here"))
        elif name in signature.nested:
            inner = signature.nested[name]
            default = arguments.pop(name, signature.defaults.get(name))
            nested, found = _check_nested(inner, value, default, f"{place}.{name}", elsewhere)
            problems += found
            if nested is not None:
                arguments[name] = ComponentFactory(inner, nested.use, **nested.parameters)
        else:
            own[name] = value
    problems += [
        Problem(f"{place}.{name}", f"is required: the name of a {inner}")
        for name, inner in signature.nested.items()
        if name not in signature.defaults and name not in block.parameters
    ]
    model, found = check(signature.parameters, own, place, list(signature.nested), elsewhere)
    arguments.update({name: getattr(model, name) for name in own} if model is not None else {})
    return arguments, problems + found


def _contested_defaults(kind: str, block: ComponentSpec, signature: Signature) -> dict[str, Any]:
    """The defaults of a constructor that are components of contested names: it means those of its own distribution."""
    if kind not in KINDS:
        return {}
    home = registry().names(kind).find(block.use).plugin.distribution
    defaults = {}
    for name, default in signature.defaults.items():
        if isinstance(default, ComponentFactory):
            own = ComponentSpec.model_validate(block_at_home(default.kind, default.block.model_dump(), None, home))
            if own != default.block:
                defaults[name] = ComponentFactory(default.kind, own.use, **own.parameters)
    return defaults


def _check_nested(
    kind: str, value: Any, default: Any, place: str, elsewhere: Sequence[str]
) -> tuple[ComponentSpec | None, list[Problem]]:
    if isinstance(value, dict) and "use" not in value and isinstance(default, ComponentFactory):
        # Its other parameters stay those of the default, as in any merge of blocks.
        value = merge({"use": default.block.use, **default.block.parameters}, value)
    try:
        block = ComponentSpec.model_validate(value)
    except ValueError:
        return None, [Problem(place, f"expected the name of a {kind}, or a mapping with `use`, got {value!r}")]
    return block, check_block(kind, block, place, elsewhere)[1]


def explicit(kind: str, block: ComponentSpec) -> ComponentSpec:
    """The block with every default of its constructor written out, those of nested components included."""
    signature = signature_of(kind, find(kind, block.use))
    arguments, _ = check_block(kind, block, kind)
    model = signature.parameters.model_validate({k: v for k, v in arguments.items() if k not in signature.nested})
    parameters = model.model_dump(mode="json")
    for name, inner in signature.nested.items():
        choice = arguments.get(name, signature.defaults.get(name))
        if isinstance(choice, ComponentFactory):
            parameters[name] = explicit(inner, choice.block).model_dump()
    return ComponentSpec(use=block.use, **parameters)


def components_of(recipe: Recipe) -> list[tuple[str, str, ComponentSpec]]:
    """List the components of a model, defaults included: key, kind and spec, each before the components inside it.

    >>> import zoo
    >>> components_of(zoo.recipe("mlp-vae"))[3]
    ('decoder.likelihood', 'likelihood', ComponentSpec(use='bernoulli'))
    """
    parts = ("encoder", "decoder", "prior", "loss")
    return [component for part in parts for component in _components(part, part, getattr(recipe, part))]


def _components(place: str, kind: str, spec: ComponentSpec) -> Iterator[tuple[str, str, ComponentSpec]]:
    yield place, kind, spec
    signature = signature_of(kind, find(kind, spec.use))
    arguments, _ = check_block(kind, spec, place)
    for name, inner in signature.nested.items():
        factory = arguments.get(name, signature.defaults.get(name))
        if isinstance(factory, ComponentFactory):
            yield from _components(f"{place}.{name}", inner, factory.block)


def with_defaults(recipe: Recipe) -> Recipe:
    """The recipe with every default of its components written out."""
    parts = {kind: explicit(kind, getattr(recipe, kind)) for kind in ("encoder", "decoder", "prior", "loss")}
    data = [explicit("dataset", block) for block in recipe.data]
    return recipe.model_copy(update={**parts, "data": data})


def validate(name: str, raw: Raw) -> Recipe:
    """A recipe as a checked object, from what a library resolved.

    Raises:
        RecipeError: with every problem, those inside the components' blocks included.
    """
    try:
        blocks = _blocks(as_plain(raw))
    except (ValueError, TypeError, RecursionError):
        blocks = []  # a problem that `check_recipe` reports
    keys = [*keys_of(Recipe), *(key for kind, value, place in blocks for key in _keys_inside(kind, value, place))]
    recipe, problems = check_recipe(name, raw, keys)
    for kind, value, place in blocks:
        problems += _check_inside(kind, value, place, keys)
    if problems:
        raise RecipeError(f"The recipe {name!r} is not valid:", problems)
    assert isinstance(recipe, Recipe)
    return recipe


def _blocks(raw: Raw) -> list[tuple[str, Any, str]]:
    """The components of a recipe: the kind, what is written, and where it stands."""
    blocks = [(kind, raw.get(kind), kind) for kind in ("encoder", "decoder", "prior", "loss")]
    data, training = raw.get("data"), raw.get("train")
    blocks += [("dataset", value, "data") for value in (data if isinstance(data, list) else [data])]
    if isinstance(training, dict):
        blocks += [(kind, training.get(kind), f"train.{kind}") for kind in ("optimizer", "scheduler")]
    return blocks


def _keys_inside(kind: str, value: Any, place: str) -> list[str]:
    """The keys of a component, and of those that are its parameters, in full. Of one that is not there, none."""
    try:
        block = ComponentSpec.model_validate(value)
        signature = signature_of(kind, find(kind, block.use))
    except (ValueError, ZooError):
        return []
    keys = [f"{place}.{name}" for name in signature.parameters.model_fields]
    for name, inner in signature.nested.items():
        default = signature.defaults.get(name)
        given = block.parameters.get(name, default.block if isinstance(default, ComponentFactory) else None)
        keys += [f"{place}.{name}", *_keys_inside(inner, given, f"{place}.{name}")]
    return keys


def _check_inside(kind: str, value: Any, place: str, elsewhere: Sequence[str]) -> list[Problem]:
    """The problems inside a block. That it is no block at all is among those of the recipe itself."""
    try:
        block = ComponentSpec.model_validate(value)
    except ValueError:
        return []
    return check_block(kind, block, place, elsewhere)[1]


@torch.inference_mode(False)  # the parameters of a model that is made in inference mode can be trained too
def build(recipe: Recipe, data_shape: tuple[int, int, int], classes: int = 0, train_size: int = 0) -> tuple[VAE, Loss]:
    """The model and the loss of a recipe for images of one shape (C, H, W), from torch's global generator.

    Args:
        classes: the number of labels in the data, 0 where they have none.
        train_size: the number of training images, 0 where it is not known.

    Raises:
        ComponentError: a component refused, or posterior and prior are densities with respect to different measures
            (see `zoo.base_measure`); the message names them.
        UsageError: it would not fit into the memory of this machine.
    """
    given: dict[str, Any] = {
        "data_shape": data_shape,
        "latent_dim": recipe.latent_dim,
        "classes": classes,
        "train_size": train_size,
    }
    with exclusive(), bounded():
        encoder = construct("encoder", recipe.encoder, given)
        q = _posterior(recipe.encoder.use, encoder, data_shape, classes)
        given["latent_shape"] = tuple(q.event_shape)
        decoder = construct("decoder", recipe.decoder, given)
        prior = _prior_of(q, recipe, recipe.prior, encoder, given)
        loss = construct("loss", recipe.loss, given)
    vae = VAE(encoder, decoder, prior)
    vae.data_shape = data_shape
    return vae, loss


@torch.inference_mode(False)
def build_prior(
    block: ComponentSpec, recipe: Recipe, encoder: Encoder, data_shape: tuple[int, int, int], classes: int = 0
) -> Prior:
    """Another prior for a recipe's model, whose encoder is there already.

    Raises:
        UnknownName, NameConflict, RecipeError, ComponentError: see `construct` and `build`.
    """
    q = _posterior(recipe.encoder.use, encoder, data_shape, classes)
    given = {
        "data_shape": data_shape,
        "latent_dim": recipe.latent_dim,
        "classes": classes,
        "latent_shape": tuple(q.event_shape),
    }
    return _prior_of(q, recipe, block, encoder, given)


def _prior_of(
    q: Distribution, recipe: Recipe, block: ComponentSpec, encoder: Encoder, given: Mapping[str, Any]
) -> Prior:
    """The prior of a block, which goes with the posterior `q` of a recipe's encoder."""
    with exclusive():
        prior: Prior = construct("prior", block, {**given, "model_encoder": encoder})
    try:
        with torch.no_grad(), evaluating(encoder, prior):
            p = prior(encoder)
    except ZooError:
        raise
    except Exception as error:
        raise ComponentError(f"prior {block.use!r} fails: {type(error).__name__}: {error}") from error
    if not isinstance(p, Distribution):
        raise ComponentError(
            f"prior {block.use!r} must return a torch.distributions.Distribution, not a {type(p).__name__}"
        )
    require_same_measure(q, p, f"encoder {recipe.encoder.use!r}", f"prior {block.use!r}")
    return prior


def _posterior(name: str, encoder: torch.nn.Module, data_shape: tuple[int, int, int], classes: int) -> Distribution:
    """The posterior of an image, asked of the encoder itself, in evaluation mode."""
    condition = torch.zeros(1, dtype=torch.int64) if classes else None
    try:
        with torch.no_grad(), evaluating(encoder):
            q = encoder(torch.zeros(1, *data_shape), condition)
    except ZooError:
        raise
    except Exception as error:
        raise ComponentError(
            f"encoder {name!r} fails on an image of shape {data_shape}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(q, Distribution):
        raise ComponentError(
            f"encoder {name!r} must return a torch.distributions.Distribution over z, not a {type(q).__name__}"
        )
    return q

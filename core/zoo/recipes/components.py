"""Components: the check of their arguments, and their construction."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zoo.errors import ComponentError, Problem, RecipeError, ZooError, error_summary
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
        self.ambient: dict[str, Any] = {}

    @classmethod
    def of(cls, kind: str, spec: ComponentSpec) -> ComponentFactory:
        """The factory of a spec."""
        factory = cls(kind, spec.use)
        factory.spec = spec
        return factory

    def __call__(self, **context: Any) -> Any:
        """Construct the component. `context` has the values of injected parameters; others are ignored.

        A component that is built inside a model also receives the columns of its data.
        """
        return construct(self.kind, self.spec, {**self.ambient, **context})

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
    arguments = copy.deepcopy(arguments)
    for argument in arguments.values():
        if isinstance(argument, ComponentFactory) and "columns" in context:
            argument.ambient = {"columns": context["columns"]}
    try:
        with plugin_code():
            component = target(**injected, **arguments)
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

"""The parameters of a component's constructor: a pydantic model for recipes, and a description for ``zoo show``."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import UnionType
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, create_model

from zoo.errors import ComponentError
from zoo.model.loss import Loss
from zoo.model.parts import Decoder, Encoder, Likelihood, Posterior, Prior
from zoo.plugins.hookspecs import INJECTED, KINDS
from zoo.plugins.isolation import describe as describe_error
from zoo.plugins.isolation import plugin_code
from zoo.plugins.registry import registry
from zoo.recipes.optimizers import find_optim

INTERFACES: dict[str, type] = {
    "encoder": Encoder,
    "posterior": Posterior,
    "decoder": Decoder,
    "likelihood": Likelihood,
    "prior": Prior,
    "loss": Loss,
}


HoldOut = NonNegativeInt | Annotated[float, Field(gt=0, lt=1)]
"""The size of a validation split: a number of training examples, or a fraction of them. With 0 there is none."""

COMMON: dict[str, dict[str, tuple[Any, Any]]] = {"dataset": {"validation": (HoldOut, 0)}}
"""Parameters that every component of a kind has, since the zoo handles them: annotation and default."""


@dataclass(frozen=True)
class Signature:
    """The parameters of a constructor.

    Attributes:
        injected: names of the parameters that the zoo sets.
        nested: names of the parameters that are components, with their kinds.
        defaults: default values of nested parameters that have one.
        parameters: a pydantic model of all other parameters.
        common: names of parameters that the zoo handles and the constructor does not have: ``validation`` of a data
            set.
    """

    injected: frozenset[str]
    nested: dict[str, str]
    defaults: dict[str, Any]
    parameters: type[BaseModel]
    common: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Parameter:
    """One parameter of a constructor.

    Attributes:
        name: its name in a recipe.
        type: its annotation.
        default: the `repr` of its default, or None if it is required.
        injected: whether the zoo sets it, so that a recipe cannot.
        nested: its kind if it is a component.
    """

    name: str
    type: str
    default: str | None
    injected: bool
    nested: str | None


@dataclass(frozen=True)
class Description:
    """What ``zoo show KIND/NAME`` prints about a component.

    Attributes:
        kind, name: kind and name of the component.
        source: the distribution and version of its plugin.
        summary: its line in ``zoo list``.
        target: its import path, ``module:attribute``.
        documentation: its docstring.
        parameters: the parameters of its constructor.
    """

    kind: str
    name: str
    source: str
    summary: str
    target: str
    documentation: str
    parameters: tuple[Parameter, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain mappings and lists."""
        return asdict(self)


def find(kind: str, name: str) -> Callable[..., Any]:
    """The class or function of a component, or torch's class of an optimizer or scheduler.

    Raises:
        UnknownName, NameConflict: there is no such component, or several distributions provide it.
        ComponentError: it cannot be imported.
    """
    target: Callable[..., Any] = registry().get(kind, name) if kind in KINDS else find_optim(kind, name)
    return target


def read_signature(kind: str, name: str) -> Signature:
    """Read the parameters of a component's constructor.

    A parameter annotated ``Callable[..., Posterior]`` (or another part of a model) is a nested component. Recipes
    cannot set parameters that start with an underscore. Numbers must be finite.

    Raises:
        UnknownName, NameConflict, ComponentError: see `find`.
        ComponentError: its annotations cannot be evaluated.
    """
    target = find(kind, name)
    try:
        with plugin_code():
            return _read(kind, target)
    except Exception as error:
        name = getattr(target, "__qualname__", type(target).__name__)
        raise ComponentError(f"The parameters of {kind} {name} cannot be read: {describe_error(error)}") from error


def describe(kind: str, name: str) -> Description:
    """Describe a component.

    >>> [(parameter.name, parameter.default) for parameter in describe("loss", "elbo").parameters]
    [('beta', '1.0'), ('warmup_epochs', '0.0')]

    Raises:
        UnknownName, NameConflict, ComponentError: see `read_signature`.
    """
    claim = registry().names(kind).find(name)
    signature, target = read_signature(kind, name), find(kind, name)
    readable = {*signature.injected, *signature.nested, *signature.parameters.model_fields}
    parameters = [
        Parameter(
            name=parameter.name,
            type=_format(parameter.annotation),
            default=None if parameter.default is parameter.empty else repr(parameter.default),
            injected=parameter.name in signature.injected,
            nested=signature.nested.get(parameter.name),
        )
        for parameter in inspect.signature(target).parameters.values()
        if parameter.name in readable
    ]
    parameters += [
        Parameter(name, _format(COMMON[kind][name][0]), repr(COMMON[kind][name][1]), injected=False, nested=None)
        for name in signature.common
    ]
    documentation = inspect.cleandoc(target.__doc__ or "")
    item = claim.item
    return Description(kind, name, str(claim.plugin), item.summary, item.target, documentation, tuple(parameters))


@functools.cache
def _read(kind: str, target: Callable[..., Any]) -> Signature:
    function = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    # torch imports some of the names in its annotations only while type checking.
    hints = typing.get_type_hints(function, localns=vars(collections.abc), include_extras=True)
    injected, nested, defaults, fields = set(), {}, {}, {}
    for name, parameter in inspect.signature(target).parameters.items():
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if variadic or name.startswith("_"):
            continue
        required = parameter.default is parameter.empty
        annotation = hints.get(name, Any)
        if name in INJECTED[kind]:
            injected.add(name)
        elif (inner := _nested_kind(annotation)) is not None:
            nested[name] = inner
            if not required:
                defaults[name] = parameter.default
        else:
            fields[name] = (_recipe_type(annotation), ... if required else parameter.default)
    common = COMMON.get(kind, {}).keys() - {*injected, *fields}
    fields |= {name: COMMON[kind][name] for name in common}
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=(), allow_inf_nan=False)
    model: type[BaseModel] = create_model(f"{kind} parameters", __config__=config, **fields)  # type: ignore[call-overload]
    return Signature(frozenset(injected), nested, defaults, model, frozenset(common))


def _nested_kind(annotation: Any) -> str | None:
    if typing.get_origin(annotation) is not collections.abc.Callable:
        return None
    result = typing.get_args(annotation)[-1]
    return next((kind for kind, interface in INTERFACES.items() if result is interface), None)


def _recipe_type(annotation: Any) -> Any:
    """An annotation without the types that recipes cannot contain.

    `torch.optim` accepts ``float | Tensor``, but recipes contain no tensors. Pydantic validates an ``Iterable`` only
    when it is iterated over; in a recipe it is a list.
    """
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, UnionType):
        members = tuple(_recipe_type(member) for member in inner if member is not torch.Tensor)
        return typing.Union[members]  # noqa: UP007
    if collections.abc.Iterable in (origin, annotation):
        return list[_recipe_type(inner[0])] if inner else list  # type: ignore[misc]
    return annotation


def _format(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)

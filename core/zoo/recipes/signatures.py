"""Constructor signatures as pydantic models: what a component's block in a recipe may hold."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from types import UnionType
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, create_model

from zoo.errors import ComponentError
from zoo.model.loss import Loss
from zoo.model.parts import Decoder, Encoder, Likelihood, Posterior, Prior
from zoo.plugins.hookspecs import INJECTED
from zoo.plugins.manager import describe, plugin_code

INTERFACES: dict[str, type] = {
    "encoder": Encoder,
    "posterior": Posterior,
    "decoder": Decoder,
    "likelihood": Likelihood,
    "prior": Prior,
    "loss": Loss,
}


@dataclass(frozen=True)
class Signature:
    """What a constructor takes.

    Attributes:
        injected: the parameters that the zoo passes.
        nested: the parameters that are components themselves, and their kinds.
        defaults: the blocks of those nested ones that have a default.
        parameters: a pydantic model of the rest.
    """

    injected: frozenset[str]
    nested: dict[str, str]
    defaults: dict[str, Any]
    parameters: type[BaseModel]


def signature_of(kind: str, target: Callable[..., Any]) -> Signature:
    """Read the signature of a component.

    A parameter annotated ``Callable[..., Posterior]`` (or another part of a model) is a nested component. Names that
    start with an underscore stay out of recipes. Numbers must be finite.
    """
    try:
        with plugin_code():
            return _signature_of(kind, target)
    except Exception as error:
        name = getattr(target, "__qualname__", type(target).__name__)
        raise ComponentError(f"The parameters of {kind} {name} cannot be read: {describe(error)}") from error


@functools.cache
def _signature_of(kind: str, target: Callable[..., Any]) -> Signature:
    function = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    # torch imports some of the names in its annotations for type checkers alone.
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
            fields[name] = (_without_tensor(annotation), ... if required else parameter.default)
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=(), allow_inf_nan=False)
    model: type[BaseModel] = create_model(f"{kind} parameters", __config__=config, **fields)  # type: ignore[call-overload]
    return Signature(frozenset(injected), nested, defaults, model)


def _nested_kind(annotation: Any) -> str | None:
    if typing.get_origin(annotation) is not collections.abc.Callable:
        return None
    result = typing.get_args(annotation)[-1]
    return next((kind for kind, interface in INTERFACES.items() if result is interface), None)


def _without_tensor(annotation: Any) -> Any:
    """`torch.optim` writes ``float | Tensor``; a recipe holds no tensors."""
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        kept = tuple(a for a in typing.get_args(annotation) if a is not torch.Tensor)
        return typing.Union[kept]  # noqa: UP007
    return annotation

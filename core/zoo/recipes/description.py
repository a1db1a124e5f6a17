"""What a component says of itself, read from its source without running it: ``zoo show`` imports no torch."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo.errors import ComponentError, ZooError
from zoo.plugins.hookspecs import INJECTED, KINDS
from zoo.plugins.manager import describe as describe_error
from zoo.plugins.manager import plugin_code
from zoo.plugins.registry import registry


@dataclass(frozen=True)
class Parameter:
    """One argument of a constructor, as it is written there.

    Attributes:
        name: what a recipe calls it.
        type: its annotation.
        default: its default; None where it is required.
        given: whether the zoo passes it, so that a recipe cannot set it.
        nested: the kind of component that it is, if it is one.
    """

    name: str
    type: str
    default: str | None
    given: bool
    nested: str | None


@dataclass(frozen=True)
class Description:
    """What ``zoo show KIND/NAME`` shows.

    Attributes:
        kind, name: of the component.
        source: the plugin's distribution and version.
        summary: its line in ``zoo list``.
        target: ``module:attribute``.
        documentation: its docstring.
        parameters: what its constructor takes.
    """

    kind: str
    name: str
    source: str
    summary: str
    target: str
    documentation: str
    parameters: tuple[Parameter, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain mappings and lists."""
        return asdict(self)


def describe(kind: str, name: str) -> Description:
    """Describe a component.

    >>> [(parameter.name, parameter.default) for parameter in describe("loss", "elbo").parameters]
    [('beta', '1.0'), ('warmup_epochs', '0.0')]

    Raises:
        UnknownName, NameConflict: there is no such component, or two distributions claim the name.
        ComponentError: its source cannot be read.
    """
    claim = registry().names(kind).find(name)
    module, _, attribute = claim.item.target.partition(":")
    node = _find(module, attribute)
    if node is None:
        raise ComponentError(f"{kind} {name!r} of {claim.plugin}: there is no {attribute!r} in the source of {module}.")
    return Description(
        kind=kind,
        name=name,
        source=str(claim.plugin),
        summary=claim.item.summary,
        target=claim.item.target,
        documentation=ast.get_docstring(node) or "",
        parameters=tuple(_parameters(kind, module, node)),
    )


@functools.cache
def _source(module: str) -> ast.Module:
    """The syntax tree of a module; only the packages above it are imported, and those of plugins are light."""
    try:
        with plugin_code():
            spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ComponentError(f"There is no source of {module}.")
        return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    except ZooError:
        raise
    except Exception as error:
        raise ComponentError(f"The source of {module} cannot be read: {describe_error(error)}") from error


def _find(module: str, name: str) -> ast.ClassDef | ast.FunctionDef | None:
    """The class or function that a module calls `name`, wherever that is defined."""
    tree = _source(module)
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            for alias in node.names:
                if (alias.asname or alias.name) == name and node.module.split(".")[0] == module.split(".")[0]:
                    return _find(node.module, alias.name)
    return None


def _parameters(kind: str, module: str, node: ast.ClassDef | ast.FunctionDef) -> Iterator[Parameter]:
    """The arguments of a function, or of a class's constructor, its own or the first that it inherits."""
    function = _constructor(module, node) if isinstance(node, ast.ClassDef) else node
    if function is None:
        return
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [*zip(positional, defaults, strict=True), *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    for argument, default in pairs:
        if argument.arg != "self" and not argument.arg.startswith("_"):
            annotation = "" if argument.annotation is None else ast.unparse(argument.annotation)
            yield Parameter(
                name=argument.arg,
                type=annotation,
                default=None if default is None else ast.unparse(default),
                given=argument.arg in INJECTED[kind],
                nested=_nested(annotation),
            )


def _nested(annotation: str) -> str | None:
    """
    >>> _nested("Callable[..., Posterior]"), _nested("Callable[..., zoo.Likelihood]"), _nested("int")
    ('posterior', 'likelihood', None)
    """
    match = re.fullmatch(r"Callable\[\.\.\., (?:zoo\.)?(\w+)\]", annotation)
    return match[1].lower() if match and match[1].lower() in KINDS else None


def _constructor(module: str, node: ast.ClassDef) -> ast.FunctionDef | None:
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return statement
    for base in node.bases:
        parent = _find(module, base.id) if isinstance(base, ast.Name) else None
        if isinstance(parent, ast.ClassDef):
            return _constructor(module, parent)
    return None

"""Recipe files: YAML 1.2 without tags, of limited size, depth and aliases."""

from __future__ import annotations

import re
from collections.abc import Hashable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from zoo.errors import Problem, RecipeError, did_you_mean
from zoo.storage.locate import NAME, NAME_RULE

Raw = dict[str, Any]

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_VALUES = 100_000
MAX_DIRECTIVES = 100
"""Limits of one file or override. An alias counts as the values that it refers to."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader with the scalars of the YAML 1.2 core schema: ``yes``, ``1:30`` and ``2026-01-31`` are
    strings, ``1e-3`` is a number."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise _error("a key of a mapping must be a string; put it in quotes", key_node)
            if key in seen:
                raise _error(f"duplicate key {key!r}", key_node)
            seen.add(key)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        text = node.value
        if re.match(r"[-+]?0[0-9]", text):
            sign, digits = ("-" if text[0] == "-" else ""), text.lstrip("+-").lstrip("0") or "0"
            raise _error(f"the number {text} starts with 0: write {sign}{digits}, or '{text}' for a string", node)
        if node.tag.endswith("float"):
            number: float = self.construct_yaml_float(node)
            return number
        try:
            return int(text, 0)
        except ValueError as error:
            raise _error("the number has too many digits", node) from error


_INTEGER = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", _INTEGER, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
)
for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), _first)
for _name in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _Loader.construct_number)


def _error(problem: str, node: Any) -> yaml.MarkedYAMLError:
    """The error at a node or an event."""
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def parse_yaml(text: str) -> Any:
    """Parse the value of an override, or a whole file.

    >>> parse_yaml("[512, 256]"), parse_yaml("1e-3"), parse_yaml("mse"), parse_yaml("1:30")
    ([512, 256], 0.001, 'mse', '1:30')

    Raises:
        yaml.YAMLError: it is not YAML, is too large or too deep, or has a tag, a number such as ``010`` or a key that
            is not a string.
    """
    try:
        _check_bounds(text)
        return yaml.load(text, _Loader)
    except UnicodeError as error:
        raise yaml.YAMLError(f"it is not valid Unicode: {error}") from error


def explain(error: yaml.YAMLError, text: str = "\n") -> str:
    """The message of an error in one line, with its position in a text of several lines."""
    place = r", line \2" if "\n" in text else ""
    return re.sub(r'(,? in "<[^"]*>", line (\d+, column \d+))', place, " ".join(str(error).split()))


def _check_bounds(text: str) -> None:
    """Refuse YAML that would be slow to compose or would crash the parser; only its events are read."""
    if len(text) > MAX_BYTES:
        raise yaml.YAMLError(f"it has more than {MAX_BYTES:,} characters")
    if len(re.findall("^%", text, re.MULTILINE)) > MAX_DIRECTIVES:  # each is compared with all before it
        raise yaml.YAMLError(f"it has more than {MAX_DIRECTIVES} directives (lines that begin with %)")
    sizes: dict[str, tuple[int, int]] = {}  # the number of values at each anchor, and their depth
    parents: list[tuple[str | None, int, int]] = []
    for event in yaml.parse(text, _Loader):
        if not isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
            continue
        if isinstance(event, yaml.CollectionStartEvent | yaml.ScalarEvent) and event.tag not in (None, "!"):
            raise _error(f"tags such as {event.tag!r} are not supported", event)
        anchor, values, depth = getattr(event, "anchor", None), 1, 0
        if isinstance(event, yaml.AliasEvent):
            if any(event.anchor == open_anchor for open_anchor, _, _ in parents):
                raise _error(f"the alias *{event.anchor} refers to a value that contains it", event)
            anchor, (values, depth) = None, sizes.get(event.anchor or "", (1, 0))
        elif isinstance(event, yaml.CollectionStartEvent):
            depth = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, values, depth = parents.pop()
        if len(parents) + depth > MAX_DEPTH:
            raise _error(f"nested more than {MAX_DEPTH} levels deep", event)
        if isinstance(event, yaml.CollectionStartEvent):
            parents.append((anchor, values, depth))
            continue
        if anchor is not None:
            sizes[anchor] = values, depth
        if parents:
            above, count, height = parents[-1]
            parents[-1] = above, count + values, max(height, depth + 1)
            if count + values > MAX_VALUES:
                raise _error(f"more than {MAX_VALUES:,} values, aliases included", event)


def read_text(file: Traversable) -> str:
    """Read the text of a YAML file.

    Raises:
        OSError, ValueError: it cannot be read, is not UTF-8, or is too large.
    """
    with file.open("rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    return content.decode("utf-8")


def read_models(file: Traversable) -> dict[str, Raw]:
    """Read the recipes of a file by name.

    Raises:
        RecipeError: the file cannot be read, is not YAML, or is not a mapping ``models:`` from names to recipes.
    """
    title = f"{file} is not a recipe file:"
    try:
        content = parse_yaml(read_text(file))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{file} cannot be read:", [Problem("", str(error))]) from error
    except yaml.YAMLError as error:
        raise RecipeError(title, [Problem("", explain(error))]) from error
    if not isinstance(content, dict) or not isinstance(content.get("models"), dict):
        raise RecipeError(title, [Problem("", "expected a mapping `models:` from names to recipes")])
    problems = [
        Problem(str(key), f"unknown key.{did_you_mean(str(key), ['models'])}") for key in content if key != "models"
    ]
    for name, recipe in content["models"].items():
        if not NAME.fullmatch(name):
            problems.append(Problem(f"models.{name}", NAME_RULE))
        elif not isinstance(recipe, dict):
            problems.append(Problem(f"models.{name}", f"expected a mapping, got {recipe!r}"))
    if problems:
        raise RecipeError(title, problems)
    models: dict[str, Raw] = content["models"]
    return models


class _Dumper(yaml.SafeDumper):
    """Quotes strings that YAML 1.1 or 1.2 would read as another type."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern, _first in _SCALARS:
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), _first)


def _float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    # repr(1e-05) has no dot, so YAML 1.1 would read it as a string.
    text = repr(value)
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    plain = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(text, text)
    return dumper.represent_scalar("tag:yaml.org,2002:float", plain)


_Dumper.add_representer(float, _float)


def write_models(models: dict[str, Raw]) -> str:
    """Format recipes as a file for `read_models`."""
    return write_yaml({"models": models})


def write_yaml(value: Any) -> str:
    """Format a value as YAML, the inverse of `parse_yaml`."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100)


def write_flow(value: Any) -> str:
    """Format a value as YAML in one line, for an override.

    >>> write_flow({"use": "gaussian", "scale": "shared"})
    '{use: gaussian, scale: shared}'
    """
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=1e6)
    return text.strip()


def builtin_registry() -> Traversable:
    """``registry.yaml``: in the package if it is installed from a wheel, or at the root of a checkout."""
    package = files("zoo")
    installed = package / "registry.yaml"
    return installed if installed.is_file() else Path(str(package)).parent.parent / "registry.yaml"

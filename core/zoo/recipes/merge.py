"""Merging of recipes, for inheritance and for overrides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from zoo.errors import Problem, RecipeError
from zoo.plugins.registry import registry
from zoo.recipes.source import MAX_DEPTH, Raw, explain, parse_yaml

EXPECTED = "expected KEY=VALUE, such as latent_dim=2 or encoder.hidden=[512,256]"


def merge(base: Raw, change: Raw) -> Raw:
    """Merge `change` into a copy of `base`.

    Mappings merge key by key, other values are replaced. A component ``{use: conv}`` may be written ``conv``. Changing
    the component drops the parameters of the old one. Changing a parameter of ``data`` applies to every data set of a
    list.

    >>> merge({"encoder": {"use": "mlp", "hidden": [400]}}, {"encoder": {"hidden": [9]}})
    {'encoder': {'use': 'mlp', 'hidden': [9]}}
    >>> merge({"encoder": {"use": "mlp", "hidden": [400]}}, {"encoder": "conv"})
    {'encoder': 'conv'}
    >>> merge({"loss": "elbo"}, {"loss": {"beta": 4.0}})
    {'loss': {'use': 'elbo', 'beta': 4.0}}
    >>> merge({"data": ["mnist", {"use": "digits", "repeat": 40}]}, {"data": {"validation": 0.1}})["data"]
    [{'use': 'mnist', 'validation': 0.1}, {'use': 'digits', 'repeat': 40, 'validation': 0.1}]
    """
    merged = dict(base)
    for key, value in change.items():
        merged[key] = _merge_value(key, merged[key], value) if key in merged else value
    return merged


def _merge_value(key: str, old: Any, new: Any) -> Any:
    if key == "data" and isinstance(old, list) and isinstance(new, dict) and "use" not in new:
        return [_merge_value(key, choice, new) for choice in old]
    if isinstance(old, str) and isinstance(new, dict):
        old = {"use": old}
    if isinstance(new, str) and isinstance(old, dict):
        new = {"use": new} if _same(old.get("use"), new) else new
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    if "use" in old and not _same(old["use"], new.get("use", old["use"])):
        return new
    return merge(old, new)


def _same(old: Any, new: Any) -> bool:
    """Whether two names refer to the same component or class of torch, whose names ignore case.

    ``acme:wide`` is ``wide``, unless another distribution has a ``wide`` too.
    """
    if not isinstance(old, str) or not isinstance(new, str):
        return bool(old == new)
    return old.casefold() == new.casefold() or registry().same(old, new)


def nested(key: str, value: Any) -> Raw:
    """The change of one dotted key, whose first part may be qualified, as in ``acme:score.limit``.

    >>> nested("train.optimizer.lr", 0.01)
    {'train': {'optimizer': {'lr': 0.01}}}

    Raises:
        RecipeError: `key` is not a dotted key, or indexes a list.
    """
    distribution, colon, rest = key.rpartition(":")
    parts = rest.split(".")
    problem = None
    if any(re.search(r"[\[\]]|^[-+]?\d+$", part) for part in parts):
        problem = "an entry of a list cannot be set by its index; set the whole list, as in encoder.hidden=[512,256]"
    elif not all(re.fullmatch(r"[^\s{}=,]+", part) for part in parts):
        problem = EXPECTED
    elif len(parts) > MAX_DEPTH:
        problem = f"the key has more than {MAX_DEPTH} parts"
    if problem:
        raise RecipeError("Invalid key:", [Problem(key, problem)])
    parts[0] = distribution + colon + parts[0]
    for part in reversed(parts):
        value = {part: value}
    change: Raw = value
    return change


def parse_overrides(overrides: Sequence[str] | Mapping[str, Any]) -> Raw:
    """Merge overrides into one change of a recipe.

    Args:
        overrides: ``KEY=VALUE`` strings, or a mapping from dotted keys to values.

    >>> parse_overrides(["latent_dim=2", "encoder.hidden=[512,256]", "loss=mse"])
    {'latent_dim': 2, 'encoder': {'hidden': [512, 256]}, 'loss': 'mse'}

    >>> parse_overrides({"latent_dim": 2, "train.seed": 1})
    {'latent_dim': 2, 'train': {'seed': 1}}

    Raises:
        RecipeError: an override is not ``KEY=VALUE``, or its value is not YAML.
    """
    change: Raw = {}
    problems: list[Problem] = []
    if isinstance(overrides, Mapping):
        for dotted, value in overrides.items():
            change = merge(change, nested(dotted, value))
        return change
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not text.strip():
            problems.append(Problem(override, EXPECTED))
            continue
        try:
            change = merge(change, nested(key.strip(), parse_yaml(text)))
        except yaml.YAMLError as error:
            problems.append(Problem(override, f"the value is not valid YAML: {explain(error, text)}"))
        except RecipeError as error:
            problems += [Problem(override, problem.message) for problem in error.problems]
    if problems:
        raise RecipeError("Invalid overrides:", problems)
    return change

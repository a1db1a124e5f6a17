"""Qualification of contested names in a plugin's recipes: they refer to the plugin's own distribution.

So no other package can change the meaning of a recipe. A name that only one distribution uses stays as it is written.
"""

from __future__ import annotations

from typing import Any

from zoo.errors import ZooError
from zoo.plugins.registry import registry
from zoo.recipes.source import Raw

KINDS = {"encoder": "encoder", "decoder": "decoder", "prior": "prior", "loss": "loss", "data": "dataset"}
"""Keys of a recipe that hold components, and the kinds of these."""


def qualify(recipe: Raw, base: Raw, distribution: str) -> Raw:
    """Qualify the contested names in a recipe that its own distribution provides.

    Args:
        recipe: as written, without ``extends``.
        base: the recipe that it extends; a mapping without ``use`` changes parameters of the inherited component.
        distribution: the distribution of the recipe.
    """
    if not registry().conflicts():
        return dict(recipe)
    qualified = dict(recipe)
    for key in KINDS.keys() & recipe.keys():
        kind, value = KINDS[key], recipe[key]
        if isinstance(value, list):
            qualified[key] = [qualify_component(kind, choice, None, distribution) for choice in value]
        else:
            qualified[key] = qualify_component(kind, value, base.get(key), distribution)
    return qualified


def qualify_component(kind: str, component: Any, base: Any, distribution: str) -> Any:
    """Qualify the names of one component and of those nested in it; see `qualify`."""
    if isinstance(component, str):
        return registry().names(kind).qualify(component, distribution)
    if not isinstance(component, dict):
        return component
    inherited = base if isinstance(base, dict) else {"use": base}
    qualified = dict(component)
    if "use" in component:
        qualified["use"] = qualify_component(kind, component["use"], None, distribution)
    nested = _nested_kinds(kind, qualified.get("use", inherited.get("use")))
    for name in nested.keys() & component.keys():
        qualified[name] = qualify_component(nested[name], component[name], inherited.get(name), distribution)
    return qualified


def _nested_kinds(kind: str, use: Any) -> dict[str, str]:
    """The parameters of a component that are components themselves, and their kinds."""
    from zoo.recipes.signatures import read_signature  # imports torch, and is needed for contested names only

    try:
        return read_signature(kind, use).nested if isinstance(use, str) else {}
    except ZooError:  # reported where the component is used
        return {}

"""Contested names of components in a plugin's recipes refer to the plugin's own distribution.

So no other package can change the meaning of a recipe. A name that only one distribution has stays as it is written.
"""

from __future__ import annotations

from typing import Any

from zoo.errors import ZooError
from zoo.plugins.registry import registry
from zoo.recipes.source import Raw


def at_home(recipe: Raw, base: Raw, distribution: str) -> Raw:
    """Qualify the contested names in a recipe of `distribution` that are its own.

    Args:
        base: the recipe that it extends; a mapping without ``use`` changes parameters of the inherited component.
    """
    if not registry().conflicts():
        return dict(recipe)
    kinds = {"encoder": "encoder", "decoder": "decoder", "prior": "prior", "loss": "loss", "data": "dataset"}
    return {
        key: value if key not in kinds else _all_at_home(kinds[key], value, base.get(key), distribution)
        for key, value in recipe.items()
    }


def _all_at_home(kind: str, value: Any, base: Any, distribution: str) -> Any:
    if isinstance(value, list):
        return [block_at_home(kind, one, None, distribution) for one in value]
    return block_at_home(kind, value, base, distribution)


def block_at_home(kind: str, block: Any, base: Any, distribution: str) -> Any:
    """Qualify the names of one component and of those nested in it; see `at_home`."""
    if isinstance(block, str):
        return registry().names(kind).at_home(block, distribution)
    if not isinstance(block, dict):
        return block
    inherited = base if isinstance(base, dict) else {"use": base}
    use = block_at_home(kind, block["use"], None, distribution) if "use" in block else inherited.get("use")
    nested = _nested(kind, use)
    return {
        key: use
        if key == "use"
        else block_at_home(nested[key], value, inherited.get(key), distribution)
        if key in nested
        else value
        for key, value in block.items()
    }


def _nested(kind: str, use: Any) -> dict[str, str]:
    """The parameters of a component that are components themselves, and their kinds."""
    from zoo.recipes.signatures import read_signature  # imports torch; without contested names never called

    try:
        return read_signature(kind, use).nested if isinstance(use, str) else {}
    except ZooError:  # reported where the component is used
        return {}

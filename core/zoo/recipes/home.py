"""What the author of a recipe means by the name of a component that several distributions have: their own.

Within a package an unqualified name stands for the package's own component, so that no other package can change what
its recipes mean. A name that only one distribution has stays as it is written.
"""

from __future__ import annotations

from typing import Any

from zoo.errors import ZooError
from zoo.plugins.registry import registry
from zoo.recipes.source import Raw


def at_home(recipe: Raw, base: Raw, distribution: str) -> Raw:
    """A recipe of `distribution`, its contested names qualified where they are its own.

    Args:
        base: what it inherits: a block that names no component changes parameters of the one that is there.
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
    """The same for one component and those nested in it."""
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
    from zoo.recipes.signatures import read_signature  # imports torch, which most recipes need not for this

    try:
        return read_signature(kind, use).nested if isinstance(use, str) else {}
    except ZooError:  # reported where the component is used
        return {}

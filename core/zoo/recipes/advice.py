"""What to change where the pixels of a data set lie outside the support of a recipe's likelihood."""

from __future__ import annotations

from torch import Tensor

from zoo.errors import ZooError
from zoo.plugins.registry import registry
from zoo.recipes.components import components_of
from zoo.recipes.schema import Recipe
from zoo.recipes.source import write_flow

LOOKED_AT = 1000
"""Split."""
BLACK_AND_WHITE = 0.15
"""The mean distance of pixels to the nearer of 0 and 1 below which images count as black and white. Handwritten digits
have 0.03 to 0.11, photographs 0.25 and more."""


def likelihood_advice(recipe: Recipe, pixels: Tensor) -> str:
    """A sentence on how these pixels get a likelihood: by drawing black and white ones, if nearly all are; otherwise by
    one of the likelihoods that are registered as suitable for photographs (see `zoo.Likelihood.photographs`).

    Args:
        pixels: uint8 (N, C, H, W).
    """
    x = pixels[:LOOKED_AT].float() / 255
    if x.shape[1] == 1 and x.minimum(1 - x).mean() < BLACK_AND_WHITE:
        return "binarize=dynamic draws pixels that lie in it."
    keys = [key for key, kind, _ in components_of(recipe) if kind == "likelihood"]
    suitable = _suitable()
    if not keys or not suitable:
        return "Choose a decoder with a likelihood for real values."
    return f"For photographs, write {' or '.join(f'{keys[0]}={likelihood}' for likelihood in suitable)}."


def _suitable() -> list[str]:
    """The likelihoods for photographs, as the value of an override."""
    names = registry().names("likelihood")
    suitable = []
    for name in names.matching():
        try:
            parameters = getattr(registry().get("likelihood", name), "photographs", None)
        except ZooError:  # a broken plugin has nothing to recommend
            continue
        if parameters is not None:
            value = write_flow({"use": name, **parameters}) if parameters else name
            suitable.append(f'"{value}"' if parameters else value)
    return suitable

"""Advice for data outside the support of a recipe's likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.plugins.registry import registry
from zoo.recipes.components import components_of
from zoo.recipes.schema import Recipe
from zoo.recipes.signatures import INTERFACES
from zoo.recipes.source import write_flow

SAMPLE = 1000
"""Number of examples to inspect."""
BLACK_AND_WHITE = 0.15
"""Images count as black and white if the mean distance of their pixels to the nearer of 0 and 1 is below this value. It
is 0.03 to 0.11 for handwritten digits, and 0.25 or more for photographs."""


def likelihood_advice(recipe: Recipe, pixels: Tensor) -> str:
    """Suggest dynamic binarization for images that are nearly black and white, otherwise a likelihood for photographs
    (see `zoo.Likelihood.photographs`).

    Args:
        recipe: the recipe.
        pixels: `Split.x`.
    """
    x = pixels[:SAMPLE].float() / 255
    if pixels.dtype == torch.uint8 and x.shape[1] == 1 and x.minimum(1 - x).mean() < BLACK_AND_WHITE:
        return "binarize=dynamic draws binary pixels."
    for key, kind, _ in components_of(recipe):
        if suitable := _for_photographs(kind):
            return f"For photographs, use {' or '.join(f'{key}={likelihood}' for likelihood in suitable)}."
    return "Choose a decoder with a likelihood for real values."


def _for_photographs(kind: str) -> list[str]:
    """The components of a kind that declare `photographs`, as values of an override."""
    suitable: list[str] = []
    if not hasattr(INTERFACES[kind], "photographs"):
        return suitable
    for name in registry().names(kind).matching():
        try:
            parameters = getattr(registry().get(kind, name), "photographs", None)
        except ZooError:  # a broken plugin
            continue
        if parameters is not None:
            value = write_flow({"use": name, **parameters}) if parameters else name
            suitable.append(f'"{value}"' if parameters else value)
    return suitable

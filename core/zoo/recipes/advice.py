"""Advice for data outside the support of a recipe's likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.plugins.registry import registry
from zoo.recipes.components import components_of
from zoo.recipes.schema import Recipe
from zoo.recipes.source import write_flow

SAMPLE = 1000
"""Number of images that are examined."""
BLACK_AND_WHITE = 0.15
"""Images count as black and white below this mean distance of pixels to the nearer of 0 and 1. Handwritten digits have
0.03 to 0.11, photographs 0.25 and more."""


def likelihood_advice(recipe: Recipe, pixels: Tensor) -> str:
    """Suggest dynamic binarization for images that are nearly black and white, otherwise a likelihood for photographs
    (see `zoo.Likelihood.photographs`).

    Args:
        pixels: `Split.x`.
    """
    x = pixels[:SAMPLE].float() / 255
    if pixels.dtype == torch.uint8 and x.shape[1] == 1 and x.minimum(1 - x).mean() < BLACK_AND_WHITE:
        return "binarize=dynamic draws pixels that lie in it."
    keys = [key for key, kind, _ in components_of(recipe) if kind == "likelihood"]
    suitable = _suitable()
    if not keys or not suitable:
        return "Choose a decoder with a likelihood for real values."
    return f"For photographs, write {' or '.join(f'{keys[0]}={likelihood}' for likelihood in suitable)}."


def _suitable() -> list[str]:
    """Likelihoods for photographs, as values of an override."""
    names = registry().names("likelihood")
    suitable = []
    for name in names.matching():
        try:
            parameters = getattr(registry().get("likelihood", name), "photographs", None)
        except ZooError:  # a broken plugin
            continue
        if parameters is not None:
            value = write_flow({"use": name, **parameters}) if parameters else name
            suitable.append(f'"{value}"' if parameters else value)
    return suitable

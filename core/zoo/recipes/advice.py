"""Advice for data that do not suit a recipe: outside the support of its likelihood, or far from unit scale."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.data.dataset import Split
from zoo.errors import ZooError
from zoo.model.likelihood import observed_entries
from zoo.plugins.registry import registry
from zoo.recipes.components import components_of
from zoo.recipes.schema import Recipe
from zoo.recipes.signatures import INTERFACES
from zoo.recipes.source import write_flow

SAMPLE = 1000
"""Number of examples to inspect."""
SMALLEST_SCALE, LARGEST_SCALE = 0.05, 10.0
"""Standard deviations for which data are on a usual scale."""
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


def scale_advice(split: Split) -> str | None:
    """Advise to standardize numbers that are far from unit scale, from which networks and noise scales start.

    Counts and numbers in [0, 1] need no scaling.

    Args:
        split: the training split.

    >>> scale_advice(Split(20 + 50 * torch.tensor([[0.5, -0.3], [0.1, -0.9]]))).partition(",")[0]
    'The training data have mean 12.5 and standard deviation 25.9'
    """
    x = split.x[:SAMPLE]
    if x.dtype != torch.float32:
        return None
    values = x[observed_entries(x, None if split.mask is None else split.mask[:SAMPLE])].double()
    if not len(values) or bool((values == values.round()).all()) or (values.min() >= 0 and values.max() <= 1):
        return None
    mean, deviation = values.mean().item(), values.std(correction=0).item()
    if SMALLEST_SCALE < deviation < LARGEST_SCALE and abs(mean) < LARGEST_SCALE:
        return None
    return (
        f"The training data have mean {mean:.3g} and standard deviation {deviation:.3g}, and models of numbers start "
        "from about 0 and 1. Standardize each channel, (x - mean) / std, and undo it in samples."
    )


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

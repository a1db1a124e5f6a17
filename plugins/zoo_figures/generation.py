"""Images decoded from samples of the prior, or from latent points."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo import VAE, evaluating, seeded
from zoo_canvas import blank, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@torch.no_grad()
def samples(
    vae: VAE,
    n: int,
    title: str = "Means of p(x | z) at samples from the prior",
    seed: int = 0,
    condition: Tensor | None = None,
) -> Figure:
    """Draw means of p(x | z) at samples from the prior, in a square grid (see `VAE.sample`).

    Args:
        vae: the model.
        n: number of samples.
        title: of the figure.
        seed: of the samples.
        condition: labels (N,), for conditional models, with `n` samples for each.
    """
    device = next(vae.parameters()).device
    with evaluating(vae), seeded(seed, device):
        images = vae.sample(n, condition, mean=True)
    images = images.flatten(0, -4) if images.ndim > 4 else images
    columns = math.ceil(math.sqrt(len(images)))
    side = 0.6 * columns
    figure = blank(max(side, 3.0), max(side * math.ceil(len(images) / columns) / columns, 1.0) + 0.45)
    show(figure.add_subplot(), images, columns)
    figure.suptitle(title)
    return figure


@torch.no_grad()
def decoded(vae: VAE, z: Tensor, title: str = "Decoded latent points", condition: Tensor | None = None) -> Figure:
    """Draw the mean of p(x | z) at each of several points, with its coordinates.

    Args:
        vae: the model.
        z: latent points (N, *latent_shape).
        title: of the figure.
        condition: labels (N,), or (1,) for all points, for conditional models.
    """
    with evaluating(vae):
        images = vae.decode(z, condition).mean
    columns = min(8, len(z))
    rows = math.ceil(len(z) / columns)
    figure = blank(max(1.35 * columns, 3.0), 1.65 * rows + 0.45)
    for position, (image, point) in enumerate(zip(images, z.flatten(1).tolist(), strict=True)):
        axes = figure.add_subplot(rows, columns, position + 1)
        show(axes, image.unsqueeze(0), 1)
        axes.set_title(_coordinates(point), fontsize=9)
    figure.suptitle(title)
    return figure


def _coordinates(point: list[float]) -> str:
    coordinates = [f"{value:g}" for value in point[:4]]
    return f"[{', '.join(coordinates)}{', ...' if len(point) > 4 else ''}]"

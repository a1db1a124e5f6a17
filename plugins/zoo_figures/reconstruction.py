"""Images above their reconstructions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo import VAE, evaluating, seeded
from zoo_canvas import COLUMNS, blank, centres, gap_of, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@torch.no_grad()
def reconstructions(vae: VAE, x: Tensor, title: str = "Reconstructions", condition: Tensor | None = None) -> Figure:
    """Draw images in rows of twelve, each above its row of reconstructions (see `VAE.reconstruct`).

    Args:
        vae: the model.
        x: images (N, C, H, W).
        title: of the figure.
        condition: labels (N,), for conditional models.
    """
    device = next(vae.parameters()).device
    with evaluating(vae), seeded(0, device):
        reconstructed = vae.reconstruct(x, condition)
    rows = list(zip(torch.split(x, COLUMNS), torch.split(reconstructed, COLUMNS), strict=True))
    columns = min(COLUMNS, len(x))
    figure = blank(0.75 * columns + 1.0, 1.55 * len(rows) + 0.5)
    for position, (originals, images) in enumerate(rows):
        axes = figure.add_subplot(len(rows), 1, position + 1)
        show(axes, torch.cat([originals, images]), len(originals))
        axes.set_yticks(centres(2, x.shape[-2], gap_of(x)), ["input", "reconstruction"], fontsize=9)
    figure.suptitle(title)
    return figure

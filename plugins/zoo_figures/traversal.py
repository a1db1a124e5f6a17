"""One latent dimension after the other, swept while the rest stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo import VAE, Batch, UsageError, evaluating, in_support
from zoo_canvas import RED, blank, centres, gap_of, show
from zoo_figures.latents import Information, information

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 10
"""Dimensions that are shown if none are chosen."""


@torch.no_grad()
def traversals(
    vae: VAE,
    z: Tensor | None = None,
    dims: Sequence[int] | None = None,
    *,
    steps: int = 11,
    reach: float = 3.0,
    images: Batch | None = None,
    condition: Tensor | None = None,
    title: str = "Latent traversals",
) -> Figure:
    """The mean images along each latent dimension: a row for each, in which it goes from -reach to reach.

    Args:
        vae: the model; its latent is a vector.
        z: the point whose other dimensions stay as they are, (latent_dim,); by default the origin.
        dims: which, counted from 0, in this order. By default the ten that tell most about `images`, or the first ten.
        steps: images in a row.
        reach: in the units of the latent.
        images: what a dimension tells is worked out from these, by its rate (see `zoo_figures.latents`), and stands
            beside its row.
        condition: a label (1,) that all are decoded with, for conditional models.
        title: above the figure.

    Raises:
        UsageError: the latent is no vector, there is no such dimension, or a point lies outside the prior's support.
    """
    (size,) = _vector(vae)
    device = next(vae.parameters()).device
    own, z = z, torch.zeros(size, device=device) if z is None else z
    told = None if images is None else information(vae, images)
    if told is not None and len(told.values) != size:
        told = None
    chosen = _first(size, told) if dims is None else list(dims)
    for dim in chosen:
        if not 0 <= dim < size:
            raise UsageError(f"There is no latent dimension {dim}: there are {size}, counted from 0 to {size - 1}.")
    values = torch.linspace(-reach, reach, steps, device=device)

    points = z.repeat(len(chosen), steps, 1)
    for row, dim in enumerate(chosen):
        points[row, :, dim] = values
    points = points.unsqueeze(-2)  # (dims, steps, 1, latent_dim): one image, with its label, under many latents
    with evaluating(vae):
        if not in_support(vae.prior(vae.encoder, condition), points):
            raise UsageError(
                f"The prior has no support at some of the points from {-reach:g} to {reach:g}: a dimension cannot be "
                "swept so far by itself. Choose a smaller range, or interpolate between images."
            )
        tiles = vae.decode(points, condition).mean.flatten(0, 2)

    figure = blank(0.62 * steps + 1.3, 0.62 * len(chosen) + 1.0)
    axes = figure.add_subplot()
    show(axes, tiles, steps)
    height, width = tiles.shape[-2:]
    rows, columns = centres(len(chosen), height, gap_of(tiles)), centres(steps, width, gap_of(tiles))
    axes.set_yticks(
        rows, [f"z[{dim}]" + ("" if told is None else f"  {told.values[dim]:.2f}") for dim in chosen], fontsize=9
    )
    axes.set_ylabel("dimension")
    if told is not None:
        axes.set_title(f"beside each dimension, its {told.measure}", fontsize=9, color="grey")
    axes.set_xticks(columns, [f"{round(value, 3) + 0.0:.3g}" for value in values.tolist()], fontsize=9)
    if own is None:
        axes.set_xlabel("value of the dimension, the others at 0")
    else:
        start = columns[0] + (own[chosen].cpu() / reach + 1) / 2 * (columns[-1] - columns[0])
        inside = [(x, y) for x, y in zip(start.tolist(), rows, strict=True) if columns[0] <= x <= columns[-1]]
        for x, y in inside:
            axes.plot(x, y - (height + gap_of(tiles)) / 2, "v", color=RED, markersize=4)
        axes.set_xlabel("value of the dimension, the others as they are; the mark is where it was")
    figure.suptitle(title)
    return figure


def _vector(vae: VAE) -> tuple[int]:
    shape = vae.latent_shape
    if len(shape) != 1:
        raise UsageError(
            f"The latent is no vector but has the shape {shape}: none of its entries means anything by itself. "
            "Interpolate between images, or draw samples."
        )
    return shape


def _first(size: int, told: Information | None) -> list[int]:
    if told is None:
        return list(range(size))[:ROWS]
    order: list[int] = told.values.argsort(descending=True, stable=True).tolist()
    return order[:ROWS]

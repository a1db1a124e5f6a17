"""Latent traversals: each dimension varies while the others are fixed."""

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
"""Dimensions shown by default."""


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
    """Draw decoded means along each latent dimension, from -reach to reach, one row per dimension.

    Args:
        vae: a model whose latent is a vector.
        z: the point that the traversals start from, (latent_dim,); by default the origin.
        dims: indices of the dimensions. By default the ten with the most information about `images`, or the first ten.
        steps: images per row.
        reach: the largest absolute value of the dimension.
        images: images from which the information in each dimension is computed (see `zoo_figures.latents`). It is
            written next to each row.
        condition: a label (1,) for all images, for conditional models.
        title: of the figure.

    Raises:
        UsageError: the latent is not a vector, there is no such dimension, or a point is outside the prior's support.
    """
    (size,) = _vector(vae)
    device = next(vae.parameters()).device
    origin = z is None
    z = torch.zeros(size, device=device) if z is None else z
    info = None if images is None else information(vae, images)
    if info is not None and len(info.values) != size:
        info = None
    selected_dims = _default_dims(size, info) if dims is None else list(dims)
    for dim in selected_dims:
        if not 0 <= dim < size:
            raise UsageError(f"There is no latent dimension {dim}: expected 0 to {size - 1}.")
    values = torch.linspace(-reach, reach, steps, device=device)

    points = z.repeat(len(selected_dims), steps, 1)
    for row, dim in enumerate(selected_dims):
        points[row, :, dim] = values
    points = points.unsqueeze(-2)  # (dims, steps, 1, latent_dim): many latents of one image
    with evaluating(vae):
        if not in_support(vae.prior(vae.encoder, condition), points):
            raise UsageError(
                f"Some points from {-reach:g} to {reach:g} are outside the support of the prior. "
                "Choose a smaller range, or interpolate between images."
            )
        tiles = vae.decode(points, condition).mean.flatten(0, 2)

    figure = blank(0.62 * steps + 1.3, 0.62 * len(selected_dims) + 1.0)
    axes = figure.add_subplot()
    show(axes, tiles, steps)
    height, width = tiles.shape[-2:]
    rows, columns = centres(len(selected_dims), height, gap_of(tiles)), centres(steps, width, gap_of(tiles))
    axes.set_yticks(
        rows, [f"z[{dim}]" + ("" if info is None else f"  {info.values[dim]:.2f}") for dim in selected_dims], fontsize=9
    )
    axes.set_ylabel("dimension")
    if info is not None:
        axes.set_title(f"next to each dimension: its {info.measure}", fontsize=9, color="grey")
    axes.set_xticks(columns, [f"{round(value, 3) + 0.0:.3g}" for value in values.tolist()], fontsize=9)
    if origin:
        axes.set_xlabel("value of the dimension, with the others at 0")
    else:
        start = columns[0] + (z[selected_dims].cpu() / reach + 1) / 2 * (columns[-1] - columns[0])
        inside = [(x, y) for x, y in zip(start.tolist(), rows, strict=True) if columns[0] <= x <= columns[-1]]
        for x, y in inside:
            axes.plot(x, y - (height + gap_of(tiles)) / 2, "v", color=RED, markersize=4)
        axes.set_xlabel("value of the dimension, with the others fixed; the mark is the starting point")
    figure.suptitle(title)
    return figure


def _vector(vae: VAE) -> tuple[int]:
    shape = vae.latent_shape
    if len(shape) != 1:
        raise UsageError(
            f"A traversal needs a vector as latent; this model has shape {shape}. Interpolate between images, or draw "
            "samples."
        )
    return shape


def _default_dims(size: int, info: Information | None) -> list[int]:
    if info is None:
        return list(range(size))[:ROWS]
    order: list[int] = info.values.argsort(descending=True, stable=True).tolist()
    return order[:ROWS]

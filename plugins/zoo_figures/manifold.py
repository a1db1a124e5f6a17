"""A grid of images decoded from a two-dimensional latent space."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from zoo import VAE, UsageError, evaluating
from zoo_canvas import blank, centres, show
from zoo_figures.latents import factors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAP = 1
"""Black pixels between images, so that images without a margin are separated."""
TICKS = 8
"""Tick labels on each axis."""


@torch.no_grad()
def manifold(vae: VAE, steps: int = 20, *, condition: Tensor | None = None, title: str = "Latent manifold") -> Figure:
    """Draw decoded means over a grid of latents at equal quantiles of the prior (arXiv 1312.6114, fig. 4).

    The quantiles are (i + 1/2) / steps of each dimension, by the prior's inverse distribution function, or by that of a
    Gaussian with the prior's mean and standard deviation.

    Args:
        vae: a model with two latent dimensions.
        steps: number of images along each side.
        condition: a label (1,) for all images, for conditional models.
        title: of the figure.

    Raises:
        UsageError: the latent does not have two dimensions, or the prior has neither quantiles nor moments.
    """
    if vae.latent_shape != (2,):
        raise UsageError(f"A manifold needs a latent of shape (2,); this model has {vae.latent_shape}.")
    with evaluating(vae):
        across, up = _quantiles(vae, steps, condition).unbind(-1)
        # The first row has the highest z[1], as on an axis.
        points = torch.stack(torch.meshgrid(across, up.flip(0), indexing="xy"), dim=-1).unsqueeze(-2)
        tiles = vae.decode(points, condition).mean.flatten(0, 2)

    figure = blank(6.6, 6.75)
    axes = figure.add_subplot()
    show(axes, tiles, steps, gap=GAP, around=0.0)
    height, width = tiles.shape[-2:]
    ticks = min(steps, TICKS)
    tick_indices = sorted({round(i * (steps - 1) / max(1, ticks - 1)) for i in range(ticks)})
    columns, rows = centres(steps, width, GAP), centres(steps, height, GAP)[::-1]
    axes.set_xticks([columns[i] for i in tick_indices], [f"{across[i]:.2f}" for i in tick_indices], fontsize=8)
    axes.set_yticks([rows[i] for i in tick_indices], [f"{up[i]:.2f}" for i in tick_indices], fontsize=8)
    axes.set(xlabel="z[0], at equal quantiles of the prior", ylabel="z[1], at equal quantiles of the prior")
    figure.suptitle(title)
    return figure


def _quantiles(vae: VAE, steps: int, condition: Tensor | None) -> Tensor:
    """The latents at the quantiles (i + 1/2) / steps of each dimension, (steps, 2)."""
    prior = vae.prior(vae.encoder, condition)
    device = next(vae.parameters()).device
    probabilities = ((torch.arange(steps, device=device) + 0.5) / steps).unsqueeze(-1).expand(-1, 2)
    for inverse in (_by_factors, _by_moments):
        with contextlib.suppress(NotImplementedError):
            return inverse(prior, probabilities)
    raise UsageError(
        "A manifold needs the quantiles or moments of the prior, and this prior has neither quantiles nor moments. "
        "Traverse its dimensions (--dims 0,1), or decode points (zoo sample RUN --z 0,0)."
    )


def _by_factors(prior: Distribution, probabilities: Tensor) -> Tensor:
    each = factors(prior)
    if each is None:
        raise NotImplementedError
    z: Tensor = each.icdf(probabilities)
    return z


def _by_moments(prior: Distribution, probabilities: Tensor) -> Tensor:
    z: Tensor = Normal(prior.mean, prior.stddev, validate_args=False).icdf(probabilities)  # type: ignore[no-untyped-call]
    return z

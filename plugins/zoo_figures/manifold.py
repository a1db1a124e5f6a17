"""A latent space of two dimensions, as the images that it is decoded to."""

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
"""Black pixels between images, just so many that images without a margin can be told apart."""
TICKS = 8
"""Latents that are written beside each side."""


@torch.no_grad()
def manifold(vae: VAE, steps: int = 20, *, condition: Tensor | None = None, title: str = "Latent manifold") -> Figure:
    """The mean images over a grid of latents that each stand for an equal share of the prior (arXiv 1312.6114, fig. 4).

    The grid is at the quantiles (i + 1/2) / steps of each dimension: by the prior's own inverse distribution function,
    or by that of a Gaussian with its mean and standard deviation.

    Args:
        vae: the model; its latent has two dimensions.
        steps: images along each side.
        condition: a label (1,) that all are decoded with, for conditional models.
        title: above the figure.

    Raises:
        UsageError: the latent has not two dimensions, or the prior neither quantiles nor moments.
    """
    if vae.latent_shape != (2,):
        raise UsageError(f"A manifold is drawn for a latent of shape (2,), this one has {vae.latent_shape}.")
    with evaluating(vae):
        across, up = _quantiles(vae, steps, condition).unbind(-1)
        # Up the page is up the axis: the first row has the highest z[1].
        points = torch.stack(torch.meshgrid(across, up.flip(0), indexing="xy"), dim=-1).unsqueeze(-2)
        tiles = vae.decode(points, condition).mean.flatten(0, 2)

    figure = blank(6.6, 6.75)
    axes = figure.add_subplot()
    show(axes, tiles, steps, gap=GAP, around=0.0)
    height, width = tiles.shape[-2:]
    ticks = min(steps, TICKS)
    shown = sorted({round(i * (steps - 1) / max(1, ticks - 1)) for i in range(ticks)})
    columns, rows = centres(steps, width, GAP), centres(steps, height, GAP)[::-1]
    axes.set_xticks([columns[i] for i in shown], [f"{across[i]:.2f}" for i in shown], fontsize=8)
    axes.set_yticks([rows[i] for i in shown], [f"{up[i]:.2f}" for i in shown], fontsize=8)
    axes.set(xlabel="z[0], at equal shares of the prior", ylabel="z[1], at equal shares of the prior")
    figure.suptitle(title)
    return figure


def _quantiles(vae: VAE, steps: int, condition: Tensor | None) -> Tensor:
    """The latents at the quantiles (i + 1/2) / steps of each dimension, (steps, 2)."""
    prior = vae.prior(vae.encoder, condition)
    device = next(vae.parameters()).device
    shares = ((torch.arange(steps, device=device) + 0.5) / steps).unsqueeze(-1).expand(-1, 2)
    for inverse in (_by_factors, _by_moments):
        with contextlib.suppress(NotImplementedError):
            return inverse(prior, shares)
    raise UsageError(
        "The prior has neither quantiles nor moments, so no grid can be laid over it. Sweep its dimensions by name "
        "(--dims 0,1), or decode points of your own (zoo sample RUN --z 0,0)."
    )


def _by_factors(prior: Distribution, shares: Tensor) -> Tensor:
    each = factors(prior)
    if each is None:
        raise NotImplementedError
    z: Tensor = each.icdf(shares)
    return z


def _by_moments(prior: Distribution, shares: Tensor) -> Tensor:
    z: Tensor = Normal(prior.mean, prior.stddev, validate_args=False).icdf(shares)  # type: ignore[no-untyped-call]
    return z

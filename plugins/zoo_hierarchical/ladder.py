"""The ladder VAE (arXiv 1602.02282): inference goes top-down as well, and shares its network with the prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from zoo import ComponentError, Encoder, Prior, at_least_float32
from zoo_hierarchical.levels import Levels, Link, ToGaussian, dense, gaussian


class LadderEncoder(Encoder):
    """q(z_L | x) prod_i q(z_i | z_{i+1}, x), each level the prior's Gaussian corrected by what is seen in the image.

    A deterministic pass upwards gives a Gaussian for each level; the pass downwards multiplies it with that of the
    prior, p(z_i | z_{i+1}), so that precisions add up (see `corrected`). The top-down network is kept here,
    and the prior ``ladder`` takes it from here. The paper's batch normalisation is left out: with it, the posterior of
    an image would depend on those beside it.

    Args:
        data_shape: event shape of x.
        latent_dim: size of the lowest level, which the decoder sees.
        upper: sizes of the levels above it, the lowest first.
        hidden: widths of the deterministic layers, one for each level, the first next to the image.
        down: widths of the layers from each level to the next below.
    """

    top: Tensor

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        upper: Sequence[PositiveInt] = (20,),
        hidden: Sequence[PositiveInt] = (400, 200),
        down: Sequence[PositiveInt] = (100,),
    ) -> None:
        super().__init__()
        self.sizes = (latent_dim, *upper)
        if len(upper) < 1 or len(hidden) != len(self.sizes):
            raise ComponentError(
                f"The encoder 'ladder' has {len(self.sizes)} levels (latent_dim, and {len(upper)} in `upper`) and "
                f"{len(hidden)} widths in `hidden`: it needs two levels at least, and a width for each."
            )
        widths = [math.prod(data_shape), *hidden]
        self.up = nn.ModuleList(nn.Sequential(*dense(pair)) for pair in pairwise(widths))
        self.seen = nn.ModuleList(ToGaussian(width, size, ()) for width, size in zip(hidden, self.sizes, strict=True))
        self.down = nn.ModuleList(ToGaussian(above, below, down) for below, above in pairwise(self.sizes))
        self.register_buffer("top", torch.zeros(self.sizes[-1]), persistent=False)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Images (N, C, H, W) to q(z_1, ..., z_L | x), an event of all levels side by side, the lowest first."""
        features, seen = x.flatten(1), []
        for up, see in zip(self.up, self.seen, strict=True):
            features = up(features)
            seen.append(see(features))
        *below, top = seen
        links = [_corrected_link(down, part) for down, part in zip(self.down, below, strict=True)]
        return Levels(top, links[::-1], self.sizes, downward=True)

    def prior(self) -> Distribution:
        """p(z_L) prod_i p(z_i | z_{i+1}), p(z_L) the standard normal, batch shape ()."""
        top = at_least_float32(self.top)
        return Levels(gaussian(top, torch.ones_like(top)), list(self.down)[::-1], self.sizes, downward=True)


class LadderPrior(Prior):
    """The top-down network of the encoder ``ladder``, as a prior. It has no parameters of its own."""

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """The distribution over all levels, batch shape ().

        Raises:
            ComponentError: the encoder is another.
        """
        if not isinstance(encoder, LadderEncoder):
            raise ComponentError(
                f"The prior 'ladder' is the top-down network of the encoder 'ladder', and this is a "
                f"{type(encoder).__name__}: take encoder=ladder, or another prior."
            )
        return encoder.prior()


def corrected(prior: Independent[Normal], seen: Independent[Normal]) -> Distribution:
    """The normalised product of two Gaussians (arXiv 1602.02282, section 2.2, its sigma read as variances).

    1 / variance = 1 / variance_p + 1 / variance_s,  mean = variance (mean_p / variance_p + mean_s / variance_s)

    In logarithms, since float32 may hold a scale and not its square.
    """
    p, s = prior.base_dist, seen.base_dist
    log_p, log_s = 2 * p.scale.log(), 2 * s.scale.log()
    share_of_s = torch.sigmoid(log_p - log_s)  # variance / variance_s
    mean = p.loc + share_of_s * (s.loc - p.loc)
    return gaussian(mean, (-torch.logaddexp(-log_p, -log_s) / 2).exp())


def _corrected_link(down: nn.Module, seen: Independent[Normal]) -> Link:
    return lambda above: corrected(down(above), seen)

"""The ladder VAE (arXiv 1602.02282): top-down inference that shares its network with the prior."""

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
    """q(z_1, ..., z_L | x) = q(z_L | x) prod_i q(z_i | z_{i+1}, x) (arXiv 1602.02282, section 2.2).

    A deterministic bottom-up pass gives a Gaussian for each level. The top-down pass multiplies it by the prior
    p(z_i | z_{i+1}), see `precision_weighted`. This module holds the top-down network, which the prior ``ladder``
    uses. The paper's batch normalisation is omitted, since it makes the posterior of an image depend on the others in
    its batch.

    Args:
        data_shape: event shape of x.
        latent_dim: size of z_1, the input of the decoder.
        upper: sizes of z_2, ..., z_L.
        hidden: widths of the bottom-up layers, one per level.
        down: widths of the hidden layers from each level to the one below.

    Raises:
        ComponentError: there are fewer than two levels, or `hidden` does not have one width per level.
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
                f"The encoder 'ladder' needs at least two levels and one width in `hidden` per level; got "
                f"{len(self.sizes)} level(s) (latent_dim and {len(upper)} in `upper`) and {len(hidden)} width(s)."
            )
        widths = [math.prod(data_shape), *hidden]
        self.up = nn.ModuleList(nn.Sequential(*dense(pair)) for pair in pairwise(widths))
        self.seen = nn.ModuleList(ToGaussian(width, size, ()) for width, size in zip(hidden, self.sizes, strict=True))
        self.down = nn.ModuleList(ToGaussian(above, below, down) for below, above in pairwise(self.sizes))
        self.register_buffer("top", torch.zeros(self.sizes[-1]), persistent=False)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map x (N, *data_shape) to q(z_1, ..., z_L | x), over the concatenation of z_1, ..., z_L."""
        features, evidence = x.flatten(1), []
        for up, head in zip(self.up, self.seen, strict=True):
            features = up(features)
            evidence.append(head(features))
        *lower, top = evidence
        links = [_posterior_link(down, level) for down, level in zip(self.down, lower, strict=True)]
        return Levels(top, links[::-1], self.sizes, downward=True)

    def prior(self) -> Distribution:
        """Return p(z_L) prod_i p(z_i | z_{i+1}), with p(z_L) standard normal and batch shape ()."""
        top = at_least_float32(self.top)
        return Levels(gaussian(top, torch.ones_like(top)), list(self.down)[::-1], self.sizes, downward=True)


class LadderPrior(Prior):
    """The prior p(z_1, ..., z_L) given by the top-down network of the encoder ``ladder``; it has no parameters."""

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return the distribution over all levels, with batch shape ().

        Raises:
            ComponentError: the encoder is not a `LadderEncoder`.
        """
        if not isinstance(encoder, LadderEncoder):
            raise ComponentError(
                f"The prior 'ladder' needs the encoder 'ladder', whose top-down network it uses; got "
                f"{type(encoder).__name__}. Use encoder=ladder or another prior."
            )
        return encoder.prior()


def precision_weighted(prior: Independent[Normal], evidence: Independent[Normal]) -> Distribution:
    """The normalised product of two Gaussians (arXiv 1602.02282, section 2.2, with its sigmas read as variances).

    1 / variance = 1 / variance_p + 1 / variance_e,  mean = variance (mean_p / variance_p + mean_e / variance_e)

    It is computed from logarithms, since the square of a scale may underflow in float32.
    """
    p, e = prior.base_dist, evidence.base_dist
    log_variance_p, log_variance_e = 2 * p.scale.log(), 2 * e.scale.log()
    weight = torch.sigmoid(log_variance_p - log_variance_e)  # variance / variance_e
    mean = p.loc + weight * (e.loc - p.loc)
    return gaussian(mean, (-torch.logaddexp(-log_variance_p, -log_variance_e) / 2).exp())


def _posterior_link(down: nn.Module, evidence: Independent[Normal]) -> Link:
    return lambda z: precision_weighted(down(z), evidence)

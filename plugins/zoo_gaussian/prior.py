"""The standard normal prior."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from zoo import Encoder, Prior


class StandardNormal(Prior):
    """p(z) = N(z; 0, I).

    Args:
        latent_shape: event shape of the latent.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_shape), persistent=False)
        self.register_buffer("scale", torch.ones(latent_shape), persistent=False)

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return N(0, 1) over latent_shape, with batch shape ()."""
        normal = Normal(self.loc, self.scale, validate_args=False)
        return Independent(normal, self.loc.ndim, validate_args=False)

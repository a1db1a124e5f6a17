"""The diagonal Gaussian posterior (arXiv 1312.6114, eq. 9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from zoo import Posterior


class DiagonalGaussian(Posterior):
    """q(z | x) = N(z; mean, diag(exp(log_variance))), both linear in the features.

    Args:
        features: width of the trunk.
        latent_dim: number of latent dimensions.
    """

    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 2 * latent_dim)

    def forward(self, features: Tensor) -> Distribution:
        """Features (N, features) to a Gaussian with event shape (latent_dim,)."""
        parameters = self.linear(features)
        # A density is worked out in float32 at least, whatever precision the products ran in.
        parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        mean, log_variance = parameters.chunk(2, dim=-1)
        scale = torch.exp(log_variance / 2)
        return Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)

"""The diagonal Gaussian posterior (arXiv 1312.6114, eq. 9)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from zoo import Gaussian, Posterior, at_least_float32


class DiagonalGaussian(Posterior):
    """q(z | x) = N(z; mean, diag(exp(log_variance))), with mean and log-variance linear in the features.

    Args:
        features: number of features.
        latent_dim: number of latent dimensions.
    """

    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 2 * latent_dim)

    def forward(self, features: Tensor) -> Distribution:
        """Map features (N, *grid, features) to a Gaussian with event shape (*grid, latent_dim)."""
        parameters = at_least_float32(self.linear(features))
        mean, log_variance = parameters.chunk(2, dim=-1)
        return Independent(Gaussian(mean, log_variance / 2), features.ndim - 1, validate_args=False)

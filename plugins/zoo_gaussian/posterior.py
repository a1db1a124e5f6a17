"""The diagonal Gaussian posterior (arXiv 1312.6114, eq. 9)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.nn.functional import softplus

from zoo import Gaussian, Posterior, at_least_float32


class DiagonalGaussian(Posterior):
    """q(z | x) = N(z; mean, diag(scale^2)), with the mean linear in the features.

    Args:
        features: number of features.
        latent_dim: number of latent dimensions.
        scale: ``exp`` for a linear log-variance, ``softplus`` for the softplus of a linear layer, ``shared`` for one
            learned log-variance per dimension, the same for all x (the linear VAE of arXiv 1911.02469).
        clip: bounds of the log-variance, such as [-6, 2] in arXiv 1705.07120.
    """

    def __init__(
        self,
        features: int,
        latent_dim: int,
        scale: Literal["exp", "softplus", "shared"] = "exp",
        clip: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.clip = clip
        self.linear = nn.Linear(features, latent_dim if scale == "shared" else 2 * latent_dim)
        if scale == "shared":
            self.log_variance = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, features: Tensor) -> Distribution:
        """Map features (N, *grid, features) to a Gaussian with event shape (*grid, latent_dim)."""
        parameters = at_least_float32(self.linear(features))
        if self.scale == "shared":
            mean, log_variance = parameters, at_least_float32(self.log_variance).expand_as(parameters)
        else:
            mean, log_variance = parameters.chunk(2, dim=-1)
        if self.scale == "softplus":
            log_variance = 2 * softplus(log_variance).log()
        if self.clip is not None:
            log_variance = log_variance.clamp(*self.clip)
        return Independent(Gaussian(mean, log_variance / 2), features.ndim - 1, validate_args=False)

"""The prior of a latent whose last dimension is the logarithm of the library size."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from zoo import DataDependent, Encoder, Gaussian, Prior


class LibraryPrior(Prior, DataDependent):
    """p(z) = N(0, I) and a log-normal library size: p(log l) = N(m, s^2) (arXiv 1709.02082, section 2).

    m starts at the logarithm of the mean total count of the training data, s at 0.5. Both are learned, and become mean
    and standard deviation of the inferred log l; scVI sets them to those of the observed totals.

    Args:
        latent_shape: (latent_dim + 1,).
        data_shape: event shape of x.
    """

    def __init__(self, latent_shape: tuple[int, ...], data_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("zeros", torch.zeros(latent_shape[0] - 1), persistent=False)
        self.location = nn.Parameter(torch.tensor([math.log(math.prod(data_shape))]))
        self.log_scale = nn.Parameter(torch.tensor([math.log(0.5)]))

    def initialize(self, mean: Tensor) -> None:
        """Set the mean of log l."""
        with torch.no_grad():
            self.location.fill_(mean.sum().clamp_min(1e-6).log())

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return p(z, log l), with batch shape ()."""
        zeros: Tensor = self.zeros  # type: ignore[assignment]
        normal = Gaussian(torch.cat([zeros, self.location]), torch.cat([zeros, self.log_scale]))
        return Independent(normal, 1, validate_args=False)

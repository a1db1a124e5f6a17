"""The posterior of a deterministic encoder: a point mass."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.types import _size

from zoo import ComponentError, Posterior, at_least_float32


class Deterministic(Posterior):
    """q(z | x) = delta(z - e(x)), with e(x) linear in the features.

    Args:
        features: number of features.
        latent_dim: number of latent dimensions.
    """

    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, latent_dim)

    def forward(self, features: Tensor) -> Distribution:
        """Map features (N, *grid, features) to a point mass with event shape (*grid, latent_dim)."""
        return PointMass(at_least_float32(self.linear(features)))


class PointMass(Distribution):
    """A point mass: every sample, the mean and the mode are one point.

    It has no density, so `log_prob` raises, as does every quantity that needs one: KL, importance weights and
    importance-sampled likelihoods.

    Args:
        point: (N, *latent_shape).

    >>> q = PointMass(torch.tensor([[1.0, 2.0]]))
    >>> q.mean.tolist(), q.rsample((3,)).shape
    ([[1.0, 2.0]], torch.Size([3, 1, 2]))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"point": constraints.real_vector}
    support = constraints.real_vector
    base_measure = None  # no density, so never compared with a prior
    has_rsample = True

    def __init__(self, point: Tensor) -> None:
        self.point = point
        super().__init__(point.shape[:1], point.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The point."""
        return self.point

    @property
    def mode(self) -> Tensor:
        """The point."""
        return self.point

    @property
    def variance(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.point)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """The point, expanded to (*sample_shape, N, *latent_shape)."""
        return self.point.expand(self._extended_shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Raise an error: there is no density.

        Raises:
            ComponentError: always.
        """
        raise ComponentError(
            "A deterministic posterior has no density, and hence no rate and no log p(x). Use a posterior with a "
            "density (posterior=gaussian), or a loss that needs none (reconstruction, wae-mmd, swae, rae-l2, rae-gp)."
        )

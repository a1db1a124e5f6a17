"""The posterior of a deterministic encoder: a point mass."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.types import _size

from zoo import ComponentError, Posterior, at_least_float32


class Deterministic(Posterior):
    """q(z | x) = delta(z - e(x)), the code e(x) linear in the features.

    Args:
        features: width of the trunk.
        latent_dim: number of latent dimensions.
    """

    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, latent_dim)

    def forward(self, features: Tensor) -> Distribution:
        """Map features (N, *grid, features) to a point mass with event shape (*grid, latent_dim)."""
        return PointMass(at_least_float32(self.linear(features)))


class PointMass(Distribution):
    """All probability in one point, which is every draw, the mean and the mode.

    It has no density: `log_prob` raises, and with it whatever would need one (a KL, an importance weight, an
    importance-sampled likelihood), rather than that a number comes out which means nothing. (The KL from a point mass
    to a prior with a density is infinite, whatever the encoder does.)

    Args:
        point: (N, *latent_shape).

    >>> q = PointMass(torch.tensor([[1.0, 2.0]]))
    >>> q.mean.tolist(), q.rsample((3,)).shape
    ([[1.0, 2.0]], torch.Size([3, 1, 2]))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"point": constraints.real_vector}
    support = constraints.real_vector
    base_measure = None  # with no density, it is never compared with a prior
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
        """The point, again and again."""
        return self.point.expand(self._extended_shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Refuse.

        Raises:
            ComponentError: always.
        """
        raise ComponentError(
            "The posterior is a single point: it has no density, so there is no rate and no log p(x). Take a posterior "
            "with a density (posterior=gaussian), or a loss that needs none (reconstruction, wae-mmd, swae, rae-l2, "
            "rae-gp)."
        )

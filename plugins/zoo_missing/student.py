"""Student's t distributions with learned degrees of freedom, as in the published code of arXiv 1812.02633."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributions import Distribution, Independent, StudentT
from torch.nn.functional import softplus

from zoo import Likelihood, Posterior, at_least_float32

MIN_DEGREES, MIN_SCALE = 3.0, 1e-3


class StudentTLikelihood(Likelihood):
    """Independent Student's t entries, for real values with outliers.

    The decoder predicts location, scale = softplus + 0.001 and degrees of freedom = softplus + 3 of each entry, so that
    mean and variance exist.

    Args:
        data_shape: event shape of x.
    """

    parameters_per_entry = 3

    def __init__(self, data_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_dims = len(data_shape)

    def forward(self, parameters: Tensor) -> Distribution:
        """Map locations, scales and degrees of freedom (..., *data_shape, 3) to a distribution over data_shape."""
        return Independent(_student(*at_least_float32(parameters).unbind(-1)), self.event_dims, validate_args=False)


class StudentTPosterior(Posterior):
    """q(z | x) with independent Student's t entries; parametrized like `StudentTLikelihood`.

    Args:
        features: number of features.
        latent_dim: number of latent dimensions.
    """

    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 3 * latent_dim)

    def forward(self, features: Tensor) -> Distribution:
        """Map features (N, *grid, features) to a distribution with event shape (*grid, latent_dim)."""
        student = _student(*at_least_float32(self.linear(features)).chunk(3, dim=-1))
        return Independent(student, features.ndim - 1, validate_args=False)


def _student(location: Tensor, scale: Tensor, degrees: Tensor) -> StudentT:
    scale, degrees = softplus(scale) + MIN_SCALE, softplus(degrees) + MIN_DEGREES
    return StudentT(degrees, location, scale, validate_args=False)

"""The log hyperbolic cosine of the error, which is a density once it is normalised."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.distributions import Distribution, Gamma, Independent, constraints
from torch.nn.functional import softplus
from torch.types import _size

from zoo import Likelihood, at_least_float32

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LogCoshLikelihood(Likelihood):
    """-log p(x | z) = 1/a log cosh(a (x - mean) / scale) + const, for each entry (OpenReview rkglvsC9Ym).

    Quadratic in small errors, as a Gaussian of standard deviation scale / sqrt(a); linear in large ones, as a Laplace
    distribution. The constant makes it a density, so that a bound of it is one, and log p(x) can be estimated.

    Args:
        data_shape: event shape of x.
        sharpness: a; the greater, the sooner the cost is linear.
        scale: the error that is 1 where the cost is linear, in units of x.
    """

    def __init__(self, data_shape: tuple[int, ...], sharpness: Positive = 10.0, scale: Positive = 1.0) -> None:
        super().__init__()
        self.event_dims = len(data_shape)
        self.sharpness = sharpness
        self.scale = scale

    def forward(self, parameters: Tensor) -> Distribution:
        """Map means (..., *data_shape, 1) to a distribution over data_shape."""
        mean = at_least_float32(parameters).squeeze(-1)
        return Independent(LogCosh(mean, self.sharpness, self.scale), self.event_dims, validate_args=False)


class LogCosh(Distribution):
    """p(x) = cosh(a (x - mean) / scale)^(-1/a) a / (scale B(1/2a, 1/2)), with B the beta function.

    A generalised hyperbolic secant: the logarithm of the ratio of two draws of Gamma(1/2a) is 2a (x - mean) / scale.

    Args:
        mean: of any shape.
        sharpness, scale: a and the unit of the error.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"mean": constraints.real}
    support = constraints.real
    has_rsample = True

    def __init__(self, mean: Tensor, sharpness: float, scale: float) -> None:
        self._mean = mean
        self.sharpness = sharpness
        self.scale = scale
        super().__init__(mean.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean, which is the mode and the median too."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """scale^2 psi'(1/2a) / (2 a^2), with psi' the trigamma function."""
        trigamma = torch.polygamma(1, torch.tensor(0.5 / self.sharpness, dtype=torch.float64)).item()
        return torch.full_like(self._mean, self.scale**2 * trigamma / (2 * self.sharpness**2))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density; log cosh u is |u| + log(1 + e^-2|u|) - log 2, which no error is too large for.

        Where u is small that is a difference of equal numbers, and log cosh u is log(1 + sinh(u)^2) / 2.
        """
        u = (self.sharpness * (value - self._mean) / self.scale).abs()
        near = torch.log1p(u.clamp_max(1).sinh().square()) / 2
        log_cosh = torch.where(u < 1, near, u + softplus(-2 * u) - math.log(2))
        half = 0.5 / self.sharpness
        log_beta = math.lgamma(half) + math.lgamma(0.5) - math.lgamma(half + 0.5)
        return -log_cosh / self.sharpness - log_beta + math.log(self.sharpness / self.scale)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Reparameterised draws.

        Gamma(k) is a draw of Gamma(k + 1) times U^(1/k): where k = 1/2a is small it underflows, its logarithm does not.
        """
        k = 0.5 / self.sharpness
        shape = (2, *self._extended_shape(sample_shape))
        gamma = Gamma(torch.full_like(self._mean, k + 1).expand(shape), 1.0, validate_args=False).sample()
        logarithms = gamma.log() - torch.empty_like(gamma).exponential_() / k
        return self._mean + self.scale * (logarithms[0] - logarithms[1]) / (2 * self.sharpness)

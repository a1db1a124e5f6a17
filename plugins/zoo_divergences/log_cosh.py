"""The log-cosh likelihood (OpenReview rkglvsC9Ym), normalised."""

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

    Quadratic for small errors, like a Gaussian with standard deviation scale / sqrt(a), and linear for large ones, like
    a Laplace distribution. Unlike the paper's cost, the density is normalised, so log p(x) can be estimated.

    Args:
        data_shape: event shape of x.
        sharpness: a; larger values shrink the quadratic region.
        scale: unit of the error, in units of x.
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

    A generalised hyperbolic secant distribution: 2a (x - mean) / scale is distributed as the log-ratio of two
    Gamma(1/2a) variables.

    Args:
        mean: of any shape.
        sharpness: a.
        scale: unit of the error.
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
        """The mean, which is also the mode and the median."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """scale^2 psi'(1/2a) / (2 a^2), with psi' the trigamma function."""
        trigamma = torch.polygamma(1, torch.tensor(0.5 / self.sharpness, dtype=torch.float64)).item()
        return torch.full_like(self._mean, self.scale**2 * trigamma / (2 * self.sharpness**2))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density, in nats.

        For large u, log cosh u = |u| + log(1 + e^-2|u|) - log 2, which cannot overflow; for small u, where this form
        cancels, log cosh u = log(1 + sinh(u)^2) / 2.
        """
        u = (self.sharpness * (value - self._mean) / self.scale).abs()
        small = torch.log1p(u.clamp_max(1).sinh().square()) / 2
        log_cosh = torch.where(u < 1, small, u + softplus(-2 * u) - math.log(2))
        half = 0.5 / self.sharpness
        log_beta = math.lgamma(half) + math.lgamma(0.5) - math.lgamma(half + 0.5)
        return -log_cosh / self.sharpness - log_beta + math.log(self.sharpness / self.scale)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draw reparameterised samples.

        A Gamma(k) variable is Gamma(k + 1) times U^(1/k). For small k = 1/2a it underflows, but its logarithm does not.
        """
        k = 0.5 / self.sharpness
        shape = (2, *self._extended_shape(sample_shape))
        gamma = Gamma(torch.full_like(self._mean, k + 1).expand(shape), 1.0, validate_args=False).sample()
        log_gamma = gamma.log() - torch.empty_like(gamma).exponential_() / k
        return self._mean + self.scale * (log_gamma[0] - log_gamma[1]) / (2 * self.sharpness)

"""Distributions over counts, computed from logarithms.

Log-probabilities are computed in float64, if the device supports it: at a mean of 1e6, their terms cancel to one nat in
float32.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid
from torch.types import _size


class Counts(Distribution):
    """Base class of distributions over 0, 1, 2, ...

    Args:
        log_mean: of any shape; the batch shape.
    """

    support = constraints.nonnegative_integer
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"log_mean": constraints.real}

    def __init__(self, log_mean: Tensor) -> None:
        self.log_mean = log_mean
        super().__init__(log_mean.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.log_mean.exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability, in nats."""
        return self._log_prob(_precise(value)).to(self.log_mean.dtype)

    def _log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError


class Poisson(Counts):
    """p(x) = mean^x e^-mean / x!"""

    @property
    def variance(self) -> Tensor:
        """The variance, equal to the mean."""
        return self.mean

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw counts, as floats."""
        with torch.no_grad():
            return torch.poisson(self.mean.expand(self._extended_shape(sample_shape)))

    def _log_prob(self, value: Tensor) -> Tensor:
        log_mean = _precise(self.log_mean)
        return value * log_mean - log_mean.exp() - torch.lgamma(value + 1)


class NegativeBinomial(Counts):
    """A Poisson whose mean is drawn from a Gamma distribution of shape theta: the variance is mean + mean^2 / theta.

    p(x) = Gamma(x + theta) / (Gamma(theta) x!) (theta / (theta + mean))^theta (mean / (theta + mean))^x

    Args:
        log_mean: of any shape.
        log_dispersion: log theta, broadcast against `log_mean`. The Poisson is the limit for large theta.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "log_mean": constraints.real,
        "log_dispersion": constraints.real,
    }

    def __init__(self, log_mean: Tensor, log_dispersion: Tensor) -> None:
        shape = torch.broadcast_shapes(log_mean.shape, log_dispersion.shape)  # type: ignore[no-untyped-call]
        self.log_dispersion = log_dispersion.expand(shape)
        super().__init__(log_mean.expand(shape))

    @property
    def variance(self) -> Tensor:
        """mean + mean^2 / theta."""
        variance: Tensor = self.log_mean.exp() + (2 * self.log_mean - self.log_dispersion).exp()
        return variance

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw counts, as floats."""
        with torch.no_grad():
            theta = self.log_dispersion.exp().expand(self._extended_shape(sample_shape))
            return torch.poisson(torch._standard_gamma(theta) * (self.log_mean - self.log_dispersion).exp())

    def _log_prob(self, value: Tensor) -> Tensor:
        log_mean, log_theta = _precise(self.log_mean), _precise(self.log_dispersion)
        theta, logit = log_theta.exp(), log_mean - log_theta
        log_binomial = torch.lgamma(value + theta) - torch.lgamma(theta) - torch.lgamma(value + 1)
        return log_binomial + theta * logsigmoid(-logit) + value * logsigmoid(logit)


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """A negative binomial that is replaced by 0 with probability sigmoid(zero_logits).

    Args:
        log_mean, log_dispersion: of the negative binomial.
        zero_logits: like `log_mean`.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "log_mean": constraints.real,
        "log_dispersion": constraints.real,
        "zero_logits": constraints.real,
    }

    def __init__(self, log_mean: Tensor, log_dispersion: Tensor, zero_logits: Tensor) -> None:
        shape = torch.broadcast_shapes(log_mean.shape, log_dispersion.shape, zero_logits.shape)  # type: ignore[no-untyped-call]
        self.zero_logits = zero_logits.expand(shape)
        super().__init__(log_mean.expand(shape), log_dispersion)

    @property
    def mean(self) -> Tensor:
        """The mean, zeros included."""
        mean: Tensor = (self.log_mean + logsigmoid(-self.zero_logits)).exp()
        return mean

    @property
    def variance(self) -> Tensor:
        """The variance, zeros included: with p the probability of a replacement, (1 - p) (variance + p mean^2)."""
        inflated = super().variance + self.zero_logits.sigmoid() * (2 * self.log_mean).exp()
        return (-self.zero_logits).sigmoid() * inflated

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw counts, as floats."""
        counts = super().sample(sample_shape)
        with torch.no_grad():
            return counts * torch.bernoulli((-self.zero_logits).sigmoid().expand_as(counts))

    def _log_prob(self, value: Tensor) -> Tensor:
        logits = _precise(self.zero_logits)
        counted = logsigmoid(-logits) + super()._log_prob(value)
        return torch.where(value == 0, torch.logaddexp(logsigmoid(logits), counted), counted)


def _precise(values: Tensor) -> Tensor:
    return values if values.device.type == "mps" else values.double()

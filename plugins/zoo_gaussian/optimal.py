"""The Gaussian likelihood with the optimal scale (sigma-VAE, arXiv 2006.13202)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.types import _size

from zoo import Gaussian, at_least_float32


class OptimalVariance(nn.Module):
    """The variance that maximizes the likelihood of a batch, and its moving average.

    Args:
        min_scale: lower bound on the scale, the square root of the variance.
        decay: of the moving average. It increases to this value, so that the average is mostly over the last tenth of
            the batches at first: the variance decreases quickly in early training.
    """

    average: Tensor
    batches: Tensor

    def __init__(self, min_scale: float, decay: float = 0.99) -> None:
        super().__init__()
        self.min_variance, self.decay = min_scale**2, decay
        self.register_buffer("average", torch.ones(()))
        self.register_buffer("batches", torch.zeros(()))

    def of(self, squared_errors: Tensor) -> Tensor:
        """Return the variance of a batch, 0-d, and update the moving average."""
        variance = squared_errors.mean().clamp_min(self.min_variance)
        with torch.no_grad():
            self.batches.add_(1)
            weight = (10 / (self.batches + 9)).clamp_min(1 - self.decay)
            self.average.lerp_(variance.detach().to(self.average.dtype), weight.to(self.average.dtype))
        return variance


class OptimalGaussian(Distribution):
    """N(x; mean, s^2), where s^2 is the mean squared error of all entries at which the density is evaluated.

    log p(x) = -D/2 (log(2 pi s^2) + 1), if averaged over the batch, with D entries per example  (arXiv 2006.13202,
    section 4.2). Its gradient is that at the fixed scale s, since s is the maximum.

    Args:
        mean: of each entry.
        variance: the moving average with which samples are drawn, and which `log_prob` updates.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real
    has_rsample = True

    def __init__(self, mean: Tensor, variance: OptimalVariance) -> None:
        self.loc = mean
        self.variance_of = variance
        super().__init__(mean.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.loc

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of each entry, in nats."""
        squared_errors = (value - self.loc).square()
        variance = self.variance_of.of(squared_errors)
        return -(squared_errors / variance + variance.log() + math.log(2 * math.pi)) / 2

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draw reparameterised samples at the moving average of the variance."""
        log_scale = at_least_float32(self.variance_of.average).log() / 2
        return Gaussian(self.loc, log_scale).rsample(torch.Size(sample_shape))

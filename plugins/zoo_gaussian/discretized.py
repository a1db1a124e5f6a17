"""The discretized logistic likelihood of pixels with 256 grey values."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints
from torch.nn.functional import logsigmoid
from torch.types import _size

from zoo import Likelihood, at_least_float32

LEVELS = 256
LOG_SCALES = (-4.5, 0.0)
MEAN_CLIP = 1 / (2 * LEVELS)


class DiscretizedLogisticLikelihood(Likelihood):
    """P(x = i / 255) for i = 0, ..., 255: the mass that a logistic distribution has in 256 bins of [0, 1].

    P(i) = F((i + 1) / 256) - F(i / 256),  F(t) = sigmoid((t - mean) / scale)

    The first bin also has the mass below 0 and the last one that above 1, so that the bins sum to 1 (arXiv 1606.04934,
    appendix C, and 1701.05517, section 2.1). The mean is a sigmoid clipped to [1/512, 511/512] and the log-scale is
    clipped to [-4.5, 0], as in the published code of arXiv 1705.07120. Log-likelihoods are those of the grey values:
    bits per dimension need no correction.

    Args:
        data_shape: event shape of x, whose entries are multiples of 1/255 in [0, 1].
    """

    parameters_per_entry = 2

    def __init__(self, data_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_dims = len(data_shape)

    def forward(self, parameters: Tensor) -> Distribution:
        """Map the logits of the means and the log-scales (..., *data_shape, 2) to a distribution over data_shape."""
        parameters = at_least_float32(parameters)
        mean = parameters[..., 0].sigmoid().clamp(MEAN_CLIP, 1 - MEAN_CLIP)
        log_scale = parameters[..., 1].clamp(*LOG_SCALES)
        return Independent(DiscretizedLogistic(mean, log_scale), self.event_dims, validate_args=False)


class _GreyLevels(constraints.Constraint):
    """Multiples of 1/255 in [0, 1]."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        level = value * (LEVELS - 1)
        inside: Tensor = (level >= -1e-3) & (level <= LEVELS - 1 + 1e-3) & ((level - level.round()).abs() < 1e-3)
        return inside


class DiscretizedLogistic(Distribution):
    """A logistic distribution rounded to 256 grey values; see `DiscretizedLogisticLikelihood`.

    Args:
        mean: of the logistic distribution, on the scale where bin i is [i / 256, (i + 1) / 256].
        log_scale: of the logistic distribution, like `mean`.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "location": constraints.real,
        "log_scale": constraints.real,
    }
    support = _GreyLevels()
    has_rsample = False

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        self.location = mean
        self.log_scale = log_scale
        super().__init__(mean.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean of the grey values in [0, 1]: sum_{i > 0} P(level >= i) / 255."""
        precision = (-self.log_scale).exp()
        total = torch.zeros_like(self.location)
        for level in range(1, LEVELS):
            total += ((self.location - level / LEVELS) * precision).sigmoid()
        return total / (LEVELS - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of grey values i / 255, rounded to the nearest one."""
        level = (value * (LEVELS - 1)).round()
        precision = (-self.log_scale).exp()
        low = (level / LEVELS - self.location) * precision
        high = ((level + 1) / LEVELS - self.location) * precision
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b)), which loses no digits in the tails.
        below_high = torch.where(level < LEVELS - 1, logsigmoid(high), 0.0)
        above_low = torch.where(level > 0, logsigmoid(-low), 0.0)
        inner = (level > 0) & (level < LEVELS - 1)
        return below_high + above_low + torch.where(inner, (-torch.expm1(-precision / LEVELS)).log(), 0.0)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws of grey values i / 255."""
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            eps = torch.finfo(self.location.dtype).eps
            u = torch.rand(shape, dtype=self.location.dtype, device=self.location.device).clamp(eps, 1 - eps)
            value = self.location + self.log_scale.exp() * u.logit()
            return (value * LEVELS).floor().clamp(0, LEVELS - 1) / (LEVELS - 1)

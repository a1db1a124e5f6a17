"""Likelihoods defined by an energy, p(x | z) proportional to exp(-energy), with an unknown normalising constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from zoo import Likelihood, at_least_float32


class SquaredErrorEnergy(Likelihood):
    """-log p(x | z) = |x - mean|^2, summed over entries, with a mean in [0, 1].

    This is N(x; mean, 1/2) without its normalising constant, so that the distortion is the squared error itself.

    Args:
        data_shape: event shape of x.
    """

    def __init__(self, data_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_dims = len(data_shape)

    def forward(self, parameters: Tensor) -> Distribution:
        """Map logits of the mean (..., *data_shape, 1) to an energy over data_shape."""
        return Energy(mean_from_logits(parameters), self._squared_error, self.event_dims)

    def _squared_error(self, x: Tensor, mean: Tensor) -> Tensor:
        return (x - mean).square().sum(tuple(range(-self.event_dims, 0)))


def mean_from_logits(logits: Tensor) -> Tensor:
    """Map logits (..., *data_shape, 1) to means (..., *data_shape) in [0, 1], in float32 at least."""
    return torch.sigmoid(at_least_float32(logits).squeeze(-1))


class Energy(Distribution):
    """p(x) proportional to exp(-cost(x, mean)), unnormalised.

    Its `log_prob` is a training objective; no likelihood is estimated from it. It cannot be sampled.

    Args:
        mean: the minimum of the cost, (..., *event_shape).
        cost: maps x and mean, (..., *event_shape) and broadcastable, to (...).
        event_dims: number of event dimensions.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    normalized = False

    def __init__(self, mean: Tensor, cost: Callable[[Tensor, Tensor], Tensor], event_dims: int) -> None:
        self._mean = mean
        self._cost = cost
        batch_dims = mean.ndim - event_dims
        super().__init__(mean.shape[:batch_dims], mean.shape[batch_dims:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The minimum of the cost."""
        return self._mean

    def log_prob(self, value: Tensor) -> Tensor:
        """The negative cost of `value`."""
        return -self._cost(value, self._mean)

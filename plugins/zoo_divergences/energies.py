"""Likelihoods that are costs and not densities: p(x | z) is proportional to exp(-cost)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from zoo import Likelihood, at_least_float32


class SquaredErrorEnergy(Likelihood):
    """-log p(x | z) = |x - mean|^2, summed over the entries: the cost of autoencoders that bound no likelihood.

    Up to a constant this is N(x; mean, 1/2), with a mean that stays in [0, 1]. The constant is left out so that the
    distortion is the squared error itself.

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
    """Map logits (..., *data_shape, 1) to values in [0, 1], in float32 at least."""
    return torch.sigmoid(at_least_float32(logits).squeeze(-1))


class Energy(Distribution):
    """p(x) proportional to exp(-cost(x, mean)), the constant of proportionality unknown or left out.

    So its `log_prob` is good for training and for nothing else, and no likelihood is estimated from it. It cannot be
    sampled.

    Args:
        mean: the point that costs nothing, (..., *event_shape).
        cost: from two points (..., *event_shape), broadcast against each other, to a number each, (...).
        event_dims: number of dimensions of an event.
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
        """The point that costs nothing."""
        return self._mean

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the cost of `value`."""
        return -self._cost(value, self._mean)

"""Likelihoods that are costs between two images and no densities: p(x | z) is proportional to exp(-cost)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from zoo import Likelihood, at_least_float32


class SquaredErrorPixels(Likelihood):
    """-log p(x | z) = |x - mean|^2, summed over pixels: the cost of autoencoders that bound no likelihood.

    Up to a constant this is N(x; mean, 1/2), with a mean that stays in [0, 1]. The constant is left out so that the
    distortion is the squared error itself.
    """

    def forward(self, parameters: Tensor) -> Distribution:
        """Logits of the mean image (..., 1, C, H, W) to an energy over (C, H, W)."""
        return Energy(mean_image(parameters), squared_error)


def squared_error(x: Tensor, mean: Tensor) -> Tensor:
    """|x - mean|^2, summed over (C, H, W)."""
    return (x - mean).square().sum((-3, -2, -1))


def mean_image(logits: Tensor) -> Tensor:
    """Logits (..., 1, C, H, W) to an image in [0, 1], in float32 at least."""
    return torch.sigmoid(at_least_float32(logits).squeeze(-4))


class Energy(Distribution):
    """p(x) proportional to exp(-cost(x, mean)), the constant of proportionality unknown or left out.

    So its `log_prob` is good for training and for nothing else, and no likelihood is estimated from it. It cannot be
    sampled.

    Args:
        mean: the image that costs nothing, (..., C, H, W).
        cost: from two images (..., C, H, W), broadcast against each other, to a number each, (...).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    normalized = False

    def __init__(self, mean: Tensor, cost: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._mean = mean
        self._cost = cost
        super().__init__(mean.shape[:-3], mean.shape[-3:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The image that costs nothing."""
        return self._mean

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the cost of `value`."""
        return -self._cost(value, self._mean)

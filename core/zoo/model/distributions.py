"""Extensions of torch's distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.types import _size


class AllowsEmptySamples(Distribution):
    """Mixin for distributions based on torch's `Categorical`, which rejects empty sample shapes.

    List it before the distribution that it extends:

    >>> from torch.distributions import OneHotCategorical
    >>> class OneHot(AllowsEmptySamples, OneHotCategorical): ...
    >>> OneHot(torch.ones(2, 3)).sample((0,)).shape
    torch.Size([0, 2, 3])
    """

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw samples (*sample_shape, *batch_shape, *event_shape); `sample_shape` may be empty."""
        if math.prod(sample_shape) > 0:
            return super().sample(sample_shape)
        return super().sample().new_empty(self._extended_shape(sample_shape))


def draw(distribution: Distribution, sample_shape: Sequence[int] = ()) -> Tensor:
    """Draw samples (*sample_shape, *batch_shape, *event_shape) without a gradient.

    `torch.distributions.Normal.sample` checks its scale, for which the host waits for the accelerator; this does not.
    """
    shape = torch.Size(sample_shape)
    with torch.no_grad():
        z: Tensor = distribution.rsample(shape) if distribution.has_rsample else distribution.sample(shape)
    return z

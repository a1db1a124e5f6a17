"""What torch's distributions lack."""

from __future__ import annotations

import math

from torch import Tensor
from torch.distributions import Distribution
from torch.types import _size


class AllowsEmptySamples(Distribution):
    """A mixin for distributions built on torch's `Categorical`, which rejects sample shapes without elements.

    Put it before the distribution that it extends:

    >>> from torch.distributions import OneHotCategorical
    >>> class OneHot(AllowsEmptySamples, OneHotCategorical): ...
    >>> OneHot(torch.ones(2, 3)).sample((0,)).shape
    torch.Size([0, 2, 3])
    """

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws (*sample_shape, *batch_shape, *event_shape), of which there may be none."""
        if math.prod(sample_shape) > 0:
            return super().sample(sample_shape)
        return super().sample().new_empty(self._extended_shape(sample_shape))

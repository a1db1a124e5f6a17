"""Extensions of torch's distributions."""

from __future__ import annotations

import math

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

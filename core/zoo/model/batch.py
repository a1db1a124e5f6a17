"""A batch of examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

ENTRIES = 2**20
"""The entries of x in the largest batch without gradients."""


def evaluation_batch_size(shape: Sequence[int], largest: int) -> int:
    """The number of examples to compute at once where gradients are not needed and any number will do.

    A network needs many times the memory of its input, so large examples are computed a few at a time.

    Args:
        shape: of an example.
        largest: the number for small examples.

    >>> [evaluation_batch_size(shape, 1000) for shape in ((1, 28, 28), (3, 64, 64), (3, 2048, 2048))]
    [1000, 85, 1]
    """
    return max(1, min(largest, ENTRIES // max(1, math.prod(shape))))


class Batch(NamedTuple):
    """The input of a loss.

    Attributes:
        x: examples (N, *data_shape); images are (N, C, H, W) in [0, 1].
        condition: labels (N,) for conditional models, or None.
        mask: bool, like `x`, true where an entry is observed; None if all are.
    """

    x: Tensor
    condition: Tensor | None = None
    mask: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Apply a function to every tensor."""
        return self._replace(**{name: function(t) for name, t in self._asdict().items() if t is not None})

"""A batch of examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


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

"""The finite scalar quantiser (arXiv 2309.15505)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor
from vector_quantize_pytorch import FSQ

from zoo import ComponentError
from zoo_discrete.quantizer import Quantizer

Level = Annotated[int, Field(ge=3)]
MOST_CODES = 2**24
"""All of them are listed in a tensor."""


class FiniteScalar(Quantizer):
    """Each of a few numbers is bounded by a tanh and rounded to one of its levels (arXiv 2309.15505, section 3.1).

    No codebook is learnt: it is all combinations of the levels, their product K in number. The gradient passes the
    rounding as if it were not there. There is nothing to commit to.

    Args:
        features: width of the trunk.
        latent_dim: number of codes for an image.
        levels: of each dimension of a code. (8, 6, 5) is the paper's choice for about 2^8 codes.

    Raises:
        ComponentError: there are more than 2^24 codes.
    """

    def __init__(
        self,
        features: int,
        latent_dim: int,
        levels: Annotated[Sequence[Level], Field(min_length=1)] = (8, 6, 5),
    ) -> None:
        codes = math.prod(levels)
        if codes > MOST_CODES:
            raise ComponentError(f"levels: their product is the number of codes, {codes:,}; at most {MOST_CODES:,}.")
        super().__init__(features, latent_dim, len(levels), codes)
        self.quantizer = FSQ(list(levels))

    def quantize(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points (N, latent_dim, dim) to codes in [-1, 1], indices and a commitment of zero."""
        codes, indices = self.quantizer(points)
        return codes, indices.long().unsqueeze(-1), points.new_zeros(points.shape[0])

    def look_up(self, indices: Tensor) -> Tensor:
        """The codes of indices."""
        codes: Tensor = self.quantizer.implicit_codebook[indices.squeeze(-1)]
        return codes

    def find(self, z: Tensor) -> Tensor:
        """The indices of codes."""
        indices: Tensor = self.quantizer.codes_to_indices(z)
        return indices.long().unsqueeze(-1)

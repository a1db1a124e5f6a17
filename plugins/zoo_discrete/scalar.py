"""Finite scalar quantisation (arXiv 2309.15505)."""

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
MAX_CODES = 2**24
"""Limit on the size of the implicit codebook, which is a tensor."""


class FiniteScalar(Quantizer):
    """Each dimension of a code is bounded by a tanh and rounded to one of its levels (arXiv 2309.15505, section 3.1).

    The codebook is not learned: it is the product of the levels, of size K. Rounding has a straight-through gradient,
    and there is no commitment loss.

    Args:
        features: number of features.
        latent_dim: number of codes per image, or per position of a grid.
        levels: number of levels of each dimension. (8, 6, 5) is the paper's choice for about 2^8 codes.

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
        if codes > MAX_CODES:
            raise ComponentError(
                f"The posterior 'finite-scalar' has at most {MAX_CODES:,} codes, the product of the levels; got "
                f"{codes:,}."
            )
        super().__init__(features, latent_dim, len(levels), codes)
        self.quantizer = FSQ(list(levels))

    def quantize(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map points (N, L, dim) to codes in [-1, 1], indices and a commitment loss of zero."""
        codes, indices = self.quantizer(points)
        return codes, indices.long().unsqueeze(-1), points.new_zeros(points.shape[0])

    def codes_of(self, indices: Tensor) -> Tensor:
        """Return the codes (..., latent_dim, dim) of indices (..., latent_dim, 1)."""
        codes: Tensor = self.quantizer.implicit_codebook[indices.squeeze(-1)]
        return codes

    def indices_of(self, z: Tensor) -> Tensor:
        """Return the indices (..., latent_dim, 1) of codes (..., latent_dim, dim)."""
        indices: Tensor = self.quantizer.codes_to_indices(z)
        return indices.long().unsqueeze(-1)

"""Vector quantisers: a codebook that follows the points that come to it (arXiv 1711.00937)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from zoo_discrete.quantizer import Quantizer

Decay = Annotated[float, Field(ge=0, lt=1)]

BEAMS = (1, 8, 64)
"""Partial sums that are followed up when the indices of a sum of codes are looked for."""
POINTS = 4096
"""Points that are looked up at once."""


class VectorQuantized(Quantizer):
    """Each point becomes the nearest of K vectors (arXiv 1711.00937, eq. 1 and 2), or a sum of such.

    The gradient passes from code to point as if they were one. In training mode each call moves the codebook by moving
    averages of how many points came to each vector and of their sum (arXiv 1711.00937, appendix A.1, the
    counts smoothed by 1e-5), and puts a vector that too few come to on a random point of the batch. In evaluation mode
    nothing moves. All of that is in buffers. Several calls for one step, as with ``train.microbatches``, are several
    moves.

    With several quantisers each has a codebook of its own and quantises what those before have left; the code is the
    sum of theirs (arXiv 2107.03312, algorithm 1). The commitment is then the sum over all partial sums
    (arXiv 2203.01941, section 3.1).

    Args:
        features: width of the trunk.
        latent_dim: number of codes for an image.
        dim: dimensions of a code.
        codebook_size: K.
        quantizers: codebooks.
        decay: of the moving averages.
        revive_below: points for each call, in the moving average, that a vector must have in order to stay. So many
            it is said to have when it starts anew, therefore the unused ones of a new codebook are on data after one
            call.
    """

    def __init__(
        self,
        features: int,
        latent_dim: int,
        dim: PositiveInt = 16,
        codebook_size: PositiveInt = 64,
        quantizers: PositiveInt = 1,
        decay: Decay = 0.99,
        revive_below: NonNegativeFloat = 1.0,
    ) -> None:
        super().__init__(features, latent_dim, dim, codebook_size, quantizers)
        # No k-means: the library would start it from whatever image is encoded first, be it blank and in evaluation.
        self.layers = nn.ModuleList(
            VectorQuantize(dim, codebook_size, decay=decay, threshold_ema_dead_code=revive_below, commitment_weight=0.0)
            for _ in range(quantizers)
        )

    @property
    def codebooks(self) -> list[Tensor]:
        """The vectors of each quantiser, (codebook_size, dim)."""
        return [layer.get_buffer("_codebook.embed").squeeze(0) for layer in self.layers]

    def quantize(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points (N, latent_dim, dim) to codes, indices and commitment."""
        if not torch.compiler.is_exporting() and not len(points):  # nothing becomes a code or moves the codebooks
            indices_shape = (0, *self.indices_shape)
            return points, points.new_empty(indices_shape, dtype=torch.int64), points.new_zeros(0)
        codes, commitment, indices = torch.zeros_like(points), points.new_zeros(points.shape[0]), []
        for layer, codebook in zip(self.layers, self.codebooks, strict=True):
            left = (points - codes).detach()
            if torch.compiler.is_exporting():  # no graph can hold the library's looks at its buffers
                index = torch.cdist(left, codebook).argmin(-1)
                code = codebook[index]
            else:
                code, index, _ = layer(left)
                layer.zero.requires_grad_(False)  # set by the library; a copy of the model on another device would fail
            codes = codes + code
            commitment = commitment + (points - codes).square().sum((-2, -1))
            indices.append(index)
        return codes + (points - points.detach()), torch.stack(indices, -1), commitment

    def look_up(self, indices: Tensor) -> Tensor:
        """The codes of indices."""
        codes = zip(self.codebooks, indices.unbind(-1), strict=True)
        return torch.stack([codebook[index] for codebook, index in codes]).sum(0)

    def find(self, z: Tensor) -> Tensor:
        """The indices of codes, by a beam search over the quantisers.

        The points were quantised step by step; their sums, so treated, need not give the same indices. Most do, so the
        beam is widened for those alone whose code is not met: at its widest the search is exhaustive for two quantisers
        with up to 64 vectors each.
        """
        points = z.reshape(-1, z.shape[-1])
        found = torch.zeros(len(points), len(self.layers), dtype=torch.int64, device=z.device)
        missed = torch.arange(len(points), device=z.device)
        for beam in BEAMS:
            for rows in torch.split(missed, POINTS):
                found[rows] = self._search(points[rows], beam)
            distances = (self.look_up(found[missed]) - points[missed]).norm(dim=-1)
            missed = missed[distances > 1e-5 * points[missed].norm(dim=-1)]
        return found.reshape(*z.shape[:-1], len(self.layers))

    def _search(self, points: Tensor, beam: int) -> Tensor:
        left = points.unsqueeze(1)
        paths = torch.zeros(len(points), 1, 0, dtype=torch.int64, device=points.device)
        for codebook in self.codebooks:
            distances = torch.cdist(left, codebook, compute_mode="donot_use_mm_for_euclid_dist").flatten(1)
            best = distances.topk(min(beam, distances.shape[1]), largest=False).indices.unsqueeze(-1)
            before, index = best // self.codebook_size, best % self.codebook_size
            left = torch.take_along_dim(left, before, dim=1) - codebook[index.squeeze(-1)]
            paths = torch.cat([torch.take_along_dim(paths, before, dim=1), index], dim=-1)
        return paths[:, 0]

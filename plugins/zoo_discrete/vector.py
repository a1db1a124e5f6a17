"""Vector quantisation with codebooks updated by moving averages (arXiv 1711.00937)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from zoo_discrete.quantizer import Quantizer

Decay = Annotated[float, Field(ge=0, lt=1)]

BEAMS = (1, 8, 64)
"""Beam widths tried in turn when searching for the indices of a code."""
CHUNK = 4096
"""Points that are searched for at once."""


class VectorQuantized(Quantizer):
    """Each point is replaced by the nearest of K codebook vectors (arXiv 1711.00937, eq. 1 and 2), with a
    straight-through gradient.

    In training mode each call (each microbatch) updates the codebook by moving averages of the number and sum of the
    points assigned to each vector (appendix A.1, counts smoothed by 1e-5), and moves rarely used vectors to random
    points of the batch. The state is in buffers.

    With several quantisers, each quantises the residual of the preceding ones with its own codebook, and the code is
    the sum of theirs (arXiv 2107.03312, algorithm 1). The commitment loss is then summed over all partial sums (arXiv
    2203.01941, section 3.1).

    Args:
        features: number of features.
        latent_dim: number of codes per image, or per position of a grid.
        dim: dimensions of a code.
        codebook_size: K.
        quantizers: number of codebooks.
        decay: decay of the moving averages.
        revive_below: vectors with fewer points per call, in the moving average, are moved to a random point and start
            with this count. Hence all unused vectors of a new codebook are moved onto data by the first call.
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
        # No k-means initialisation: the library would use the first encoded images, even in evaluation mode.
        self.layers = nn.ModuleList(
            VectorQuantize(dim, codebook_size, decay=decay, threshold_ema_dead_code=revive_below, commitment_weight=0.0)
            for _ in range(quantizers)
        )

    @property
    def codebooks(self) -> list[Tensor]:
        """The vectors (codebook_size, dim) of each quantiser."""
        return [layer.get_buffer("_codebook.embed").squeeze(0) for layer in self.layers]

    def quantize(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map points (N, L, dim) to codes, indices and commitment loss."""
        if not torch.compiler.is_exporting() and not len(points):  # the library rejects an empty batch
            shape = (*points.shape[:2], len(self.layers))
            return points, points.new_empty(shape, dtype=torch.int64), points.new_zeros(0)
        codes, commitment, indices = torch.zeros_like(points), points.new_zeros(points.shape[0]), []
        for layer, codebook in zip(self.layers, self.codebooks, strict=True):
            residual = (points - codes).detach()
            if torch.compiler.is_exporting():  # the library branches on the values of its buffers
                index = torch.cdist(residual, codebook).argmin(-1)
                code = codebook[index]
            else:
                code, index, _ = layer(residual)
                layer.zero.requires_grad_(False)  # set by the library; it breaks copies to another device
            codes = codes + code
            commitment = commitment + (points - codes).square().sum((-2, -1))
            indices.append(index)
        return codes + (points - points.detach()), torch.stack(indices, -1), commitment

    def codes_of(self, indices: Tensor) -> Tensor:
        """Return the codes (..., latent_dim, dim) of indices (..., latent_dim, quantizers)."""
        pairs = zip(self.codebooks, indices.unbind(-1), strict=True)
        return torch.stack([codebook[index] for codebook, index in pairs]).sum(0)

    def indices_of(self, z: Tensor) -> Tensor:
        """Return the indices of codes, by a beam search over the quantisers.

        Quantising a code greedily need not give back its indices, although it mostly does. The beam is widened for the
        codes that are not reproduced; the widest is exhaustive for two quantisers with up to 64 vectors each.
        """
        points = z.reshape(-1, z.shape[-1])
        indices = torch.zeros(len(points), len(self.layers), dtype=torch.int64, device=z.device)
        unmatched = torch.arange(len(points), device=z.device)
        for beam in BEAMS:
            for rows in torch.split(unmatched, CHUNK):
                indices[rows] = self._search(points[rows], beam)
            distances = (self.codes_of(indices[unmatched]) - points[unmatched]).norm(dim=-1)
            unmatched = unmatched[distances > 1e-5 * points[unmatched].norm(dim=-1)]
        return indices.reshape(*z.shape[:-1], len(self.layers))

    def _search(self, points: Tensor, beam: int) -> Tensor:
        """The best indices (N, quantizers) of points (N, dim) in a beam search of the given width."""
        residuals = points.unsqueeze(1)
        paths = torch.zeros(len(points), 1, 0, dtype=torch.int64, device=points.device)
        for codebook in self.codebooks:
            distances = torch.cdist(residuals, codebook, compute_mode="donot_use_mm_for_euclid_dist").flatten(1)
            best = distances.topk(min(beam, distances.shape[1]), largest=False).indices.unsqueeze(-1)
            parent, index = best // self.codebook_size, best % self.codebook_size
            residuals = torch.take_along_dim(residuals, parent, dim=1) - codebook[index.squeeze(-1)]
            paths = torch.cat([torch.take_along_dim(paths, parent, dim=1), index], dim=-1)
        return paths[:, 0]

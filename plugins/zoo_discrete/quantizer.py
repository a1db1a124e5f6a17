"""The base class of quantisers, and the distribution that they return."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.types import _size

from zoo import ComponentError, Encoder, KeepsFloat32, Posterior, at_least_float32, match_dtype

MEASURE = "probability mass on the codes of a quantizer"


class Quantizer(KeepsFloat32, Posterior):
    """q(z | x): a linear map from features to `latent_dim` points, each of which is replaced by a nearby code.

    With features on a grid, such as the positions (h, w) of an image, there are `latent_dim` codes per position.

    The head stays in float32 when a model is cast to bfloat16, which cannot distinguish neighbouring codes.

    Args:
        features: number of features.
        latent_dim: number of codes per image, or per position of a grid.
        dim: dimensions of a code.
        codebook_size: K, number of values of an index.
        quantizers: number of indices per code.
    """

    def __init__(self, features: int, latent_dim: int, dim: int, codebook_size: int, quantizers: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(features, latent_dim * dim)
        self.latent_dim, self.dim = latent_dim, dim
        self.indices_shape = (latent_dim, quantizers)  # at one position
        self.codebook_size = codebook_size

    def forward(self, features: Tensor) -> Distribution:
        """Map features (N, *grid, features) to a `Quantized` distribution with event shape (*grid, latent_dim, dim)."""
        shape = (*features.shape[:-1], self.latent_dim)
        points = at_least_float32(self.linear(match_dtype(features, self)))
        points = points.reshape(shape[0], math.prod(shape[1:]), self.dim)
        with torch.autocast(points.device.type, enabled=False):
            codes, indices, commitment = self.quantize(points)
        return Quantized(
            codes.reshape(*shape, self.dim),
            indices.reshape(*shape, self.indices_shape[-1]),
            commitment,
            self.codebook_size,
        )

    @abstractmethod
    def quantize(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map points (N, L, dim), those of all positions, to codes of the same shape with a straight-through gradient,
        their indices (N, L, quantizers) and the commitment loss (N,).
        """

    @abstractmethod
    def codes_of(self, indices: Tensor) -> Tensor:
        """Return the codes (..., latent_dim, dim) of indices (..., latent_dim, quantizers)."""

    @abstractmethod
    def indices_of(self, z: Tensor) -> Tensor:
        """Return the indices (..., latent_dim, quantizers) of codes (..., latent_dim, dim)."""


def quantizer_of(encoder: Encoder) -> Quantizer:
    """Return the quantiser of an encoder.

    Raises:
        ComponentError: there is none.
    """
    quantizer = next((module for module in encoder.modules() if isinstance(module, Quantizer)), None)
    if quantizer is None:
        raise ComponentError(
            "A prior over codes needs a quantiser: encoder.posterior=vector-quantized or "
            "encoder.posterior=finite-scalar."
        )
    return quantizer


class Quantized(Distribution):
    """A point mass on the codes of an image, which are every sample and the mean.

    Its KL to a prior over codes is -log p(indices). `log_prob` raises, because importance sampling from a point mass
    estimates nothing.

    Args:
        z: codes (N, *grid, latent_dim, dim).
        indices: indices of the codes, (N, *grid, latent_dim, quantizers).
        commitment: squared distances between points and codes, summed over an image, (N,).
        codebook_size: K.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    base_measure = MEASURE
    has_rsample = True

    def __init__(self, z: Tensor, indices: Tensor, commitment: Tensor, codebook_size: int) -> None:
        self.z = z
        self.indices = indices
        self.commitment = commitment
        self.codebook_size = codebook_size
        super().__init__(z.shape[:1], z.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The codes."""
        return self.z

    @property
    def code_perplexity(self) -> Tensor:
        """The exponential of the entropy of the index frequencies in the batch, averaged over quantisers: a scalar
        from 1 to K.
        """
        indices = self.indices.flatten(0, -2)  # (codes in the batch, quantizers)
        counts = self.z.new_zeros(self.codebook_size, indices.shape[-1])
        counts = counts.scatter_add(0, indices, torch.ones_like(indices, dtype=counts.dtype))
        entropies: Tensor = torch.special.entr(counts / len(indices)).sum(0)
        return entropies.exp().mean()

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """The codes, expanded to (*sample_shape, N, *grid, latent_dim, dim), with the gradient of the points."""
        return self.z.expand(self._extended_shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Raise an error: there is no density.

        Raises:
            ComponentError: always.
        """
        raise ComponentError(
            "A quantized posterior has no density, so importance sampling cannot estimate log p(x); distortion + rate "
            "is an upper bound on -log p(x). Use a loss that needs no density (loss=vq), or a posterior with a density "
            "or mass (gaussian, gumbel-softmax)."
        )

"""What the quantisers have in common: the head of an encoder that answers with codes out of a finite number."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.types import _size

from zoo import ComponentError, Encoder, KeepsFloat32, Posterior, at_least_float32, match_dtype

MEASURE = "probability mass on the codes of a quantizer"


class Quantizer(KeepsFloat32, Posterior):
    """q(z | x): features become `latent_dim` points by a linear map, and each point becomes a code near it.

    The encoder may be of any kind: its features are split into points whatever lies under them. The head stays in
    float32 when a model is cast to bfloat16, which could not tell neighbouring codes apart.

    Args:
        features: width of the trunk.
        latent_dim: number of codes for an image.
        dim: dimensions of a code.
        codebook_size: K, the values that an index of a code can take.
        quantizers: number of indices that make up a code.
    """

    def __init__(self, features: int, latent_dim: int, dim: int, codebook_size: int, quantizers: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(features, latent_dim * dim)
        self.event_shape = (latent_dim, dim)
        self.indices_shape = (latent_dim, quantizers)
        self.codebook_size = codebook_size

    def forward(self, features: Tensor) -> Distribution:
        """Features (N, features) to a `Quantized` distribution with event shape (latent_dim, dim)."""
        points = self.linear(match_dtype(features, self)).unflatten(-1, self.event_shape)
        points = at_least_float32(points)
        with torch.autocast(points.device.type, enabled=False):
            return Quantized(*self.quantize(points), self.codebook_size)

    @abstractmethod
    def quantize(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points (N, latent_dim, dim) to codes of that shape with a straight-through gradient, their indices
        (N, latent_dim, quantizers), and the commitment (N,).
        """

    @abstractmethod
    def look_up(self, indices: Tensor) -> Tensor:
        """The codes (..., latent_dim, dim) of indices (..., latent_dim, quantizers)."""

    @abstractmethod
    def find(self, z: Tensor) -> Tensor:
        """The indices (..., latent_dim, quantizers) of codes (..., latent_dim, dim): the inverse of `look_up`."""


def quantizer_of(encoder: Encoder) -> Quantizer:
    """The quantiser inside an encoder.

    Raises:
        ComponentError: there is none.
    """
    found = next((module for module in encoder.modules() if isinstance(module, Quantizer)), None)
    if found is None:
        raise ComponentError(
            "A prior over codes needs an encoder whose posterior is a quantiser: encoder.posterior=vector-quantized "
            "or encoder.posterior=finite-scalar."
        )
    return found


class Quantized(Distribution):
    """All probability on one code, which is every draw and the mean.

    Against a prior over the same codes its KL is -log p(indices), which is known; but importance sampling from a single
    point estimates nothing, so `log_prob` refuses.

    Args:
        z: codes (N, latent_dim, dim).
        indices: of the codes, (N, latent_dim, quantizers).
        commitment: squared distances from the points to their codes, summed over an image, (N,).
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
    def codes_in_use(self) -> Tensor:
        """The perplexity: exp of the entropy of the indices' frequencies in the batch, a scalar from 1 to K.

        With several quantisers it is the mean of theirs.
        """
        each = torch.arange(self.codebook_size, device=self.indices.device)
        frequencies = (self.indices.unsqueeze(-1) == each).to(self.z.dtype).mean((0, 1))
        entropies: Tensor = torch.special.entr(frequencies).sum(-1)
        return entropies.exp().mean()

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """The codes, again and again, with the gradient of the points."""
        return self.z.expand(self._extended_shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Refuse.

        Raises:
            ComponentError: always.
        """
        raise ComponentError(
            "The posterior is a single code: it has no density, and importance sampling has nothing to estimate "
            "log p(x) from. What there is to know is the bound, distortion + rate. Take a loss that needs no more "
            "(loss=vq), or a posterior with a density or a mass (gaussian, gumbel-softmax)."
        )

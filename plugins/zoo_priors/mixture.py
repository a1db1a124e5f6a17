"""Mixtures of distributions of one kind, and the mixture of Gaussians that is trained with the model."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily
from torch.types import _size

from zoo import AllowsEmptySamples, Encoder, Gaussian, Prior

AT_ONCE = 2**24
"""Numbers that one intermediate result of a mixture may hold."""


class Mixture(AllowsEmptySamples, MixtureSameFamily):
    """p(z) = sum_k w_k p_k(z), log p(z) by logsumexp, with batch shape ().

    torch's own holds every draw next to every component: 5000 importance samples of one image against 500 components
    of 40 dimensions would take 400 MB several times over. Here the draws are worked through in shares.

    Args:
        weights: over K components.
        components: batch shape (K,), event shape that of z.
    """

    def __init__(self, weights: Categorical, components: Distribution) -> None:
        super().__init__(weights, components, validate_args=False)
        self._share = max(1, AT_ONCE // (components.batch_shape[0] * max(1, math.prod(components.event_shape))))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of (..., *event_shape), shape (...)."""
        log_prob: Callable[[Tensor], Tensor] = super().log_prob
        leading = value.shape[: value.ndim - len(self.event_shape)]
        parts = torch.split(value.reshape(-1, *self.event_shape), self._share)
        return torch.cat([log_prob(part) for part in parts]).reshape(leading)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws, (*sample_shape, *event_shape)."""
        sample: Callable[[_size], Tensor] = super().sample
        n = math.prod(sample_shape)
        parts = [sample(torch.Size([min(self._share, n - done)])) for done in range(0, max(n, 1), self._share)]
        return torch.cat(parts).reshape(*sample_shape, *self.event_shape)


class GaussianComponents(Prior):
    """p(z) = sum_k w_k N(z; m_k, diag(s_k^2)), with weights, means and scales trained with the model.

    The baseline "MoG" of arXiv 1705.07120, with learnt weights in addition.

    Args:
        latent_shape: event shape of the latent.
        components: K.
    """

    def __init__(self, latent_shape: tuple[int, ...], components: PositiveInt = 100) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        # Spread and width add up to the variance of a standard normal, from which the posterior starts too.
        self.loc = nn.Parameter(math.sqrt(0.5) * torch.randn(components, *latent_shape))
        self.log_scale = nn.Parameter(torch.full((components, *latent_shape), 0.5 * math.log(0.5)))

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """The distribution over z, batch shape ()."""
        components = Independent(Gaussian(self.loc, self.log_scale), self.loc.ndim - 1, validate_args=False)
        return Mixture(Categorical(logits=self.logits, validate_args=False), components)

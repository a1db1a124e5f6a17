"""A mixture distribution with bounded memory, and a mixture of Gaussians trained with the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily
from torch.types import _size

from zoo import AllowsEmptySamples, Encoder, Gaussian, Prior

MAX_ELEMENTS = 2**24
"""Largest number of elements in an intermediate tensor of a mixture."""


class Mixture(AllowsEmptySamples, MixtureSameFamily):
    """p(z) = sum_k w_k p_k(z), with batch shape () and bounded memory.

    `torch.distributions.MixtureSameFamily` evaluates every draw under every component at once: 5000 importance samples
    under 500 components of 40 dimensions take 400 MB several times over. This class works in chunks of draws. Without
    gradients, diagonal Gaussians on the CPU are evaluated by matrix products, which is 25 times as fast.

    Args:
        weights: distribution over the K components, with batch shape ().
        components: distribution over z with batch shape (K,).
    """

    def __init__(self, weights: Categorical, components: Distribution) -> None:
        super().__init__(weights, components, validate_args=False)
        self._chunk = max(1, MAX_ELEMENTS // (components.batch_shape[0] * max(1, math.prod(components.event_shape))))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z) of z (..., *event_shape), shape (...), in nats."""
        log_prob: Callable[[Tensor], Tensor] = super().log_prob
        gaussians = _gaussians(self.component_distribution)
        if gaussians is not None and not torch.is_grad_enabled() and value.device.type == "cpu":
            log_prob = partial(self._gaussian_log_prob, gaussians)
        leading = value.shape[: value.ndim - len(self.event_shape)]
        chunks = torch.split(value.reshape(-1, *self.event_shape), self._chunk)
        return torch.cat([log_prob(chunk) for chunk in chunks]).reshape(leading)

    def _gaussian_log_prob(self, gaussians: Gaussian, z: Tensor) -> Tensor:
        """log p(z) of z (n, *event_shape) under diagonal Gaussians, with the square expanded, in float64.

        log w_k N(z; m, diag(s^2)) = z . (m / s^2) - z^2 . (1 / 2 s^2) + constant
        """
        mean, log_scale = gaussians.loc.double().flatten(1), gaussians.log_scale.double().flatten(1)
        precision = (-2 * log_scale).exp()
        linear = mean * precision
        constant = -(mean * linear).sum(1) / 2 - log_scale.sum(1) - mean.shape[1] * math.log(2 * math.pi) / 2
        constant = constant + self.mixture_distribution.logits.double()
        flat = z.double().flatten(1)
        by_component = flat @ linear.T - flat.square() @ (precision / 2).T + constant
        density: Tensor = by_component.logsumexp(-1).to(z.dtype)
        return density

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw samples (*sample_shape, *event_shape)."""
        sample: Callable[[_size], Tensor] = super().sample
        n = math.prod(sample_shape)
        chunks = [sample(torch.Size([min(self._chunk, n - start)])) for start in range(0, max(n, 1), self._chunk)]
        return torch.cat(chunks).reshape(*sample_shape, *self.event_shape)


def _gaussians(components: Distribution) -> Gaussian | None:
    """The entries of components that are diagonal Gaussians, (K, *event_shape); None for other components."""
    base = components.base_dist if isinstance(components, Independent) else None
    return base if isinstance(base, Gaussian) else None


class GaussianComponents(Prior):
    """p(z) = sum_k w_k N(z; m_k, diag(s_k^2)), with weights, means and scales trained with the model.

    The "MoG" baseline of arXiv 1705.07120, with learned weights.

    Args:
        latent_shape: event shape of the latent.
        components: K.
    """

    def __init__(self, latent_shape: tuple[int, ...], components: PositiveInt = 100) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        # The variances of the means and of the components add up to 1: initially p(z) is close to N(0, I).
        self.loc = nn.Parameter(math.sqrt(0.5) * torch.randn(components, *latent_shape))
        self.log_scale = nn.Parameter(torch.full((components, *latent_shape), 0.5 * math.log(0.5)))

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return the mixture over z, with batch shape ()."""
        components = Independent(Gaussian(self.loc, self.log_scale), self.loc.ndim - 1, validate_args=False)
        return Mixture(Categorical(logits=self.logits, validate_args=False), components)

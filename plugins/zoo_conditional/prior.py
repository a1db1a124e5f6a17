"""A prior for each label."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily

from zoo import AllowsEmptySamples, Conditional, Encoder, Gaussian, Prior
from zoo_conditional.labels import checked, required


class Mixture(AllowsEmptySamples, MixtureSameFamily):
    """torch's mixture, of which no draws at all can be taken too."""


class ConditionalNormal(Prior, Conditional):
    """p(z | y) = N(z; mean_y, diag(exp(log_variance_y))), learnt (Sohn et al., NeurIPS 2015, section 4).

    All begin as the standard normal.

    Args:
        latent_shape: (latent_dim,).
        classes: number of labels.
    """

    def __init__(self, latent_shape: tuple[int], classes: int) -> None:
        super().__init__()
        self.classes = required(classes)
        self.mean = nn.Parameter(torch.zeros(classes, *latent_shape))
        self.log_variance = nn.Parameter(torch.zeros(classes, *latent_shape))

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """The Gaussians of labels (N,), batch shape (N,); without any, the equal mixture of all, batch shape ()."""
        chosen = slice(None) if condition is None else checked(condition, self.classes)
        normal = Independent(Gaussian(self.mean[chosen], self.log_variance[chosen] / 2), 1, validate_args=False)
        if condition is not None:
            return normal
        alike = Categorical(logits=torch.zeros_like(self.mean[:, 0]), validate_args=False)
        return Mixture(alike, normal, validate_args=False)

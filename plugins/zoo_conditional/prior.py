"""A Gaussian prior for each label."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily

from zoo import AllowsEmptySamples, Conditional, Encoder, Gaussian, Prior
from zoo_conditional.labels import check_labels, require_labels


class Mixture(AllowsEmptySamples, MixtureSameFamily):
    """`MixtureSameFamily` that also allows empty sample shapes."""


class ConditionalNormal(Prior, Conditional):
    """p(z | y) = N(z; mean_y, diag(exp(log_variance_y))), with a learned mean and log-variance for each label y (Sohn
    et al., NeurIPS 2015, section 4).

    It is initially N(0, I).

    Args:
        latent_shape: event shape of the latent.
        classes: number of labels.

    Raises:
        UsageError: the data have no labels.
    """

    def __init__(self, latent_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.classes = require_labels(classes)
        self.mean = nn.Parameter(torch.zeros(classes, *latent_shape))
        self.log_variance = nn.Parameter(torch.zeros(classes, *latent_shape))

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return p(z | y) for labels (N,), with batch shape (N,); without labels, the uniform mixture over all labels,
        with batch shape ().

        Raises:
            UsageError: a label is out of range.
        """
        rows = slice(None) if condition is None else check_labels(condition, self.classes)
        entries = Gaussian(self.mean[rows], self.log_variance[rows] / 2)
        normal = Independent(entries, self.mean.ndim - 1, validate_args=False)
        if condition is not None:
            return normal
        uniform = Categorical(logits=torch.zeros_like(self.mean.flatten(1)[:, 0]), validate_args=False)
        return Mixture(uniform, normal, validate_args=False)

"""Categorical latents with reparameterised relaxations."""

from __future__ import annotations

import math

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import (
    Distribution,
    Independent,
    OneHotCategorical,
    RelaxedOneHotCategorical,
    kl_divergence,
    register_kl,
)
from torch.distributions.utils import clamp_probs
from torch.nn.functional import one_hot
from torch.types import _size

from zoo import AllowsEmptySamples, Encoder, Posterior, Prior, Scheduled, at_least_float32


class GumbelSoftmax(Posterior, Scheduled):
    """q(z | x) over one-hot vectors, sampled as softmax((logits + Gumbel noise) / temperature) (arXiv 1611.01144,
    eq. 2).

    In training mode samples are relaxed to points inside the simplex. The rate is that of the categorical variables,
    KL(Cat(logits) || p), as in arXiv 1611.01144; together with the distortion at relaxed samples it is not a bound.
    (arXiv 1611.00712 also relaxes the rate, which gives a bound for a relaxed model.) In evaluation mode samples are
    one-hot, so ELBO and importance-sampled likelihoods are those of the discrete model.

    The temperature at a step is max(min_temperature, temperature exp(-anneal step)) (arXiv 1611.01144, section 4).

    Args:
        features: number of features.
        latent_dim: number of categorical variables.
        categories: number of categories of each.
        temperature: initial temperature.
        min_temperature: final temperature.
        anneal: decay of the temperature per training step; 0 keeps it constant.
        hard: sample one-hot vectors in training too, with the gradient of the relaxed samples (straight-through,
            section 2.2).
    """

    temperature: Tensor

    def __init__(
        self,
        features: int,
        latent_dim: int,
        categories: PositiveInt = 10,
        temperature: PositiveFloat = 1.0,
        min_temperature: PositiveFloat = 0.5,
        anneal: NonNegativeFloat = 3e-4,
        hard: bool = False,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(features, latent_dim * categories)
        self.shape = (latent_dim, categories)
        self.initial_temperature = temperature
        self.min_temperature = min_temperature
        self.anneal = anneal
        self.hard = hard
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def schedule(self, step: int, epoch: float) -> None:
        """Lower the temperature."""
        temperature = self.initial_temperature * math.exp(-self.anneal * step)
        self.temperature.fill_(max(min(self.min_temperature, self.initial_temperature), temperature))

    def forward(self, features: Tensor) -> Distribution:
        """Map features (N, *grid, features) to a distribution with event shape (*grid, latent_dim, categories)."""
        logits = at_least_float32(self.linear(features).unflatten(-1, self.shape))
        family = RelaxedOneHot if self.training and not self.hard else StraightThroughOneHot
        return Independent(family(at_least_float32(self.temperature), logits), features.ndim - 1, validate_args=False)


class RelaxedOneHot(RelaxedOneHotCategorical):
    """The Gumbel-softmax or Concrete distribution (arXiv 1611.01144, eq. 2; density: arXiv 1611.00712, definition 1).

    Args:
        temperature: a scalar.
        logits: (..., categories).
    """

    def __init__(self, temperature: Tensor, logits: Tensor) -> None:
        super().__init__(temperature, logits=logits, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density on the simplex, in nats. Coordinates that underflowed to 0 count as the smallest normal
        number, since log 0 would make the density NaN.
        """
        value = value.clamp_min(torch.finfo(value.dtype).tiny)
        log_density: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
        return log_density

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draw reparameterised samples, clamped away from 0, where the density is undefined."""
        samples: Tensor = super().rsample(torch.Size(sample_shape))
        return samples.clamp_min(torch.finfo(samples.dtype).tiny)


class StraightThroughOneHot(AllowsEmptySamples, OneHotCategorical):
    """One-hot samples with the gradient of the relaxed samples of which they are the argmax.

    Args:
        temperature: temperature of the gradient, a scalar.
        logits: (..., categories).
    """

    has_rsample = True

    def __init__(self, temperature: Tensor, logits: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)
        self.temperature = temperature

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draw one-hot vectors: the argmax of logits plus Gumbel noise is a sample of the categorical."""
        uniform = torch.rand(self._extended_shape(sample_shape), dtype=self.logits.dtype, device=self.logits.device)
        perturbed = self.logits - (-clamp_probs(uniform).log()).log()
        # The argmax is taken before the division, because a high temperature rounds all entries to one number.
        soft = (perturbed / self.temperature).softmax(-1)
        return one_hot(perturbed.argmax(-1), soft.shape[-1]).to(soft) + (soft - soft.detach())


class OneHot(AllowsEmptySamples, OneHotCategorical):
    """The categorical distribution over one-hot vectors; a relaxed sample has probability 0.

    Args:
        logits: (..., categories).
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of a one-hot vector, in nats; minus infinity for any other vector."""
        is_one_hot = ((value == 0) | (value == 1)).all(-1) & (value.sum(-1) == 1)
        log_prob: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
        return torch.where(is_one_hot, log_prob, -math.inf)


@register_kl(RelaxedOneHot, OneHotCategorical)  # type: ignore[no-untyped-call, untyped-decorator]
def _categorical_kl(q: RelaxedOneHot, p: OneHotCategorical) -> Tensor:
    """The KL between the categorical distributions, ignoring the relaxation."""
    return kl_divergence(OneHotCategorical(logits=q.logits, validate_args=False), p)


class UniformCategorical(Prior):
    """p(z): independent uniform categorical variables.

    Args:
        latent_shape: (latent_dim, categories).
    """

    logits: Tensor

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(latent_shape), persistent=False)

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return the distribution over z, with batch shape ()."""
        return Independent(OneHot(self.logits), self.logits.ndim - 1, validate_args=False)

"""Categorical latents, relaxed during training so that a gradient passes through a draw."""

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
    """q(z | x) over one-hot vectors, drawn by softmax((logits + Gumbel noise) / temperature) (arXiv 1611.01144, eq. 2).

    In training mode draws are relaxed, points inside the simplex. The rate is that of the categories themselves,
    KL(Cat(logits) || p), as in arXiv 1611.01144; with a relaxed distortion beside it, the training loss is not a bound.
    (arXiv 1611.00712 relaxes the rate too: a bound, but of a relaxed model.)
    In evaluation mode draws are one-hot, so every number then is one of the discrete model: a true bound, and an
    importance-sampled likelihood.

    The temperature falls as in arXiv 1611.01144, section 4: max(min_temperature, temperature exp(-anneal step)).

    Args:
        features: width of the trunk.
        latent_dim: number of categorical variables.
        categories: values that each can take.
        temperature: at the first step.
        min_temperature: below which it does not fall.
        anneal: its rate for each training step; 0 keeps it constant.
        hard: draws are one-hot in training too, with the gradient of the relaxed ones (straight-through, section 2.2).
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
        self.first_temperature = temperature
        self.min_temperature = min_temperature
        self.anneal = anneal
        self.hard = hard
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    def schedule(self, step: int, epoch: float) -> None:
        """Lower the temperature."""
        falling = self.first_temperature * math.exp(-self.anneal * step)
        self.temperature.fill_(max(min(self.min_temperature, self.first_temperature), falling))

    def forward(self, features: Tensor) -> Distribution:
        """Map features (N, *grid, features) to a distribution with event shape (*grid, latent_dim, categories)."""
        logits = at_least_float32(self.linear(features).unflatten(-1, self.shape))
        kind = Relaxed if self.training and not self.hard else Hard
        return Independent(kind(at_least_float32(self.temperature), logits), features.ndim - 1, validate_args=False)


class Relaxed(RelaxedOneHotCategorical):
    """The Gumbel-softmax or Concrete distribution (arXiv 1611.01144, eq. 2; density: arXiv 1611.00712, definition 1).

    Args:
        temperature: a scalar.
        logits: (..., categories).
    """

    def __init__(self, temperature: Tensor, logits: Tensor) -> None:
        super().__init__(temperature, logits=logits, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density on the simplex. A coordinate that underflowed, as at low temperatures, counts as the least
        normal number: the logarithm of 0 would make the density NaN.
        """
        value = value.clamp_min(torch.finfo(value.dtype).tiny)
        log_density: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
        return log_density

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Reparameterised draws. None is exactly 0, where the density is not defined: far apart logits underflow."""
        draws: Tensor = super().rsample(torch.Size(sample_shape))
        return draws.clamp_min(torch.finfo(draws.dtype).tiny)


class Hard(AllowsEmptySamples, OneHotCategorical):
    """Exact one-hot draws, with the gradient of the relaxed ones that they are the maxima of.

    Args:
        temperature: of the gradient alone, a scalar.
        logits: (..., categories).
    """

    has_rsample = True

    def __init__(self, temperature: Tensor, logits: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)
        self.temperature = temperature

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """One-hot vectors; the greatest of logits plus Gumbel noise is a draw of the category."""
        uniform = torch.rand(self._extended_shape(sample_shape), dtype=self.logits.dtype, device=self.logits.device)
        perturbed = self.logits - (-clamp_probs(uniform).log()).log()
        # Its greatest is looked for before the division: a high temperature rounds all to the same number.
        soft = (perturbed / self.temperature).softmax(-1)
        return one_hot(perturbed.argmax(-1), soft.shape[-1]).to(soft) + (soft - soft.detach())


class OneHot(AllowsEmptySamples, OneHotCategorical):
    """Categories as one-hot vectors, and nothing in between: a relaxed draw has no mass here.

    Args:
        logits: (..., categories).
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-mass of a one-hot vector; minus infinity of anything else, lest it pass for a density."""
        vertex = ((value == 0) | (value == 1)).all(-1) & (value.sum(-1) == 1)
        mass: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
        return torch.where(vertex, mass, -math.inf)


@register_kl(Relaxed, OneHotCategorical)  # type: ignore[no-untyped-call, untyped-decorator]
def _categorical_kl(q: Relaxed, p: OneHotCategorical) -> Tensor:
    """Of the categories, not of the relaxed draws, which have none with a mass."""
    return kl_divergence(OneHotCategorical(logits=q.logits, validate_args=False), p)


class UniformCategorical(Prior):
    """p(z): independent categorical variables, each uniform.

    Args:
        latent_shape: (latent_dim, categories).
    """

    logits: Tensor

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(latent_shape), persistent=False)

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """The distribution over z, batch shape ()."""
        return Independent(OneHot(self.logits), self.logits.ndim - 1, validate_args=False)

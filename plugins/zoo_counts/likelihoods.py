"""Likelihoods of counts with independent entries. Their first parameter is the logarithm of the mean."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from zoo import Likelihood, at_least_float32
from zoo_counts.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

Dispersion = Literal["shared", "entrywise"]


class PoissonLikelihood(Likelihood):
    """Independent Poisson entries.

    Args:
        data_shape: event shape of x.
    """

    def __init__(self, data_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.data_shape = data_shape

    def forward(self, parameters: Tensor) -> Distribution:
        """Map log-means (..., *data_shape, 1) to a distribution over data_shape."""
        return self._independent(Poisson(at_least_float32(parameters)[..., 0]))

    def _independent(self, entries: Distribution) -> Distribution:
        return Independent(entries, len(self.data_shape), validate_args=False)


class NegativeBinomialLikelihood(PoissonLikelihood):
    """Independent negative binomial entries, with variance mean + mean^2 / theta (arXiv 1709.02082, section 2).

    Args:
        data_shape: event shape of x.
        dispersion: ``shared`` learns one theta for each entry of x, such as a gene; ``entrywise`` takes log theta from
            the decoder.
    """

    def __init__(self, data_shape: tuple[int, ...], dispersion: Dispersion = "shared") -> None:
        super().__init__(data_shape)
        self.log_dispersion = nn.Parameter(torch.zeros(data_shape)) if dispersion == "shared" else None
        self.parameters_per_entry = 1 if dispersion == "shared" else 2

    def forward(self, parameters: Tensor) -> Distribution:
        """Map log-means, followed by log theta if ``entrywise``, (..., *data_shape, 1 or 2) to a distribution over
        data_shape.
        """
        parameters = at_least_float32(parameters)
        return self._independent(NegativeBinomial(parameters[..., 0], self._log_dispersion(parameters)))

    def _log_dispersion(self, parameters: Tensor) -> Tensor:
        shared = self.log_dispersion
        return parameters[..., -1] if shared is None else at_least_float32(shared).expand_as(parameters[..., 0])


class ZeroInflatedNegativeBinomialLikelihood(NegativeBinomialLikelihood):
    """Independent negative binomial entries that are replaced by 0 with a probability from the decoder (arXiv
    1709.02082, section 2).

    Args:
        data_shape, dispersion: see `NegativeBinomialLikelihood`.
    """

    def __init__(self, data_shape: tuple[int, ...], dispersion: Dispersion = "shared") -> None:
        super().__init__(data_shape, dispersion)
        self.parameters_per_entry += 1

    def forward(self, parameters: Tensor) -> Distribution:
        """Map log-means, logits of additional zeros and, if ``entrywise``, log theta (..., *data_shape, 2 or 3) to a
        distribution over data_shape.
        """
        parameters = at_least_float32(parameters)
        dispersion = self._log_dispersion(parameters)
        return self._independent(ZeroInflatedNegativeBinomial(parameters[..., 0], dispersion, parameters[..., 1]))

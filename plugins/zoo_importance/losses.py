"""Lower bounds on log p(x) from importance weights w = p(x | z) p(z) / q(z | x), with z sampled from q(z | x)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor

from zoo import VAE, Batch, Loss, Phase, Trace


def importance_bound(log_weight: Tensor, dim: int = 0) -> Tensor:
    """log 1/K sum_k w_k, from K log-weights along `dim` (arXiv 1509.00519, eq. 8).

    Its gradient is the sum of the gradients of log w_k, weighted by w_k / sum_j w_j (section 3).
    """
    return log_weight.logsumexp(dim) - math.log(log_weight.shape[dim])


def terms(trace: Trace, bound: Tensor) -> dict[str, Tensor]:
    """The negative bound as ``loss``, with the ``distortion`` and ``rate`` of the ELBO for comparison."""
    return {"loss": -bound.mean(), "distortion": -trace.log_px.mean(), "rate": trace.kl.mean()}


class IWAE(Loss):
    """The negative importance-weighted bound (arXiv 1509.00519, eq. 8).

    loss = -E[log 1/K sum_k w_k]

    Args:
        samples: K, posterior samples per example; 1 gives the ELBO.
    """

    def __init__(self, samples: PositiveInt = 8) -> None:
        super().__init__()
        self.samples = samples

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion`` and ``rate``, in nats per example."""
        trace = vae.trace(batch, samples=self.samples)
        return terms(trace, importance_bound(trace.log_weight))


class CIWAE(IWAE):
    """The convex combination of the importance-weighted bound and the ELBO (arXiv 1802.04537, section 4).

    loss = -E[beta 1/K sum_k log w_k + (1 - beta) log 1/K sum_k w_k]

    Args:
        samples: K, posterior samples per example.
        beta: weight of the ELBO; 0 gives IWAE, 1 the ELBO.
    """

    def __init__(self, samples: PositiveInt = 8, beta: Annotated[float, Field(ge=0, le=1)] = 0.05) -> None:
        super().__init__(samples)
        self.beta = beta

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion`` and ``rate``, in nats per example."""
        trace = vae.trace(batch, samples=self.samples)
        elbo = trace.log_weight.mean(0)
        return terms(trace, self.beta * elbo + (1 - self.beta) * importance_bound(trace.log_weight))


class MIWAE(Loss):
    """The negative mean of several importance-weighted bounds (arXiv 1802.04537, section 4).

    loss = -E[1/M sum_m log 1/K sum_k w_mk]

    The signal-to-noise ratio of the encoder's gradient falls with K and rises with M.

    Args:
        bounds: M, number of bounds.
        samples: K, posterior samples per bound; M K per example.
    """

    def __init__(self, bounds: PositiveInt = 2, samples: PositiveInt = 4) -> None:
        super().__init__()
        self.bounds = bounds
        self.samples = samples

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion`` and ``rate``, in nats per example."""
        trace = vae.trace(batch, samples=self.bounds * self.samples)
        log_weight = trace.log_weight.reshape(self.bounds, self.samples, -1)
        return terms(trace, importance_bound(log_weight, dim=1))


class PIWAE(MIWAE):
    """A different bound for each network (arXiv 1802.04537, section 4).

    Decoder and prior maximise the IWAE bound with M K samples, which is the tighter one; the encoder maximises the
    MIWAE bound, which gives it a better signal-to-noise ratio. Each phase draws its own samples.

    Args:
        bounds: M, number of bounds averaged for the encoder.
        samples: K, posterior samples per bound; M K per example.
    """

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return the IWAE ``loss``, ``distortion`` and ``rate``, in nats per example."""
        trace = vae.trace(batch, samples=self.bounds * self.samples)
        return terms(trace, importance_bound(trace.log_weight))

    def phases(self, vae: VAE) -> Sequence[Phase]:
        """One phase for decoder and prior, then one for the encoder."""
        trainable = [parameter for parameter in vae.parameters() if parameter.requires_grad]
        encoder = {id(parameter) for parameter in vae.encoder.parameters()}
        return [
            Phase("generative", [p for p in trainable if id(p) not in encoder], self),
            Phase("inference", [p for p in trainable if id(p) in encoder], super().forward),
        ]

"""The loss of the sliced Wasserstein autoencoder."""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from zoo import VAE, Batch, Loss
from zoo_divergences.aggregate import posterior_and_prior_samples


class SlicedWasserstein(Loss):
    """The sliced Wasserstein autoencoder (arXiv 1804.01947, algorithm 1).

    loss = E_q[-log p(x | z)] + weight SW(q(z), p(z))^2

    The paper's cost is the squared error, ``likelihood: squared-error``. The estimate of SW is biased upwards, the less
    the larger the batch, so it is smaller for large test batches than during training.

    Args:
        weight: lambda.
        projections: L, number of random directions per batch.
    """

    def __init__(self, weight: NonNegativeFloat = 10.0, projections: PositiveInt = 50) -> None:
        super().__init__()
        self.weight = weight
        self.projections = projections

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and ``distortion`` in nats per example, and ``sliced_wasserstein``."""
        trace = vae.trace(batch)
        distortion = -trace.log_px.mean()
        distance = sliced_wasserstein(*posterior_and_prior_samples(trace), self.projections)
        return {
            "loss": distortion + self.weight * distance,
            "distortion": distortion,
            "sliced_wasserstein": distance,
        }


def sliced_wasserstein(z: Tensor, prior: Tensor, projections: int) -> Tensor:
    """The squared sliced 2-Wasserstein distance between two samples (N, d), averaged over random directions.

    In one dimension the optimal transport plan pairs the samples in sorted order.
    """
    directions = torch.nn.functional.normalize(torch.randn(projections, z.shape[-1], dtype=z.dtype, device=z.device))
    with torch.autocast(z.device.type, enabled=False):
        z_line, prior_line = ((sample @ directions.T).sort(dim=0).values for sample in (z, prior))
    return (z_line - prior_line).square().mean()

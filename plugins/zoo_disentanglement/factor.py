"""The loss of the FactorVAE (arXiv 1802.05983)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import VAE, Batch, Loss, Phase, at_least_float32, match_dtype


class FactorLoss(Loss):
    """The negative ELBO plus the total correlation of q(z), estimated by a discriminator (arXiv 1802.05983, eq. 2 and
    3, algorithm 2).

    loss = E_q[-log p(x | z)] + KL(q(z | x) || p(z)) + gamma E_q(z)[log D(z) - log(1 - D(z))]

    D(z) is the probability that z comes from q(z) rather than from prod_d q(z_d), which is sampled by permuting each
    dimension over the batch. The paper encodes a second batch for this; the loss draws a second sample per example
    instead. Both phases use the optimiser of the recipe; the paper trains the discriminator with lr 1e-4.

    Args:
        latent_shape: event shape of the latent.
        gamma: weight of the total correlation; 35 in the paper for dSprites.
        hidden: widths of the discriminator's hidden layers; six of 1000 in the paper.
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        gamma: NonNegativeFloat = 10.0,
        hidden: Sequence[PositiveInt] = (256, 256, 256),
    ) -> None:
        super().__init__()
        self.gamma = gamma
        widths = [math.prod(latent_shape), *hidden]
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
        self.discriminator = nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], 1), nn.Flatten(0))

    def log_ratio(self, z: Tensor) -> Tensor:
        """Map z (N, *latent_shape) to log D(z) - log(1 - D(z)) (N,), an estimate of log q(z) / prod_d q(z_d)."""
        return at_least_float32(self.discriminator(match_dtype(z, self)))

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion``, ``rate`` and ``total_correlation``, in nats per example."""
        trace = vae.trace(batch)
        distortion = -trace.log_px.mean()
        rate = trace.kl.mean()
        total_correlation = self.log_ratio(trace.z).mean()
        loss = distortion + rate + self.gamma * total_correlation
        return {"loss": loss, "distortion": distortion, "rate": rate, "total_correlation": total_correlation}

    def discriminator_loss(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy of the discriminator as ``loss``, in nats, and its ``accuracy``.

        loss = -1/2 (E_q(z)[log D(z)] + E_prod_d q(z_d)[log(1 - D(z))])
        """
        with torch.no_grad():
            z1, z2 = vae.trace(batch, samples=2).z
        joint, product = self.log_ratio(z1), self.log_ratio(permute_dims(z2))
        loss = -(F.logsigmoid(joint).mean() + F.logsigmoid(-product).mean()) / 2
        accuracy = ((joint > 0).to(loss.dtype).mean() + (product < 0).to(loss.dtype).mean()) / 2
        return {"loss": loss, "accuracy": accuracy}

    def phases(self, vae: VAE) -> Sequence[Phase]:
        """One phase for the model, then one for the discriminator."""
        return [
            Phase("vae", [p for p in vae.parameters() if p.requires_grad], self),
            Phase("discriminator", list(self.discriminator.parameters()), self.discriminator_loss),
        ]


def permute_dims(z: Tensor) -> Tensor:
    """Permute each dimension of z (N, *latent_shape) independently over the batch (arXiv 1802.05983, algorithm 1)."""
    flat = z.flatten(1)
    order = torch.rand(flat.shape, device=z.device).argsort(0)
    return flat.gather(0, order).view_as(z)

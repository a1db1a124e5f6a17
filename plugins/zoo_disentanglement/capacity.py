"""The beta-VAE with controlled capacity increase (arXiv 1804.03599)."""

from __future__ import annotations

from pydantic import NonNegativeFloat
from torch import Tensor

from zoo import VAE, Batch, Loss, WarmUp


class AnnealedCapacity(Loss):
    """The beta-VAE loss with a capacity C that increases during training (arXiv 1804.03599, eq. 8).

    loss = E_q[-log p(x | z)] + gamma |KL(q(z | x) || p(z)) - C|

    The KL is averaged over the batch (each microbatch) before the absolute value is taken.

    Args:
        gamma: weight of the deviation; 1000 in the paper.
        capacity: final C, in nats; 25 in the paper for dSprites.
        warmup_epochs: epochs over which C rises linearly from 0. The paper's 100000 steps are about nine epochs of
            dSprites.
    """

    def __init__(
        self,
        gamma: NonNegativeFloat = 1000.0,
        capacity: NonNegativeFloat = 25.0,
        warmup_epochs: NonNegativeFloat = 9.0,
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.capacity = WarmUp(capacity, warmup_epochs)

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion``, ``rate`` and ``capacity``, in nats per example."""
        trace = vae.trace(batch)
        distortion = -trace.log_px.mean()
        rate = trace.kl.mean()
        loss = distortion + self.gamma * (rate - self.capacity()).abs()
        return {"loss": loss, "distortion": distortion, "rate": rate, "capacity": self.capacity().clone()}

"""The evidence lower bound, and its variant with a squared error."""

from __future__ import annotations

from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn.functional import mse_loss

from zoo import VAE, Batch, Loss, WarmUp


class ELBO(Loss):
    """The negative evidence lower bound (arXiv 1312.6114, eq. 3), with the beta of the beta-VAE (OpenReview
    Sy2fzU9gl, eq. 4).

    loss = E_q[-log p(x | z)] + beta KL(q(z | x) || p(z))

    Args:
        beta: weight of the rate; 1 gives the ELBO.
        warmup_epochs: epochs over which beta rises linearly from 0 (arXiv 1602.02282, section 2.3).
    """

    def __init__(self, beta: NonNegativeFloat = 1.0, warmup_epochs: NonNegativeFloat = 0.0) -> None:
        super().__init__()
        self.beta = WarmUp(beta, warmup_epochs)

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion`` and ``rate``, in nats per example."""
        trace = vae.trace(batch)
        distortion = -trace.log_px.mean()
        rate = trace.kl.mean()
        return {"loss": distortion + self.beta() * rate, "distortion": distortion, "rate": rate}


class SquaredError(ELBO):
    """The squared error between x and the decoder mean, summed over entries, plus beta KL.

    loss = E_q[|x - E[x | z]|^2] + beta KL(q(z | x) || p(z))

    Up to a constant this is the ELBO with p(x | z) = N(x; mean, 1/2), so the squared error is in nats. Averaging over
    entries instead of summing would make the effective beta depend on the data shape.

    Args:
        beta, warmup_epochs: see `ELBO`.
    """

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion`` and ``rate``, in nats per example up to a constant."""
        trace = vae.trace(batch)
        error = mse_loss(trace.p.mean, trace.x, reduction="none")
        if trace.mask is not None:
            error = error.where(trace.mask, 0.0)
        distortion = error.sum(tuple(range(1, error.ndim))).mean()
        rate = trace.kl.mean()
        return {"loss": distortion + self.beta() * rate, "distortion": distortion, "rate": rate}

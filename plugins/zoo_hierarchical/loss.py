"""The evidence lower bound of a hierarchical VAE."""

from __future__ import annotations

from pydantic import NonNegativeFloat
from torch import Tensor

from zoo import VAE, Batch, ComponentError, Loss, WarmUp
from zoo_hierarchical.levels import Levels


class LevelledELBO(Loss):
    """The negative ELBO of a hierarchical VAE with warm-up (arXiv 1602.02282), and the rate of each level.

    loss = E_q[-log p(x | z_1) + beta sum_i rate_i],  rate_i = log q(z_i | .) - log p(z_i | .)

    Without warm-up the upper levels tend to collapse to the prior. If inference follows the generative order, each
    rate_i is an expected KL; otherwise only their sum is.

    Args:
        beta: final weight of the rate; 1 gives the ELBO.
        warmup_epochs: epochs over which beta rises linearly from 0 (section 2.3).
    """

    def __init__(self, beta: NonNegativeFloat = 1.0, warmup_epochs: NonNegativeFloat = 0.0) -> None:
        super().__init__()
        self.beta = WarmUp(beta, warmup_epochs)

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion``, ``rate`` and its parts ``rate_1``, ..., ``rate_L``, in nats per example.

        Raises:
            ComponentError: posterior and prior do not have the same levels.
        """
        trace = vae.trace(batch)
        q, p = trace.q, trace.prior
        if not isinstance(q, Levels) or not isinstance(p, Levels) or q.sizes != p.sizes:
            raise ComponentError(
                "The loss 'levels' needs a posterior and a prior with the same levels. Use encoder and prior "
                "two-level, or both ladder; or use loss=elbo."
            )
        distortion = -trace.log_px.mean()
        rates = (q.log_prob_by_level(trace.z) - p.log_prob_by_level(trace.z)).flatten(1).mean(1)
        rate = rates.sum()
        rate_terms = {f"rate_{level}": value for level, value in enumerate(rates, start=1)}
        return {"loss": distortion + self.beta() * rate, "distortion": distortion, "rate": rate, **rate_terms}

"""The evidence lower bound of a hierarchical VAE."""

from __future__ import annotations

from pydantic import NonNegativeFloat
from torch import Tensor

from zoo import VAE, Batch, ComponentError, Loss, WarmUp
from zoo_hierarchical.levels import JointLevels


class LevelledELBO(Loss):
    """The negative ELBO of a hierarchical VAE with warm-up (arXiv 1602.02282), and the rate of each level.

    loss = E_q[-log p(x | z) + beta sum_i rate_i],  rate_i = log q(z_i | .) - log p(z_i | .)

    Without warm-up the upper levels tend to collapse to the prior. If inference follows the generative order, each
    rate_i is an expected KL; otherwise only their sum is. The posterior of ``very-deep`` gives each rate_i as a KL
    divergence in closed form, which has less variance.

    Args:
        beta: final weight of the rate; 1 gives the ELBO.
        warmup_epochs: epochs over which beta rises linearly from 0 (section 2.3).
        free_nats: free bits (arXiv 1606.04934, eq. 15), in nats per level: the loss has max(rate_i, free_nats) instead
            of rate_i, averaged over the batch (or microbatch) first. The reported rates are unchanged.
    """

    def __init__(
        self,
        beta: NonNegativeFloat = 1.0,
        warmup_epochs: NonNegativeFloat = 0.0,
        free_nats: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__()
        self.beta = WarmUp(beta, warmup_epochs)
        self.free_nats = free_nats

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion``, ``rate`` and its parts, in nats per example.

        The parts are ``rate_1``, ..., ``rate_L`` or, for ``very-deep``, such as ``rate_14x14_2`` for the second latent
        block at 14x14.

        Raises:
            ComponentError: posterior and prior do not have the same levels.
        """
        trace = vae.trace(batch)
        q, p = trace.q, trace.prior
        if not isinstance(q, JointLevels) or not isinstance(p, JointLevels) or q.sizes != p.sizes:
            raise ComponentError(
                "The loss 'levels' needs a posterior and a prior with the same levels. Use encoder and prior "
                "two-level, or both ladder; or use loss=elbo."
            )
        distortion = -trace.log_px.mean()
        rates = q.rates(trace.z, p).flatten(1).mean(1)
        rate = rates.sum()
        weighted = rates.clamp_min(self.free_nats).sum() if self.free_nats else rate
        rate_terms = {f"rate_{name}": value for name, value in zip(q.names, rates, strict=True)}
        return {"loss": distortion + self.beta() * weighted, "distortion": distortion, "rate": rate, **rate_terms}

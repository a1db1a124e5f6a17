"""The evidence lower bound with free bits."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from zoo import VAE, Batch, ComponentError, Trace
from zoo_gaussian.losses import ELBO


class FreeBits(ELBO):
    """The negative ELBO with free bits (arXiv 1606.04934, eq. 15), against posterior collapse.

    loss = E_q[-log p(x | z)] + beta sum_j max(floor, E_x[KL(q(z_j | x) || p(z_j))])

    The mean over x is that of the batch. A group j below the floor is free: it has no gradient from the rate. With a
    floor of 0, this is the ELBO.

    Args:
        floor: lambda, in nats per group.
        groups: ``dimensions`` for one group per latent dimension; ``all`` for a single group.
        beta, warmup_epochs: see `ELBO`.
    """

    def __init__(
        self,
        floor: NonNegativeFloat = 0.25,
        groups: Literal["dimensions", "all"] = "dimensions",
        beta: NonNegativeFloat = 1.0,
        warmup_epochs: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__(beta, warmup_epochs)
        self.floor = floor
        self.groups = groups

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion`` and ``rate``, in nats per example; the rate is without the floor.

        Raises:
            ComponentError: the groups are dimensions, and the posterior or the prior does not factorize over them.
        """
        trace = vae.trace(batch)
        distortion = -trace.log_px.mean()
        rates = trace.kl.mean().unsqueeze(0) if self.groups == "all" else _rates(trace)
        penalty = rates.clamp_min(self.floor).sum()
        return {"loss": distortion + self.beta() * penalty, "distortion": distortion, "rate": rates.sum()}


def _rates(trace: Trace) -> Tensor:
    """KL(q(z_j | x) || p(z_j)) of each dimension j, the batch mean, (D,); without a closed form, at the draws."""
    q, p = _factors(trace.q), _factors(trace.prior)
    if q is None or p is None:
        culprit = "posterior" if q is None else "prior"
        raise ComponentError(
            f"Free bits per dimension need a {culprit} with independent dimensions; those of "
            f"{type(trace.q if q is None else trace.prior).__name__} are not. Use loss.groups=all."
        )
    try:
        kl = kl_divergence(q, p)
    except NotImplementedError:
        kl = q.log_prob(trace.z) - p.log_prob(trace.z)
    return kl.flatten(1).mean(0)


def _factors(distribution: Distribution) -> Distribution | None:
    """The factors of a distribution over independent dimensions; None for any other."""
    if not isinstance(distribution, Independent):
        return None
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution

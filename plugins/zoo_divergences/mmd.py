"""Losses with the maximum mean discrepancy (MMD) between the aggregate posterior q(z) and the prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from zoo import VAE, Batch, ComponentError, Loss, Trace
from zoo_divergences.aggregate import posterior_and_prior_samples

Kernel = Literal["imq", "rbf"]


class WassersteinMMD(Loss):
    """The MMD-based Wasserstein autoencoder (arXiv 1711.01558, eq. 4 and algorithm 2).

    loss = E_q[-log p(x | z)] + weight MMD(q(z), p(z))

    The paper's cost is the squared error, ``likelihood: squared-error``; its encoder is deterministic or not. The
    estimate of the MMD from the batch (each microbatch) is unbiased and can be negative.

    Args:
        weight: lambda; 10 in the paper for MNIST.
        kernel, scales: see `mmd`. The paper uses a single scale, 1; the authors' code sums 0.1, 0.2, 0.5, 1, 2, 5, 10.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 10.0,
        kernel: Kernel = "imq",
        scales: Annotated[Sequence[PositiveFloat], Field(min_length=1)] = (1.0,),
    ) -> None:
        super().__init__()
        self.weight = weight
        self.kernel: Kernel = kernel
        self.scales = tuple(scales)

    def discrepancy(self, trace: Trace) -> Tensor:
        """MMD(q(z), p(z)), estimated from the batch."""
        return mmd(*posterior_and_prior_samples(trace), self.kernel, self.scales)

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and ``distortion`` in nats per example, and ``mmd``."""
        trace = vae.trace(batch)
        distortion = -trace.log_px.mean()
        discrepancy = self.discrepancy(trace)
        return {"loss": distortion + self.weight * discrepancy, "distortion": distortion, "mmd": discrepancy}


class InfoVAE(WassersteinMMD):
    """The InfoVAE with the MMD as its divergence between q(z) and p(z) (arXiv 1706.02262).

    loss = E_q[-log p(x | z)] + (1 - alpha) KL(q(z | x) || p(z)) + (alpha + weight - 1) MMD(q(z), p(z))

    alpha = 0, weight = 1 gives the ELBO; alpha = 1 the MMD-VAE, which has no rate.

    Args:
        alpha: weight of the mutual information that the loss rewards; at most 1. The paper gives no defaults for this
            and `weight`.
        weight: lambda; at least 1 - alpha.
        kernel, scales: see `mmd`. The paper uses the Gaussian kernel.

    Raises:
        ComponentError: alpha + weight < 1, which would drive q(z) away from p(z).
    """

    def __init__(
        self,
        alpha: Annotated[float, Field(le=1, allow_inf_nan=False)] = 0.5,
        weight: NonNegativeFloat = 100.0,
        kernel: Kernel = "rbf",
        scales: Annotated[Sequence[PositiveFloat], Field(min_length=1)] = (1.0,),
    ) -> None:
        super().__init__(weight, kernel, scales)
        if alpha + weight < 1:
            raise ComponentError(
                f"The loss 'info-vae' needs alpha + weight - 1 >= 0, the weight of the MMD; it is "
                f"{alpha + weight - 1:g} with alpha={alpha:g} and weight={weight:g}. Set weight to at least "
                f"{1 - alpha:g}."
            )
        self.alpha = alpha

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion`` and ``rate`` in nats per example, and ``mmd``."""
        trace = vae.trace(batch)
        distortion = -trace.log_px.mean()
        rate = trace.kl.mean()
        discrepancy = self.discrepancy(trace)
        loss = distortion + (1 - self.alpha) * rate + (self.alpha + self.weight - 1) * discrepancy
        return {"loss": loss, "distortion": distortion, "rate": rate, "mmd": discrepancy}


def mmd(z: Tensor, prior: Tensor, kernel: Kernel, scales: Sequence[float] = (1.0,)) -> Tensor:
    """The unbiased estimate of the squared MMD between two samples (arXiv 1711.01558, algorithm 2).

    MMD = E k(z, z') + E k(p, p') - 2 E k(z, p)

    The kernel is a sum over scales s of C / (C + r^2) (inverse multiquadratic, ``imq``) or exp(-r^2 / C) (Gaussian,
    ``rbf``), where r is the distance and C = 2 d s. At s = 1, C is the expected r^2 of two standard normal samples.

    Args:
        z: samples (N, d) of one distribution.
        prior: samples (M, d) of the other.
        kernel: ``imq`` or ``rbf``.
        scales: the s.

    Returns:
        A scalar; 0 if N or M is 1.
    """
    if min(len(z), len(prior)) < 2:
        return z.new_zeros(())

    def k(a: Tensor, b: Tensor) -> Tensor:
        squared = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
        constants = [2 * a.shape[-1] * scale for scale in scales]
        if kernel == "imq":
            return sum((c / (c + squared) for c in constants), torch.zeros_like(squared))
        return sum((torch.exp(-squared / c) for c in constants), torch.zeros_like(squared))

    return _mean_of_pairs(k(z, z)) + _mean_of_pairs(k(prior, prior)) - 2 * k(z, prior).mean()


def _mean_of_pairs(k: Tensor) -> Tensor:
    """The mean of the off-diagonal elements of a square matrix."""
    n = len(k)
    return (k.sum() - k.diagonal().sum()) / (n * (n - 1))

"""Losses with the maximum mean discrepancy between the aggregate posterior q(z) and the prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from zoo import VAE, Batch, ComponentError, Loss, Trace
from zoo_divergences.aggregate import codes_and_prior_draws

Kernel = Literal["imq", "rbf"]


class WassersteinMMD(Loss):
    """The Wasserstein autoencoder with a maximum mean discrepancy (arXiv 1711.01558, eq. 4 and algorithm 2).

    loss = E_q[-log p(x | z)] + weight * MMD(q(z), p(z))

    The paper's cost is the squared error, ``likelihood: squared-error``. The encoder may be deterministic or not; the
    rate is no part of the loss. The estimate of MMD has the same mean for every batch size and is below zero now and
    then; that of an accumulated batch is the mean over its parts.

    Args:
        weight: lambda; 10 in the paper's experiments on MNIST.
        kernel: see `mmd`.
        scales: see `mmd`. The paper has the one; its authors' code sums 0.1, 0.2, 0.5, 1, 2, 5 and 10.
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
        """MMD between the posterior's draws for the batch and as many of the prior."""
        return mmd(*codes_and_prior_draws(trace), self.kernel, self.scales)

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and ``distortion`` in nats per example, and ``mmd``."""
        trace = vae.trace(batch)
        distortion = -trace.log_px.mean()
        discrepancy = self.discrepancy(trace)
        return {"loss": distortion + self.weight * discrepancy, "distortion": distortion, "mmd": discrepancy}


class InfoVAE(WassersteinMMD):
    """The information maximising VAE (arXiv 1706.02262), with the MMD for its divergence of q(z) from p(z).

    loss = E_q[-log p(x | z)] + (1 - alpha) KL(q(z | x) || p(z)) + (alpha + weight - 1) MMD(q(z), p(z))

    In the paper this is what follows from -weight KL(q(z) || p(z)) + alpha I(x; z) and a good decoder, since the mean
    rate is I(x; z) + KL(q(z) || p(z)). At alpha = 0, weight = 1 it is the ELBO; at alpha = 1 the MMD-VAE, without a
    rate.

    Args:
        alpha: how much of the mutual information is not paid for; at most 1. The defaults of this and of `weight` are
            the zoo's own.
        weight: lambda; at least 1 - alpha.
        kernel, scales: see `mmd`. The paper has the Gaussian kernel.

    Raises:
        ComponentError: the discrepancy has a negative weight, which would drive q(z) away from p(z).
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
                f"loss 'info-vae': the weight of the discrepancy, alpha + weight - 1, must not be negative; it is "
                f"{alpha + weight - 1:g} with alpha={alpha:g} and weight={weight:g}. Take a weight of at least "
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
    """The unbiased estimate of the squared maximum mean discrepancy of two samples (arXiv 1711.01558, algorithm 2).

    E k(z, z') + E k(p, p') - 2 E k(z, p), without the pairs of a draw with itself. The kernel of the distance r is the
    sum over scales s of C / (C + r^2) (inverse multiquadratic, ``imq``) or of exp(-r^2 / C) (Gaussian, ``rbf``), with
    C = 2 d s in d dimensions: at s = 1, the mean r^2 of two draws of a standard normal.

    Args:
        z, prior: (N, d) and (M, d).

    Returns:
        A number whose mean is 0 where the distributions are the same. One draw alone says nothing of its distribution:
        0 then.
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
    """The mean of a square matrix off its diagonal."""
    n = len(k)
    return (k.sum() - k.diagonal().sum()) / (n * (n - 1))

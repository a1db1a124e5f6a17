"""Importance-weighted bounds for training on incomplete data."""

from __future__ import annotations

import math

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.distributions import Distribution

from zoo import VAE, Batch, ComponentError, Loss, Trace, observed_entries
from zoo_missing.missingness import missingness_of


class MIWAE(Loss):
    """The negative importance-weighted bound on the likelihood of the observed entries (arXiv 1812.02633, eq. 4).

    loss = -E[log 1/K sum_k p(x_obs | z_k) p(z_k) / q(z_k | x_obs)],  z_k from q(z | x_obs)

    The encoder receives 0 for missing entries, the mean of standardized data. The bound ignores why they are missing,
    which is valid if they are missing at random. On complete data it is that of the IWAE.

    Args:
        samples: K, posterior samples per example.
    """

    def __init__(self, samples: PositiveInt = 20) -> None:
        super().__init__()
        self.samples = samples

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion`` of the observed entries and ``rate``, in nats per example."""
        trace = vae.trace(batch, samples=self.samples)
        return {"loss": -_bound(trace.log_weight), **_terms(trace)}


class NotMIWAE(MIWAE):
    """The same bound for entries that are not missing at random, with a model p(s | x) of the mask s (arXiv
    2006.12871).

    loss = -E[log 1/K sum_k p(s | x_obs, x_k) p(x_obs | z_k) p(z_k) / q(z_k | x_obs)],  x_k from p(x_mis | z_k)

    It needs the decoder ``missing-not-at-random``, and a likelihood with reparameterized samples.

    Args:
        samples: K, samples of z and of the missing entries per example.
    """

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion`` of the observed entries, ``rate`` and ``missingness``, -log p(s | x), in nats
        per example.

        Raises:
            ComponentError: the decoder has no model of the missingness, or the likelihood no reparameterized samples.
        """
        missingness = missingness_of(vae)
        if missingness is None:
            raise ComponentError(
                "The loss 'not-miwae' needs a model of the missingness: wrap the decoder, as in "
                "decoder={use: missing-not-at-random, decoder: {use: mlp}}."
            )
        trace = vae.trace(batch, samples=self.samples)
        mask = observed_entries(trace.x, trace.mask)
        log_ps = missingness.log_prob(torch.where(mask, trace.x, _rsample(trace.p)), mask)
        return {"loss": -_bound(trace.log_weight + log_ps), **_terms(trace), "missingness": -log_ps.mean()}


def _bound(log_weight: Tensor) -> Tensor:
    """The mean over examples of log 1/K sum_k w_k, from log-weights (K, N)."""
    return (log_weight.logsumexp(0) - math.log(len(log_weight))).mean()


def _terms(trace: Trace) -> dict[str, Tensor]:
    return {"distortion": -trace.log_px.mean(), "rate": trace.kl.mean()}


def _rsample(p: Distribution) -> Tensor:
    if not p.has_rsample:
        raise ComponentError(
            f"The loss 'not-miwae' needs a likelihood with reparameterized samples; {p} has none. Choose gaussian or "
            "student-t."
        )
    return p.rsample()

"""Anomaly scores of a batch of examples: one value per example, in nats. A higher score is more anomalous."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from zoo import VAE, Batch, NotApplicable, UnknownName, base_measure, did_you_mean, observed_log_prob, seeded
from zoo_score.posteriors import draw, optimize, posterior

CHUNK = 1000
"""Latents that are decoded at once."""


class Draws(NamedTuple):
    """Draws from a posterior and their log-densities (K, N), in nats and float64.

    Attributes:
        log_px: log p(x | z) of the observed entries.
        log_pz: log p(z).
        log_qz: log q(z | x).
    """

    log_px: Tensor
    log_pz: Tensor
    log_qz: Tensor

    @property
    def log_weight(self) -> Tensor:
        """The log importance weights log p(x | z) + log p(z) - log q(z | x), (K, N)."""
        return self.log_px + self.log_pz - self.log_qz


class Settings(NamedTuple):
    """Settings of the scores.

    Attributes:
        samples: K, draws per example.
        steps: optimizer steps of the likelihood regret.
        seed: seed of the draws.
    """

    samples: int = 100
    steps: int = 200
    seed: int = 0


def draws(vae: VAE, batch: Batch, q: Distribution, samples: int, seed: int) -> Draws:
    """Draw from a posterior of each example and evaluate the densities; see `zoo_score.posteriors.draw`.

    Args:
        vae: the model.
        batch: N examples.
        q: posterior with batch shape (N,).
        samples: K, draws per example.
        seed: seed of the draws.

    Raises:
        NotApplicable: the posterior or the prior has no density, or they have different measures.
    """
    prior = vae.prior(vae.encoder, batch.condition)
    measures = base_measure(q), base_measure(prior)
    if None not in measures and measures[0] != measures[1]:
        raise NotApplicable(f"the posterior is a {measures[0]}, and the prior a {measures[1]}")
    with seeded(seed, batch.x.device):
        z, log_qz = draw(q, samples)
    try:
        log_pz = prior.log_prob(z)
    except NotImplementedError as error:
        raise NotApplicable("the prior has no density") from error
    return Draws(*(each.double() for each in (_log_px(vae, batch, z), log_pz, log_qz)))


def _log_px(vae: VAE, batch: Batch, z: Tensor) -> Tensor:
    """log p(x | z) at latents (K, N, *latent_shape), (K, N)."""
    chunks = torch.split(z, max(1, CHUNK // max(1, z.shape[1])))
    return torch.cat([observed_log_prob(vae.decode(each, batch.condition), batch.x, batch.mask) for each in chunks])


def negative_elbo(vae: VAE, batch: Batch, settings: Settings) -> Tensor:
    """-ELBO = E_q[-log p(x | z)] + KL(q(z | x) || p(z)), with the KL in closed form if torch has one."""
    q = posterior(vae, batch)
    prior = vae.prior(vae.encoder, batch.condition)
    try:
        kl = kl_divergence(q, prior)
    except NotImplementedError:
        return -draws(vae, batch, q, settings.samples, settings.seed).log_weight.mean(0)
    return negative_reconstruction(vae, batch, settings) + kl.double()


def negative_log_likelihood(vae: VAE, batch: Batch, settings: Settings) -> Tensor:
    """-log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x), z_k from q(z | x) (arXiv 1509.00519, eq. 8)."""
    q = posterior(vae, batch)
    log_weight = draws(vae, batch, q, settings.samples, settings.seed).log_weight
    return math.log(settings.samples) - log_weight.logsumexp(0)


def negative_reconstruction(vae: VAE, batch: Batch, settings: Settings) -> Tensor:
    """E_q[-log p(x | z)], the reconstruction probability (An and Cho 2015, algorithm 4), as a negative logarithm."""
    q = posterior(vae, batch)
    with seeded(settings.seed, batch.x.device):
        try:
            z, _ = draw(q, settings.samples)
        except NotApplicable:  # a point mass needs no density here
            z = q.rsample(torch.Size([1]))
    return -_log_px(vae, batch, z).double().mean(0)


def likelihood_regret(vae: VAE, batch: Batch, settings: Settings) -> Tensor:
    """The ELBO at the optimal posterior of the example minus that at the encoder's (arXiv 2003.02977, eq. 6).

    Both are estimated with the same noise. The regret is at least 0 up to the error of the estimate.

    Raises:
        NotApplicable: see `zoo_score.posteriors.optimize`.
    """
    q = posterior(vae, batch)
    optimum = optimize(vae, batch, q, steps=settings.steps, seed=settings.seed)
    before, after = (draws(vae, batch, each, settings.samples, settings.seed).log_weight for each in (q, optimum))
    return (after - before).mean(0)


METHODS: Mapping[str, Callable[[VAE, Batch, Settings], Tensor]] = {
    "elbo": negative_elbo,
    "log-likelihood": negative_log_likelihood,
    "reconstruction": negative_reconstruction,
    "regret": likelihood_regret,
}
"""The scores by name. Each maps N examples to (N,) in float64, without gradients."""


def method(name: str) -> Callable[[VAE, Batch, Settings], Tensor]:
    """The score with a name.

    Raises:
        UnknownName: there is none.
    """
    if name not in METHODS:
        raise UnknownName(
            f"There is no method {name!r}. Choose from: {', '.join(METHODS)}.{did_you_mean(name, METHODS)}"
        )
    return METHODS[name]

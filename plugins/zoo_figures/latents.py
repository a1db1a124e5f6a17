"""Posterior means of images, and the information in each latent dimension."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from zoo import VAE, Batch, UsageError, evaluating, seeded

CHUNK = 500
"""Images per encoded batch."""
DRAWS = 64
"""Draws from each posterior, if the KL divergence has no closed form."""


class Information(NamedTuple):
    """A measure of the information in each latent dimension.

    Attributes:
        values: (D,), float64.
        measure: the name of the measure, with its unit.
    """

    values: Tensor
    measure: str


@torch.no_grad()
def encode_means(vae: VAE, images: Batch) -> Tensor:
    """Posterior means of images, (N, *latent_shape); see `VAE.posterior_mean`. Random ones are seeded."""
    with evaluating(vae), seeded(0, images.x.device):
        return torch.cat([vae.posterior_mean(batch.x, batch.condition, batch.mask) for batch in _chunks(images)])


@torch.no_grad()
def rates(vae: VAE, images: Batch) -> Information:
    """KL(q(z_d | x) || p(z_d)) of each latent dimension d, in nats, averaged over images. The sum is the rate.

    The rate decomposes only if both posterior and prior factorise over the dimensions
    (`torch.distributions.Independent`). It is computed in closed form if torch has one, else as the mean of
    log q(z_d | x) - log p(z_d) over seeded draws from the posterior. A factor over vectors, such as one-hot vectors,
    counts as one dimension.

    Args:
        vae: the model.
        images: N images, with labels for conditional models.

    Raises:
        UsageError: the posterior or the prior does not factorise.
    """
    total, measure = torch.zeros((), dtype=torch.float64), "rate in nats"
    with evaluating(vae), seeded(0, images.x.device):
        for batch in _chunks(images):
            posterior, prior = vae.encode(batch.x, batch.condition, batch.mask), vae.prior(vae.encoder, batch.condition)
            q, p = factors(posterior), factors(prior)
            if q is None or p is None or p.batch_shape not in (q.batch_shape, q.batch_shape[1:]):
                raise UsageError(
                    "The rate does not decompose over the latent dimensions: "
                    f"the {'posterior' if q is None else 'prior'} does not factorise over them."
                )
            try:
                kl = kl_divergence(q, p)
            except NotImplementedError:
                z = posterior.sample(torch.Size([DRAWS]))
                kl = (q.log_prob(z) - p.log_prob(z)).mean(0)
                measure = f"rate in nats, estimated from {DRAWS} draws per image"
            total = total + kl.cpu().double().sum(0)
    return Information((total / len(images.x)).flatten().cpu(), measure)


def information(vae: VAE, images: Batch) -> Information:
    """The `rates`, or the variance of posterior means over images (arXiv 1509.00519, section 5.2) without them."""
    try:
        return rates(vae, images)
    except UsageError:
        means = encode_means(vae, images).cpu().double().flatten(1)
        return Information(means.var(0, correction=0).cpu(), "variance of the posterior mean")


def factors(distribution: Distribution) -> Distribution | None:
    """The factors of an `Independent` distribution; None for any other."""
    if not isinstance(distribution, Independent):
        return None
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def _chunks(images: Batch) -> Iterator[Batch]:
    for start in range(0, len(images.x), CHUNK):
        part = slice(start, start + CHUNK)
        yield Batch(images.x[part], None if images.condition is None else images.condition[part])

"""Where images lie in the latent space, and what each of its dimensions tells about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from zoo import VAE, Batch, UsageError, evaluating, seeded

CHUNK = 500
"""Images that are encoded at once."""
DRAWS = 64
"""Draws of each posterior, where a divergence has no closed form."""


class Information(NamedTuple):
    """What each latent dimension tells about the image.

    Attributes:
        values: one for each dimension (D,), in float64.
        measure: what they are, with their unit.
    """

    values: Tensor
    measure: str


@torch.no_grad()
def encoded(vae: VAE, images: Batch) -> Tensor:
    """The codes of images, (N, *latent_shape): see `VAE.posterior_mean`. Those that are drawn are seeded."""
    with evaluating(vae), seeded(0, images.x.device):
        return torch.cat([vae.posterior_mean(batch.x, batch.condition) for batch in _chunks(images)])


@torch.no_grad()
def rates(vae: VAE, images: Batch) -> Information:
    """KL(q(z_d | x) || p(z_d)) of each latent dimension d, in nats, averaged over images. They add up to the rate.

    Only where posterior and prior are both products over the dimensions (`torch.distributions.Independent`) does the
    rate divide among them. In closed form where torch knows one, else the mean of log q(z_d | x) - log p(z_d) over
    seeded draws of the posterior. A factor that is no number, such as a one-hot vector, counts as one dimension.

    Args:
        vae: the model.
        images: N of them, with their labels for conditional models.

    Raises:
        UsageError: the posterior or the prior is no such product.
    """
    total, measure = torch.zeros((), dtype=torch.float64), "rate in nats"
    with evaluating(vae), seeded(0, images.x.device):
        for batch in _chunks(images):
            posterior, prior = vae.encode(batch.x, batch.condition), vae.prior(vae.encoder, batch.condition)
            q, p = factors(posterior), factors(prior)
            if q is None or p is None or p.batch_shape not in (q.batch_shape, q.batch_shape[1:]):
                raise UsageError(
                    "The rate does not divide among the latent dimensions: "
                    f"the {'posterior' if q is None else 'prior'} is no product over them."
                )
            try:
                kl = kl_divergence(q, p)
            except NotImplementedError:
                z = posterior.sample(torch.Size([DRAWS]))
                kl = (q.log_prob(z) - p.log_prob(z)).mean(0)
                measure = f"rate in nats, estimated from {DRAWS} draws for each image"
            total = total + kl.cpu().double().sum(0)
    return Information((total / len(images.x)).flatten().cpu(), measure)


def information(vae: VAE, images: Batch) -> Information:
    """The `rates`; where they do not divide, the variance of the codes over images (arXiv 1509.00519, section 5.2)."""
    try:
        return rates(vae, images)
    except UsageError:
        codes = encoded(vae, images).cpu().double().flatten(1)
        return Information(codes.var(0, correction=0).cpu(), "variance of the codes")


def factors(distribution: Distribution) -> Distribution | None:
    """The distributions whose product this is, if it is an `Independent`, which says so."""
    if not isinstance(distribution, Independent):
        return None
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def _chunks(images: Batch) -> Iterator[Batch]:
    for start in range(0, len(images.x), CHUNK):
        part = slice(start, start + CHUNK)
        yield Batch(images.x[part], None if images.condition is None else images.condition[part])

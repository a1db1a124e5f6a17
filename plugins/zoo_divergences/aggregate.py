"""Samples from the aggregate posterior q(z), the mean of q(z | x) over the data, and from the prior."""

from __future__ import annotations

from torch import Tensor

from zoo import Trace, draw


def posterior_and_prior_samples(trace: Trace) -> tuple[Tensor, Tensor]:
    """One sample of q(z | x) per example and as many of p(z), both (N, d).

    The prior samples carry no gradient, so a divergence between the two trains the encoder only.
    """
    prior = trace.prior
    shape = () if prior.batch_shape else (len(trace.x),)
    return trace.z.flatten(1), draw(prior, shape).flatten(1)

"""Log-densities of the single dimensions of a posterior with independent dimensions."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution, Independent

from zoo import ComponentError


def log_prob_per_dimension(z: Tensor, q: Distribution) -> Tensor:
    """log q(z_i | x_n) of every point under the posterior of every image.

    Args:
        z: points (M, *latent_shape).
        q: q(z | x) with batch shape (N,).

    Returns:
        (M, N, d), in nats; the sum over the last axis is log q(z | x_n).

    Raises:
        ComponentError: the dimensions of q are not independent.
    """
    if not isinstance(q, Independent) or q.base_dist.event_shape:
        raise ComponentError(
            f"The total correlation needs a posterior with independent dimensions; those of {type(q).__name__} are "
            "not. Use encoder.posterior=gaussian, for example."
        )
    log_densities: Tensor = q.base_dist.log_prob(z.unsqueeze(1))
    return log_densities.flatten(2)

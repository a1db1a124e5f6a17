"""A distribution transformed by a sequence of invertible maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Transform, TransformedDistribution
from torch.types import _size

from zoo import ComponentError


class Flow(TransformedDistribution):
    """The distribution of z_T = f_T(... f_1(z_0)), with z_0 from a base distribution (arXiv 1505.05770, eq. 6 and 7).

    log q(z_T) = log q_0(z_0) - sum_t log |det df_t / dz_(t-1)|

    `rsample_and_log_prob` inverts no transform; `log_prob` inverts all of them. There is no ``mean``, since none is
    known in closed form, so `VAE.reconstruct` uses a sample.

    Args:
        base: distribution of z_0, with batch shape (N,).
        transforms: f_1, ..., f_T, each with a method ``call_and_ladj`` that returns value and log-determinant.
    """

    def __init__(self, base: Distribution, transforms: Sequence[Transform]) -> None:
        super().__init__(base, list(transforms), validate_args=False)

    def rsample_and_log_prob(self, sample_shape: _size = torch.Size()) -> tuple[Tensor, Tensor]:  # noqa: B008
        """Draw samples (*sample_shape, N, latent_dim) with their log-densities (*sample_shape, N), in nats."""
        z = self.base_dist.rsample(sample_shape)
        log_q = self.base_dist.log_prob(z)
        transforms: Sequence[Any] = self.transforms
        for transform in transforms:
            z, log_determinant = transform.call_and_ladj(z)
            log_q = log_q - log_determinant
        return z, log_q


def require_flat(features: Tensor, posterior: str) -> None:
    """Refuse features on a grid, (N, *grid, features).

    Args:
        features: of the encoder.
        posterior: name of the component in the message.

    Raises:
        ComponentError: there is a grid.
    """
    if features.ndim != 2:
        raise ComponentError(
            f"The posterior {posterior!r} is for flat latents; the encoder has features on a grid of shape "
            f"{tuple(features.shape[1:-1])}. Choose a posterior that acts on each position, such as gaussian."
        )

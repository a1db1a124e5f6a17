"""A second VAE on the latents of the first (arXiv 1903.05789)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size

from zoo import VAE, Batch, ComponentError, ComponentFactory, Decoder, Encoder
from zoo_priors.fitting import FittedByGradient

CHUNK = 2**15
"""Draws of u that are processed at once."""


class Marginal(Distribution):
    """The marginal p(z) of a VAE over data z of shape (1, 1, size), with latent u.

    Samples are exact; the log-density is an importance-weighted lower bound.

    Args:
        vae: the second VAE.
        size: number of dimensions of z.
        samples: K, importance samples in the bound.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, vae: VAE, size: int, samples: int) -> None:
        self._vae, self._samples = vae, samples
        super().__init__(event_shape=torch.Size([size]), validate_args=False)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw u from p(u) and z (*sample_shape, size) from p(z | u)."""
        with torch.no_grad():
            u = self._vae.prior(self._vae.encoder).sample(torch.Size([math.prod(sample_shape)]))
            return self._vae.decode(u).sample().reshape(*sample_shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log 1/K sum_k p(z | u_k) p(u_k) / q(u_k | z) with u_k from q(u | z), a lower bound in expectation, in nats.

        Its exponential is an unbiased estimate of p(z), so the bounds of arXiv 1509.00519 remain bounds.
        """
        rows = value.reshape(-1, 1, 1, *self.event_shape)
        chunks = torch.split(rows, max(1, CHUNK // self._samples))
        sums = [self._vae.trace(Batch(chunk), self._samples).log_weight.logsumexp(0) for chunk in chunks]
        return torch.cat(sums).reshape(value.shape[:-1]) - math.log(self._samples)


class TwoStage(FittedByGradient):
    """p(z) = integral of p(z | u) N(u; 0, I) du, where u has as many dimensions as z (arXiv 1903.05789).

    The paper learns one scale of p(z | u) for all dimensions (``scale: shared``). On standardised latents such a VAE
    starts near a saddle point at which u carries no information on z; a predicted scale (``pixelwise``, the default)
    escapes it sooner.

    Args:
        latent_shape: event shape of the latent.
        encoder, decoder: of the second VAE, for data of shape (1, 1, size).
        samples: importance samples per log-density, which is a lower bound.
        steps, batch_size, lr: see `fit`.

    Raises:
        ComponentError: the likelihood of the decoder is not over all real numbers.
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        encoder: Callable[..., Encoder] = ComponentFactory("encoder", "mlp", hidden=[512, 512]),
        decoder: Callable[..., Decoder] = ComponentFactory(
            "decoder", "mlp", hidden=[512, 512], likelihood={"use": "gaussian", "scale": "pixelwise"}
        ),
        samples: PositiveInt = 50,
        steps: PositiveInt = 5000,
        batch_size: PositiveInt = 256,
        lr: PositiveFloat = 1e-3,
    ) -> None:
        super().__init__(latent_shape, steps, batch_size, lr)
        self.samples = samples
        spaces = {"data_shape": (1, 1, self.size), "latent_dim": self.size, "classes": 0}
        u_shape = (self.size,)
        self.vae = VAE(
            encoder(**spaces),
            decoder(**spaces, latent_shape=u_shape),
            ComponentFactory("prior", "vae-zoo:standard-normal")(**spaces, latent_shape=u_shape),
        )
        with torch.no_grad():
            support = self.vae.decode(torch.zeros(1, *u_shape)).support
        if support is not None and not support.check(-torch.ones(1, 1, 1, self.size)).all():  # type: ignore[no-untyped-call]
            raise ComponentError(
                "The decoder of the prior 'two-stage' needs a likelihood over all real numbers, such as "
                "decoder.likelihood={use: gaussian, scale: pixelwise}."
            )

    def standard_prior(self) -> Distribution:
        """Return the marginal of the second VAE, with event shape (size,)."""
        return Marginal(self.vae, self.size, self.samples)

    def objective(self, z: Tensor) -> Tensor:
        """The negative ELBO of the second VAE (arXiv 1312.6114, eq. 3), in nats per row of `z`."""
        trace = self.vae.trace(Batch(z.reshape(-1, 1, 1, self.size)))
        return (trace.kl - trace.log_px).mean()

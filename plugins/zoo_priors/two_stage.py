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

DRAWS_AT_ONCE = 2**15


class Marginal(Distribution):
    """The p(z) of a VAE whose "images" are latents, (1, 1, size): exact draws, and a bound on the log-density.

    Args:
        vae: the second VAE, over u and z.
        size: of z.
        samples: K of the bound.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, vae: VAE, size: int, samples: int) -> None:
        self._vae, self._samples = vae, samples
        super().__init__(event_shape=torch.Size([size]), validate_args=False)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """z from p(z | u), u from p(u): (*sample_shape, size)."""
        with torch.no_grad():
            u = self._vae.prior(self._vae.encoder).sample(torch.Size([math.prod(sample_shape)]))
            return self._vae.decode(u).sample().reshape(*sample_shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log 1/K sum_k p(z | u_k) p(u_k) / q(u_k | z), u_k from q(u | z): in expectation at most log p(z).

        Its exponential is an unbiased estimate of p(z), so that bounds built on it (arXiv 1509.00519, eq. 8) stay so.
        """
        images = value.reshape(-1, 1, 1, *self.event_shape)
        parts = torch.split(images, max(1, DRAWS_AT_ONCE // self._samples))
        weights = [self._vae.trace(Batch(part), self._samples).log_weight.logsumexp(0) for part in parts]
        return torch.cat(weights).reshape(value.shape[:-1]) - math.log(self._samples)


class TwoStage(FittedByGradient):
    """p(z) = integral of p(z | u) N(u; 0, 1) du, where u has as many dimensions as z.

    Encoder and decoder are any of the zoo's that take images of (1, 1, size). The paper learns one scale of p(z | u)
    for all dimensions (``scale: shared``). Where all of them have variance 1, as here, such a VAE starts at a saddle in
    which u tells nothing of z; a scale for each dimension and point leaves it sooner.

    Args:
        latent_shape: event shape of the latent.
        encoder, decoder: of the second VAE.
        samples: importance samples in a log-density, which is a bound from below.
        steps, batch_size, lr: of a fit after training.

    Raises:
        ComponentError: the likelihood is one of pixels in [0, 1].
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
                "The decoder of a two-stage prior needs a likelihood of all real numbers, "
                "such as decoder.likelihood={use: gaussian, scale: pixelwise}."
            )

    def standardised(self) -> Distribution:
        """The marginal of the second VAE, event shape (size,)."""
        return Marginal(self.vae, self.size, self.samples)

    def objective(self, z: Tensor) -> Tensor:
        """The negative evidence lower bound of the second VAE (arXiv 1312.6114, eq. 3), in nats."""
        trace = self.vae.trace(Batch(z.reshape(-1, 1, 1, self.size)))
        return (trace.kl - trace.log_px).mean()

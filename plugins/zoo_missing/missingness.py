"""Models of which entries are missing, as a part of the generative model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import logsigmoid, softplus

from zoo import VAE, ComponentFactory, Decoder, KeepsFloat32

Mechanism = Literal["self-masking", "self-masking-high", "self-masking-low", "linear"]


class Missingness(KeepsFloat32):
    """p(s | x): the probabilities that entries are observed, independent given x (arXiv 2006.12871).

    logit P(s_i = 1 | x) = a_i x_i + b_i, or (A x + b)_i for ``linear``

    Args:
        data_shape: event shape of x.
        mechanism: see `MissingNotAtRandom`.
    """

    def __init__(self, data_shape: tuple[int, ...], mechanism: Mechanism = "self-masking") -> None:
        super().__init__()
        self.mechanism = mechanism
        self.dims = len(data_shape)
        size = math.prod(data_shape)
        self.linear = nn.Linear(size, size)
        if mechanism != "linear":
            del self.linear.weight
            self.slope = nn.Parameter(0.01 * self.linear.bias.new_ones(size))
        nn.init.zeros_(self.linear.bias)

    def logits(self, x: Tensor) -> Tensor:
        """The logits of being observed, like complete examples x (K..., N, *data_shape)."""
        flat = x.flatten(-self.dims)
        if self.mechanism == "linear":
            logits: Tensor = self.linear(flat)
            return logits.reshape(x.shape)
        sign = {"self-masking": 0, "self-masking-high": -1, "self-masking-low": 1}[self.mechanism]
        slope = sign * softplus(self.slope) if sign else self.slope
        return (slope * flat + self.linear.bias).reshape(x.shape)

    def log_prob(self, x: Tensor, mask: Tensor) -> Tensor:
        """log p(s | x), (K..., N), in nats.

        Args:
            x: complete examples (K..., N, *data_shape).
            mask: s, bool (N, *data_shape), true where an entry is observed.
        """
        logits = self.logits(x)
        return logsigmoid(logits.where(mask, -logits)).flatten(-self.dims).sum(-1)


class MissingNotAtRandom(Decoder):
    """p(x | z) p(s | x): any decoder, with a model of which entries are missing (arXiv 2006.12871). For the loss
    ``not-miwae``; `zoo_missing.impute` uses it too.

    Args:
        data_shape, latent_dim, latent_shape, classes: see `zoo.Decoder`.
        mechanism: ``self-masking`` makes the logit of an entry's presence linear in its value. ``self-masking-high``
            and ``self-masking-low`` restrict the sign of the slope, so that high or low values are missing more often;
            without that knowledge, either sign may explain the data. ``linear`` makes it linear in all entries.
        decoder: any decoder.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        latent_shape: tuple[int, ...],
        classes: int = 0,
        mechanism: Mechanism = "self-masking",
        decoder: Callable[..., Decoder] = ComponentFactory("decoder", "mlp", likelihood="gaussian"),
    ) -> None:
        super().__init__()
        self.decoder = decoder(data_shape=data_shape, latent_dim=latent_dim, latent_shape=latent_shape, classes=classes)
        self.missingness = Missingness(data_shape, mechanism)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, *latent_shape) to p(x | z)."""
        p: Distribution = self.decoder(z, condition)
        return p


def missingness_of(vae: VAE) -> Missingness | None:
    """The model of the missingness that a decoder contains, if there is one."""
    return next((module for module in vae.decoder.modules() if isinstance(module, Missingness)), None)

"""Multilayer perceptrons of gated dense layers (arXiv 1612.08083, eq. 1; the networks of arXiv 1705.07120)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo import ComponentFactory, Decoder, Encoder, GatedDense, Init, Likelihood, Posterior, initialize_linear


class GatedEncoder(Encoder):
    """q(z | x) from gated layers on the flattened input.

    Args:
        data_shape: event shape of x.
        latent_dim: number of latent dimensions.
        hidden: widths of the layers, from x to z.
        posterior: the head.
        init: of the weights; see `zoo.initialize_linear`.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        hidden: Sequence[PositiveInt] = (300, 300),
        posterior: Callable[..., Posterior] = ComponentFactory("posterior", "gaussian"),
        init: Init = "torch",
    ) -> None:
        super().__init__()
        widths = [math.prod(data_shape), *hidden]
        self.trunk = nn.Sequential(nn.Flatten(), *(GatedDense(*pair) for pair in pairwise(widths)))
        self.posterior = posterior(features=widths[-1], latent_dim=latent_dim)
        initialize_linear(self, init)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map x (N, *data_shape) to q(z | x)."""
        q: Distribution = self.posterior(self.trunk(x))
        return q


class GatedDecoder(Decoder):
    """p(x | z) from gated layers on the flattened latent.

    Args:
        data_shape: event shape of x.
        latent_shape: event shape of the latent.
        hidden: widths of the layers, from z to x.
        likelihood: the head.
        init: of the weights; see `zoo.initialize_linear`.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_shape: tuple[int, ...],
        hidden: Sequence[PositiveInt] = (300, 300),
        likelihood: Callable[..., Likelihood] = ComponentFactory("likelihood", "bernoulli"),
        init: Init = "torch",
    ) -> None:
        super().__init__()
        self.likelihood = likelihood(data_shape=data_shape)
        self.data_dims = len(data_shape)
        parameters_shape = (self.likelihood.parameters_per_entry, *data_shape)
        widths = [math.prod(latent_shape), *hidden]
        self.trunk = nn.Sequential(
            nn.Flatten(-len(latent_shape)),
            *(GatedDense(*pair) for pair in pairwise(widths)),
            nn.Linear(widths[-1], math.prod(parameters_shape)),
            nn.Unflatten(-1, parameters_shape),
        )
        initialize_linear(self, init)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, *latent_shape) to p(x | z)."""
        p: Distribution = self.likelihood(self.trunk(z).movedim(-1 - self.data_dims, -1))
        return p

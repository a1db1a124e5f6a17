"""Multilayer perceptrons on the flattened input (arXiv 1312.6114, appendix C)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo import ComponentFactory, Decoder, Encoder, Init, Likelihood, Posterior, initialize_linear

Activation = Literal["relu", "leaky-relu", "elu", "gelu", "silu", "softplus", "tanh"]

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


class MLPEncoder(Encoder):
    """q(z | x) from a multilayer perceptron on the flattened input.

    Args:
        data_shape: event shape of x.
        latent_dim: number of latent dimensions.
        hidden: widths of the hidden layers, from x to z.
        activation: after each hidden layer.
        posterior: the head.
        init: of the weights; see `zoo.initialize_linear`.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        hidden: Sequence[PositiveInt] = (400,),
        activation: Activation = "relu",
        posterior: Callable[..., Posterior] = ComponentFactory("posterior", "gaussian"),
        init: Init = "torch",
    ) -> None:
        super().__init__()
        widths = [math.prod(data_shape), *hidden]
        self.trunk = nn.Sequential(nn.Flatten(), *_layers(widths, activation))
        self.posterior = posterior(features=widths[-1], latent_dim=latent_dim)
        initialize_linear(self, init)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map x (N, *data_shape) to q(z | x)."""
        q: Distribution = self.posterior(self.trunk(x))
        return q


class MLPDecoder(Decoder):
    """p(x | z) from a multilayer perceptron on the flattened latent.

    Args:
        data_shape: event shape of x.
        latent_shape: event shape of the latent.
        hidden: widths of the hidden layers, from z to x.
        activation: after each hidden layer.
        likelihood: the head.
        init: of the weights; see `zoo.initialize_linear`.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_shape: tuple[int, ...],
        hidden: Sequence[PositiveInt] = (400,),
        activation: Activation = "relu",
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
            *_layers(widths, activation),
            nn.Linear(widths[-1], math.prod(parameters_shape)),
            nn.Unflatten(-1, parameters_shape),
        )
        initialize_linear(self, init)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, *latent_shape) to p(x | z)."""
        p: Distribution = self.likelihood(self.trunk(z).movedim(-1 - self.data_dims, -1))
        return p


def _layers(widths: Sequence[int], activation: Activation) -> list[nn.Module]:
    return [
        layer
        for width_in, width_out in pairwise(widths)
        for layer in (nn.Linear(width_in, width_out), ACTIVATIONS[activation]())
    ]

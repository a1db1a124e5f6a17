"""Recurrent networks for series of any length and number of channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo import ComponentFactory, Decoder, Encoder, Likelihood, Posterior
from zoo_sequences.layout import as_parameters, sequence_shape

Cell = Literal["gru", "lstm"]


class Undropped(nn.RNNBase):
    """Mixin for recurrent networks without dropout. They stay in training mode: cuDNN has gradients in no other."""

    def train(self, mode: bool = True) -> Self:
        """Ignore the mode."""
        return super().train(True)


class GRU(Undropped, nn.GRU):
    """`torch.nn.GRU` without dropout."""


class LSTM(Undropped, nn.LSTM):
    """`torch.nn.LSTM` without dropout."""


CELLS: dict[Cell, Callable[..., nn.RNNBase]] = {"gru": GRU, "lstm": LSTM}


class Recurrent(nn.Module):
    """A recurrent network whose initial state is linear in a vector.

    Args:
        inputs: size of an input.
        vector: size of the vector.
        hidden: units of each layer.
        cell: ``gru`` (arXiv 1406.1078) or ``lstm`` (Hochreiter and Schmidhuber, 1997).
        layers: number of layers.
    """

    def __init__(self, inputs: int, vector: int, hidden: int, cell: Cell, layers: int) -> None:
        super().__init__()
        self.rnn = CELLS[cell](inputs, hidden, layers, batch_first=True)
        self.parts = 2 if cell == "lstm" else 1  # of the state: of an LSTM, the output and the cell
        self.start = nn.Linear(vector, self.parts * layers * hidden)

    def initial(self, vector: Tensor) -> Any:
        """Map vectors (N, vector) to the initial state."""
        parts = self.start(vector).unflatten(-1, (self.parts, -1, self.rnn.hidden_size)).movedim(0, 2).contiguous()
        return parts[0] if self.parts == 1 else (parts[0], parts[1])

    def forward(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Map inputs (N, L, inputs) and a state to outputs (N, L, hidden) and the state after the last step."""
        outputs, state = self.rnn(inputs, state)
        return outputs, state


class RecurrentEncoder(Encoder):
    """q(z | x) from the last states of a recurrent network that reads the series in both directions.

    Args:
        data_shape: (C, L), or (L,) for one channel.
        latent_dim: number of latent dimensions.
        hidden: units of each layer and direction.
        cell: ``gru`` or ``lstm``.
        layers: number of layers.
        posterior: the head.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        hidden: PositiveInt = 64,
        cell: Cell = "gru",
        layers: PositiveInt = 1,
        posterior: Callable[..., Posterior] = ComponentFactory("posterior", "gaussian"),
    ) -> None:
        super().__init__()
        self.shape = sequence_shape(data_shape, "encoder 'rnn'")
        self.trunk = CELLS[cell](self.shape[0], hidden, layers, batch_first=True, bidirectional=True)
        self.posterior = posterior(features=2 * hidden, latent_dim=latent_dim)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map series (N, *data_shape) to q(z | x)."""
        q: Distribution = self.posterior(last_states(self.trunk, x.reshape(-1, *self.shape).mT))
        return q


class RecurrentDecoder(Decoder):
    """p(x | z) from a recurrent network that starts in a state linear in z and receives z at each step.

    Given z, the steps are independent (unlike those of the decoder ``tokens``), so time steps may be missing.

    Args:
        data_shape: (C, L), or (L,) for one channel.
        latent_shape: event shape of the latent.
        hidden: units of each layer.
        cell: ``gru`` or ``lstm``.
        layers: number of layers.
        likelihood: the head.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_shape: tuple[int, ...],
        hidden: PositiveInt = 64,
        cell: Cell = "gru",
        layers: PositiveInt = 1,
        likelihood: Callable[..., Likelihood] = ComponentFactory("likelihood", "gaussian"),
    ) -> None:
        super().__init__()
        channels, self.length = sequence_shape(data_shape, "decoder 'rnn'")
        self.data_shape = data_shape
        self.latent_dims = len(latent_shape)
        size = math.prod(latent_shape)
        self.likelihood = likelihood(data_shape=data_shape)
        self.trunk = Recurrent(size, size, hidden, cell, layers)
        self.linear = nn.Linear(hidden, channels * self.likelihood.parameters_per_entry)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, *latent_shape) to p(x | z)."""
        vectors = z.flatten(-self.latent_dims)
        flat = vectors.flatten(0, -2)
        steps = flat.unsqueeze(1).expand(-1, self.length, -1)
        outputs, _ = self.trunk(steps, self.trunk.initial(flat))
        parameters = as_parameters(self.linear(outputs).mT, self.likelihood.parameters_per_entry, self.data_shape)
        p: Distribution = self.likelihood(parameters.reshape(*vectors.shape[:-1], *parameters.shape[1:]))
        return p


def last_states(network: nn.Module, inputs: Tensor) -> Tensor:
    """The last outputs (N, 2 * hidden) of the two directions of a recurrent network on inputs (N, L, inputs)."""
    state = network(inputs)[1]
    hidden: Tensor = state[0] if isinstance(state, tuple) else state
    return torch.cat([hidden[-2], hidden[-1]], dim=-1)

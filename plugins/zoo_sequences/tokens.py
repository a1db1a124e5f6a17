"""Encoder and autoregressive decoder for sequences of tokens, such as the characters of a line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo import Column, ComponentError, ComponentFactory, Decoder, Encoder, Posterior
from zoo_sequences.autoregressive import Autoregressive
from zoo_sequences.recurrent import CELLS, Cell, Recurrent, last_states

BYTES = 256
"""Number of tokens of data that do not describe theirs."""
END = ""
"""The category of the token that ends a sequence."""

Probability = Annotated[float, Field(ge=0, lt=1)]


class TokenEncoder(Encoder):
    """q(z | x) from the last states of a recurrent network that reads embedded tokens in both directions.

    Args:
        data_shape: event shape of x, such as (L,); its entries are read in order.
        latent_dim: number of latent dimensions.
        columns: one categorical column, whose categories are the tokens.
        vocabulary: number of tokens; by default that of the column, or 256 for data without one.
        embedding_dim: size of the embedding of a token.
        hidden: units of each layer and direction.
        cell: ``gru`` or ``lstm``.
        layers: number of layers.
        posterior: the head.

    Raises:
        ComponentError: the data are not tokens, or have another number of them.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        columns: Sequence[Column] = (),
        vocabulary: PositiveInt | None = None,
        embedding_dim: PositiveInt = 32,
        hidden: PositiveInt = 128,
        cell: Cell = "gru",
        layers: PositiveInt = 1,
        posterior: Callable[..., Posterior] = ComponentFactory("posterior", "gaussian"),
    ) -> None:
        super().__init__()
        size, _ = tokens_of(columns, vocabulary, "encoder 'tokens'")
        self.embedding = nn.Embedding(size, embedding_dim)
        self.trunk = CELLS[cell](embedding_dim, hidden, layers, batch_first=True, bidirectional=True)
        self.posterior = posterior(features=2 * hidden, latent_dim=latent_dim)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map sequences (N, *data_shape) of codes to q(z | x). Codes that are not tokens are clamped."""
        codes = x.flatten(1).round().long().clamp(0, self.embedding.num_embeddings - 1)
        q: Distribution = self.posterior(last_states(self.trunk, self.embedding(codes)))
        return q


class TokenDecoder(Decoder):
    """p(x | z) = prod_t p(x_t | x_1, ..., x_{t-1}, z) from a recurrent network (arXiv 1511.06349, section 3).

    The network starts in a state linear in z. At each step it receives z and the embedding of the previous token, and
    predicts the next one. See `Autoregressive` for the distribution.

    Args:
        data_shape: event shape of x, such as (L,); its entries are written in order.
        latent_shape: event shape of the latent.
        columns: one categorical column, whose categories are the tokens. The category ``""`` ends a sequence.
        vocabulary: number of tokens; by default that of the column, or 256 for data without one.
        embedding_dim: size of the embedding of a token.
        hidden: units of each layer.
        cell: ``gru`` or ``lstm``.
        layers: number of layers.
        word_dropout: probability with which a previous token is hidden in training, so that the decoder has to use z
            (section 3.1). A hidden token, like that before the first one, has an embedding of zeros.

    Raises:
        ComponentError: the data are not tokens, or have another number of them.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_shape: tuple[int, ...],
        columns: Sequence[Column] = (),
        vocabulary: PositiveInt | None = None,
        embedding_dim: PositiveInt = 32,
        hidden: PositiveInt = 128,
        cell: Cell = "gru",
        layers: PositiveInt = 1,
        word_dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        self.data_shape = data_shape
        self.latent_dims = len(latent_shape)
        self.size, self.end = tokens_of(columns, vocabulary, "decoder 'tokens'")
        self.word_dropout = word_dropout
        latent = math.prod(latent_shape)
        self.embedding = nn.Embedding(self.size, embedding_dim)
        self.trunk = Recurrent(embedding_dim + latent, latent, hidden, cell, layers)
        self.linear = nn.Linear(hidden, self.size)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        """Map latents (K..., N, *latent_shape) to p(x | z), which runs this network."""
        return Autoregressive(self, z.flatten(-self.latent_dims), self.data_shape, self.size, self.end)

    def initial(self, z: Tensor) -> Any:
        """Map latents (N, D) to the initial state."""
        return self.trunk.initial(z)

    def step(self, z: Tensor, previous: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        """Map the previous tokens (N,), or None before the first, to logits (N, V) and the next state."""
        shape = (z.shape[0], self.embedding.embedding_dim)
        embedded = z.new_zeros(shape) if previous is None else self.embedding(previous)
        outputs, state = self.trunk(torch.cat([embedded, z], -1).unsqueeze(1), state)
        return self.linear(outputs.squeeze(1)), state

    def logits(self, z: Tensor, codes: Tensor) -> Tensor:
        """Map tokens (N, L) to the logits (N, L, V) of each token given those before it."""
        embedded = self.embedding(codes[:, :-1])
        if self.training and self.word_dropout:
            embedded = embedded * (torch.rand_like(embedded[..., :1]) >= self.word_dropout)
        previous = nn.functional.pad(embedded, (0, 0, 1, 0))
        inputs = torch.cat([previous, z.unsqueeze(1).expand(-1, codes.shape[1], -1)], -1)
        outputs, _ = self.trunk(inputs, self.trunk.initial(z))
        logits: Tensor = self.linear(outputs)
        return logits


def tokens_of(columns: Sequence[Column], vocabulary: int | None, component: str) -> tuple[int, int | None]:
    """The number of tokens of a data set, and the code of the one that ends a sequence, if there is one.

    Args:
        columns: of the data.
        vocabulary: the number of tokens of data without columns; of others, it must agree.
        component: name of the component in the message.

    Raises:
        ComponentError: the columns are not one categorical column, or have another number of categories.
    """
    if not columns:
        return vocabulary or BYTES, None
    if len(columns) > 1 or not columns[0].categories:
        kinds = ", ".join(sorted({column.kind for column in columns}))
        raise ComponentError(
            f"{component} needs tokens, described by one categorical column; these data have {len(columns)} columns "
            f"({kinds}). Choose another {component.split()[0]}."
        )
    categories = columns[0].categories
    if vocabulary not in (None, len(categories)):
        raise ComponentError(
            f"{component} has vocabulary={vocabulary}, and the data have {len(categories)} tokens. Leave it out."
        )
    return len(categories), categories.index(END) if END in categories else None

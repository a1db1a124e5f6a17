"""Encoders of tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from zoo import (
    Column,
    ComponentError,
    ComponentFactory,
    Conditional,
    DataDependent,
    Encoder,
    Posterior,
    UsageError,
)

SMALLEST = 1e-6
"""The smallest value of a positive column whose logarithm is used."""
FAR = 10.0
"""Standard deviations beyond which an input grows as the logarithm."""


class TableInputs(nn.Module, DataDependent):
    """The inputs of a network on tables: numbers on a common scale, embeddings of categories, and the mask.

    Real columns are used as they are; positive ones as log x; counts as log(1 + x), minus that of the training mean;
    binary and ordinal codes are scaled to [-1, 1]. Beyond 10, inputs grow as the logarithm. A missing entry is 0, also
    in its embedding.

    Args:
        data_shape: event shape of x.
        columns: the columns; without them, all entries are real.
        embedding_dim: size of the embedding of a category.
        mask: append the mask.
    """

    numbers: Tensor
    embedded: Tensor
    offsets: Tensor
    last_codes: Tensor
    positive: Tensor
    counts: Tensor
    steps: Tensor
    shifts: Tensor
    center: Tensor

    def __init__(
        self, data_shape: tuple[int, ...], columns: tuple[Column, ...], embedding_dim: int, mask: bool
    ) -> None:
        super().__init__()
        size = math.prod(data_shape)
        if columns and len(columns) != size:
            raise ComponentError(f"The encoder 'table' has {len(columns)} columns for data of shape {data_shape}.")
        kinds = [column.kind for column in columns] or ["real"] * size
        sizes = [len(column.categories) for column in columns] or [0] * size
        embedded = [i for i, kind in enumerate(kinds) if kind == "categorical"]
        numbers = [i for i, kind in enumerate(kinds) if kind != "categorical"]
        offsets = [0, *torch.tensor([sizes[i] for i in embedded]).cumsum(0).tolist()]
        self._constant("numbers", torch.tensor(numbers, dtype=torch.int64))
        self._constant("embedded", torch.tensor(embedded, dtype=torch.int64))
        self._constant("offsets", torch.tensor(offsets[:-1], dtype=torch.int64))
        self._constant("last_codes", torch.tensor([sizes[i] - 1 for i in embedded], dtype=torch.int64))
        self._constant("positive", torch.tensor([kinds[i] == "positive" for i in numbers], dtype=torch.bool))
        self._constant("counts", torch.tensor([kinds[i] == "count" for i in numbers], dtype=torch.bool))
        steps = [2 / (sizes[i] - 1) if sizes[i] > 1 else 1.0 for i in numbers]
        self._constant("steps", torch.tensor(steps))
        self._constant("shifts", torch.tensor([float(sizes[i] > 1) for i in numbers]))
        self.register_buffer("center", torch.zeros(len(numbers)))
        self.embedding = nn.Embedding(offsets[-1], embedding_dim) if embedded else None
        self.mask = mask
        self.features = len(numbers) + len(embedded) * embedding_dim + size * mask

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def initialize(self, mean: Tensor) -> None:
        """Center counts at their mean in the training split."""
        center = mean.flatten()[self.numbers].clamp_min(0).log1p()
        self.center.copy_(torch.where(self.counts, center, 0.0))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map x (N, *data_shape) to (N, features)."""
        flat = x.flatten(1)
        values = flat[:, self.numbers]
        values = torch.where(self.positive, values.clamp_min(SMALLEST).log(), values)
        values = torch.where(self.counts, values.clamp_min(0).log1p() - self.center.to(values.dtype), values)
        values = (values * self.steps - self.shifts).to(x.dtype)
        # The network would answer values far from the training rows with latents that are not finite.
        excess = (values.abs() - FAR).clamp_min(0)
        values = torch.where(excess > 0, values.sign() * (FAR + excess.log1p()), values)
        observed = None if mask is None else mask.flatten(1).to(x.dtype)
        inputs = [values if observed is None else values * observed[:, self.numbers]]
        if self.embedding is not None:
            codes = flat[:, self.embedded].long().clamp_min(0).minimum(self.last_codes)
            embeddings = self.embedding(codes + self.offsets)
            if observed is not None:
                embeddings = embeddings * observed[:, self.embedded, None]
            inputs.append(embeddings.flatten(1).to(x.dtype))
        if self.mask:
            inputs.append(torch.ones_like(flat) if observed is None else observed)
        return torch.cat(inputs, 1)


class TableEncoder(Encoder):
    """q(z | x) of a table from a multilayer perceptron on embeddings, scaled numbers and the mask; see `TableInputs`.

    Args:
        data_shape: event shape of x.
        latent_dim: number of latent dimensions.
        columns: the columns of the data.
        hidden: widths of the hidden layers, from x to z.
        embedding_dim: size of the embedding of a category.
        mask: use the mask as a further input for each column.
        posterior: the head.
    """

    takes_mask: ClassVar[bool] = True

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        columns: tuple[Column, ...] = (),
        hidden: Sequence[PositiveInt] = (128, 128),
        embedding_dim: PositiveInt = 8,
        mask: bool = True,
        posterior: Callable[..., Posterior] = ComponentFactory("posterior", "gaussian"),
    ) -> None:
        super().__init__()
        self.inputs = TableInputs(data_shape, columns, embedding_dim, mask)
        widths = [self.inputs.features + self._label_features(), *hidden]
        layers = [layer for sizes in pairwise(widths) for layer in (nn.Linear(*sizes), nn.ReLU())]
        self.trunk = nn.Sequential(*layers)
        self.posterior = posterior(features=widths[-1], latent_dim=latent_dim)

    def _label_features(self) -> int:
        return 0

    def forward(self, x: Tensor, condition: Tensor | None = None, mask: Tensor | None = None) -> Distribution:
        """Map x (N, *data_shape) to q(z | x)."""
        q: Distribution = self.posterior(self.trunk(self._features(x, condition, mask)))
        return q

    def _features(self, x: Tensor, condition: Tensor | None, mask: Tensor | None) -> Tensor:
        features: Tensor = self.inputs(x, mask)
        return features


class ConditionalTableEncoder(TableEncoder, Conditional):
    """q(z | x, y): `TableEncoder` with the one-hot label y as a further input.

    Args:
        data_shape, latent_dim, columns, hidden, embedding_dim, mask, posterior: as in `TableEncoder`.
        classes: number of labels.

    Raises:
        UsageError: the data have no labels.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_dim: int,
        classes: int,
        columns: tuple[Column, ...] = (),
        hidden: Sequence[PositiveInt] = (128, 128),
        embedding_dim: PositiveInt = 8,
        mask: bool = True,
        posterior: Callable[..., Posterior] = ComponentFactory("posterior", "gaussian"),
    ) -> None:
        if classes < 1:
            raise UsageError("A conditional model needs labels; these data have none. Choose them: data.label=COLUMN.")
        self.classes = classes
        super().__init__(data_shape, latent_dim, columns, hidden, embedding_dim, mask, posterior)

    def _label_features(self) -> int:
        return self.classes

    def _features(self, x: Tensor, condition: Tensor | None, mask: Tensor | None) -> Tensor:
        if condition is None:
            raise UsageError(f"The model is conditional on labels from 0 to {self.classes - 1}, and none were given.")
        y = condition[:, None] == torch.arange(self.classes, device=condition.device)
        return torch.cat([super()._features(x, condition, mask), y.to(x.dtype)], 1)

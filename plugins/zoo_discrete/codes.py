"""Priors over the codes of a quantiser."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from typing import ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, constraints, register_kl
from torch.types import _size

from zoo import Encoder, ExPostPrior, Prior, UsageError, at_least_float32
from zoo_discrete.quantizer import MEASURE, Quantized, Quantizer, quantizer_of

CHECKS = 20
"""Evaluations on the held-out codes during one fit."""


class Codes(Distribution):
    """A distribution over the codes of a quantiser, defined on their indices.

    Args:
        quantizer: maps between codes and indices.
        latent_shape: event shape of the codes, (*grid, latent_dim, dim).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    base_measure = MEASURE

    def __init__(self, quantizer: Quantizer, latent_shape: tuple[int, ...]) -> None:
        self.quantizer = quantizer
        self.indices_shape = (*latent_shape[:-1], quantizer.indices_shape[-1])
        super().__init__(event_shape=torch.Size(latent_shape), validate_args=False)

    @abstractmethod
    def log_mass(self, indices: Tensor) -> Tensor:
        """Return the log-probability of indices (..., *indices_shape), (...), in nats."""

    @abstractmethod
    def sample_indices(self, n: int) -> Tensor:
        """Draw indices (n, *indices_shape)."""

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability (a mass, not a density) of codes (..., *latent_shape), (...), in nats."""
        return self.log_mass(self.quantizer.indices_of(value))

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw codes (*sample_shape, *latent_shape)."""
        indices = self.sample_indices(math.prod(sample_shape))
        return self.quantizer.codes_of(indices).reshape(self._extended_shape(sample_shape))


@register_kl(Quantized, Codes)  # type: ignore[no-untyped-call, untyped-decorator]
def _code_length(q: Quantized, p: Codes) -> Tensor:
    """KL(q || p) = -log p(indices), because q is a point mass."""
    return -p.log_mass(q.indices)


class Uniform(Codes):
    """Independent indices with probability 1 / K each."""

    def log_mass(self, indices: Tensor) -> Tensor:
        """-(number of indices) log K, in nats."""
        number = math.prod(self.indices_shape)
        leading = indices.shape[: indices.ndim - len(self.indices_shape)]
        return self.quantizer.linear.weight.new_full(leading, -number * math.log(self.quantizer.codebook_size))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of codes, without looking up their indices, on which it does not depend."""
        return self.log_mass(value)

    def sample_indices(self, n: int) -> Tensor:
        """Draw indices (n, *indices_shape)."""
        device = self.quantizer.linear.weight.device
        return torch.randint(self.quantizer.codebook_size, (n, *self.indices_shape), device=device)


class UniformCodes(Prior):
    """p(z) uniform over all codes, as in the training of a VQ-VAE (arXiv 1711.00937, section 3.3).

    The rate is the constant (number of indices) log K. Before sampling, fit another prior to the codes:
    ``zoo fit-prior RUN autoregressive-codes``.

    Args:
        latent_shape: event shape of the latent.
    """

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.latent_shape = latent_shape

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return the distribution over z, with batch shape ().

        Raises:
            ComponentError: the encoder has no quantiser.
        """
        return Uniform(quantizer_of(encoder), self.latent_shape)


class AutoregressiveCodes(ExPostPrior):
    """p(z) = prod_t p(i_t | i_1, ..., i_t-1) over the indices of the codes, by a GRU.

    arXiv 1711.00937, section 3.3, fits a PixelCNN after training. Here the indices are in order of the codes, in raster
    order on a grid, and of the quantisers within a code. If the prior is trained with the model instead, its rate has
    no gradient in the encoder.

    Args:
        model_encoder: encoder with the quantiser.
        latent_shape: event shape of the latent.
        hidden: width of the network.
        steps, batch_size, lr: number of optimiser steps, codes per step and initial learning rate of `fit`.

    Raises:
        ComponentError: the encoder has no quantiser.
    """

    def __init__(
        self,
        model_encoder: Encoder,
        latent_shape: tuple[int, ...],
        hidden: PositiveInt = 128,
        steps: PositiveInt = 1000,
        batch_size: PositiveInt = 256,
        lr: PositiveFloat = 2e-3,
    ) -> None:
        super().__init__()
        quantizer = quantizer_of(model_encoder)
        self.steps, self.batch_size, self.lr = steps, batch_size, lr
        self.latent_shape = latent_shape
        self.codebooks = quantizer.indices_shape[-1]
        self.positions = math.prod(latent_shape[:-1]) * self.codebooks
        self.size = quantizer.codebook_size
        self.embedding = nn.Embedding(self.codebooks * self.size, hidden)
        self.position = nn.Parameter(0.02 * torch.randn(self.positions, hidden))
        self.recurrent = nn.GRU(hidden, hidden, batch_first=True)
        self.linear = nn.Linear(hidden, self.size)
        self.bias = nn.Parameter(torch.zeros(self.positions, self.size))

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return the distribution over z, with batch shape ()."""
        return Autoregressive(quantizer_of(encoder), self.latent_shape, self)

    def embed(self, indices: Tensor, start: int = 0) -> Tensor:
        """Embed indices (N, T) at the positions from `start` on, (N, T, hidden)."""
        codebook = torch.arange(start, start + indices.shape[1], device=indices.device) % self.codebooks
        embedding: Tensor = self.embedding(indices + self.size * codebook)
        return embedding

    def logits(self, indices: Tensor) -> Tensor:
        """Return the logits (N, positions, K) of each of the indices (N, positions), given the preceding ones."""
        history = self.embed(indices[:, :-1])
        inputs = torch.cat([torch.zeros_like(self.position[:1]).expand(len(indices), 1, -1), history], dim=1)
        logits = at_least_float32(self.linear(self.recurrent(inputs + self.position)[0]))
        return logits + self.bias

    def log_mass(self, indices: Tensor) -> Tensor:
        """Return the log-probability of indices (N, positions), (N,), in nats."""
        log_probs = self.logits(indices).log_softmax(-1)
        log_prob: Tensor = log_probs.gather(-1, indices.unsqueeze(-1))
        return log_prob.sum((-2, -1))

    def draw(self, n: int) -> Tensor:
        """Draw indices (n, positions) one position at a time."""
        columns: list[Tensor] = []
        inputs, state = self.position[0].expand(n, 1, -1), None
        for t in range(self.positions):
            output, state = self.recurrent(inputs, state)
            logits = self.linear(output[:, 0]) + self.bias[t]
            columns.append(Categorical(logits=logits, validate_args=False).sample())  # type: ignore[no-untyped-call]
            if t + 1 < self.positions:
                inputs = self.embed(columns[-1].unsqueeze(1), start=t) + self.position[t + 1]
        return torch.stack(columns, 1)

    def fit(self, z: Tensor, encoder: Encoder) -> None:
        """Fit the prior to codes `z` (N, *latent_shape), with Adam under a cosine schedule.

        A tenth of the codes, from images that it does not train on, is held out; the parameters with the best
        log-probability on them are kept.

        Raises:
            UsageError: there are fewer than two.
        """
        if len(z) < 2:
            raise UsageError(
                f"The prior 'autoregressive-codes' needs at least two draws, of which one is held out; got {len(z)}."
            )
        with torch.no_grad():
            indices = quantizer_of(encoder).indices_of(z).flatten(1)
        held_out, indices = indices.tensor_split([max(1, len(indices) // 10)])
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        best_log_prob, best_state = self._mean_log_mass(held_out), copy.deepcopy(self.state_dict())
        for step in range(1, self.steps + 1):
            rows = torch.randint(len(indices), (min(self.batch_size, len(indices)),), device=indices.device)
            optimizer.zero_grad()
            (-self.log_mass(indices[rows]).mean()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if step == self.steps or step % max(1, self.steps // CHECKS) == 0:
                log_prob = self._mean_log_mass(held_out)
                if log_prob > best_log_prob:
                    best_log_prob, best_state = log_prob, copy.deepcopy(self.state_dict())
        self.load_state_dict(best_state)

    @torch.no_grad()
    def _mean_log_mass(self, indices: Tensor) -> float:
        return torch.cat([self.log_mass(chunk).cpu().double() for chunk in torch.split(indices, 1024)]).mean().item()


class Autoregressive(Codes):
    """A distribution over codes whose indices follow an `AutoregressiveCodes` network.

    Args:
        quantizer, latent_shape: see `Codes`.
        network: model of the indices.
    """

    def __init__(self, quantizer: Quantizer, latent_shape: tuple[int, ...], network: AutoregressiveCodes) -> None:
        self.network = network
        super().__init__(quantizer, latent_shape)

    def log_mass(self, indices: Tensor) -> Tensor:
        """Return the log-probability of indices (..., *indices_shape), (...), in nats."""
        leading = indices.shape[: indices.ndim - len(self.indices_shape)]
        return self.network.log_mass(indices.reshape(-1, self.network.positions)).reshape(leading)

    def sample_indices(self, n: int) -> Tensor:
        """Draw indices (n, *indices_shape)."""
        return self.network.draw(n).reshape(n, *self.indices_shape)

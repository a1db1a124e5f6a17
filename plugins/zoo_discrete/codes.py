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
"""Looks at what is held out during one fit."""


class Codes(Distribution):
    """A distribution over a quantiser's codes z, by way of their indices.

    Args:
        quantizer: knows the code of each index.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    base_measure = MEASURE

    def __init__(self, quantizer: Quantizer) -> None:
        self.quantizer = quantizer
        super().__init__(event_shape=torch.Size(quantizer.event_shape), validate_args=False)

    @abstractmethod
    def log_mass(self, indices: Tensor) -> Tensor:
        """log p of indices (..., latent_dim, quantizers), in nats, (...)."""

    @abstractmethod
    def sample_indices(self, n: int) -> Tensor:
        """Indices (n, latent_dim, quantizers)."""

    def log_prob(self, value: Tensor) -> Tensor:
        """log p of codes (..., latent_dim, dim), in nats: a mass, not a density."""
        return self.log_mass(self.quantizer.find(value))

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Codes (*sample_shape, latent_dim, dim)."""
        indices = self.sample_indices(math.prod(sample_shape))
        return self.quantizer.look_up(indices).reshape(self._extended_shape(sample_shape))


@register_kl(Quantized, Codes)  # type: ignore[no-untyped-call, untyped-decorator]
def _code_length(q: Quantized, p: Codes) -> Tensor:
    return -p.log_mass(q.indices)


class Uniform(Codes):
    """Every index with probability 1 / K."""

    def log_mass(self, indices: Tensor) -> Tensor:
        """-(number of indices) log K."""
        number = math.prod(self.quantizer.indices_shape)
        weight = self.quantizer.linear.weight
        return weight.new_full(indices.shape[:-2], -number * math.log(self.quantizer.codebook_size))

    def log_prob(self, value: Tensor) -> Tensor:
        """The same for all codes, whichever their indices."""
        return self.log_mass(value)

    def sample_indices(self, n: int) -> Tensor:
        """Each index by itself."""
        device = self.quantizer.linear.weight.device
        return torch.randint(self.quantizer.codebook_size, (n, *self.quantizer.indices_shape), device=device)


class UniformCodes(Prior):
    """p(z): every code is as probable as any other, as while a VQ-VAE is trained (arXiv 1711.00937, section 3.3).

    So the rate is a constant, (number of indices) log K, and samples are of no use before a prior is fitted to the
    codes (``zoo fit-prior RUN autoregressive-codes``).
    """

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """The distribution over z, batch shape ()."""
        return Uniform(quantizer_of(encoder))


class AutoregressiveCodes(ExPostPrior):
    """p(z) = prod_t p(i_t | i_1, ..., i_t-1) over the indices of the codes, by a recurrent net.

    In the paper it is a PixelCNN fitted once the model is trained (arXiv 1711.00937, section 3.3); here a GRU over the
    indices in order, those of one code's quantisers next to each other. Taken as the prior of a training, it learns
    along with it, and the encoder gets no gradient of its rate.

    Args:
        model_encoder: whose quantiser tells how many indices there are, and of how many values.
        hidden: width of the net.
        steps, batch_size, lr: of `fit` alone.
    """

    def __init__(
        self,
        model_encoder: Encoder,
        hidden: PositiveInt = 128,
        steps: PositiveInt = 1000,
        batch_size: PositiveInt = 256,
        lr: PositiveFloat = 2e-3,
    ) -> None:
        super().__init__()
        quantizer = quantizer_of(model_encoder)
        self.steps, self.batch_size, self.lr = steps, batch_size, lr
        self.positions = math.prod(quantizer.indices_shape)
        self.codebooks = quantizer.indices_shape[-1]
        self.size = quantizer.codebook_size
        self.embedding = nn.Embedding(self.codebooks * self.size, hidden)
        self.position = nn.Parameter(0.02 * torch.randn(self.positions, hidden))
        self.recurrent = nn.GRU(hidden, hidden, batch_first=True)
        self.linear = nn.Linear(hidden, self.size)
        self.bias = nn.Parameter(torch.zeros(self.positions, self.size))

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """The distribution over z, batch shape ()."""
        return Autoregressive(quantizer_of(encoder), self)

    def embed(self, indices: Tensor, start: int = 0) -> Tensor:
        """Indices (N, T) at the positions from `start` on, to what the net is told of them, (N, T, hidden)."""
        codebook = torch.arange(start, start + indices.shape[1], device=indices.device) % self.codebooks
        embedded: Tensor = self.embedding(indices + self.size * codebook)
        return embedded

    def logits(self, indices: Tensor) -> Tensor:
        """Of each of the indices (N, positions), given those before it: (N, positions, K)."""
        before = self.embed(indices[:, :-1])
        told = torch.cat([torch.zeros_like(self.position[:1]).expand(len(indices), 1, -1), before], dim=1)
        logits = at_least_float32(self.linear(self.recurrent(told + self.position)[0]))
        return logits + self.bias

    def log_mass(self, indices: Tensor) -> Tensor:
        """log p of indices (N, positions), in nats, (N,)."""
        log_masses = self.logits(indices).log_softmax(-1)
        chosen: Tensor = log_masses.gather(-1, indices.unsqueeze(-1))
        return chosen.sum((-2, -1))

    def draw(self, n: int) -> Tensor:
        """Indices (n, positions), one after the other."""
        drawn: list[Tensor] = []
        told, state = self.position[0].expand(n, 1, -1), None
        for t in range(self.positions):
            output, state = self.recurrent(told, state)
            logits = self.linear(output[:, 0]) + self.bias[t]
            drawn.append(Categorical(logits=logits, validate_args=False).sample())  # type: ignore[no-untyped-call]
            if t + 1 < self.positions:
                told = self.embed(drawn[-1].unsqueeze(1), start=t) + self.position[t + 1]
        return torch.stack(drawn, 1)

    def fit(self, z: Tensor, encoder: Encoder) -> None:
        """Fit it to codes (N, latent_dim, dim), with Adam and a rate that falls as a cosine.

        A tenth of them, those of other images, is held out; what did best on them is kept.

        Raises:
            UsageError: there are too few.
        """
        if len(z) < 2:
            raise UsageError("An autoregressive prior is fitted to two draws at least: one of them is held out.")
        with torch.no_grad():
            indices = quantizer_of(encoder).find(z).flatten(1)
        held_out, indices = indices.tensor_split([max(1, len(indices) // 10)])
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        best, kept = self._held_out_mass(held_out), copy.deepcopy(self.state_dict())
        for step in range(1, self.steps + 1):
            rows = torch.randint(len(indices), (min(self.batch_size, len(indices)),), device=indices.device)
            optimizer.zero_grad()
            (-self.log_mass(indices[rows]).mean()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if step == self.steps or step % max(1, self.steps // CHECKS) == 0:
                found = self._held_out_mass(held_out)
                if found > best:
                    best, kept = found, copy.deepcopy(self.state_dict())
        self.load_state_dict(kept)

    @torch.no_grad()
    def _held_out_mass(self, indices: Tensor) -> float:
        return torch.cat([self.log_mass(part).cpu().double() for part in torch.split(indices, 1024)]).mean().item()


class Autoregressive(Codes):
    """The codes whose indices an `AutoregressiveCodes` draws.

    Args:
        quantizer: knows the code of each index.
        net: over the indices.
    """

    def __init__(self, quantizer: Quantizer, net: AutoregressiveCodes) -> None:
        self.net = net
        super().__init__(quantizer)

    def log_mass(self, indices: Tensor) -> Tensor:
        """The sum over the indices, each given those before it."""
        leading = indices.shape[:-2]
        return self.net.log_mass(indices.reshape(-1, self.net.positions)).reshape(leading)

    def sample_indices(self, n: int) -> Tensor:
        """One index after the other."""
        return self.net.draw(n).reshape(n, *self.quantizer.indices_shape)

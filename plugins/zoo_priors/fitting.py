"""What the priors have in common that are fitted after training by gradient steps."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod

import torch
from torch import Tensor
from torch.distributions import AffineTransform, Distribution, ReshapeTransform, TransformedDistribution

from zoo import Encoder, ExPostPrior, UsageError

CHECKS = 50
"""Looks at what is held out during one fit."""


def location_and_scale(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column of draws (N, size), in float64 on the CPU, so that what is fitted to
    standardised draws follows any shift and scale of a column.

    A column that is constant, up to the rounding of its type, has no scale: it gets that rounding, or 1e-6 at 0.
    """
    z = z.cpu().double()
    rounding = torch.finfo(torch.float32).eps * z.abs().amax(0)
    scale = z.std(0).maximum(rounding)
    return z.mean(0), torch.where(scale > 0, scale, 1e-6)


class FittedByGradient(ExPostPrior):
    """A prior over latents brought to mean 0 and variance 1, fitted with Adam and a rate that falls as a cosine.

    A tenth of the draws, those of other images, is held out; what did best on them is kept.

    Args:
        latent_shape: event shape of the latent.
        steps, batch_size, lr: of `fit` alone.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_shape: tuple[int, ...], steps: int, batch_size: int, lr: float) -> None:
        super().__init__()
        self.latent_shape = torch.Size(latent_shape)
        self.size = math.prod(latent_shape)
        self.steps, self.batch_size, self.lr = steps, batch_size, lr
        self.register_buffer("loc", torch.zeros(self.size))
        self.register_buffer("scale", torch.ones(self.size))

    @abstractmethod
    def standardised(self) -> Distribution:
        """The distribution over standardised latents, batch shape () and event shape (size,)."""

    def objective(self, z: Tensor) -> Tensor:
        """What a fit minimises: a bound on -log p, in nats, averaged over the rows of `z` (N, size)."""
        return -self.standardised().log_prob(z).mean()

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """The distribution over z, batch shape ()."""
        reshape = ReshapeTransform(self.loc.shape, self.latent_shape)
        back = [AffineTransform(self.loc, self.scale, event_dim=1), reshape]
        return TransformedDistribution(self.standardised(), back, validate_args=False)

    def fit(self, z: Tensor, encoder: Encoder) -> None:
        """Fit it to draws (N, *latent_shape) of the aggregate posterior."""
        if len(z) < 2:
            raise UsageError(f"A {type(self).__name__} is fitted to two draws at least: one of them is held out.")
        z = z.flatten(1)
        loc, scale = location_and_scale(z)
        self.loc.copy_(loc)
        self.scale.copy_(scale)
        z = ((z.cpu() - loc) / scale).to(z)
        held_out, z = z.tensor_split([max(1, len(z) // 10)])

        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        best, kept = self._mean_objective(held_out), copy.deepcopy(self.state_dict())
        for step in range(1, self.steps + 1):
            rows = torch.randint(len(z), (min(self.batch_size, len(z)),), device=z.device)
            optimizer.zero_grad()
            self.objective(z[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if step == self.steps or step % max(1, self.steps // CHECKS) == 0:
                found = self._mean_objective(held_out)
                if found < best:
                    best, kept = found, copy.deepcopy(self.state_dict())
        self.load_state_dict(kept)

    @torch.no_grad()
    def _mean_objective(self, z: Tensor) -> float:
        parts = torch.split(z, 1024)
        return sum(self.objective(part).item() * len(part) for part in parts) / len(z)

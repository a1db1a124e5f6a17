"""The base class of priors fitted after training by gradient descent."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod

import torch
from torch import Tensor
from torch.distributions import AffineTransform, Distribution, ReshapeTransform, TransformedDistribution

from zoo import Encoder, ExPostPrior, UsageError

CHECKS = 50
"""Evaluations on the held-out draws during one fit."""


def location_and_scale(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column of draws (N, size), in float64 on the CPU.

    The standard deviation is at least the float32 rounding error of the column, and 1e-6 for a column of zeros.
    """
    z = z.cpu().double()
    rounding_error = torch.finfo(torch.float32).eps * z.abs().amax(0)
    scale = z.std(0).maximum(rounding_error)
    return z.mean(0), torch.where(scale > 0, scale, 1e-6)


class FittedByGradient(ExPostPrior):
    """A prior defined on standardised latents and fitted with Adam under a cosine schedule.

    `fit` holds out a tenth of the draws, from images that it does not train on, and keeps the parameters with the best
    objective on them.

    Args:
        latent_shape: event shape of the latent.
        steps, batch_size, lr: number of optimiser steps, draws per step and initial learning rate of `fit`.
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
    def standard_prior(self) -> Distribution:
        """Return the distribution over standardised latents, with batch shape () and event shape (size,)."""

    def objective(self, z: Tensor) -> Tensor:
        """What `fit` minimises: an upper bound on -log p(z) in nats, averaged over standardised latents (N, size)."""
        return -self.standard_prior().log_prob(z).mean()

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return the distribution over z, with batch shape ()."""
        transforms = [
            AffineTransform(self.loc, self.scale, event_dim=1),
            ReshapeTransform(self.loc.shape, self.latent_shape),
        ]
        return TransformedDistribution(self.standard_prior(), transforms, validate_args=False)

    def fit(self, z: Tensor, encoder: Encoder) -> None:
        """Fit the prior to draws `z` (N, *latent_shape) of the aggregate posterior.

        Raises:
            UsageError: there are fewer than two draws.
        """
        if len(z) < 2:
            raise UsageError(f"{type(self).__name__} needs at least two draws, of which one is held out; got {len(z)}.")
        z = z.flatten(1)
        loc, scale = location_and_scale(z)
        self.loc.copy_(loc)
        self.scale.copy_(scale)
        z = ((z.cpu() - loc) / scale).to(z)
        held_out, z = z.tensor_split([max(1, len(z) // 10)])

        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        best_objective, best_state = self._mean_objective(held_out), copy.deepcopy(self.state_dict())
        for step in range(1, self.steps + 1):
            rows = torch.randint(len(z), (min(self.batch_size, len(z)),), device=z.device)
            optimizer.zero_grad()
            self.objective(z[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if step == self.steps or step % max(1, self.steps // CHECKS) == 0:
                objective = self._mean_objective(held_out)
                if objective < best_objective:
                    best_objective, best_state = objective, copy.deepcopy(self.state_dict())
        self.load_state_dict(best_state)

    @torch.no_grad()
    def _mean_objective(self, z: Tensor) -> float:
        chunks = torch.split(z, 1024)
        return sum(self.objective(chunk).item() * len(chunk) for chunk in chunks) / len(z)

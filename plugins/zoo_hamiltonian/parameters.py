"""Learned parameters of the Hamiltonian losses: bounded step sizes and tempering factors."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from zoo import ComponentError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Schedule = Literal["none", "fixed", "free"]


class StepSize(nn.Module):
    """A learned step size for each latent dimension, in (0, maximum) (arXiv 1805.11328).

    Args:
        latent_shape: event shape of the latent.
        start: initial step size.
        maximum: upper bound.

    Raises:
        ComponentError: the start is not below the maximum.
    """

    maximum: Tensor

    def __init__(self, latent_shape: tuple[int, ...], start: float, maximum: float) -> None:
        super().__init__()
        if start >= maximum:
            raise ComponentError(f"step_size ({start}) must be smaller than max_step_size ({maximum})")
        self.logit = nn.Parameter(torch.full(latent_shape, _logit(start / maximum)))
        self.register_buffer("maximum", torch.tensor(maximum), persistent=False)

    def forward(self) -> Tensor:
        """Return the step sizes (*latent_shape)."""
        return self.maximum * torch.sigmoid(self.logit)


class Tempering(nn.Module):
    """The tempering factors alpha_k, by which the momentum is multiplied after each step (arXiv 1805.11328,
    algorithm 1).

    alpha_k = sqrt(beta_(k-1) / beta_k), with beta_0 < 1 and beta_K = 1, so that their product is sqrt(beta_0)

    ``fixed``: beta_k^-1/2 = (1 - beta_0^-1/2) (k/K)^2 + beta_0^-1/2, with a learned beta_0. ``free``: each alpha_k in
    (0, 1) is learned. ``none``: alpha_k = 1.

    Args:
        schedule: ``fixed``, ``free`` or ``none``.
        steps: K.
        start: initial beta_0.
    """

    progress: Tensor

    def __init__(self, schedule: Schedule, steps: int, start: float) -> None:
        super().__init__()
        self.kind = schedule
        progress = torch.linspace(0, 1, steps + 1) if steps else torch.zeros(1)
        self.register_buffer("progress", progress, persistent=False)
        if schedule == "fixed":
            self.logit = nn.Parameter(torch.tensor(_logit(math.sqrt(start))))
        elif schedule == "free":
            self.logit = nn.Parameter(torch.full((steps,), _logit(start ** (0.5 / max(1, steps)))))

    def forward(self) -> Tensor:
        """Return the factors (K,)."""
        if self.kind == "none":
            return torch.ones_like(self.progress[1:])
        if self.kind == "free":
            return torch.sigmoid(self.logit)
        first = 1 / torch.sigmoid(self.logit)
        scale = (1 - first) * self.progress**2 + first  # beta_k^-1/2
        return scale[1:] / scale[:-1]


def _logit(p: float) -> float:
    return math.log(p / (1 - p))

"""The matrix products with a fused Adam step, which adds the memory traffic of the optimizer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from peers import LR, replay


def prepare(data_dir: str) -> Callable[[], None]:
    """Return a function for one epoch of products and optimizer steps, without biases (0.2 % of the parameters)."""
    optimizer: torch.optim.Adam | None = None

    def step(weights: list[Tensor], gradients: list[Tensor]) -> None:
        nonlocal optimizer
        if optimizer is None:
            optimizer = torch.optim.Adam(weights, lr=LR, fused=True)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
        optimizer.step()

    return replay.prepare(data_dir, after_step=step)

"""The terms of a loss, averaged over a whole split."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.data.loader import Loader
from zoo.model.context import evaluating, seeded
from zoo.model.devices import float64
from zoo.model.loss import Loss
from zoo.model.vae import VAE


@torch.no_grad()
def mean_terms(vae: VAE, loss: Loss, loader: Loader, seed: int = 0) -> dict[str, float]:
    """Average every term of the loss over the examples of a split, in evaluation mode.

    The draws are seeded by `seed`; torch's generators are left unchanged.
    """
    sums: dict[str, Tensor] = {}
    with evaluating(vae, loss), seeded(seed, loader.device):
        for batch in loader.in_order():
            for name, value in loss(vae, batch).items():
                weighted = float64(value) * len(batch.x)
                sums[name] = sums[name] + weighted if name in sums else weighted
    return {name: float(value) / len(loader.x) for name, value in sums.items()}

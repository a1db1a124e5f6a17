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
def mean_terms(vae: VAE, loss: Loss, batches: Loader, seed: int = 0) -> dict[str, float]:
    """Every term of the loss, averaged over the images of a split and not over its batches: a short last batch counts
    for what it holds. In evaluation mode, with draws seeded by `seed` that leave torch's generators as they were.
    """
    sums: dict[str, Tensor] = {}
    with evaluating(vae, loss), seeded(seed, batches.device):
        for batch in batches.in_order():
            for name, value in loss(vae, batch).items():
                weighted = float64(value) * len(batch.x)
                sums[name] = sums[name] + weighted if name in sums else weighted
    return {name: float(value) / len(batches.x) for name, value in sums.items()}

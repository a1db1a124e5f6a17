"""Components that each break the contract in one way."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal

import zoo


class TensorEncoder(zoo.Encoder):
    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(64, latent_dim)

    def forward(self, x, condition=None):
        return self.linear(x.flatten(1))


class UndeclaredEvent(TensorEncoder):
    def forward(self, x, condition=None):
        return Normal(super().forward(x), 1.0, validate_args=False)


class FixedLatent(zoo.Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 64)

    def forward(self, z, condition=None):
        return Independent(Bernoulli(logits=self.linear(z).unflatten(-1, (1, 8, 8))), 3)


class AnotherImage(zoo.Decoder):
    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(latent_dim, 81)

    def forward(self, z, condition=None):
        return Independent(Bernoulli(logits=self.linear(z).unflatten(-1, (1, 9, 9))), 3)


class AnotherLatent(zoo.Prior):
    def forward(self, encoder, condition=None):
        return Independent(Normal(torch.zeros(7), 1.0), 1)


class NotAPrior(nn.Identity):
    def __init__(self) -> None:
        super().__init__()


class NoLoss(zoo.Loss):
    def forward(self, vae, batch):
        return {"distortion": torch.zeros(())}


class VectorLoss(zoo.Loss):
    def forward(self, vae, batch):
        return {"loss": -vae.trace(batch).log_px}


class DetachedLoss(zoo.Loss):
    def forward(self, vae, batch):
        return {"loss": -vae.trace(batch).log_px.mean().detach()}


class InfiniteLoss(zoo.Loss):
    def forward(self, vae, batch):
        return {"loss": vae.trace(batch).kl.mean() / 0}


class RaisingLoss(zoo.Loss):
    def forward(self, vae, batch):
        return batch.y


class RefusingLoss(RaisingLoss):
    def __init__(self) -> None:
        raise ValueError("no such luck")

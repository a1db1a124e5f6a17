"""Parts so small that every number about them is known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

import zoo


class Unnormalized(zoo.Decoder):
    """p(x | z) over four pixels that says of itself that it is not normalised, as an energy is."""

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        p = Independent(Normal(torch.zeros(*z.shape[:-1], 1, 1, 4), 1.0), 3)
        p.normalized = False
        return p


class LinearGaussian(zoo.Decoder):
    """p(x | z) = N(W z, s^2): then log p(x) and the posterior are known exactly."""

    def __init__(self, weight: Tensor, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.scale = scale

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        mean = (z @ self.weight.T).unflatten(-1, (1, 1, -1))
        return Independent(Normal(mean, torch.full_like(mean, self.scale)), 3)

    def marginal(self) -> MultivariateNormal:
        """p(x), over the flattened image."""
        w = self.weight.detach()
        return MultivariateNormal(torch.zeros(len(w)), w @ w.T + self.scale**2 * torch.eye(len(w)))

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """p(z | x)."""
        w = self.weight.detach()
        precision = torch.eye(w.shape[1]) + w.T @ w / self.scale**2
        mean = torch.linalg.solve(precision, w.T @ x.flatten(1).T / self.scale**2).T
        return MultivariateNormal(mean, precision_matrix=precision.expand(len(x), -1, -1))


class GivenPosterior(zoo.Encoder):
    """q(z | x), given as a function."""

    def __init__(self, q) -> None:
        super().__init__()
        self.q = q

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Distribution:
        return self.q(x)


def linear_gaussian_vae(latent_dim: int = 2, pixels: int = 4, scale: float = 0.5, seed: int = 0):
    """A VAE with an exact marginal, whose posterior is off on purpose: too wide and shifted."""
    generator = torch.Generator().manual_seed(seed)
    decoder = LinearGaussian(torch.randn(pixels, latent_dim, generator=generator), scale)

    def wide(x: Tensor) -> Distribution:
        exact = decoder.posterior(x)
        spread = exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
        return Independent(Normal(exact.mean + 0.2 * spread, 1.3 * spread), 1)

    prior = zoo.get("prior", "standard-normal")(latent_shape=(latent_dim,))
    return zoo.VAE(GivenPosterior(wide), decoder, prior)


class GivenPrior(zoo.Prior):
    """p(z), given as a distribution."""

    def __init__(self, p: Distribution) -> None:
        super().__init__()
        self.p = p

    def forward(self, encoder: zoo.Encoder, condition: Tensor | None = None) -> Distribution:
        return self.p

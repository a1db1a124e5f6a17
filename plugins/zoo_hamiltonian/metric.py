"""The Riemannian metric of the latent space (arXiv 2010.11518)."""

from __future__ import annotations

import torch
from torch import Tensor


class Metric:
    """The metric G(z), whose inverse is a sum of radial basis functions around centroids.

    G^-1(z) = sum_i L_i L_i^T exp(-|z - c_i|^2 / T^2) + lambda I

    Args:
        centroids: c_i, (M, d).
        factors: L_i, lower triangular, (M, d, d).
        temperature: T, width of the basis functions.
        regularization: lambda, which keeps G finite far from the centroids.
    """

    def __init__(self, centroids: Tensor, factors: Tensor, temperature: float, regularization: float) -> None:
        self.centroids = centroids
        self.matrices = factors @ factors.mT
        self.temperature = temperature
        self.regularization = regularization

    def inverse(self, z: Tensor) -> Tensor:
        """G^-1 at points (N, d), (N, d, d)."""
        identity = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        return torch.einsum("nm,mij->nij", self._weights(z), self.matrices) + self.regularization * identity

    def velocity(self, z: Tensor, momentum: Tensor) -> Tensor:
        """G^-1(z) v, the gradient of the kinetic energy in the momentum v, (N, d)."""
        return torch.einsum("nij,nj->ni", self.inverse(z), momentum)

    def kinetic_energy(self, z: Tensor, momentum: Tensor) -> Tensor:
        """log |G(z)| / 2 + v^T G^-1(z) v / 2, which is -log N(v; 0, G(z)) up to a constant, (N,)."""
        cholesky = torch.linalg.cholesky(self.inverse(z))
        log_det = -2 * cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        whitened = torch.einsum("nij,ni->nj", cholesky, momentum)
        energy: Tensor = (log_det + whitened.square().sum(-1)) / 2
        return energy

    def kinetic_gradient(self, z: Tensor, momentum: Tensor) -> Tensor:
        """The gradient of the kinetic energy in z, (N, d).

        -1/T^2 sum_i exp(-|z - c_i|^2 / T^2) (v^T L_i L_i^T v - tr(G L_i L_i^T)) (z - c_i)
        """
        metric = torch.cholesky_inverse(torch.linalg.cholesky(self.inverse(z)))
        outer = momentum.unsqueeze(-1) * momentum.unsqueeze(-2)
        coefficients = self._weights(z) * torch.einsum("nij,mij->nm", outer - metric, self.matrices)
        return (coefficients @ self.centroids - coefficients.sum(-1, keepdim=True) * z) / self.temperature**2

    def draw(self, z: Tensor, noise: Tensor) -> Tensor:
        """Transform standard normal `noise` (N, d) to momenta from N(0, G(z))."""
        cholesky = torch.linalg.cholesky(self.inverse(z))
        momentum: Tensor = torch.linalg.solve_triangular(cholesky.mT, noise.unsqueeze(-1), upper=True).squeeze(-1)
        return momentum

    def _weights(self, z: Tensor) -> Tensor:
        distances = (z.unsqueeze(-2) - self.centroids).square().sum(-1)
        return torch.exp(-distances / self.temperature**2)

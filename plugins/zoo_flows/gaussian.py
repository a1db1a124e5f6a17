"""The Gaussian posterior with a full covariance (arXiv 1906.02691, section 2.5.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, register_kl

from zoo import Posterior, at_least_float32


class FullCovarianceGaussian(Posterior):
    """q(z | x) = N(z; mean, L L^T), where L = diag(exp(log_variance / 2)) (1 + B / latent_dim).

    Mean, log-variance and the strictly lower triangular B are linear in the features; B starts at 0, a diagonal
    Gaussian. A step of the optimiser moves all of B at once, many times more numbers than the diagonal has. The two
    factors keep that from drowning the dimensions that the posterior knows well: without them, five epochs on MNIST
    ended 7 nats above the diagonal Gaussian.

    Args:
        features: width of the trunk.
        latent_dim: number of latent dimensions.
    """

    below: Tensor

    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.register_buffer("below", torch.tril_indices(latent_dim, latent_dim, -1), persistent=False)
        self.linear = nn.Linear(features, 2 * latent_dim + self.below.shape[1])
        with torch.no_grad():
            self.linear.weight[2 * latent_dim :].zero_()
            self.linear.bias[2 * latent_dim :].zero_()

    def forward(self, features: Tensor) -> Distribution:
        """Map features (N, *grid, features) to a Gaussian with event shape (*grid, latent_dim)."""
        parameters = at_least_float32(self.linear(features))
        mean, log_variance, below = torch.split(
            parameters, [self.latent_dim, self.latent_dim, self.below.shape[1]], dim=-1
        )
        factor = torch.diag_embed(torch.ones_like(mean))
        factor[..., self.below[0], self.below[1]] = below / self.latent_dim
        scale = torch.exp(log_variance / 2).unsqueeze(-1) * factor
        q = CorrelatedNormal(mean, scale_tril=scale, validate_args=False)
        return q if features.ndim == 2 else Independent(q, features.ndim - 2, validate_args=False)


class CorrelatedNormal(MultivariateNormal):
    """torch's multivariate normal, with a closed-form KL to independent normals."""


@register_kl(CorrelatedNormal, Independent)  # type: ignore[no-untyped-call, untyped-decorator]
def _kl_to_independent(q: CorrelatedNormal, p: Independent[Normal]) -> Tensor:
    """KL(N(m, L L^T) || N(n, diag(s^2))) = sum_i ((L L^T)_ii + (m_i - n_i)^2) / 2 s_i^2 - 1/2 + log s_i / L_ii."""
    normal = p.base_dist
    if not isinstance(normal, Normal) or p.event_shape != q.event_shape:
        raise NotImplementedError
    # Divided before it is squared: a square may be beyond float32 where the ratio is not.
    variance = (q.scale_tril / normal.scale.unsqueeze(-1)).square().sum(-1)
    second_moment = variance + ((q.loc - normal.loc) / normal.scale).square()
    log_scale = q.scale_tril.diagonal(dim1=-2, dim2=-1).log()
    kl: Tensor = (second_moment / 2 - 0.5 + normal.scale.log() - log_scale).sum(-1)
    return kl

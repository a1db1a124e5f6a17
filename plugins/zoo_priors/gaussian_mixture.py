"""A mixture of Gaussians fitted after training with scikit-learn (ex-post density estimation, arXiv 1903.12436)."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    MultivariateNormal,
    ReshapeTransform,
    TransformedDistribution,
)

from zoo import Encoder, ExPostPrior, UsageError
from zoo_priors.fitting import location_and_scale
from zoo_priors.mixture import Mixture

log = logging.getLogger("zoo.priors")


class GaussianMixture(ExPostPrior):
    """p(z) = sum_k w_k N(z; m_k, S_k), fitted by expectation maximisation (arXiv 1903.12436).

    Before `fit` it is a standard normal.

    Args:
        latent_shape: event shape of the latent.
        components: K; 10 in the paper.
        covariance: ``full`` or ``diagonal`` S_k.
        iterations: maximum number of EM iterations.
    """

    logits: Tensor
    loc: Tensor
    scale_tril: Tensor

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        components: PositiveInt = 10,
        covariance: Literal["full", "diagonal"] = "full",
        iterations: PositiveInt = 200,
    ) -> None:
        super().__init__()
        self.latent_shape = torch.Size(latent_shape)
        self.components, self.covariance, self.iterations = components, covariance, iterations
        size = math.prod(latent_shape)
        self.register_buffer("logits", torch.zeros(components))
        self.register_buffer("loc", torch.zeros(components, size))
        self.register_buffer("scale_tril", torch.eye(size).repeat(components, 1, 1))

    def forward(self, encoder: Encoder, condition: Tensor | None = None) -> Distribution:
        """Return the mixture over z, with batch shape ()."""
        components = MultivariateNormal(self.loc, scale_tril=self.scale_tril, validate_args=False)
        flat = Mixture(Categorical(logits=self.logits, validate_args=False), components)
        reshape = ReshapeTransform(self.loc.shape[1:], self.latent_shape)
        return TransformedDistribution(flat, [reshape], validate_args=False)

    def fit(self, z: Tensor, encoder: Encoder) -> None:
        """Fit the mixture to draws `z` (N, *latent_shape) of the aggregate posterior.

        Raises:
            UsageError: there are fewer draws than components.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture as Estimator

        if len(z) < max(2, self.components):
            raise UsageError(
                f"The prior 'gaussian-mixture' needs at least max(2, components) = {max(2, self.components)} draws; "
                f"got {len(z)}."
            )
        full = self.covariance == "full"
        em = Estimator(
            self.components,
            covariance_type="full" if full else "diag",
            max_iter=self.iterations,
            random_state=int(torch.randint(2**31, ())),
        )
        z = z.flatten(1)
        loc, scale = location_and_scale(z)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            # Standardised, because scikit-learn adds 1e-6 to every variance.
            em.fit(((z.cpu().double() - loc) / scale).numpy())
        if not em.converged_:
            log.warning("The mixture did not converge in %d iterations; increase `iterations`.", self.iterations)
        covariances = torch.as_tensor(em.covariances_)
        scale_tril = torch.linalg.cholesky(covariances) if full else covariances.sqrt().diag_embed()
        self.logits.copy_(torch.as_tensor(em.weights_).log())
        self.loc.copy_(loc + scale * torch.as_tensor(em.means_))
        self.scale_tril.copy_(scale.unsqueeze(-1) * scale_tril)

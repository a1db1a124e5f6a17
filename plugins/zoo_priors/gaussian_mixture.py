"""A mixture of Gaussians fitted after training, by scikit-learn (ex-post density estimation, arXiv 1903.12436)."""

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
    """p(z) = sum_k w_k N(z; m_k, S_k), by expectation maximisation. A standard normal until it is fitted.

    It is fitted to standardised latents, so that it follows whatever scale and shift each dimension has.

    Args:
        latent_shape: event shape of the latent.
        components: K; the paper takes 10.
        covariance: ``full``, or ``diagonal``.
        iterations: of expectation maximisation, at most.
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
        """The distribution over z, batch shape ()."""
        components = MultivariateNormal(self.loc, scale_tril=self.scale_tril, validate_args=False)
        flat = Mixture(Categorical(logits=self.logits, validate_args=False), components)
        reshape = ReshapeTransform(self.loc.shape[1:], self.latent_shape)
        return TransformedDistribution(flat, [reshape], validate_args=False)

    def fit(self, z: Tensor, encoder: Encoder) -> None:
        """Fit it to draws (N, *latent_shape) of the aggregate posterior."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture as Estimator

        if len(z) < max(2, self.components):
            raise UsageError(f"{self.components} components need as many draws at least, and two; here are {len(z)}.")
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
            # scikit-learn adds 1e-6 to every variance, whatever the scale of the draws.
            em.fit(((z.cpu().double() - loc) / scale).numpy())
        if not em.converged_:
            log.warning("The mixture had not converged after %d iterations: try iterations=1000.", self.iterations)
        covariances = torch.as_tensor(em.covariances_)
        scale_tril = torch.linalg.cholesky(covariances) if full else covariances.sqrt().diag_embed()
        self.logits.copy_(torch.as_tensor(em.weights_).log())
        self.loc.copy_(loc + scale * torch.as_tensor(em.means_))
        self.scale_tril.copy_(scale.unsqueeze(-1) * scale_tril)

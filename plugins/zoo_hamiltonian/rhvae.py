"""The Riemannian Hamiltonian VAE (arXiv 2010.11518, 2105.00026)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from zoo import VAE, Batch, ComponentError, match_dtype, observed_log_prob
from zoo_hamiltonian.dynamics import generalized_leapfrog, make_force
from zoo_hamiltonian.hvae import HamiltonianELBO
from zoo_hamiltonian.metric import Metric
from zoo_hamiltonian.parameters import Fraction, Positive, Schedule


class RiemannianELBO(HamiltonianELBO):
    """The negative ELBO after K generalised leapfrog steps, with momenta of covariance G(z) (arXiv 2010.11518).

    v_0 ~ N(0, G(z_0) / beta_0), then K generalised leapfrog steps of the energy -log p(x, z) - log N(v; 0, G(z))
    loss = -E[log p(x, z_K) + log N(v_K; 0, G(z_K)) - log q(z_0 | x) - log N(sqrt(beta_0) v_0; 0, G(z_0))]

    This is a bound up to the error in the volume, see `generalized_leapfrog`; for the recipe on digits, with three
    iterations, the volume is accurate to eight digits. The centroids of the metric are means of q(z | x_i), and a
    network predicts their factors L_i. The paper uses all training images; here they are the most recent ones, kept in
    buffers of the loss, and only those of the current batch have a gradient.

    Args:
        data_shape: event shape of x.
        latent_shape: event shape of the latent, (d,).
        steps, step_size, max_step_size, tempering, inverse_temperature: see `HamiltonianELBO`.
        iterations: fixed-point iterations per implicit equation; 3 in the authors' code.
        centroids: number of centroids.
        temperature: T, width of the basis functions.
        regularization: lambda, the inverse metric far from all centroids.
        hidden: widths of the hidden layers of the metric's network.

    Raises:
        ComponentError: the latent is not a vector, or ``step_size`` is not below ``max_step_size``.
    """

    centroids: Tensor
    factors: Tensor

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_shape: tuple[int, ...],
        steps: NonNegativeInt = 3,
        step_size: Positive = 0.01,
        max_step_size: Positive = 0.05,
        tempering: Schedule = "fixed",
        inverse_temperature: Fraction = 0.9,
        iterations: Annotated[int, Field(ge=1, le=1000)] = 3,
        centroids: PositiveInt = 128,
        temperature: Positive = 1.5,
        regularization: Positive = 0.01,
        hidden: Sequence[PositiveInt] = (400,),
    ) -> None:
        super().__init__(latent_shape, steps, step_size, max_step_size, tempering, inverse_temperature)
        if len(latent_shape) != 1:
            raise ComponentError(f"The loss 'rhvae' needs a latent of shape (d,); got {tuple(latent_shape)}.")
        (d,) = latent_shape
        self.iterations = iterations
        self.temperature = temperature
        self.regularization = regularization
        widths = [math.prod(data_shape), *hidden]
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.shapes = nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], d * d), nn.Unflatten(-1, (d, d)))
        # Factors of zero contribute nothing, so the inverse metric is lambda I before the first batch.
        self.register_buffer("centroids", torch.zeros(centroids, d))
        self.register_buffer("factors", torch.zeros(centroids, d, d))

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # compiled code has no second derivatives
    def parts(self, vae: VAE, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return distortion and rate per example, both (N,)."""
        trace = vae.trace(batch)
        # bfloat16 is too inaccurate for the Cholesky factors of the metric.
        with torch.autocast(batch.x.device.type, enabled=False):
            metric = self.metric(trace.x, trace.q.mean)
            factors = self.tempering()
            gamma = metric.draw(trace.z, torch.randn_like(trace.z))  # sqrt(beta_0) v_0
            force = make_force(vae, trace)
            z, momentum = generalized_leapfrog(
                force, metric, trace.z, gamma / factors.prod(), self.step_size(), factors, self.iterations
            )
            distortion = -observed_log_prob(vae.decode(z, batch.condition), trace.x, trace.mask)
            kinetic = metric.kinetic_energy(z, momentum) - metric.kinetic_energy(trace.z, gamma)
            return distortion, trace.log_qz - trace.prior.log_prob(z) + kinetic

    def metric(self, x: Tensor, mean: Tensor) -> Metric:
        """Return the metric. In training mode, first replace the oldest centroids by those of the batch.

        Args:
            x: images (N, *data_shape).
            mean: means of q(z | x) (N, d).
        """
        centroids, factors = self.centroids, self.factors
        if self.training:
            output = self.shapes(match_dtype(x, self.shapes))
            batch_factors = output.tril(-1) + output.diagonal(dim1=-2, dim2=-1).exp().diag_embed()
            centroids = torch.cat([mean, self.centroids])[: len(self.centroids)]
            factors = torch.cat([batch_factors, self.factors])[: len(self.factors)]
            self.centroids.copy_(centroids.detach())
            self.factors.copy_(factors.detach())
        return Metric(centroids.to(mean.dtype), factors.to(mean.dtype), self.temperature, self.regularization)

"""The Riemannian Hamiltonian VAE (arXiv 2010.11518, 2105.00026)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from zoo import VAE, Batch, ComponentError, match_dtype, observed_log_prob
from zoo_hamiltonian.dynamics import force_of, generalized_leapfrog
from zoo_hamiltonian.hvae import HamiltonianELBO
from zoo_hamiltonian.learnt import Fraction, Positive, Schedule
from zoo_hamiltonian.metric import Metric


class RiemannianELBO(HamiltonianELBO):
    """The bound of the Hamiltonian VAE where momenta have the covariance G(z) (arXiv 2010.11518).

    v_0 from N(0, G(z_0) / beta_0), and K generalised leapfrog steps of the energy -log p(x, z) - log N(v; 0, G(z))
    loss = -E[log p(x, z_K) + log N(v_K; 0, G(z_K)) - log q(z_0 | x) - log N(sqrt(beta_0) v_0; 0, G(z_0))]

    It is a bound as far as the steps preserve volume: see `generalized_leapfrog`. (With three iterations, those of the
    recipe trained on digits do so to eight digits.) The metric has bumps at the means of
    q(z | x_i), their shapes put out by a network. The paper has one for each training image; here they are those of the
    latest `centroids` images that were trained on, kept in the loss, those of the present batch with their gradient.
    A test, and a training that goes on, use the same ones, since they are saved with the loss.

    Args:
        data_shape: event shape of x.
        latent_shape: event shape of the latent, (d,).
        steps, step_size, max_step_size, tempering, inverse_temperature: as of the Hamiltonian VAE.
        iterations: fixed-point iterations of each implicit equation; 3 in the authors' code.
        centroids: number of bumps.
        temperature: T, their width.
        regularization: lambda, the inverse metric far from all of them.
        hidden: widths of the hidden layers of the metric's network.

    Raises:
        ComponentError: the latent is no vector.
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
        iterations: PositiveInt = 3,
        centroids: PositiveInt = 128,
        temperature: Positive = 1.5,
        regularization: Positive = 0.01,
        hidden: Sequence[PositiveInt] = (400,),
    ) -> None:
        super().__init__(latent_shape, steps, step_size, max_step_size, tempering, inverse_temperature)
        if len(latent_shape) != 1:
            raise ComponentError(f"rhvae needs a latent that is a vector, not one of shape {tuple(latent_shape)}")
        (d,) = latent_shape
        self.iterations = iterations
        self.temperature = temperature
        self.regularization = regularization
        widths = [math.prod(data_shape), *hidden]
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.shapes = nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], d * d), nn.Unflatten(-1, (d, d)))
        # A bump of shape zero is none: so there is no metric but lambda before the first batch.
        self.register_buffer("centroids", torch.zeros(centroids, d))
        self.register_buffer("factors", torch.zeros(centroids, d, d))

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # what is compiled cannot be differentiated twice
    def parts(self, vae: VAE, batch: Batch) -> tuple[Tensor, Tensor]:
        """Distortion and rate of each image, (N,) both."""
        trace = vae.trace(batch)
        # A metric is factored, and bfloat16 is too coarse for that.
        with torch.autocast(batch.x.device.type, enabled=False):
            metric = self.metric(trace.x, trace.q.mean)
            factors = self.tempering()
            drawn = metric.draw(trace.z, torch.randn_like(trace.z))
            force = force_of(vae, trace)
            z, momentum = generalized_leapfrog(
                force, metric, trace.z, drawn / factors.prod(), self.step_size(), factors, self.iterations
            )
            distortion = -observed_log_prob(vae.decode(z, batch.condition), trace.x, trace.mask)
            kinetic = metric.kinetic_energy(z, momentum) - metric.kinetic_energy(trace.z, drawn)
            return distortion, trace.log_qz - trace.prior.log_prob(z) + kinetic

    def metric(self, x: Tensor, mean: Tensor) -> Metric:
        """The metric as it is kept; in training, with bumps for these images at the `mean` of their codes, (N, d),
        which are kept from then on in place of the oldest.
        """
        centroids, factors = self.centroids, self.factors
        if self.training:
            raw = self.shapes(match_dtype(x, self.shapes))
            fresh = raw.tril(-1) + raw.diagonal(dim1=-2, dim2=-1).exp().diag_embed()
            centroids = torch.cat([mean, self.centroids])[: len(self.centroids)]
            factors = torch.cat([fresh, self.factors])[: len(self.factors)]
            self.centroids.copy_(centroids.detach())
            self.factors.copy_(factors.detach())
        return Metric(centroids.to(mean.dtype), factors.to(mean.dtype), self.temperature, self.regularization)

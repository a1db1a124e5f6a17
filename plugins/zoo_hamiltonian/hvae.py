"""The Hamiltonian VAE (arXiv 1805.11328)."""

from __future__ import annotations

import torch
from pydantic import NonNegativeInt
from torch import Tensor

from zoo import VAE, Batch, Loss, observed_log_prob
from zoo_hamiltonian.dynamics import leapfrog, make_force
from zoo_hamiltonian.parameters import Fraction, Positive, Schedule, StepSize, Tempering


class HamiltonianELBO(Loss):
    """The negative ELBO after K tempered leapfrog steps (arXiv 1805.11328, algorithm 1).

    z_0 ~ q(z | x),  gamma ~ N(0, I),  rho_0 = gamma / sqrt(beta_0)
    (z_k, rho_k): a leapfrog step of the energy -log p(x, z) + |rho|^2 / 2, then rho_k = alpha_k rho,  k = 1, ..., K
    loss = -E[log p(x, z_K) + log N(rho_K; 0, I) - log q(z_0 | x) - log N(gamma; 0, I)]

    Leapfrog steps preserve volume. Tempering shrinks it by beta_0^(l/2), which cancels the normalising factor of
    N(rho_0; 0, I / beta_0), so the density of (z_K, rho_K) is q(z_0 | x) N(gamma; 0, I). The steps need x and are
    therefore part of the loss: a trained model is evaluated with its encoder alone.

    The latent must be unconstrained and the decoder deterministic (no dropout).

    Args:
        latent_shape: event shape of the latent.
        steps: K; 0 gives the ELBO.
        step_size: initial value of the learned step sizes.
        max_step_size: upper bound on the step sizes.
        tempering: ``none``, ``fixed`` (quadratic, with a learned beta_0) or ``free`` (learned factors).
        inverse_temperature: initial beta_0.

    Raises:
        ComponentError: ``step_size`` is not below ``max_step_size``.
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        steps: NonNegativeInt = 3,
        step_size: Positive = 0.05,
        max_step_size: Positive = 0.5,
        tempering: Schedule = "fixed",
        inverse_temperature: Fraction = 0.9,
    ) -> None:
        super().__init__()
        self.step_size = StepSize(latent_shape, step_size, max_step_size)
        self.tempering = Tempering(tempering, steps, inverse_temperature)

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion`` and ``rate`` in nats per example, the mean ``step_size``, and ``beta_0``."""
        distortion, rate = self.parts(vae, batch)
        return {
            "loss": (distortion + rate).mean(),
            "distortion": distortion.mean(),
            "rate": rate.mean(),
            "step_size": self.step_size().mean(),
            "beta_0": self.tempering().prod().square(),
        }

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # compiled code has no second derivatives
    def parts(self, vae: VAE, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return distortion and rate per example, both (N,). exp(-distortion - rate) is an unbiased estimate of
        p(x).
        """
        trace = vae.trace(batch)
        factors = self.tempering()
        noise = torch.randn_like(trace.z)
        force = make_force(vae, trace)
        z, momentum = leapfrog(force, trace.z, noise / factors.prod(), self.step_size(), factors)
        distortion = -observed_log_prob(vae.decode(z, batch.condition), trace.x, trace.mask)
        kinetic = (momentum.square() - noise.square()).flatten(1).sum(1) / 2
        return distortion, trace.log_qz - trace.prior.log_prob(z) + kinetic

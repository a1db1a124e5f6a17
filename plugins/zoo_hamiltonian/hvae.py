"""The Hamiltonian VAE (arXiv 1805.11328)."""

from __future__ import annotations

import torch
from pydantic import NonNegativeInt
from torch import Tensor

from zoo import VAE, Batch, Loss, observed_log_prob
from zoo_hamiltonian.dynamics import force_of, leapfrog
from zoo_hamiltonian.learnt import Fraction, Positive, Schedule, StepSize, Tempering


class HamiltonianELBO(Loss):
    """The negative evidence bound of a draw that K leapfrog steps have moved (arXiv 1805.11328, algorithm 1).

    z_0 from q(z | x);  gamma from N(0, 1);  rho_0 = gamma / sqrt(beta_0)
    (z_K, rho_K) = K times: a leapfrog step of the energy -log p(x, z) + |rho|^2 / 2, then rho_k = alpha_k rho
    loss = -E[log p(x, z_K) + log N(rho_K; 0, 1) - log q(z_0 | x) - log N(gamma; 0, 1)]

    A leapfrog step preserves volume, and the tempering shrinks it by beta_0^(l/2), which cancels the normalising factor
    of N(rho_0; 0, 1 / beta_0): so the density of (z_K, rho_K) is q(z_0 | x) N(gamma; 0, 1). The force needs the image,
    so the steps are part of the objective and not of the encoder: a trained model is evaluated with its plain encoder.

    The latent must be free to take any real value, and the decoder the same at each call: no dropout.

    Args:
        latent_shape: event shape of the latent.
        steps: K; 0 gives the evidence lower bound.
        step_size, max_step_size: the learnt step sizes begin at the one and stay below the other.
        tempering: ``none``, ``fixed`` (quadratic from a learnt beta_0) or ``free``.
        inverse_temperature: beta_0 to begin with.
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
        """Return ``loss`` and its parts ``distortion`` and ``rate``, in nats per example, and beside them the mean
        ``step_size`` and ``beta_0``.
        """
        distortion, rate = self.parts(vae, batch)
        return {
            "loss": (distortion + rate).mean(),
            "distortion": distortion.mean(),
            "rate": rate.mean(),
            "step_size": self.step_size().mean(),
            "beta_0": self.tempering().prod().square(),
        }

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # what is compiled cannot be differentiated twice
    def parts(self, vae: VAE, batch: Batch) -> tuple[Tensor, Tensor]:
        """Distortion and rate of each image, (N,) both. Their negative sum is the log of an importance weight, whose
        mean is p(x).
        """
        trace = vae.trace(batch)
        factors = self.tempering()
        noise = torch.randn_like(trace.z)
        force = force_of(vae, trace)
        z, momentum = leapfrog(force, trace.z, noise / factors.prod(), self.step_size(), factors)
        distortion = -observed_log_prob(vae.decode(z, batch.condition), trace.x, trace.mask)
        kinetic = (momentum.square() - noise.square()).flatten(1).sum(1) / 2
        return distortion, trace.log_qz - trace.prior.log_prob(z) + kinetic

"""The losses of the VQ-VAE and of the JointVAE."""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from zoo import VAE, Batch, ComponentError, Loss
from zoo_discrete.joint import Concatenated, kls
from zoo_discrete.quantizer import Quantized


class VQ(Loss):
    """The loss of the VQ-VAE (arXiv 1711.00937, eq. 3), whose second term is replaced by moving averages.

    loss = -log p(x | z) + rate + weight |e(x) - sg[z]|^2, where e(x) is the encoder output and z its code

    With a uniform prior the rate is the constant (number of indices) log K, which the paper omits; distortion + rate is
    an upper bound on -log p(x). With a learned prior the rate is -log p(z) and trains the prior only. The commitment
    loss is summed over the codes of an image; the paper averages it, so its weight is the one here times the number of
    codes.

    Args:
        weight: beta, weight of the commitment loss.
    """

    def __init__(self, weight: NonNegativeFloat = 0.25) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion`` and ``rate`` in nats per example, ``commitment``, and the ``perplexity`` of
        the codes in the batch.

        Raises:
            ComponentError: the posterior is not a quantiser.
        """
        trace = vae.trace(batch)
        q = trace.q
        if not isinstance(q, Quantized):
            raise ComponentError(
                "The loss 'vq' needs a quantiser: encoder.posterior=vector-quantized or "
                "encoder.posterior=finite-scalar."
            )
        distortion = -trace.log_px.mean()
        rate = trace.kl.mean()
        commitment = q.commitment.mean()
        return {
            "loss": distortion + rate + self.weight * commitment,
            "distortion": distortion,
            "rate": rate,
            "commitment": commitment,
            "perplexity": q.code_perplexity,
        }


class JointCapacity(Loss):
    """The loss of the JointVAE, with capacities that increase during training (arXiv 1804.00104, eq. 7).

    loss = E_q[-log p(x | z, c)] + gamma |KL(q(z | x) || p(z)) - C_z| + gamma |KL(q(c | x) || p(c)) - C_c|

    The loss is computed per example and then averaged, as in the equation; the authors' code averages the rates first,
    so its loss depends on the batch size. C_c is capped at the entropy of p(c), the largest possible rate.

    Args:
        gamma: weight of the deviations.
        continuous, discrete: final C_z and C_c, in nats. The defaults are the paper's for MNIST.
        steps: training steps over which both rise linearly from 0; 25000 in the paper.
    """

    progress: Tensor

    def __init__(
        self,
        gamma: NonNegativeFloat = 30.0,
        continuous: NonNegativeFloat = 5.0,
        discrete: NonNegativeFloat = 5.0,
        steps: PositiveInt = 25000,
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.continuous = continuous
        self.discrete = discrete
        self.steps = steps
        self.register_buffer("progress", torch.tensor(0.0))

    def schedule(self, step: int, epoch: float) -> None:
        """Increase both capacities linearly."""
        self.progress.fill_(min(1.0, step / self.steps))

    def forward(self, vae: VAE, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``distortion``, ``rate`` and its parts ``rate_continuous`` and ``rate_discrete``, in nats
        per example.

        Raises:
            ComponentError: posterior or prior is not joint.
        """
        trace = vae.trace(batch)
        q, p = trace.q, trace.prior
        if not isinstance(q, Concatenated) or not isinstance(p, Concatenated):
            raise ComponentError("The loss 'joint-capacity' needs encoder.posterior=joint and prior=joint.")
        distortion = -trace.log_px.mean()
        kl_z, kl_c = kls(q, p)
        c_z = self.progress * self.continuous
        c_c = torch.minimum(self.progress * self.discrete, p.parts[1].entropy())
        deviation = (kl_z - c_z).abs() + (kl_c - c_c).abs()
        return {
            "loss": distortion + self.gamma * deviation.mean(),
            "distortion": distortion,
            "rate": (kl_z + kl_c).mean(),
            "rate_continuous": kl_z.mean(),
            "rate_discrete": kl_c.mean(),
        }
